"""Samples while training."""

from dataclasses import dataclass
from typing import ClassVar

from ..options import LARGEST_SEED, Checked, option


@dataclass(frozen=True, kw_only=True)
class ValidationConfig(Checked):
    """Sample pictures while training."""

    title: ClassVar[str] = "Samples"
    prefix: ClassVar[str] = "validation_"

    prompts: tuple[str, ...] = option(
        (),
        "Captions to draw at the start, every so often and at the end; one per line. Empty = none.",
        label="Prompts for samples, one per line",
        split="\n",
    )
    negative_prompt: str = option("", "What the samples should not show.", level="advanced")
    step_interval: int = option(
        250,
        "Samples every so many steps; 0 = only at the start and the end.",
        label="Samples every",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    num_inference_steps: int = option(
        30, "Sampling steps of each picture.", label="Steps per sample", unit="steps", ge=1, le=1000, level="advanced"
    )
    guidance: float | None = option(
        None,
        "How strictly a sample follows its caption; unset = the pipeline's own default.",
        label="Guidance of samples",
        ge=0,
        le=100,
        level="advanced",
    )
    seed: int = option(
        42,
        "Starting noise of the samples; the same at every step.",
        label="Seed of samples",
        ge=0,
        le=LARGEST_SEED,
        level="advanced",
    )
