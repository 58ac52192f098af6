"""Everything that can be known to go wrong, told at once and before anything starts, each with its remedy.

Imports no torch: the page and the command line ask before every start. Cost: the scan of the pictures (each is decoded
once; again in the same process only names and times are looked at) and a few small files of the model.
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .. import platform_calls
from ..config import ModelConfig, RunConfig, idle_remarks
from ..config.options import did_you_mean
from ..data import Item, Scan, bucket_counts, scan, scan_probe, split_holdout
from ..data.holdout import FEWEST
from ..data.scanning import Progress, located
from ..demo import BUILT_IN, MODELS, resolve
from ..families.facts import ATTENTION, FamilyFacts, TextCost, vae_geometry
from ..families.registry import FAMILIES, family_of
from ..families.source import ModelError, locate
from ..findings import Finding, by_severity
from ..runs.errors import RunError
from ..runs.folder import check_name
from ..runs.root import DEFAULT_ROOT, ROOT_VARIABLE
from .cautions import cautions

_RESERVE_BYTES = 64 * 2**20
_LONGEST_INSIDE = 120
"""Characters of the longest path inside a run: a checkpoint's temporary folder, or an exported file named after the
run."""
_WINDOWS_PATH = 259
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a model that training has no use for."""


def preflight(
    config: RunConfig,
    run_dir: Path | str | None = None,
    runs_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check a config against this machine: pictures, captions, model, packages, device, disk, output. Changes nothing.

    Args:
        config: what will train.
        run_dir: the folder that the *new* run would get; None for a run that exists by right (a resume, or one just
        created).
        runs_dir: the folder of all runs; None = that of `run_dir`, else the default.
        progress: called with (what, done, total) while pictures are read.

    Returns:
        findings, errors first. Without an error among them the run may start.
    """
    run_dir = None if run_dir is None else Path(run_dir).expanduser().absolute()
    if runs_dir is not None:
        runs_dir = Path(runs_dir).expanduser().absolute()
    elif run_dir is not None:
        runs_dir = run_dir.parent
    else:
        runs_dir = Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)).absolute()

    found = scan(config.data, progress)
    train, held_out = split_holdout(found, config.drift)
    findings = list(found.problems)
    findings += _drift_pictures(config, found, held_out)
    findings += _batches(config, train)
    findings += _class_pictures(config, found)
    model, about_model = model_findings(config.model)
    findings += about_model
    if model is not None:
        findings += _resolution(config, model)
    findings += _device(config)
    findings += _packages(config)
    output = list(_output(run_dir, runs_dir))
    findings += output
    cache_dir = cache_folder(config, runs_dir)
    findings += _writable(cache_dir, "data_cache_dir") if config.data.data_cache_dir is not None else ()
    if not any(finding.level == "error" for finding in output):
        findings += _disk(disk_estimate(config, found, model), cache_dir, runs_dir)
    findings += [Finding("note", "", sentence, "", "remark") for sentence in idle_remarks(config)]
    findings += cautions(config)
    return by_severity(findings)


def cache_folder(config: RunConfig, runs_dir: Path) -> Path:
    """Where latents, text embeddings and generated class pictures are kept: `data_cache_dir`, else `.cache` in the
    folder of all runs."""
    return runs_dir / ".cache" if config.data.data_cache_dir is None else located(config.data.data_cache_dir)


# The data -------------------------------------------------------------------------------------------------------------


def _drift_pictures(config: RunConfig, found: Scan, held_out: tuple[Item, ...]) -> Iterable[Finding]:
    if config.drift.data_dir is not None:
        probe, problems = scan_probe(config.data, config.drift)
        yield from problems
        trained = {item.digest for item in found.items}
        for item in probe:
            if item.digest in trained:
                yield Finding(
                    "warning",
                    str(item.path),
                    "a picture to measure drift on that is also trained on: the measure flatters.",
                    "Remove it from one of the two folders.",
                    "drift-overlap",
                )
    elif config.drift.holdout_images > 0 and found.items and not held_out:
        yield Finding(
            "note",
            "drift_holdout_images",
            f"fewer than {FEWEST} different pictures: none is held out, so drift is measured on pictures that are trained on.",
            "Name others of the same thing with drift_data_dir.",
            "drift-not-held-out",
        )
    elif held_out:
        names = ", ".join(item.name for item in held_out[:4]) + (", ..." if len(held_out) > 4 else "")
        yield Finding(
            "note",
            "drift_holdout_images",
            f"kept out of the training to measure drift on: {names}.",
            "",
            "drift-held-out",
        )


def _batches(config: RunConfig, train: tuple[Item, ...]) -> Iterable[Finding]:
    if not train:
        return
    size, repeats = config.training.train_batch_size, config.data.repeats
    if size > len(train) * repeats:
        yield Finding(
            "note",  # common for a handful of pictures: each row still has its own noise
            "train_batch_size",
            f"{size} rows in a batch, but only {len(train)} picture{'s' if len(train) > 1 else ''}: a batch shows the same picture "
            "several times.",
            f"Take a batch of at most {len(train) * repeats}, or raise repeats if that is what you want.",
            "batch-large",
        )
        return
    for bucket, count in bucket_counts(train).items():
        rows = count * repeats
        shown = math.ceil(rows / size) * size
        if shown >= 2 * rows:
            yield Finding(
                "warning",
                "train_batch_size",
                f"the shape {bucket[0]} x {bucket[1]} has {count} picture{'s' if count > 1 else ''} and a batch {size} rows of one shape: "
                f"{'they are' if count > 1 else 'it is'} shown {shown / rows:.3g} times as often as the others.",
                "Crop the pictures to fewer shapes, turn aspect_buckets off, or take smaller batches.",
                "bucket-small",
            )


def _class_pictures(config: RunConfig, found: Scan) -> Iterable[Finding]:
    data = config.data
    if not data.with_prior_preservation:
        return
    missing = data.num_class_images - len(found.class_items)
    if missing > 0:
        where = "the cache" if data.class_data_dir is None else str(located(data.class_data_dir))
        yield Finding(
            "note",
            "num_class_images",
            f'up to {missing} pictures of "{data.class_prompt}" are generated into {where} before the training '
            f"({data.class_sample_steps} sampling steps each).",
            "",
            "class-generated",
        )
    if data.class_data_dir is not None and missing > 0:
        yield from _writable(located(data.class_data_dir), "class_data_dir")


# The model ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFacts:
    """What the small files of a diffusers folder tell; None where they do not."""

    folder: Path
    component: str | None
    pixels_per_latent: int | None
    latent_channels: int | None
    native_resolution: int | None
    shapes: Mapping[str, tuple[int, ...]]
    cells_per_token: int
    text: TextCost
    family: FamilyFacts | None


def model_findings(model: ModelConfig) -> tuple[ModelFacts | None, list[Finding]]:
    """(what the model's small files tell, what is wrong with it), without a network; None where it is not on this
    computer, or not as a whole."""
    name = model.pretrained_model_name_or_path
    option = "pretrained_model_name_or_path"
    folder = Path(resolve(name)).expanduser()

    def error(message: str, remedy: str, code: str = "model-missing") -> tuple[None, list[Finding]]:
        return None, [Finding("error", option, message, remedy, code)]

    if folder.is_dir():
        facts, faults = _read_model(folder, model.variant)
        if not faults:
            faults = _family(model, str(folder), model.revision)
        return facts, [Finding("error", option, fault, remedy, "model-broken") for fault, remedy in faults]
    if name in BUILT_IN:
        return error(
            f"the built-in model {name} is not in this installation ({folder}).",
            "Clone or install Rollout Studio again.",
        )
    if folder.is_file():
        return error(
            f"{folder} is a single file; a model is a folder in the diffusers layout.",
            "Convert it once with diffusers' from_single_file(...).save_pretrained(...), and name that folder.",
        )
    if not _HUB_ID.fullmatch(name) or ".." in name or name.startswith((".", "~")):
        known = did_you_mean(name, BUILT_IN)
        return error(
            f"{name!r} is no folder that exists, no built-in model and no hub id (owner/name).{known}",
            f"Check the path; built in are {' and '.join(MODELS)}.",
        )
    return _hub_model(model, name, error)


def _hub_model(model: ModelConfig, name: str, error: Callable) -> tuple[ModelFacts | None, list[Finding]]:
    from huggingface_hub import try_to_load_from_cache  # only for hub ids

    option = "pretrained_model_name_or_path"
    cached = try_to_load_from_cache(name, "model_index.json", revision=model.revision)
    faults: list[tuple[str, str]] = []
    if isinstance(cached, str):
        facts, faults = _read_model(Path(cached).parent, model.variant)
        if not faults:
            wrong = _family(model, str(Path(cached).parent), None)
            return facts, [Finding("error", option, fault, remedy, "model-broken") for fault, remedy in wrong]
    offline = offline_variable()
    if offline:
        state = f"only partly in the local cache ({faults[0][0]})" if faults else "not in the local cache"
        return error(
            f"{name} is {state}, and {offline} forbids to download it.",
            f"Check the spelling, or unset {offline} and start once with a network, or name a local folder.",
            "model-offline",
        )
    return None, [
        Finding(
            "note",
            option,
            f"{name} is {'only partly' if faults else 'not'} in the local cache and will be downloaded when the run starts.",
            "It needs a network and room for the model; for a gated model accept its licence on its page and run `hf auth login` first.",
            "model-download",
        )
    ]


def _family(model: ModelConfig, folder: str, revision: str | None) -> list[tuple[str, str]]:
    """Why a whole model is of no use here: no family covers it, another was asked for, or it is of a kind that cannot be trained."""
    try:
        source = locate(folder, revision, model.variant)
        family = source.family
        refusal = FAMILIES[family].refuse(source.configs)
    except ModelError as error:
        return [(error.message, error.remedy)]
    if model.model_family not in ("auto", family):
        return [
            (
                f"model_family is {model.model_family}, but {folder} holds a {family} model.",
                f"Set model_family = {family} or auto.",
            )
        ]
    return [] if refusal is None else [(f"{folder} {refusal.why}", refusal.remedy)]


def offline_variable() -> str | None:
    """The environment variable that forbids downloads, if one does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None


def _read_model(folder: Path, variant: str | None) -> tuple[ModelFacts | None, list[tuple[str, str]]]:
    """(what the folder tells, [(fault, remedy)])."""
    again = "Download or copy the model again, whole."
    try:
        index = _read_json(folder / "model_index.json")
    except FileNotFoundError:
        if (folder / "adapter_config.json").exists() or any(folder.glob("*lora*.safetensors")):
            return None, [(f"{folder} holds a LoRA, not a model.", "Name the model that the LoRA was trained on.")]
        return None, [
            (
                f"{folder} is no model in the diffusers layout: it has no model_index.json.",
                "Name the folder that holds model_index.json, with unet/ or transformer/, vae/ and so on beside it.",
            )
        ]
    except (OSError, ValueError) as error:
        return None, [(f"{folder / 'model_index.json'} cannot be read ({error}).", again)]

    faults: list[tuple[str, str]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    configs: dict[str, dict] = {}
    for component, kind in index.items():
        if component.startswith("_") or not isinstance(kind, list) or not kind or kind[0] is None:
            continue
        part = folder / component
        if component in NEVER_LOADED:
            continue
        if not part.is_dir():
            faults.append((f"its part {component}/ is missing in {folder}.", again))
            continue
        if not (part / "config.json").is_file():
            continue  # schedulers and tokenizers have no weights
        try:
            configs[component] = _read_json(part / "config.json")
        except (OSError, ValueError) as error:
            faults.append((f"{part / 'config.json'} cannot be read ({error}).", again))
            continue
        found, fault = _weights(part, variant)
        if fault is not None:
            faults.append(fault)
        if component in ("unet", "transformer"):
            shapes = found
    return facts_of(folder, configs, shapes, family_of(index, configs)), faults


def _read_json(path: Path) -> dict:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file is wrong, not the caller
    return value


def _weights(part: Path, variant: str | None) -> tuple[dict[str, tuple[int, ...]], tuple[str, str] | None]:
    """({tensor: shape} of a component, its first fault)."""
    again = "Download or copy the model again, whole."
    files = sorted(part.glob("*.safetensors"))
    variants = {path.name.split(".")[1] for path in files if path.name.count(".") > 1}
    # a sharded variant is named model.fp16-00001-of-00002.safetensors
    variants = {re.sub(r"-\d{5}-of-\d{5}$", "", each) for each in variants}
    if variant is None:
        chosen = [path for path in files if path.name.count(".") == 1]
    else:
        chosen = [
            path
            for path in files
            if re.match(rf"[^.]+\.{re.escape(variant)}(-\d{{5}}-of-\d{{5}})?\.safetensors$", path.name)
        ]
        if not chosen:  # diffusers takes the plain file of a component that lacks the variant
            chosen = [path for path in files if path.name.count(".") == 1]
    if not chosen:
        if variants:
            have = ", ".join(sorted(variants))
            asked = "no plain weights" if variant is None else f"no weights of the variant {variant}"
            return {}, (f"{part} has {asked}, only {have}.", f"Set variant = {min(variants)}.")
        if any(part.glob("*.bin")) or any(part.glob("*.ckpt")):
            return {}, (
                f"{part} has its weights only as pickles (.bin), which can run code and are not opened.",
                "Take a copy of the model with .safetensors files.",
            )
        return {}, (f"{part} has no weights (.safetensors).", again)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in chosen:
        try:
            shapes |= safetensors_shapes(path)
        except (OSError, ValueError) as error:
            return shapes, (f"{path} is broken: {error}.", again)
    for index in part.glob("*.safetensors.index.json"):
        if (variant is None) != (index.name.count(".") == 3):
            continue
        try:
            wanted = set(_read_json(index).get("weight_map", {}).values())
        except (OSError, ValueError) as error:
            return shapes, (f"{index} cannot be read ({error}).", again)
        absent = sorted(name for name in wanted if not (part / name).is_file())
        if absent:
            return shapes, (f"{part} lacks {', '.join(absent[:3])}{' and more' if len(absent) > 3 else ''}.", again)
    return shapes, None


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file, from its header, checked against the file's length. Reads no weights.

    Raises: ValueError saying what is wrong with the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"version "):
            raise ValueError("it is a git-lfs pointer (run `git lfs pull`)")
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, 100 * 2**20):
            raise ValueError(f"cut off or no safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: tuple(entry["shape"]) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ValueError("its header is damaged") from None
    if size != 8 + length + end:
        raise ValueError(f"it has {size} bytes and should have {8 + length + end}; it is cut off or damaged")
    return shapes


def facts_of(
    folder: Path, configs: Mapping[str, dict], shapes: Mapping[str, tuple[int, ...]], family: FamilyFacts | None
) -> ModelFacts:
    """What the parts' config files say (by the part's name), and the shapes of the network's tensors."""
    component = next((name for name in ("unet", "transformer") if name in configs), None)
    geometry = (vae_geometry(str(component)) if family is None else family.geometry)(configs)
    return ModelFacts(
        folder=folder,
        component=component,
        pixels_per_latent=geometry.pixels_per_latent,
        latent_channels=geometry.channels,
        native_resolution=geometry.native_size,
        shapes=shapes,
        cells_per_token=geometry.cells_per_token,
        text=TextCost(512, 4 * 512 * 4096) if family is None else family.text(configs),
        family=family,
    )


def _resolution(config: RunConfig, model: ModelFacts) -> Iterable[Finding]:
    wanted, native = config.data.resolution, model.native_resolution
    if native is not None and not native / 2 <= wanted <= native * 2:
        yield Finding(
            "warning",
            "resolution",
            f"{wanted} px, but this model was made for about {native} px: far from it pictures fall apart"
            + (f", and a step costs about {(wanted / native) ** 2:.0f} times as much." if wanted > native else "."),
            f"Set resolution = {native}.",
            "resolution-far",
        )


# This machine ---------------------------------------------------------------------------------------------------------


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _torch_build() -> tuple[bool, bool]:
    """(torch is installed, its build can use an NVIDIA or AMD GPU), from its version file: importing it takes
    seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False, False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return True, re.search(r"^(cuda|hip)\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None


def device_of(model: ModelConfig) -> str:
    """cpu, cuda or mps: where this installation would compute. torch itself is not asked."""
    if model.device != "auto":
        return model.device.partition(":")[0]
    likely = platform_calls.likely_device()
    return "cpu" if likely == "cuda" and not _torch_build()[1] else likely


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
        f"{device} is asked for, and CUDA shows {there}.",
        "Set device = auto." if gpus == 0 else f"Set device = {last}, or cuda for the first; GPUs count from 0.",
        "device-missing",
    )


def _device(config: RunConfig) -> Iterable[Finding]:
    asked, likely = config.model.device.partition(":")[0], platform_calls.likely_device()
    installed, gpu_build = _torch_build()
    if not installed:
        yield Finding(
            "error",
            "",
            "PyTorch is not installed here.",
            "Start with `python launch.py`, which installs it.",
            "no-torch",
        )
        return
    device = asked
    if asked == "auto":
        device = "cpu" if likely == "cuda" and not gpu_build else likely
        if likely == "cuda" and not gpu_build:
            yield Finding(
                "warning",
                "device",
                "there is an NVIDIA GPU, but the installed PyTorch is built for the CPU, so the CPU is used.",
                "Install a CUDA build of PyTorch (launch.py does where it finds the GPU), or set device = cpu.",
                "device-unused",
            )
    elif asked == "cuda" and not gpu_build:
        yield Finding(
            "error",
            "device",
            f"{config.model.device} is asked for, but the installed PyTorch is built for the CPU only.",
            "Install a CUDA build of PyTorch, or set device = auto.",
            "device-missing",
        )
    elif asked == "cuda" and likely != "cuda":
        yield Finding(
            "warning",
            "device",
            f"{config.model.device} is asked for, but no NVIDIA driver was found.",
            "Set device = auto.",
            "device-missing",
        )
    elif asked == "cuda" and (wrong := missing_gpu(config.model.device, platform_calls.gpu_count())) is not None:
        yield wrong
    elif asked == "mps" and likely != "mps":
        yield Finding(
            "error",
            "device",
            "mps is asked for, which only Macs with Apple silicon have.",
            "Set device = auto.",
            "device-missing",
        )
    if device == "cpu" and config.training.mixed_precision == "fp16":
        yield Finding(
            "error",
            "mixed_precision",
            "fp16 cannot train on the CPU.",
            "Set mixed_precision = no (or bf16, on a processor that has it).",
            "precision",
        )
    if device == "cpu" and config.model.base_model_precision == "float16":
        yield Finding(
            "warning",
            "base_model_precision",
            "float16 is slow on the CPU, and some of its operations are missing there.",
            "Set base_model_precision = float32 or bfloat16.",
            "precision",
        )
    if config.training.optimizer == "adamw_8bit":
        if not _installed("bitsandbytes"):
            yield Finding(
                "error", "optimizer", "adamw_8bit needs bitsandbytes, which is not installed.",
                "Run `pip install bitsandbytes`, or set optimizer = adamw.", "package-missing",
            )  # fmt: skip
        if device in ("cpu", "mps"):
            yield Finding(
                "error", "optimizer", f"adamw_8bit works on CUDA GPUs only; this run is on {device}.", "Set optimizer = adamw.",
                "device-missing",
            )  # fmt: skip


def _packages(config: RunConfig) -> Iterable[Finding]:
    tracker = config.training.report_to
    modules = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
    if tracker != "none" and not any(_installed(module) for module in modules[tracker]):
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
    if config.training.optimizer == "prodigy" and not _installed("prodigyopt"):
        yield Finding(
            "error", "optimizer", "prodigy needs the package prodigyopt, which is not installed.",
            "Run `pip install prodigyopt`, or set optimizer = adamw.", "package-missing",
        )  # fmt: skip


# The output -----------------------------------------------------------------------------------------------------------


def _output(run_dir: Path | None, runs_dir: Path) -> Iterable[Finding]:
    if run_dir is not None:
        try:
            check_name(run_dir.name)
        except RunError as error:
            yield Finding("error", "run name", str(error), "Choose another name.", "run-name")
            return
        if run_dir.is_symlink() or (run_dir.exists() and not run_dir.is_dir()):
            yield Finding(
                "error", "run name", f"{run_dir} exists and is no folder.", "Choose another name.", "output-exists"
            )
            return
        if run_dir.exists() and any(run_dir.iterdir()):
            yield Finding(
                "error",
                "run name",
                f"{run_dir} exists already; nothing in it is overwritten.",
                f"Choose another name, go on with it (train --resume {run_dir.name}), or delete that run first.",
                "output-exists",
            )
        if too_long(run_dir):
            yield Finding(
                "warning",
                "runs folder",
                f"{run_dir} is so long that files in it pass Windows' {_WINDOWS_PATH + 1} characters.",
                "Take a shorter folder or run name, or enable long paths in Windows.",
                "path-long",
            )
    yield from _writable(runs_dir, "runs folder")


def too_long(run_dir: Path, windows: bool = platform_calls.WINDOWS) -> bool:
    """Whether files inside a run at `run_dir` would pass Windows' classic limit."""
    return windows and len(str(run_dir)) + _LONGEST_INSIDE > _WINDOWS_PATH


def _writable(folder: Path, option: str) -> Iterable[Finding]:
    """An error when files cannot be made in `folder`, or in its nearest parent that exists. Tried, because only trying
    is certain."""
    existing = _existing(folder)
    if not existing.is_dir():
        yield Finding(
            "error", option, f"{folder} cannot be made: {existing} is a file.", "Choose another folder.", "not-writable"
        )
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        full = error.errno == 28
        yield Finding(
            "error",
            option,
            f"{existing} takes no new files ({error.strerror}).",
            "Free some space there." if full else "Choose a folder that you may write to.",
            "no-space" if full else "not-writable",
        )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:  # Path.exists raises for a name that is too long
        path = path.parent
    return path


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes that a run will write: prepared data into the cache; checkpoints, samples and the export into the run."""

    cache: int
    run: int


def disk_estimate(config: RunConfig, found: Scan, model: ModelFacts | None) -> DiskEstimate:
    """What the run will need on disk, from the pictures, the limits and the shapes of the model's weights.

    An estimate from above: what is already cached counts again, text embeddings have the length of the longest known
    encoder. Without a model at hand (a hub id not downloaded yet) the sizes of a large one are taken for the cache, and
    none for checkpoints.
    """
    data, training = config.data, config.training
    scale, channels, text = 8, 16, 512 * 4096 * 4
    if model is not None:
        scale = model.pixels_per_latent if model.pixels_per_latent is not None else scale
        channels = model.latent_channels if model.latent_channels is not None else channels
        text = model.text.bytes_
    pictures, prompts = len(found.items), len({item.caption for item in found.items}) + 1
    cache = 0
    if data.with_prior_preservation:
        shapes = max(1, len(bucket_counts(found.items)))
        pictures += max(data.num_class_images, len(found.class_items)) * shapes
        prompts += 1
        cache += max(0, data.num_class_images - len(found.class_items)) * 2 * data.resolution**2
    cache += (
        pictures * (2 if data.random_flip else 1) * 4 * channels * math.ceil(data.resolution / scale) ** 2
        + prompts * text
    )

    weights = 0 if model is None else trained_weights(config, model)
    copies = 3 + (1 if training.use_ema else 0)  # weights, two moments, the running mean
    steps, every = training.max_train_steps, config.saving.checkpoint_step_interval
    saves = (
        1 if every == 0 else min(config.saving.checkpoints_total_limit, math.ceil(steps / every)) + 1
    )  # + one being written
    sampled = 2 + (steps // config.validation.step_interval if config.validation.step_interval else 0)
    pictures_bytes = sampled * len(config.validation.prompts) * 2 * data.resolution**2
    return DiskEstimate(cache, weights * 4 * (copies * saves + 1) + pictures_bytes)


def trained_weights(config: RunConfig, model: ModelFacts) -> int:
    """How many numbers train: those of the adapter, or of the whole network."""
    if config.training.model_type == "full":
        tables = () if model.family is None else model.family.untrained
        return sum(math.prod(shape) for name, shape in model.shapes.items() if not name.endswith(tables))
    usual = ATTENTION if model.family is None else model.family.lora_targets
    return adapter_weights(model.shapes, config.lora.rank, config.lora.targets if config.lora.targets else usual)


def adapter_weights(shapes: Mapping[str, tuple[int, ...]], rank: int, targets: tuple[str, ...]) -> int:
    """Weights of an adapter on the layers that end in `targets`."""
    count = 0
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if (
            layer != name
            and len(shape) >= 2
            and any(layer == target or layer.endswith("." + target) for target in targets)
        ):
            count += rank * (shape[0] + math.prod(shape[1:]))
    return count


def _disk(need: DiskEstimate, cache_dir: Path, runs_dir: Path) -> Iterable[Finding]:
    places = [("data_cache_dir", _existing(cache_dir), need.cache), ("runs folder", _existing(runs_dir), need.run)]
    if places[0][1].stat().st_dev == places[1][1].stat().st_dev:
        places = [("runs folder", places[1][1], need.cache + need.run)]
    for option, folder, wanted in places:
        free = platform_calls.free_bytes(folder)
        if free < 1.2 * wanted + _RESERVE_BYTES:
            yield Finding(
                "error",
                option,
                f"no space: the disk of {folder} has {size(free)} free, and the run needs about {size(1.2 * wanted + _RESERVE_BYTES)}.",
                "Free some space, choose a folder on another disk, or lower checkpoints_total_limit.",
                "no-space",
            )
        elif free < 2 * wanted + _RESERVE_BYTES:
            yield Finding(
                "warning",
                option,
                f"the disk of {folder} has {size(free)} free, and the run needs about {size(wanted)}.",
                "Free some space, or lower checkpoints_total_limit.",
                "little-space",
            )


def size(count: float) -> str:
    """Bytes for people: "12 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
