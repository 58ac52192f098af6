"""The adapter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import Checked, Fault, option, path_faults, shown
from ..rank_pattern import parsed


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
    type: Literal["lora", "dora", "loha", "lokr"] = option(
        "lora",
        "lora: two small matrices a layer, read everywhere. dora: also trains the length of every row; a step is slower. loha, lokr: products of "
        "smaller factors, with lora_layout kohya; ComfyUI reads them, diffusers does not.",
        label="Kind of adapter",
        source="DoRA (arXiv 2402.09353), LyCORIS (arXiv 2309.14859)",
        level="advanced",
        since="0.3",
    )
    rslora: bool = option(
        False,
        "Scale of the adapter is alpha / sqrt(rank), so that a high rank does not learn more slowly (lora, dora).",
        label="Rank-stabilised scale (rsLoRA)",
        source="rsLoRA (arXiv 2312.03732)",
        level="advanced",
        since="0.3",
    )
    rank_pattern: tuple[str, ...] = option(
        (),
        "Other ranks for some layers, as pattern=rank or pattern=rank:alpha: attn2=8, ff.net=4:2. A pattern is parts of a layer's name, * stands "
        "for any letters; the last that fits a layer holds. One that fits none is refused.",
        label="Rank by layer",
        level="advanced",
        since="0.3",
    )
    lokr_factor: int | None = option(
        None,
        "lokr: size of the small factor of every layer. A small number makes the large one larger, and the file with it; unset = both near the "
        "square root, the smallest file.",
        label="LoKr factor",
        ge=2,
        le=1024,
        source="LyCORIS (arXiv 2309.14859)",
        level="advanced",
        since="0.3",
    )

    def rules(self) -> Iterator[Fault]:
        yield from path_faults(self, "folder")
        for line in self.rank_pattern:
            try:
                parsed(line)
            except ValueError as wrong:
                yield Fault(f"lora_rank_pattern = {shown(line)}: {wrong}", ("lora_rank_pattern",))
        if self.type not in ("loha", "lokr"):
            return
        if self.layout != "kohya":
            yield Fault(
                f"lora_layout = {shown(self.layout)}: diffusers has no file for lora_type {shown(self.type)}; set lora_layout to kohya, the names "
                "that ComfyUI reads, or lora_type to lora or dora.",
                ("lora_layout", "lora_type"),
            )
        if self.dropout > 0:
            yield Fault(
                f"lora_dropout = {shown(self.dropout)}: lora_type {shown(self.type)} has no matrix that its inputs go through alone; set "
                "lora_dropout to 0, or lora_type to lora or dora.",
                ("lora_dropout", "lora_type"),
            )
        if self.rslora:
            yield Fault(
                f"lora_rslora = true: is defined for lora and dora, and lora_type is {shown(self.type)}; set it to false (lora_alpha sets "
                "the scale).",
                ("lora_rslora", "lora_type"),
            )
