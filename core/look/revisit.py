"""A trained run's weights opened again: to draw with them, and to measure their drift, outside the training process."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..adapters import attach, load_adapter_state
from ..config import RunConfig, with_changes
from ..data import DatasetError, prepare, scan
from ..families import load_model
from ..families.base import Model
from ..runs import checkpoint
from ..runs.checkpoint import Checkpoint, CheckpointError
from ..runs.folder import RunDir
from .drift import measure as drift
from .drift.correction import UNCORRECTED, SamplingCorrection
from .drift.report import DriftReport
from .drift.settings import ProbeSet, Settings

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


def open_checkpoint(run: RunDir, step: int | None = None) -> Checkpoint:
    """A run's checkpoint: of that step, or the newest whole one. Raises CheckpointError, naming the steps that there are."""
    there = {checkpoint.step_of(path): path for path in checkpoint.checkpoints(run.checkpoints_path)}
    if step is None:
        found, skipped = checkpoint.load_latest(run.checkpoints_path)
        if found is None:
            damaged = f" (damaged: {'; '.join(skipped)})" if skipped else ""
            raise CheckpointError(
                f"Run {run.name} has no whole checkpoint yet{damaged}; let it train until it has saved one."
            )
        return found
    if step not in there:
        steps = ", ".join(str(each) for each in there) if there else "none yet"
        raise CheckpointError(f"Run {run.name} has no checkpoint of step {step}; there are: {steps}.")
    return checkpoint.load(there[step])


def load_weights(model: Model, config: RunConfig, found: Checkpoint) -> None:
    """Load a checkpoint's weights into a freshly loaded model: the moving average where there is one, as the export does."""
    attach(model, config)
    load_adapter_state(model, found.tensors.get("ema", found.tensors["trainable"]))


def measure_drift(
    config: RunConfig,
    folder: Path,
    cache_dir: Path,
    found: Checkpoint | None = None,
    progress: Progress | None = None,
    correction: SamplingCorrection = UNCORRECTED,
) -> DriftReport:
    """Measure drift on a config's probe pictures, and save report and pictures into `folder`.

    Args:
        config: model, pictures, grid and drift settings.
        cache_dir: for latents and text embeddings; may be that of the runs.
        found: the weights to measure beside the base; None = the base alone.
        correction: of all rollouts.

    Raises: DatasetError where there is nothing to measure on; ModelError; ConfigError for a correction that is not made for the model.
    Cost: `drift.expected_rows` for the base, and again for the checkpoint.
    """
    config = for_measuring(config)
    model = load_model(config.model, flow_shift=config.training.flow_schedule_shift, for_training=False)
    model.text.stay = found is not None and config.text_encoder.is_on
    settings = Settings.from_config(config, correction=correction)
    settings.correction.check(model.prediction_type)
    sets = probe_sets(model, config, cache_dir, progress)
    told = in_rows(progress)
    report = drift.measure(model, sets, settings, weights="base", step=0, progress=told)
    if found is not None:
        base = report
        load_weights(model, config, found)
        report = drift.measure(model, sets, settings, weights="tuned", step=found.step, progress=told)
        report = beside(report, base)
    drift.save(report, folder)
    return report


def for_measuring(config: RunConfig) -> RunConfig:
    """Without what only training needs: no class pictures are generated for a measurement."""
    unused = {
        "with_prior_preservation": False,
        "output_preservation_weight": 0.0,
        "random_flip": False,
        "caption_dropout_probability": 0.0,
    }
    return with_changes(config, unused)


def probe_sets(model: Model, config: RunConfig, cache_dir: Path, progress: Progress | None = None) -> list[ProbeSet]:
    """A config's pictures as what is measured on. Raises DatasetError where there are none."""
    data = prepare(model, config, scan(config.data), cache_dir, progress)
    live = model if model.text.stay else None
    sets = [ProbeSet.of(probe, live) for probe in (data.probe, data.training_probe) if probe is not None]
    if not sets:
        raise DatasetError("There are no pictures to measure on: name some with drift_data_dir.")
    return sets


def beside(report: DriftReport, base: DriftReport) -> DriftReport:
    """A report with the curves and filmstrips of its base behind its own."""
    return dataclasses.replace(
        report.with_curves(*base.curves), strips=report.strips + base.strips, seconds=report.seconds + base.seconds
    )


def in_rows(progress: Progress | None) -> Callable[[int, int, str], None]:
    """`progress` as `drift.measure` calls it."""

    def report(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(what, done, total)

    return report
