"""SDXL's layers as sd-scripts names them: by the numbers that the original UNet gives its blocks.

diffusers' name with underscores, as for SD 1, would be read by ComfyUI and diffusers, too; AUTOMATIC1111's page knows SDXL's layers by
their original names.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..lora_facts import KohyaLayout, Place

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.attentions\.0\.(.+)")


def place(layer: str, network: Mapping[str, Any]) -> Place | None:
    """Layers of the attention blocks; the others of a UNet (convolutions, embeddings) are not mapped."""
    middle = _MIDDLE.fullmatch(layer)
    if middle is not None:
        return Place("lora_unet_middle_block_1_" + middle[1].replace(".", "_"))
    found = _BLOCK.fullmatch(layer)
    if found is None:
        return None
    side, block, number, rest = found[1], int(found[2]), int(found[3]), found[4].replace(".", "_")
    # The original counts through all blocks: on the way down conv_in is 0 and each block ends with a downsampler; on the way up each has
    # one layer more.
    at = block * (network.get("layers_per_block", 2) + 1) + number
    return Place(
        f"lora_unet_input_blocks_{at + 1}_1_{rest}" if side == "down" else f"lora_unet_output_blocks_{at}_1_{rest}"
    )


KOHYA = KohyaLayout(place=place, about="`lora_unet_` and the original UNet's block numbers")
