"""The adapter."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import Checked, option


@dataclass(frozen=True, kw_only=True)
class LoraConfig(Checked):
    """The adapter that is trained instead of the whole model."""

    title: ClassVar[str] = "LoRA"
    prefix: ClassVar[str] = "lora_"

    rank: int = option(
        16,
        "Capacity of the adapter; the file grows with it.",
        label="LoRA rank",
        ge=1,
        le=1024,
        source="LoRA (arXiv 2106.09685)",
    )
    alpha: float | None = option(
        None,
        "Scale of the adapter is alpha / rank; unset = alpha equals rank, scale 1.",
        label="LoRA alpha",
        ge=1e-6,
        le=4096,
        level="advanced",
    )
    dropout: float = option(
        0.0,
        "Share of the adapter's inputs dropped while training.",
        label="LoRA dropout",
        ge=0,
        le=0.95,
        level="advanced",
    )
    targets: tuple[str, ...] = option(
        (), "Names (or ends of names) of the layers that get an adapter, for example to_q, to_k; empty = the family's own list.", label="Layers with an adapter",
        level="advanced",
    )  # fmt: skip
    layout: Literal["diffusers", "kohya", "both"] = option(
        "diffusers",
        "Names in the LoRA file: diffusers (which ComfyUI reads for transformers, not for UNets), kohya (as ComfyUI, Forge, AUTOMATIC1111 and sd-scripts name layers, with "
        "alpha tensors), or a file of each.",
        label="Layout of the LoRA file",
        level="advanced",
        since="0.3",
    )
    folder: str | None = option(
        None,
        "A folder that the finished LoRA is also put into, such as ComfyUI's models/loras; it must exist. Unset = only the run's own folder.",
        label="Also put the LoRA into",
        level="advanced",
        since="0.3",
    )
