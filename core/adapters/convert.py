"""A LoRA file from one layout into the other."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .lora_file import LoraError, read_lora_header
from .lora_layers import Base, Layout, in_diffusers, kohya_keys, read_lora, write_lora
from .matrices import difference

if TYPE_CHECKING:
    from ..families.source import Source

SAME, SAME_ROUNDED = 1e-5, 2e-2
"""By how much a layer's change may differ afterwards, in shares of it: in float32, and rounded to 16 bits once more."""


@dataclass(frozen=True)
class Converted:
    """`was`, `now`: the layouts. `keys` of `expected`: tensors that the file has and that its layout names for these layers.
    `difference`: the largest share by which the change of a layer differs."""

    path: Path
    was: Layout
    now: Layout
    layers: int
    keys: int
    expected: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.layers} layers from the {self.was} to the {self.now} layout: {self.keys} of {self.expected} keys, "
            f"and each layer changes its weights as before (within {self.difference:.1g})"
        )


def convert(path: Path, target: Path, layout: Layout, source: "Source") -> Converted:
    """Write the LoRA at `path` to `target` in `layout`, and read it again. Reads the model's config files and no weights.

    The notes of the header go along. Layers of text encoders too, of families whose encoders are trained here; others are refused.

    Raises: LoraError where the file is for another model, the family has no such layout, or the written file is not the same LoRA.
    """
    import torch

    base = Base.of(source)
    found = read_lora(path, base)
    if found.layout == layout:
        raise LoraError(f"'{path}' is in the {layout} layout already.", "Name the other one with --to.")
    write_lora(target, found.layers, layout, base, found.dtype, found.metadata)
    again = read_lora(target, base)
    expected = (
        kohya_keys(found.layers, base)
        if layout == "kohya"
        else set(in_diffusers(found.layers, base.component, torch.float32))
    )
    keys = set(read_lora_header(target).tensors)
    apart = max(
        difference(one, again.layers[layer]) if layer in again.layers else 1.0 for layer, one in found.layers.items()
    )
    if keys != expected or not apart <= (SAME if found.dtype == torch.float32 else SAME_ROUNDED):
        raise LoraError(
            f"'{target}' is not the same LoRA: {len(keys & expected)} of {len(expected)} keys, changes apart by {apart:.2g}.",
            "Do not use it; report the file that it was made from.",
        )
    return Converted(target, found.layout, layout, len(found.layers), len(keys & expected), len(expected), apart)
