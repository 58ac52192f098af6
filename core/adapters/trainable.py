"""What trains: a LoRA on the denoiser (its weights in float32, whatever the base's precision) or the whole denoiser.

Names in a state are the denoiser's own parameter names, so that checkpoints, moving averages and exports speak of the
same tensors.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..families.source import ModelError
from ..randomness import kept_random_state

if TYPE_CHECKING:
    from ..config import LoraConfig, RunConfig
    from ..families.base import Model

ADAPTER = "default"
ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def attach(model: "Model", config: "RunConfig") -> None:
    """Make trainable what `model_type` names: an adapter or the whole denoiser."""
    if config.training.model_type == "lora":
        attach_lora(model, config.lora, config.training.seed)
    else:
        attach_full(model)


def attach_lora(model: "Model", config: "LoraConfig", seed: int) -> None:
    """Put a LoRA on the denoiser; only its weights train.

    It starts without effect (B = 0) and reproducibly: A depends on the seed and the layer's name alone, not on what was
    drawn before nor on which other layers have an adapter. Draws no global random numbers.

    Args:
        config: `rank`, `alpha` (None = rank), `dropout`, `targets` (ends of layer names; () = the family's).

    Raises: ModelError where a target matches no layer, or the model has an adapter already.
    Source: LoRA, Hu et al., arXiv 2106.09685.
    """
    from peft import LoraConfig as PeftConfig

    if model.has_adapter:
        raise ModelError("The model has an adapter already.", "Load the model again before attaching another.")
    denoiser = model.denoiser
    denoiser.requires_grad_(False)
    targets = matching_layers(denoiser, config.targets if config.targets else model.facts.lora_targets, model.name)
    alpha = config.rank if config.alpha is None else config.alpha
    with kept_random_state():
        denoiser.add_adapter(
            PeftConfig(r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=targets),
            adapter_name=ADAPTER,
        )
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.data = parameter.data.to(
                model.device, torch.float32
            )  # beside a streamed layer it came in main memory
            if ".lora_A." in name:
                start = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=_named_generator(seed, name))
                parameter.copy_(start)


def attach_full(model: "Model") -> None:
    """The whole denoiser trains, in float32: updates are far smaller than a 16-bit weight can hold."""
    model.denoiser.float().requires_grad_(True)
    model.dtype = torch.float32


def matching_layers(denoiser: nn.Module, targets: Iterable[str], family: str) -> list[str]:
    """Full names of the layers that the targets mean: equal to one, or ending in "." and it.

    Raises: ModelError where a target means none; it lists what there is.
    """
    layers = [name for name, module in denoiser.named_modules() if isinstance(module, ADAPTABLE)]
    found = {target: [name for name in layers if name == target or name.endswith("." + target)] for target in targets}
    unknown = [target for target, names in found.items() if not names]
    if unknown:
        counts: dict[str, int] = {}
        for name in layers:
            parts = name.split(".")
            end = parts[-1] if not parts[-1].isdigit() else ".".join(parts[-2:])
            counts[end] = counts.get(end, 0) + 1
        known = ", ".join(
            f"{end} ({number})" for end, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        )
        raise ModelError(
            f"lora_targets: no layer of this {family} model ends in {', '.join(repr(target) for target in unknown)}.",
            f"There are (with how many layers each): {known}. Leave lora_targets empty for the family's own list.",
        )
    wanted = {name for names in found.values() for name in names}
    return [name for name in layers if name in wanted]


def trainable_parameters(model: "Model") -> list[nn.Parameter]:
    """The parameters that train, in a fixed order (that of `trainable_names`)."""
    return [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]


def trainable_names(model: "Model") -> list[str]:
    """Their names."""
    return [name for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad]


def adapted_layers(model: "Model") -> list[str]:
    """The layers that have the trained adapter."""
    ends = f".lora_A.{ADAPTER}.weight"
    return [name.removesuffix(ends) for name, _ in model.denoiser.named_parameters() if name.endswith(ends)]


def adapter_state(model: "Model") -> dict[str, Tensor]:
    """A copy of everything that trains (in a full fine-tune the whole denoiser), by name: CPU, full precision."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.denoiser.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_adapter_state(model: "Model", state: Mapping[str, Tensor]) -> None:
    """Put a state back, in place: the optimizer's references stay valid. ModelError where names or shapes differ."""
    own = {name: parameter for name, parameter in model.denoiser.named_parameters() if parameter.requires_grad}
    if own.keys() != state.keys():
        raise ModelError(
            f"This state lacks {_some(own.keys() - state.keys())} and has in excess "
            f"{_some(state.keys() - own.keys())}.",
            "It belongs to another model, rank or list of lora_targets: resume with the config that it was saved with.",
        )
    wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{len(wrong)} tensors of this state have another shape, {name}: {tuple(state[name].shape)}, "
            f"here {tuple(own[name].shape)}.",
            "It was saved with another lora_rank or model: resume with that config.",
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    if not names:
        return "nothing"
    return f"{len(names)} tensors ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"


def _named_generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/lora/{name}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
