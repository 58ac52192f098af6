"""What trains: a LoRA on the denoiser (its weights in float32, whatever the base's precision) or the whole denoiser; beside a LoRA, what
`text_encoders` puts on the text encoders.

Names in a state are the denoiser's own parameter names, and those of `text_encoders.full_name`, so that checkpoints, moving averages and exports speak of the
same tensors.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..families.source import ModelError
from . import text_encoders
from .start import ADAPTER, add_adapter

if TYPE_CHECKING:
    from ..config import LoraConfig, RunConfig
    from ..families.base import Model

ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def attach(model: "Model", config: "RunConfig") -> None:
    """Make trainable what `model_type` names: an adapter or the whole denoiser."""
    if config.training.model_type == "lora":
        attach_lora(model, config.lora, config.training.seed)
        if config.text_encoder.train_text_encoder:
            text_encoders.attach(model, config)
        if config.text_encoder.new_tokens:
            text_encoders.attach_tokens(model, config)
    else:
        attach_full(model)


def attach_lora(model: "Model", config: "LoraConfig", seed: int) -> None:
    """Put a LoRA on the denoiser; only its weights train.

    It starts without effect and reproducibly (`start.add_adapter`).

    Args:
        config: `rank`, `alpha` (None = rank), `dropout`, `targets` (ends of layer names; () = the family's).

    Raises: ModelError where a target matches no layer, or the model has an adapter already.
    Source: LoRA, Hu et al., arXiv 2106.09685.
    """
    from peft import LoraConfig as PeftConfig

    if model.has_adapter:
        raise ModelError("The model has an adapter already.", "Load the model again before attaching another.")
    denoiser = model.denoiser
    targets = matching_layers(denoiser, config.targets if config.targets else model.facts.lora_targets, model.name)
    alpha = config.rank if config.alpha is None else config.alpha
    settings = PeftConfig(r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=targets)
    add_adapter(denoiser, settings, model.device, seed, lambda name: name)


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
    return [parameter for _, parameter in text_encoders.trained(model)]


def trainable_names(model: "Model") -> list[str]:
    """Their names."""
    return [name for name, _ in text_encoders.trained(model)]


def adapted_layers(model: "Model") -> list[str]:
    """The layers that have the trained adapter."""
    return [name for name, module in text_encoders.modules(model) if ADAPTER in getattr(module, "lora_A", ())]


def adapter_state(model: "Model") -> dict[str, Tensor]:
    """A copy of everything that trains (in a full fine-tune the whole denoiser), by name: CPU, full precision."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in text_encoders.trained(model)}


@torch.no_grad()
def load_adapter_state(model: "Model", state: Mapping[str, Tensor]) -> None:
    """Put a state back, in place: the optimizer's references stay valid. ModelError where names or shapes differ."""
    own = dict(text_encoders.trained(model))
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
