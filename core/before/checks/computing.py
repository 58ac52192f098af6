"""Whether this computer has the device, the precision and the packages that the settings need."""

from collections.abc import Iterable

from ... import platform_calls
from ...families.quantised import why_not
from ...findings import Finding
from .. import installation
from .situation import Situation

OPTIMIZER_PACKAGES = {"prodigy": "prodigyopt", "lion": "pytorch-optimizer", "came": "pytorch-optimizer"}
"""By the name of an optimizer, as pip calls them; adamw_8bit needs a GPU too, and has its own check."""


def device(situation: Situation) -> Iterable[Finding]:
    """PyTorch is installed, and its build and the computer have the device that is set."""
    device = situation.config.model.device
    wanted, likely = device.partition(":")[0], platform_calls.likely_device()
    installed, gpu_build = installation.torch_build()
    if not installed:
        yield Finding(
            "error",
            "",
            "PyTorch is not installed here.",
            "Start with `python launch.py`, which installs it.",
            "no-torch",
        )
    elif wanted == "auto" and likely == "cuda" and not gpu_build:
        yield Finding(
            "warning",
            "device",
            "there is an NVIDIA GPU, but the installed PyTorch is built for the CPU, so the CPU is used.",
            "Install a CUDA build of PyTorch (launch.py does where it finds the GPU), or set device = cpu.",
            "device-unused",
        )
    elif wanted == "cuda" and not gpu_build:
        yield Finding(
            "error",
            "device",
            f"device is {device}, but the installed PyTorch is built for the CPU only.",
            "Install a CUDA build of PyTorch, or set device = auto.",
            "device-missing",
        )
    elif wanted == "cuda" and likely != "cuda":
        yield Finding(
            "warning",
            "device",
            f"device is {device}, but no NVIDIA driver was found.",
            "Set device = auto.",
            "device-missing",
        )
    elif wanted == "cuda" and (wrong := missing_gpu(device, platform_calls.gpu_count())) is not None:
        yield wrong
    elif wanted == "mps" and likely != "mps":
        yield Finding(
            "error",
            "device",
            "device is mps, which only Macs with Apple silicon have.",
            "Set device = auto.",
            "device-missing",
        )


def missing_gpu(device: str, gpus: int) -> Finding | None:
    """What is wrong with the option `device` = cuda:N on a machine with so many GPUs; None: nothing, or it names no number."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number or int(number) < gpus:
        return None
    last = f"cuda:{gpus - 1}"
    there = "no GPU" if gpus == 0 else "one GPU, cuda:0" if gpus == 1 else f"{gpus} GPUs, cuda:0 to {last}"
    return Finding(
        "error",
        "device",
        f"device is {device}, but CUDA shows {there}.",
        "Set device = auto." if gpus == 0 else f"Set device = {last}, or cuda for the first; GPUs count from 0.",
        "device-missing",
    )


def processes(situation: Situation) -> Iterable[Finding]:
    """Several processes have a GPU each, or share the CPU; what they do not make smaller, and what divides unevenly."""
    config, count = situation.config, situation.config.training.num_processes
    if count == 1 or not installation.torch_build()[0]:
        return
    computed_on = installation.device_of(config.model)
    if computed_on == "mps":
        yield Finding(
            "error",
            "num_processes",
            f"{count} processes need a GPU each, and a Mac has one.",
            "Set num_processes = 1, or device = cpu.",
            "device-missing",
        )
    if computed_on == "cuda" and (wrong := too_few_gpus(config.model.device, count, platform_calls.gpu_count())):
        yield wrong
    rows = config.training.train_batch_size
    if rows % count:
        yield Finding(
            "note",
            "train_batch_size",
            f"{count} processes divide {rows} rows unevenly: those with fewer rows wait for the others at every step.",
            f"Take a multiple of {count}.",
            "uneven-rows",
        )
    if config.training.model_type == "full" and not config.training.shard_weights:
        yield Finding(
            "note",
            "num_processes",
            "every process holds the whole model, its gradients and the optimizer's moments: more processes are faster and need no less memory "
            "each, except for the rows that they divide.",
            "For a model that does not fit one GPU set shard_weights = true, or take model_type = lora.",
            "processes-memory",
        )


def too_few_gpus(device: str, count: int, gpus: int) -> Finding | None:
    """What is wrong with so many processes from the option `device` on, on a machine with so many GPUs; None: nothing."""
    first = int(device.partition(":")[2] or 0)
    if first + count <= gpus:
        return None
    there = "no GPU" if gpus == 0 else "one GPU" if gpus == 1 else f"{gpus} GPUs"
    left = gpus - first
    return Finding(
        "error",
        "num_processes",
        f"{count} processes need a GPU each, from cuda:{first} on, and CUDA shows {there}.",
        f"Set num_processes = {left}, or device = cpu." if left > 0 else "Set num_processes = 1, or device = cpu.",
        "device-missing",
    )


def precision(situation: Situation) -> Iterable[Finding]:
    """Number formats that the CPU cannot train in, or only slowly."""
    config = situation.config
    if not installation.torch_build()[0] or installation.device_of(config.model) != "cpu":
        return
    if config.training.mixed_precision == "fp16":
        yield Finding(
            "error",
            "mixed_precision",
            "fp16 cannot train on the CPU.",
            "Set mixed_precision = no (or bf16, on a processor that has it).",
            "precision",
        )
    if config.model.base_model_precision == "float16":
        yield Finding(
            "warning",
            "base_model_precision",
            "float16 is slow on the CPU, and some of its operations are missing there.",
            "Set base_model_precision = float32 or bfloat16.",
            "precision",
        )


def eight_bit_optimizer(situation: Situation) -> Iterable[Finding]:
    """adamw_8bit needs its package and a CUDA GPU."""
    config = situation.config
    if not installation.torch_build()[0] or config.training.optimizer != "adamw_8bit":
        return
    if not installation.installed("bitsandbytes"):
        yield Finding(
            "error",
            "optimizer",
            "adamw_8bit needs bitsandbytes, which is not installed.",
            "Run `pip install bitsandbytes`, or set optimizer = adamw.",
            "package-missing",
        )
    computed_on = installation.device_of(config.model)
    if computed_on in ("cpu", "mps"):
        yield Finding(
            "error",
            "optimizer",
            f"adamw_8bit works on CUDA GPUs only; this run is on {computed_on}.",
            "Set optimizer = adamw.",
            "device-missing",
        )


def frozen_weights(situation: Situation) -> Iterable[Finding]:
    """Quantised weights need a package and a device that has them; streamed blocks need a device with a memory of its own."""
    model = situation.config.model
    if not installation.torch_build()[0]:
        return
    device = installation.device_of(model)
    wrong = None if model.base_model_quantization == "none" else why_not(model.base_model_quantization, device)
    if wrong is not None:
        code = "package-missing" if "pip install" in wrong[1] else "device-missing"
        yield Finding("error", "base_model_quantization", *wrong, code)
    if device == "cuda" and model.base_model_quantization != "none" and model.base_model_precision == "float32":
        yield Finding(
            "warning",
            "base_model_precision",
            f"with base_model_quantization = {model.base_model_quantization} the network computes in base_model_precision, and float32 is slow.",
            "Set base_model_precision = bfloat16.",
            "precision",
        )
    if model.streamed_blocks and device != "cuda":
        yield Finding(
            "warning",
            "streamed_blocks",
            f"streamed_blocks saves the memory of a GPU; on {device} the weights are in main memory anyway.",
            "Set streamed_blocks = 0.",
            "idle",
        )


def compiler(situation: Situation) -> Iterable[Finding]:
    """`compile` needs what compiles on the device."""
    config = situation.config
    if not config.training.compile or not installation.torch_build()[0]:
        return
    wrong = installation.why_not_compile(installation.device_of(config.model))
    if wrong is not None:
        yield Finding("error", "compile", *wrong, "compiler-missing")


def packages(situation: Situation) -> Iterable[Finding]:
    """Packages of the tracker and of the optimizer that are not installed with the program."""
    config = situation.config
    tracker = config.training.report_to
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
    if tracker != "none" and not any(installation.installed(module) for module in modules[tracker]):
        yield Finding(
            "error",
            "report_to",
            f"{tracker} is not installed.",
            f"Run `pip install {tracker}`, or set report_to = none: every run keeps its own curves anyway.",
            "package-missing",
        )
    elif tracker == "wandb":
        yield Finding(
            "note",
            "report_to",
            "wandb sends the curves to its service.",
            "Run `wandb login` once before.",
            "tracker-login",
        )
    chosen = config.training.optimizer
    package = OPTIMIZER_PACKAGES.get(chosen)
    if package is not None and not installation.installed(package.replace("-", "_")):
        yield Finding(
            "error", "optimizer", f"{chosen} needs the package {package}, which is not installed.",
            f"Run `pip install {package}`, or set optimizer = adamw.", "package-missing",
        )  # fmt: skip
