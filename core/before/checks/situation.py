"""What every check before a start is given."""

from dataclasses import dataclass
from pathlib import Path

from ...config import RunConfig
from ...data import Item, Scan
from ...data.scanning import located
from ...findings import Finding
from ..model_files import ModelFacts


@dataclass(frozen=True)
class Situation:
    """A config and what was read for it once, so that no check reads it again.

    `scan`: the pictures as found; `train` and `held_out`: the same after pictures for the drift measurement were set apart.
    `model`: None where the model is not on this computer, or not complete; `model_findings`: why.
    `run_dir`: the folder that a new run would get; None for a run that exists already. `runs_dir`: the folder of all runs.
    Both are absolute.
    """

    config: RunConfig
    run_dir: Path | None
    runs_dir: Path
    scan: Scan
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]
    model: ModelFacts | None
    model_findings: tuple[Finding, ...]

    @property
    def cache_dir(self) -> Path:
        return cache_folder(self.config, self.runs_dir)


def cache_folder(config: RunConfig, runs_dir: Path) -> Path:
    """Where latents, text embeddings and generated class pictures are kept: `data_cache_dir`, else `.cache` in the
    folder of all runs."""
    return runs_dir / ".cache" if config.data.data_cache_dir is None else located(config.data.data_cache_dir)
