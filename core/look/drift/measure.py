"""Rollout drift: how far a model strays when it is fed its own output, on the same picture, prompt and noise.

Here a model is measured on its probe pictures, and what was found is written. The settings are in `settings.py`, the rollouts
of the model in `rollouts.py`, what is measured of two states in `states.py`, how the rows become a curve in `curve.py`, and
the record of it all in `report.py`. Without gradient; random state and modes are left as found.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ... import platform_calls
from ...maths.grid import Grid, sources
from ...maths.noise import NoisePath
from ...maths.rollout import Predict, undisturbed
from ...maths.solvers import make_solver
from ...randomness import row_noise
from ..pictures.draw import draw
from ..pictures.filmstrip import Frame, Strip
from .curve import curve_of_tables
from .files import REPORT_FILE, read_report, report_to_json
from .report import Curve, DriftReport, ReportError, Weights
from .rollouts import OnSight, Table, measure_samples
from .settings import ProbeSet, Settings, Stopped, settings_record
from .states import t_at_share
from .words import summary

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...families.base import Model


@dataclass(frozen=True)
class _Group:
    """The samples of one latent shape. `pictures`: which picture of the probe set each sample shows."""

    numbers: list[int]
    pictures: list[int]
    x0: Tensor
    noise: Tensor


def _groups(probe_set: ProbeSet, settings: Settings) -> list[_Group]:
    """The samples by shape, the largest group first. Sample n is picture n modulo the pictures, with noise number n of
    the seed."""
    pictures = min(len(probe_set.latents), settings.samples)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number in range(pictures * (settings.samples // pictures)):
        by_shape.setdefault(tuple(probe_set.latents[number % pictures].shape), []).append(number)
    groups = []
    for shape, numbers in sorted(by_shape.items(), key=lambda item: -len(item[1])):
        shown = [number % pictures for number in numbers]
        x0 = torch.stack([probe_set.latents[picture].detach().float() for picture in shown])
        noise = torch.cat([row_noise((1, *shape), settings.seed, 0, number) for number in numbers])
        groups.append(_Group(numbers, shown, x0, noise))
    return groups


def expected_rows(
    settings: Settings,
    samples: int,
    trajectory_steps: int,
    evaluations: int,
    taken: Callable[[float, int], int] = lambda level, offset: offset,
) -> int:
    """The network rows of one curve, for a progress bar. `evaluations`: network rows for each row at the guidance of the settings
    (`Guidance.evaluations`); `taken`: the steps of an offset that a level leaves (`steps_taken`); without it an upper bound."""
    calls = make_solver(settings.sampler, settings.order).calls_per_step
    fine = settings.offsets if settings.fine_offsets is None else settings.fine_offsets
    rows = samples * len({*settings.levels, *settings.loss_levels})
    for level in settings.levels:
        rows += samples * (calls * sum(taken(level, k) for k in settings.offsets) + len(settings.offsets))
        steps = sum(taken(level, k) for k in fine)
        rows += min(samples, settings.fine_samples) * calls * steps * settings.fine_factor
    rows += min(samples, settings.trajectory_samples) * (calls * (trajectory_steps - 1) + settings.shown + 1)
    return rows * evaluations


def steps_taken(path: NoisePath, grid: Grid) -> Callable[[float, int], int]:
    """(level, offset) -> the steps that are left of the offset there, near pure noise fewer."""
    return lambda level, offset: int(sources(t_at_share(path, level), offset, path.levels, grid)[0])


def measure(
    model: "Model",
    probe_sets: Sequence[ProbeSet],
    settings: Settings,
    *,
    base: Callable[[], AbstractContextManager] | None = None,
    weights: Weights = "tuned",
    step: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_sight: OnSight = lambda sight: None,
    on_curve: Callable[[Curve], None] | None = None,
) -> DriftReport:
    """The drift of `model` with its current weights.

    Draws nothing from global random state, needs no gradient, restores the modes of the denoiser and the VAE.

    Args:
        probe_sets: held-out pictures, and training pictures as a second, cheaper curve
            (`Settings.for_training_pictures`).
        base: a context in which the model is its base (`model.adapters_disabled`); then everything is measured again
            inside it, with the same noise. None = no comparison.
        weights: what the current weights are called.
        step: the training step, for the record.
        progress: called as (rows done, rows in all, what) before every network call.
        should_stop: called at the same places; true stops with `Stopped`.
        on_sight: called with every picture of the first filmstrip as soon as it is known (`rollouts.Sight`).
        on_curve: called with the curve so far after every noise level, where all samples have one shape.
    Raises: Stopped; ValueError for a probe without pictures; ConfigError for a correction that is not made for this kind of model.
    Cost: `expected_rows` for every set and each of tuned and base, and 2 * `shown` + 1 decoded pictures a strip.
    """
    if not probe_sets:
        raise ValueError(
            "probe_sets is empty: a drift report needs at least one set of pictures; name drift_data_dir or "
            "hold pictures out."
        )
    began, curves, strips = time.monotonic(), [], []
    kinds: list[tuple[Weights, Callable[[], AbstractContextManager]]] = [(weights, nullcontext)]
    if base is not None:
        kinds.append(("base", base))
    work = _planned(model, probe_sets, settings)
    rows = _Rows(len(kinds) * sum(each.expected_rows for each in work), progress, should_stop)
    for kind, context in kinds:
        with context(), undisturbed(model.denoiser, model.vae):
            for each in work:
                curve, more = _measured(model, each, kind, settings, rows, on_sight, on_curve)
                curves.append(curve)
                strips += more
    rows.finished()
    return DriftReport(
        model=model.source.name,
        prediction_type=model.prediction_type,
        path=model.noise_path.name,
        probe=_fingerprint(model, work),
        settings=settings_record(settings),
        curves=tuple(curves),
        step=step,
        seconds=time.monotonic() - began,
        strips=tuple(strips),
    )


@dataclass(frozen=True)
class _Work:
    """What is measured of one probe set. For each group of samples `grids` has the grid of its short rollouts, and
    `inference_grids` the one that its trajectory follows. `evaluations`: network rows for each row (`Guidance.evaluations`)."""

    probe_set: ProbeSet
    settings: Settings
    groups: list[_Group]
    grids: list[Grid]
    inference_grids: list[Grid]
    evaluations: int
    path: NoisePath

    @property
    def expected_rows(self) -> int:
        samples = sum(len(group.numbers) for group in self.groups)
        taken = steps_taken(self.path, self.grids[0])
        return expected_rows(self.settings, samples, self.inference_grids[0].steps, self.evaluations, taken)


def _planned(model: "Model", probe_sets: Sequence[ProbeSet], settings: Settings) -> list[_Work]:
    """Raises ConfigError for a correction that is not made for the model."""
    settings.correction.check(model.prediction_type)
    work = []
    # without held-out pictures the training pictures are all there is to show, and get the whole measurement
    alone = not any(probe_set.role == "held-out" for probe_set in probe_sets)
    for probe_set in probe_sets:
        own = settings if probe_set.role == "held-out" or alone else settings.for_training_pictures()
        groups = _groups(probe_set, own)
        shapes = [tuple(group.x0.shape[1:]) for group in groups]
        inference = [Grid(model.inference_times(settings.grid_steps, shape)) for shape in shapes]
        grids = inference if settings.grid == "inference" else [Grid(model.training_times(shape)) for shape in shapes]
        evaluations = model.guidance.evaluations(settings.guidance)
        work.append(_Work(probe_set, own, groups, grids, inference, evaluations, model.noise_path))
    return work


def _fingerprint(model: "Model", work: Sequence[_Work]) -> str:
    """Equal for two measurements with the same pictures, noise, prompts, settings and grid on the same model, whose curves can then
    be compared."""
    digest = hashlib.sha256()
    for each in work:
        about = (model.source.name, model.prediction_type, each.settings, each.probe_set.role, each.probe_set.captions)
        for group, grid in zip(each.groups, each.grids, strict=True):
            digest.update(repr(about).encode())
            digest.update(repr(each.settings.correction.record).encode() if each.settings.correction.acts else b"")
            digest.update(repr(group.numbers).encode())
            digest.update(group.x0.cpu().contiguous().numpy().tobytes() + grid.nodes.tobytes())
    return digest.hexdigest()[:16]


class _Rows:
    """Network rows done of those expected: reports them, and stops the measurement where that is wanted."""

    def __init__(
        self,
        total: int,
        progress: Callable[[int, int, str], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.total, self.progress, self.should_stop, self.done = total, progress, should_stop, 0

    def before_call(self, rows: int, what: str) -> None:
        """Called before a network call of `rows` rows. Raises Stopped."""
        if self.should_stop is not None and self.should_stop():
            raise Stopped("The drift measurement was stopped.")
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total, what)
        self.done += rows

    def finished(self) -> None:
        if self.progress is not None:
            self.progress(self.total, self.total, "drift")


def _measured(
    model: "Model",
    work: _Work,
    kind: Weights,
    settings: Settings,
    done: _Rows,
    on_sight: OnSight,
    on_curve: Callable[[Curve], None] | None,
) -> tuple[Curve, list[Strip]]:
    """The curve of one probe set with the model as it is now, and its filmstrips."""
    tables, strips, rows, calls = [], [], 0, 0
    groups, own = work.groups, work.settings
    pictures = len({picture for group in groups for picture in group.pictures})
    about: dict[str, Any] = {"label": kind, "weights": kind, "role": work.probe_set.role, "pictures": pictures}

    def seen(table: Table) -> None:
        if on_curve is not None and len(groups) == 1:
            on_curve(curve_of_tables([table], model.noise_path, **about, network_rows=0, network_calls=0))

    rings = max(1, min(16, *(min(group.x0.shape[-2:]) // 2 for group in groups)))
    for number, (group, grid, inference_grid) in enumerate(zip(groups, work.grids, work.inference_grids, strict=True)):
        table, more_rows, more_calls = measure_samples(
            _predictor(model, work.probe_set, group, settings),
            group.x0.to(model.device),
            group.noise.to(model.device),
            path=model.noise_path,
            prediction_type=model.prediction_type,
            grid=grid,
            trajectory_grid=inference_grid
            if own.steps_back is None
            else grid,  # a short rollout follows the training's grid
            settings=own if number == 0 else dataclasses.replace(own, trajectory_samples=0, strips=0),
            evaluations=work.evaluations,
            numbers=group.numbers,
            rings=rings,
            tick=lambda count: done.before_call(count, f"drift, {kind} model"),
            on_sight=on_sight,
            on_level=seen,
        )
        tables.append(table)
        rows, calls = rows + more_rows, calls + more_calls
        strips += _strips(model, work.probe_set, group, table, kind, settings)
    curve = curve_of_tables(tables, model.noise_path, **about, network_rows=rows, network_calls=calls)
    return curve, strips


def _predictor(model: "Model", probe_set: ProbeSet, group: _Group, settings: Settings) -> Predict:
    """The model's predict for the samples of a group; each prompt is held once, however many noises it has."""
    pictures = sorted(set(group.pictures))
    place = torch.tensor([pictures.index(picture) for picture in group.pictures], device=model.device)
    predict = model.predict(model.collate([probe_set.conditioning[picture] for picture in pictures]), settings.guidance)
    return lambda x, level, rows: predict(x, level, place[rows.to(place.device)])


def _strips(
    model: "Model", probe_set: ProbeSet, group: _Group, table: Table, kind: Weights, settings: Settings
) -> list[Strip]:
    """The decoded pictures of the table's frames."""
    strips = []
    for place, frames in table.frames.items():
        latents = torch.stack([group.x0[place], *(x for frame in frames for x in frame[3:])])
        # one at a time where pictures are large: a VAE's decoder needs far more memory than the denoiser
        pixels = torch.cat([model.decode(part).cpu() for part in latents.split(max(1, 65_536 // latents[0].numel()))])
        pictures = (pixels.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        shown = [
            Frame(step, t, sigma, pictures[1 + 2 * i], pictures[2 + 2 * i])
            for i, (step, t, sigma, *_) in enumerate(frames)
        ]
        strips.append(
            Strip(kind, probe_set.captions[group.pictures[place]], pictures[0], tuple(shown), settings_record(settings))
        )
    return strips


# Files ----------------------------------------------------------------------------------------------------------------


def save(report: DriftReport, folder: Path | str, *, frames: bool = False) -> list[Path]:
    """Write report.json, curves.png and, where there is what they show, spectrum.png and filmstrip.png
    (filmstrip-base.png, and -2, -3 ... for further pictures) into `folder`; with `frames` also every picture of the
    strips by itself, for a scrubber.

    An older report there is replaced as a whole; a kill leaves the old one or the new one. Returns the files,
    report.json first.
    """
    folder = Path(folder)
    with platform_calls.replacing_folder(folder) as part:
        part.mkdir(parents=True)
        (part / REPORT_FILE).write_text(report_to_json(report), encoding="utf-8")
        names = [REPORT_FILE, *draw(report, part, frames=frames)]
    return [folder / name for name in names]


BASE_FILE = "base.json"


def probe(
    model: "Model",
    probe_sets: Sequence[ProbeSet],
    config: "RunConfig",
    folder: Path | str,
    *,
    step: int,
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Measure the current weights between two training steps and write `folder`/step-000123/.

    The base is measured once a run: at step 0, or when first needed, with the adapter off; its numbers stay in
        `folder`/base.json and
    serve every later report of the same probe. A full fine-tune's base is what was there at step 0; a report without it
    has no comparison.

    Args:
        folder: the run's drift folder; step: the optimizer step of the weights. changes: of
            `Settings.between_steps(config)`.
    Returns: the fields of the `drift` event: step, path of report.json relative to the folder above `folder`, summary.
    Raises: Stopped, and then nothing was written.
    """
    folder = Path(folder)
    settings = Settings.between_steps(config, **changes)
    options = {"step": step, "progress": progress, "should_stop": should_stop}
    if step == 0:
        with model.adapters_disabled() if model.has_adapter else nullcontext():
            report = measure(model, probe_sets, settings, weights="base", **options)
        known = report
    else:
        known = _known_base(folder / BASE_FILE)
        report = measure(model, probe_sets, settings, **options)
        if known is not None and known.probe == report.probe:
            free = [
                dataclasses.replace(curve, network_rows=0, network_calls=0) for curve in known.curves
            ]  # measured in an earlier report
            report = report.with_curves(*free)
        elif model.has_adapter:
            with model.adapters_disabled():
                known = measure(model, probe_sets, settings, weights="base", **options)
            report = dataclasses.replace(
                report.with_curves(*known.curves),
                strips=report.strips + known.strips,
                seconds=report.seconds + known.seconds,
            )
    folder.mkdir(parents=True, exist_ok=True)
    if known is not None:
        platform_calls.write_atomically(
            folder / BASE_FILE, report_to_json(dataclasses.replace(known, strips=())).encode()
        )
    files = save(report, folder / f"step-{step:06d}")
    return {"step": step, "path": files[0].relative_to(folder.parent).as_posix(), "summary": summary(report)}


def _known_base(path: Path) -> DriftReport | None:
    """The base's report of this run; None when there is none. One that cannot be read is measured again."""
    try:
        return read_report(path)
    except (FileNotFoundError, ReportError):
        return None
