"""The kohya layout: a LoRA under the names of other tools, with its scale as a tensor. Which names: `families/lora_facts.py`.

Where the original network has one layer for several of ours (q, k and v in one), the parts stand in one pair of matrices: their A's under
each other, their B's along the diagonal, at the sum of their ranks. That is exact; at the rank of one it would not be.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..families.lora_facts import KohyaLayout, Place
from .lora_file import LoraError
from .matrices import Matrices, Shapes

ALPHA = ".alpha"


def check_named(layout: KohyaLayout, network: Mapping[str, Any], layers: list[str]) -> None:
    """Raises LoraError where one of the layers has no name in the layout."""
    missing = [layer for layer in layers if layout.place(layer, network) is None]
    if missing:
        raise LoraError(
            f"{len(missing)} of {len(layers)} layers have no name in the kohya layout, the first is {missing[0]}.",
            "Write the diffusers layout (lora_layout = diffusers), or train other layers (lora_targets).",
        )


def keys(layout: KohyaLayout, network: Mapping[str, Any], layers: list[str]) -> set[str]:
    """The names of all tensors of a file with these layers."""
    names = {place.name for layer in layers if (place := layout.place(layer, network)) is not None}
    ends = (layout.down, layout.up, *((ALPHA,) if layout.alphas else ()))
    return {name + end for name in names for end in ends}


def written(
    layers: Mapping[str, Matrices], layout: KohyaLayout, network: Mapping[str, Any], shapes: Shapes, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of the file.

    Args:
        layers: by our names. network: the network's config. shapes: of all its layers, because a fused layer has the rows of absent parts, too.
        dtype: of the matrices; alphas are float32.
    Raises: LoraError for a layer that has no name in the layout.
    """
    check_named(layout, network, list(layers))
    layers = _at_one_alpha(layers)
    groups: dict[str, dict[str, Matrices]] = {}
    places: dict[str, Place] = {}
    for layer, matrices in layers.items():
        place = layout.place(layer, network)
        assert place is not None
        places[place.name] = place
        groups.setdefault(place.name, {})[layer] = matrices
    tensors = {}
    for name, parts in groups.items():
        joined = places[name].joined
        whole = _joined(parts, joined, shapes) if joined else next(iter(parts.values()))
        if not layout.alphas:
            whole = whole.folded()
        tensors[name + layout.down] = whole.a.to(dtype).contiguous()
        tensors[name + layout.up] = whole.b.to(dtype).contiguous()
        if layout.alphas:
            tensors[name + ALPHA] = torch.tensor(float(whole.alpha))
    return tensors


def read(
    tensors: Mapping[str, Tensor], layout: KohyaLayout, network: Mapping[str, Any], shapes: Shapes
) -> tuple[dict[str, Matrices], list[str]]:
    """(the layers by our names, keys that have no place in the network); the inverse of `written`."""
    parts: dict[str, tuple[str, ...]] = {}
    for layer in shapes:
        place = layout.place(layer, network)
        if place is not None:
            parts[place.name] = place.joined if place.joined else (layer,)
    layers: dict[str, Matrices] = {}
    left = dict(tensors)
    for key in tensors:
        name = key.removesuffix(layout.down)
        if name == key or name not in parts or name + layout.up not in tensors:
            continue
        a, b = left.pop(key), left.pop(name + layout.up)
        alpha = left.pop(name + ALPHA, None)
        whole = Matrices(a, b, float(a.shape[0] if alpha is None else alpha))
        layers |= _parted(whole, [part for part in parts[name] if part in shapes], shapes)
    return layers, sorted(left)


def _at_one_alpha(layers: Mapping[str, Matrices]) -> Mapping[str, Matrices]:
    """The same changes with the most frequent alpha in every layer, the rest multiplied into B: diffusers (0.42) mistakes the alphas of a
    UNet's attention layers where they differ (`alpha_pattern` has other names than the layers)."""
    usual, times = Counter(one.alpha for one in layers.values()).most_common(1)[0]
    if times == len(layers):
        return layers
    return {
        layer: one if one.alpha == usual else Matrices(one.a, one.b.float() * (one.alpha / usual), usual)
        for layer, one in layers.items()
    }


def _joined(parts: Mapping[str, Matrices], joined: tuple[str, ...], shapes: Shapes) -> Matrices:
    """The parts as one layer, block by block; rows of absent parts are zero."""
    scales = {matrices.scale for matrices in parts.values()}
    if len(scales) > 1:  # one alpha for all: the parts' own are multiplied in
        parts = {layer: matrices.folded() for layer, matrices in parts.items()}
    present = [layer for layer in joined if layer in parts]
    rank = sum(parts[layer].rank for layer in present)
    b = torch.zeros(sum(shapes[layer][0] for layer in joined if layer in shapes), rank)
    row = column = 0
    for layer in joined:
        if layer in parts:
            one = parts[layer]
            b[row : row + one.b.shape[0], column : column + one.rank] = one.b.float()
            column += one.rank
        row += shapes[layer][0] if layer in shapes else 0
    a = torch.cat([parts[layer].a.float() for layer in present])
    return Matrices(a, b, parts[present[0]].scale * rank)


def _parted(whole: Matrices, parts: list[str], shapes: Shapes) -> dict[str, Matrices]:
    """A fused layer's LoRA as those of its parts. Blocks along the diagonal come back as they were; others share A."""
    if len(parts) == 1:
        return {parts[0]: whole}
    if sum(shapes[part][0] for part in parts) != whole.b.shape[0]:
        raise LoraError(
            f"{parts[0]} and its neighbours have {sum(shapes[part][0] for part in parts)} rows together, and the file's fused layer has "
            f"{whole.b.shape[0]}.",
            "Choose a LoRA that was trained on this model.",
        )
    rows = dict(zip(parts, whole.b.split([shapes[part][0] for part in parts]), strict=True))
    used = {part: b for part, b in rows.items() if bool(b.any())}
    for candidates in (rows, used):
        blocks = _blocks(candidates, whole)
        if blocks is not None:
            return blocks
    return {part: Matrices(whole.a, b.contiguous(), whole.alpha) for part, b in used.items()}


def _blocks(rows: Mapping[str, Tensor], whole: Matrices) -> dict[str, Matrices] | None:
    """The parts where the columns are as many equal blocks, each used by one part alone; else None."""
    if not rows or whole.rank % len(rows):
        return None
    rank = whole.rank // len(rows)
    found = {}
    for number, (part, b) in enumerate(rows.items()):
        inside = slice(number * rank, (number + 1) * rank)
        if bool(b[:, : inside.start].any()) or bool(b[:, inside.stop :].any()):
            return None
        found[part] = Matrices(whole.a[inside].contiguous(), b[:, inside].contiguous(), whole.alpha * rank / whole.rank)
    return found
