"""How many bytes a network's frozen weights take where it computes: quantised, streamed, or as they are. From the files' headers; no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import ModelConfig
from ..families.blocks import blocks_of, kept_whole
from ..families.quantised import WAYS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """`weights`: bytes that lie there all the time. `visiting`: bytes that come and go with a layer or block, at their peak: unpacked or
    fetched weights. `whole`: how many weights lie there or come as plain numbers at one time, which mixed precision may cast."""

    weights: float
    visiting: float
    whole: float


def held_weights(model: ModelConfig, shapes: Shapes, streams: bool) -> Held:
    """Args: shapes: of the network's tensors by name. streams: are the streamed blocks' weights elsewhere between their calls (on a CPU
    they lie in the same memory)?"""
    wide = 4 if model.base_model_precision == "float32" else 2
    quantised = set() if model.base_model_quantization == "none" else _quantised(shapes)
    kept = {
        name: float(
            WAYS[model.base_model_quantization].bytes_of(shape[0], shape[1])
            if name in quantised
            else wide * math.prod(shape)
        )
        for name, shape in shapes.items()
    }
    blocks = list(blocks_of(shapes).values())
    streamed = blocks[max(0, len(blocks) - model.streamed_blocks) :] if model.streamed_blocks else []
    away = {name for block in streamed for name in block}
    fetched = max((sum(kept[name] for name in block) for block in streamed), default=0.0)
    # bitsandbytes unpacks a layer while it computes; torchao a block, whose layers wait so for the backward pass
    together = [[name] for name in quantised] if model.base_model_quantization in ("nf4", "int8_bnb") else blocks
    unpacked = max(
        (wide * sum(math.prod(shapes[name]) for name in names if name in quantised) for names in together), default=0
    )
    plain = [math.prod(shape) for name, shape in shapes.items() if name not in quantised and name not in away]
    largest = max(
        (sum(math.prod(shapes[name]) for name in block if name not in quantised) for block in streamed), default=0
    )
    resident = sum(size for name, size in kept.items() if not streams or name not in away)
    return Held(resident, fetched + unpacked, float(sum(plain) + largest))


def _quantised(shapes: Shapes) -> set[str]:
    """The tensors that are quantised: as `quantised.config_for` has it, by the names of the linear layers."""
    linear = [
        name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")
    ]
    kept = set(kept_whole(linear))
    return {f"{name}.weight" for name in linear if name not in kept}
