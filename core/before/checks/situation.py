"""What every check before a start is given."""

from dataclasses import dataclass
from pathlib import Path

from ...config import RunConfig
from ...data import Item, Scan
from ...findings import Finding
from ..model_files import ModelFacts


@dataclass(frozen=True)
class Situation:
    """A config and what was read for it once, so that no check reads it again.

    `scan`: the pictures as found; `train` and `held_out`: the same after pictures for the drift measurement were set apart.
    `model`: None where the model is not on this computer, or not complete; `model_findings`: why.
    `run_dir`: the folder that a new run would get; None for a run that exists already. `runs_dir`: the folder of all runs;
    both are absolute. `cache_dir`: of latents, text embeddings and generated class pictures.
    """

    config: RunConfig
    run_dir: Path | None
    runs_dir: Path
    cache_dir: Path
    scan: Scan
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    model: ModelFacts | None
    model_findings: tuple[Finding, ...]
