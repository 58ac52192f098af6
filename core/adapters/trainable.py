"""What trains: a LoRA on the denoiser (its weights in float32, whatever the base's precision) or the whole denoiser; beside a LoRA, what
`text_encoders` puts on the text encoders.

Names in a state are the denoiser's own parameter names, and those of `text_encoders.full_name`, so that checkpoints, moving averages and exports speak of the
same tensors.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config.rank_pattern import faults_of, ranks_of
from ..families.source import ModelError
from . import text_encoders
from .kinds import LYCORIS
from .start import ADAPTER, add_adapter

if TYPE_CHECKING:
    from peft import PeftConfig

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
    """Put a LoRA, or another kind of adapter, on the denoiser; only its weights train.

    It starts without effect and reproducibly (`start.add_adapter`).

    Args:
        config: `type`, `rank`, `alpha` (None = rank), `rank_pattern`, `dropout`, `targets` (ends of layer names; () = the family's).

    Raises: ModelError where a target or a pattern matches no layer, or the model has an adapter already.
    Source: LoRA, Hu et al., arXiv 2106.09685; the other kinds: `kinds`.
    """
    if model.has_adapter:
        raise ModelError("The model has an adapter already.", "Load the model again before attaching another.")
    denoiser = model.denoiser
    targets = matching_layers(denoiser, config.targets if config.targets else model.facts.lora_targets, model.name)
    check_ranks(denoiser, targets, config)
    add_adapter(denoiser, peft_config(config, targets), model.device, seed, lambda name: name)


def peft_config(config: "LoraConfig", layers: list[str]) -> "PeftConfig":
    """peft's config of the adapter on these layers, by their full names."""
    import peft

    ranks = ranks_of(layers, config.rank, config.alpha, config.rank_pattern)
    alpha = config.rank if config.alpha is None else config.alpha
    usual = (config.rank, float(alpha))
    others = {f"^{re.escape(layer)}": each for layer, each in ranks.items() if each != usual}
    shared = {
        "r": config.rank,
        "target_modules": layers,
        "rank_pattern": {layer: each[0] for layer, each in others.items()},
        "alpha_pattern": {layer: each[1] for layer, each in others.items()},
    }
    if config.type == "loha":
        return peft.LoHaConfig(alpha=alpha, **shared)
    if config.type == "lokr":
        # LyCORIS' own start: the large factor is 0. peft's other one makes the small factor 0, through which then all gradients go.
        factor = -1 if config.lokr_factor is None else config.lokr_factor
        return peft.LoKrConfig(alpha=alpha, decompose_factor=factor, init_weights="lycoris", **shared)
    return peft.LoraConfig(
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        use_dora=config.type == "dora",
        use_rslora=config.rslora,
        **shared,
    )


def check_ranks(denoiser: nn.Module, layers: list[str], config: "LoraConfig") -> None:
    """Raises: ModelError where a line of `rank_pattern` changes no layer, or the kind of adapter has no form for a layer."""
    for wrong, remedy in faults_of(layers, config.rank_pattern):
        raise ModelError(f"lora_rank_pattern: {wrong}.", remedy)
    if config.type in LYCORIS:
        deep = [layer for layer in layers if isinstance(denoiser.get_submodule(layer), nn.Conv3d)]
        if deep:
            raise ModelError(
                f"lora_type = {config.type}: {len(deep)} of the layers are three-dimensional convolutions, which it has no form for; the "
                f"first is {deep[0]}.",
                "Set lora_type to lora, or leave these layers out of lora_targets.",
            )


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
    return [name for name, module in text_encoders.modules(model) if _has_adapter(module)]


def _has_adapter(module: nn.Module) -> bool:
    """Is a module a layer of the trained adapter, of whichever kind?"""
    return any(ADAPTER in getattr(module, first, ()) for first in ("lora_A", "hada_w1_a", "lokr_w1"))


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
