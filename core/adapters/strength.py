"""How strongly adapters act, one alone or several at once: the change of each is multiplied by its strength, and the changes add up.

A DoRA's rows are not linear in its matrices. There a strength s means what it means where the file is used (ComfyUI, Forge): the share of
the whole change of a weight,

    W + s (m / |W + c B A| (W + c B A) - W),      m: the trained lengths of the rows, c: alpha over the rank

which is a DoRA again, with other lengths and each row of B multiplied by a factor of its own (`_dial`).
"""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..families.quantised import weight_of
from .kinds import MAGNITUDE
from .text_encoders import adapted_encoders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..families.base import Model

Trained = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""(adapter, layer) -> B and the lengths as they were trained, of the DoRAs that act at another strength."""
_LEAST = 1e-12


def act(model: "Model", strengths: Mapping[str, float], trained: Trained) -> None:
    """Let exactly these loaded adapters act on the denoiser and the text encoders, each at its strength; none: the base.

    Args:
        trained: what was changed for a strength before; changed in place. Empty at first.
    """
    from diffusers.utils.peft_utils import set_weights_and_activate_adapters

    for part in (model.denoiser, *adapted_encoders(model).values()):
        there = getattr(part, "peft_config", None) or {}
        if not there:
            continue
        names = [name for name in strengths if name in there]
        if not names:
            part.disable_adapters()
            continue
        part.enable_adapters()
        scales = [1.0 if is_dora(part, name) else strengths[name] for name in names]
        set_weights_and_activate_adapters(part, names, scales)
        for name in names:
            _dial_all(part, name, strengths[name], trained)


def is_dora(part: nn.Module, name: str) -> bool:
    """Whether the adapter `name` sets the lengths of rows."""
    return any(name in getattr(module, MAGNITUDE, {}) for module in part.modules())


@torch.no_grad()
def _dial_all(part: nn.Module, name: str, strength: float, trained: Trained) -> None:
    for layer, module in part.named_modules():
        lengths = getattr(module, MAGNITUDE, {})
        if name not in lengths:
            continue
        owned: Any = module
        b, length = owned.lora_B[name].weight, lengths[name].weight
        if strength == 1 and (name, layer) not in trained:
            continue
        kept = trained.setdefault((name, layer), (b.detach().clone(), length.detach().clone()))
        new = trained.pop((name, layer)) if strength == 1 else _dial(owned, name, strength, *kept)
        b.copy_(new[0])
        length.copy_(new[1])


def _dial(module: Any, name: str, strength: float, b: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, lengths) of the DoRA whose weight is W + strength (W' - W), W' being the trained one's.

    With W' = g (W + D), g = m / |W + D| and D = c B A, that weight is u W + s g D = u (W + s g / u D), u = 1 - s + s g, row by row.
    """
    a = module.lora_A[name].weight
    before = weight_of(module.base_layer).detach().float().flatten(1)
    change = module.scaling[name] * (b.float().flatten(1) @ a.float().flatten(1))
    gain = lengths.float().flatten() / (before + change).norm(dim=1).clamp_min(_LEAST)
    whole = 1 - strength + strength * gain
    whole = torch.where(whole.abs() < _LEAST, torch.full_like(whole, _LEAST), whole)
    factor = strength * gain / whole
    length = whole * (before + factor[:, None] * change).norm(dim=1)
    return (b.float() * factor.reshape(-1, *(1 for _ in b.shape[1:]))).to(b.dtype), length.reshape(lengths.shape).to(
        lengths.dtype
    )


@contextmanager
def at_strength(model: "Model", strength: float) -> "Iterator[None]":
    """The adapter that trains acts at this strength inside; afterwards as before. Not for a DoRA other than at 0 and 1 (`act`)."""
    if strength == 0:
        with model.adapters_disabled():
            yield
        return
    parts = (model.denoiser, *adapted_encoders(model).values())
    scalings = [
        module.scaling
        for part in parts
        for module in part.modules()
        if isinstance(getattr(module, "scaling", None), dict)
    ]
    were = [dict(each) for each in scalings]
    try:
        for each in scalings:
            each.update({name: scale * strength for name, scale in each.items()})
        yield
    finally:
        for each, was in zip(scalings, were, strict=True):
            each.update(was)
