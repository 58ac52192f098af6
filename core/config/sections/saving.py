"""What is kept of a run."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import Checked, option


@dataclass(frozen=True, kw_only=True)
class SavingConfig(Checked):
    """Checkpoints, and the file that comes out."""

    title: ClassVar[str] = "Saving"

    checkpoint_step_interval: int = option(
        250,
        "A checkpoint to resume from every so many steps; 0 = only at the end.",
        label="Checkpoint every",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    checkpoints_total_limit: int = option(
        3, "Checkpoints kept; older ones are removed after a newer one is safe.", label="Checkpoints kept", unit="checkpoints", ge=1, le=10_000,
        level="advanced",
    )  # fmt: skip
    save_precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "Number format of the exported file.", label="Number format of the saved LoRA", level="advanced"
    )
    publish_folders: bool = option(
        True,
        "Names of your folders (the last part of each path) in the exported file and its model card; off = none.",
        label="Folder names in the file",
        level="advanced",
        since="0.3",
    )
    publish_texts: bool = option(
        True,
        "Trigger word, prompts and captions of the settings in the exported file and its model card; off = none.",
        label="Prompts and trigger word in the file",
        level="advanced",
        since="0.3",
    )
