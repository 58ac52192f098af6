"""Z-Image's layers as ComfyUI reads them: diffusers' names behind `diffusion_model.`, which it maps onto its fused projections itself.

The original names would fuse q, k and v, and three adapters of rank r fit into one layer only at rank 3r.
"""

from collections.abc import Mapping
from typing import Any

from ..lora_facts import KohyaLayout, Place


def place(layer: str, network: Mapping[str, Any]) -> Place:
    return Place(f"diffusion_model.{layer}")


KOHYA = KohyaLayout(
    place=place, down=".lora_A.weight", up=".lora_B.weight", about="`diffusion_model.` and diffusers' names"
)
