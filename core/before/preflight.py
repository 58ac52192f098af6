"""Everything that can be known to go wrong, found before anything starts and given all at once, each with its remedy.

To add a check: write it in the file of its subject in `checks/`, and name it in `CHECKS`.

Imports no torch: the page and the command line call it before every start. Cost: the scan of the pictures (each is decoded
once; again in the same process only names and times are compared) and a few small files of the model.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import RunConfig, idle_remarks
from ..data import scan, split_holdout
from ..data.progress import Progress
from ..data.scanning import located
from ..findings import Finding, by_severity
from ..runs.root import DEFAULT_ROOT, ROOT_VARIABLE
from .cautions import cautions
from .checks import computing, data, folders, lora_files, model
from .checks.situation import Situation
from .model_files import model_findings


def idle_settings(situation: Situation) -> Iterable[Finding]:
    """Settings that have no effect in this config."""
    return [Finding("note", "", sentence, "", "remark") for sentence in idle_remarks(situation.config)]


def costly_settings(situation: Situation) -> Iterable[Finding]:
    """Settings that work and cost more than one would expect."""
    return cautions(situation.config)


CHECKS: tuple[Callable[[Situation], Iterable[Finding]], ...] = (
    data.scanned_pictures,
    data.drift_pictures,
    data.batches,
    data.masks,
    data.class_pictures,
    data.class_prompt,
    model.model,
    model.resolution,
    model.negative_prompt,
    model.text_encoders,
    computing.device,
    computing.processes,
    computing.precision,
    computing.eight_bit_optimizer,
    computing.frozen_weights,
    computing.compiler,
    computing.packages,
    folders.folders,
    lora_files.layout,
    lora_files.ranks,
    lora_files.folder,
    idle_settings,
    costly_settings,
)
"""All checks. Findings of one level are shown in this order."""


def preflight(
    config: RunConfig,
    run_dir: Path | str | None = None,
    runs_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Finding]:
    """Check a config against this computer: pictures, captions, model, packages, device, disk, output. Changes nothing.

    Args:
        config: what will train.
        run_dir: the folder that the *new* run would get; None for a run that exists by right (a resume, or one just
            created).
        runs_dir: the folder of all runs; None = that of `run_dir`, else the default.
        progress: called with (what, done, total) while pictures are read.

    Returns:
        findings, errors first. Without an error among them the run may start.
    """
    situation = read_situation(config, run_dir, runs_dir, progress)
    return by_severity(finding for check in CHECKS for finding in check(situation))


def read_situation(
    config: RunConfig, run_dir: Path | str | None, runs_dir: Path | str | None, progress: Progress | None
) -> Situation:
    """Scan the pictures and read the model's small files; arguments as of `preflight`."""
    run_dir = None if run_dir is None else Path(run_dir).expanduser().absolute()
    if runs_dir is not None:
        runs_dir = Path(runs_dir).expanduser().absolute()
    elif run_dir is not None:
        runs_dir = run_dir.parent
    else:
        runs_dir = Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)).absolute()
    found = scan(config.data, progress)
    train, held_out = split_holdout(found, config.drift)
    facts, about_model = model_findings(config.model)
    cache_dir = cache_folder(config, runs_dir)
    return Situation(config, run_dir, runs_dir, cache_dir, found, train, held_out, facts, tuple(about_model))


def cache_folder(config: RunConfig, runs_dir: Path) -> Path:
    """Where latents, text embeddings and generated class pictures are kept: `data_cache_dir`, else `.cache` in the
    folder of all runs."""
    return runs_dir / ".cache" if config.data.data_cache_dir is None else located(config.data.data_cache_dir)
