"""The text encoders' layers in LoRA files of the kohya layout: `lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight`.

The names are those that sd-scripts, AUTOMATIC1111's page and ComfyUI read, and diffusers converts: what a family's facts say for the encoder
(`FamilyFacts.trained_encoders`), then the name of `text_encoders.full_name` with underscores.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .matrices import Matrices, Shapes

if TYPE_CHECKING:
    from ..families.facts import FamilyFacts

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def name_of(layer: str, facts: "FamilyFacts") -> str:
    """An encoder's layer as the file names it."""
    part, _, rest = layer.partition(".")
    return f"{facts.trained_encoders[part]}_{rest.replace('.', '_')}"


def keys(layers: Iterable[str], facts: "FamilyFacts") -> set[str]:
    """The names of all tensors of a file with these layers."""
    return {name_of(layer, facts) + end for layer in layers for end in (DOWN, UP, ALPHA)}


def written(layers: Mapping[str, Matrices], facts: "FamilyFacts", dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of these layers, matrices in `dtype`, alphas in float32."""
    tensors = {}
    for layer, matrices in layers.items():
        name = name_of(layer, facts)
        tensors[name + DOWN] = matrices.a.to(dtype).contiguous()
        tensors[name + UP] = matrices.b.to(dtype).contiguous()
        tensors[name + ALPHA] = torch.tensor(float(matrices.alpha))
    return tensors


def read(
    tensors: Mapping[str, Tensor], facts: "FamilyFacts", shapes: Shapes
) -> tuple[dict[str, Matrices], dict[str, Tensor]]:
    """(the encoders' layers by our names, the other tensors); the inverse of `written`. `shapes`: of the layers that the encoders have."""
    layers, left = {}, dict(tensors)
    for layer in shapes:
        name = name_of(layer, facts)
        if name + DOWN in left and name + UP in left:
            a, b = left.pop(name + DOWN), left.pop(name + UP)
            alpha = left.pop(name + ALPHA, None)
            layers[layer] = Matrices(a, b, float(a.shape[0] if alpha is None else alpha))
    return layers, left
