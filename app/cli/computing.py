"""What commands that compute in the terminal's own process have in common."""

import argparse
from pathlib import Path

from ...core.config.options import ConfigError, Fault


def empty_folder(folder: Path) -> Path:
    """`folder` itself, not made yet. Raises ConfigError when something lies in it: a result never overwrites another."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Fault(f"--out {folder}: exists and is not an empty folder; name a new one.")])
    return folder


def only_with_run(given: argparse.Namespace) -> None:
    """Raises ConfigError for a checkpoint of no run."""
    if given.checkpoint is not None and given.run_name is None:
        raise ConfigError([Fault(f"--checkpoint {given.checkpoint}: only a run has checkpoints; name it with --run.")])
