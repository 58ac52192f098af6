"""What a preview shows: a rollout of one picture by every variant as filmstrips, numbers and sentences; on request curves and the
spectrum. `core/look/drift/` measures.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data import pictures, transform
from ...data.beside import BadCrop, read_cut
from ...data.buckets import MULTIPLE, bucket_sizes, choose
from ...maths.grid import Grid, Level
from ...maths.rollout import plan_from_noise, plan_offsets
from ..drift import measure as drift
from ..drift.correction import SamplingCorrection
from ..drift.files import curves_record, report_to_csv, report_to_json
from ..drift.report import Curve, DriftReport, Weights
from ..drift.settings import ProbeSet, Settings, Stopped
from ..drift.states import t_at_share
from ..drift.words import words
from ..pictures.curves import curves_figure
from ..pictures.filmstrip import filmstrip
from ..pictures.panels import figure_png
from ..pictures.spectrum import spectrum_figure
from ..pictures.strips import strip_record, write_strips
from ..remembering import Memory, Remembering, content_key
from .growing import Growing, PutAway
from .request import PreviewError, PreviewRequest

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...families.base import Conditioning, Model

STRIP_WORK, CURVES_WORK, SPECTRUM_WORK = 20, 45, 15  # what drawing costs, in rows of the demo's network


# The picture ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """The picture as latents (channels, height, width) and the prompt as conditioning."""

    latents: Tensor
    conditioning: "Conditioning"
    caption: str


def encode_request(model: "Model", request: PreviewRequest, memory: Memory | None = None) -> Encoded:
    """The request's picture as training would see it (the part that is kept of it, cropped to a shape that the model takes), as latents; its prompt,
    encoded.

    Raises: PreviewError for a missing or broken picture, for a crop that does not fit it, and for a missing prompt.
    """
    caption = request.text()
    try:
        data = pictures.read_bytes(request.picture)
        digest = hashlib.sha256(data).hexdigest()
        found = pictures.inspect(data, digest)
        cut = read_cut(request.picture, found.width, found.height)
        width, height = (found.width, found.height) if cut is None else (cut.width, cut.height)
        size = _size(model, request, width, height)
        crop = transform.crop_for(width, height, size, center=request.config.data.center_crop, digest=digest)
        crop = crop if cut is None else crop.moved(cut.left, cut.top)
        key, text_key = content_key("latents", digest, crop), content_key("text", caption)
        latents = None if memory is None else memory.get(key)
        if latents is None:
            pixels = transform.apply(pictures.decode(data), crop)
            scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = model.encode_images(scaled)[0].cpu()
    except (pictures.BadPicture, BadCrop) as bad:
        raise PreviewError(f"{request.picture}: {bad.message}.", bad.remedy) from bad
    conditioning = None if memory is None else memory.get(text_key)
    if conditioning is None:
        conditioning = model.by_words([caption])[0]
    if memory is not None:
        memory.put(key, latents, [latents])
        memory.put(text_key, conditioning, list(conditioning.values()))
    return Encoded(latents, conditioning, caption)


def _size(model: "Model", request: PreviewRequest, width: int, height: int) -> tuple[int, int]:
    """(width, height) in pixels: the bucket that training would put a picture of this size into."""
    config = request.config.data
    side = (
        round((model.default_size[0] * model.default_size[1]) ** 0.5)
        if request.resolution is None
        else request.resolution
    )
    resolution = max(MULTIPLE, side // MULTIPLE * MULTIPLE)
    if not config.aspect_buckets:
        return resolution, resolution
    return choose(width, height, bucket_sizes(resolution, config.bucket_step))


# Measuring and drawing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One rollout to show: these weights with the solver of this config, corrected while it samples. `enter` gives the model with these weights."""

    label: str
    weights: Weights
    config: "RunConfig"
    enter: Callable[[], AbstractContextManager["Model | Remembering"]]
    correction: SamplingCorrection


class _Progress:
    """Work done of the work planned, reported as a share and a word; each report may also stop the work."""

    def __init__(
        self, planned: float, report_progress: Callable[[float, str], None], should_stop: Callable[[], bool]
    ) -> None:
        self.planned, self.done, self.report_progress, self.should_stop = planned, 0.0, report_progress, should_stop

    def of(self, work: float, what: str) -> Callable[[int, int, str], None]:
        """For `drift.measure`: the progress of one measurement that is `work` of the whole."""
        return lambda done, total, _: self.report_progress(
            (self.done + work * done / max(1, total)) / self.planned, what
        )

    def finish(self, work: float, what: str) -> None:
        self.done += work
        self.report_progress(min(1.0, self.done / self.planned), what)
        if self.should_stop():
            raise Stopped("A newer request came.")


def strip_settings(request: PreviewRequest, variant: Variant) -> Settings:
    """One picture, one noise, the short rollout to the target with its filmstrip: what the first picture needs, no more."""
    view = request.view
    return Settings.from_config(
        variant.config, correction=variant.correction, levels=(), loss_levels=(), offsets=(view.offset,), samples=1, fine_samples=0, trajectory_samples=1,
        start=None if view.start == "noise" else 0.8, end=view.target, steps_back=None if view.start == "noise" else view.offset,
        shown=view.columns, strips=1,
    )  # fmt: skip


def curve_settings(request: PreviewRequest, variant: Variant) -> Settings:
    """Several noises, all levels, the solver's part by itself, the clean loss, and the whole trajectory for the spectrum."""
    view = request.view
    return Settings.from_config(
        variant.config, correction=variant.correction, levels=tuple(sorted({*Settings.levels, view.target})), offsets=tuple(sorted({1, view.offset})),
        samples=view.samples, fine_samples=min(2, view.samples), fine_offsets=(view.offset,),
        trajectory_samples=view.samples, strips=0,
    )  # fmt: skip


def show(
    request: PreviewRequest,
    variants: Sequence[Variant],
    model: "Model",
    encoded: Encoded,
    folder: Path,
    *,
    step: int | None = None,
    report_progress: Callable[[float, str], None] = lambda share, what: None,
    part: Callable[[dict[str, Any]], None] = lambda result: None,
    grow: Callable[[dict[str, Any]], None] | None = None,
    on_curves: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure and draw what the request asks for, into `folder`.

    Args:
        model: for its schedule and noise path; what is measured is what each variant's `enter` gives.
        step: of the training, for the record.
        report_progress: called with the share that is done and what is being done.
        part: called with the result so far when the filmstrips are there and the curves are not.
        grow: called with the filmstrips so far after every picture of them: the true path first, then the own one; None = they are not needed before
            they are whole, which saves a decoder call for each picture. What it is given: `growing.Growing`.
        on_curves: called with `{"curves": [...]}` (`drift.files.curves_record`) so far after every noise level of the curves.
        should_stop: called before every network call; true stops with `Stopped`.

    Returns: the result, JSON-able, its files named as in `folder` (`request.located_in`): `strips` (label, caption, filmstrip, truth, frames with step, t,
        sigma, difference and three pictures each), `numbers` (label -> measure -> value, at the target), `words`,
        `walked` (grid steps, sigma and t of both ends), `report`, `csv`, and on request `curves`, `spectrum`.
    Raises: Stopped, PreviewError, ConfigError for a correction that is not made for this kind of model, and what the model raises.
    """
    began = time.monotonic()
    ends = [_ends(model, encoded.latents.shape, request, variant.config) for variant in variants]
    plan = _Plan.of(request, variants, ends, model, encoded.latents.shape)
    progress = _Progress(plan.work, report_progress, should_stop)
    probe = ProbeSet((encoded.latents,), (encoded.conditioning,), (encoded.caption,), request.role)

    def measured(
        settings: Sequence[Settings], work: Sequence[float], what: str, seen: Growing | None = None
    ) -> list[DriftReport]:
        reports: list[DriftReport] = []
        for variant, own, rows in zip(variants, settings, work, strict=True):
            on_curve = None if on_curves is None else _so_far(on_curves, variants, reports)
            reports.append(
                _measured(variant, own, probe, step, progress, rows, f"{what}: {variant.label}", seen, on_curve)
            )
        return reports

    (folder / "frames").mkdir(parents=True, exist_ok=True)
    put_away = PutAway(folder)
    growing = None if grow is None else Growing(put_away, grow)
    result = _begun(request, encoded, model, step, ends)
    strips = measured(plan.strips, plan.strip_work, "rollout", growing)
    _add_strips(result, variants, strips, folder, put_away)
    progress.finish(STRIP_WORK * len(variants), "the filmstrip")
    if plan.curves:
        part(_finite({**result, "seconds": time.monotonic() - began}))
        reports = measured(plan.curves, plan.curve_work, "curves")
        _add_curves(result, request, variants, reports, folder, progress)
    return _finite({**result, "seconds": time.monotonic() - began})


def _begun(
    request: PreviewRequest, encoded: Encoded, model: "Model", step: int | None, ends: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """What is known of a result before anything is measured."""
    return {
        "what": list(request.what), "caption": encoded.caption, "picture": str(request.picture),
        "model": model.source.name, "step": step, "target": request.view.target, "walked": ends,
        "strips": [], "numbers": {}, "words": [],
    }  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """What is measured for each variant, with the expected network rows; `curves` are empty where no curve is wanted.
    `work`: all of it with the drawing, in rows."""

    strips: list[Settings]
    curves: list[Settings]
    strip_work: list[int]
    curve_work: list[int]
    work: float

    @classmethod
    def of(
        cls,
        request: PreviewRequest,
        variants: Sequence[Variant],
        ends: Sequence[Mapping[str, float]],
        model: "Model",
        shape: Sequence[int],
    ) -> "_Plan":
        request.correction.check(model.prediction_type)

        def rows(settings: Settings, samples: int, steps: int, config: "RunConfig") -> int:
            taken = drift.steps_taken(model.noise_path, _grid(model, shape, config))
            return drift.expected_rows(settings, samples, steps, model.guidance.evaluations(settings.guidance), taken)

        configs = [variant.config for variant in variants]

        strips = [strip_settings(request, variant) for variant in variants]
        with_curves = set(request.what) != {"strip"}
        curves = [curve_settings(request, variant) for variant in variants] if with_curves else []
        steps = [round(each["steps"]) + 1 for each in ends]
        strip_work = [rows(each, 1, n, config) for each, n, config in zip(strips, steps, configs, strict=True)]
        curve_work = [
            rows(each, each.samples, each.grid_steps, config)
            for each, config in zip(curves, configs, strict=with_curves)
        ]
        drawing = STRIP_WORK * len(variants)
        drawing += (CURVES_WORK if "curves" in request.what else 0) + (
            SPECTRUM_WORK if "spectrum" in request.what else 0
        )
        return cls(strips, curves, strip_work, curve_work, sum(strip_work) + sum(curve_work) + drawing)


def _measured(
    variant: Variant,
    settings: Settings,
    probe: ProbeSet,
    step: int | None,
    progress: _Progress,
    work: float,
    what: str,
    growing: Growing | None,
    on_curve: Callable[[Curve], None] | None,
) -> DriftReport:
    with variant.enter() as shown:
        seen: dict[str, Any] = {} if growing is None else {"on_sight": growing.strip(variant.label, shown)}
        if on_curve is not None:
            seen["on_curve"] = on_curve
        report = drift.measure(
            shown, [probe], settings, weights=variant.weights, step=step, should_stop=progress.should_stop,
            progress=progress.of(work, what), **seen,
        )  # fmt: skip
    progress.finish(work, what)
    return report


def _so_far(
    report: Callable[[dict[str, Any]], None], variants: Sequence[Variant], whole: Sequence[DriftReport]
) -> Callable[[Curve], None]:
    """What takes the curve of the next variant as far as it is, and reports it behind those that are whole."""
    done = [curve for each in whole for curve in each.curves]

    def take(curve: Curve) -> None:
        named = [
            dataclasses.replace(each, label=each.weights if _is_pair(variants) else variant.label)
            for variant, each in zip(variants, [*done, curve], strict=False)
        ]
        report({"curves": curves_record(named)})

    return take


def _is_pair(variants: Sequence[Variant]) -> bool:
    """Base against tuned: their curves keep these names."""
    return [variant.weights for variant in variants] in (["base", "tuned"], ["tuned", "base"])


def _add_strips(
    result: dict[str, Any], variants: Sequence[Variant], reports: Sequence[DriftReport], folder: Path, put_away: PutAway
) -> None:
    """The filmstrips, the numbers at the target and a sentence on each."""
    result["strips"] = _draw_strips(variants, reports, folder, put_away)
    for variant, report, strip in zip(variants, reports, result["strips"], strict=True):
        end = report.curves[0].trajectory[-1]
        numbers = {name: measure.value for name, measure in end.measures.items()}
        numbers["picture_difference"] = strip["frames"][-1]["difference"]
        result["numbers"][variant.label] = numbers
        result["words"].append(_sentence(variant.label, end.sigma, round(end.steps), numbers))
    result["words"] += list(dict.fromkeys(v.correction.sentence for v in variants if v.correction.sentence))
    _write_report(_together(variants, reports), folder, result)


def _add_curves(
    result: dict[str, Any], request: PreviewRequest, variants: Sequence[Variant], reports: Sequence[DriftReport],
    folder: Path, progress: _Progress,
) -> None:  # fmt: skip
    """The report of the curves, their sentences, and the figures that are wanted."""
    report = _together(variants, reports)
    _write_report(report, folder, result)
    result["words"] += _curve_sentences(variants, reports, request.view.target)
    for kind, figure, work in (("curves", curves_figure, CURVES_WORK), ("spectrum", spectrum_figure, SPECTRUM_WORK)):
        if kind in request.what:
            (folder / f"{kind}.png").write_bytes(figure_png(figure(report)))
            result[kind] = f"{kind}.png"
            progress.finish(work, "drawing")


def _grid(model: "Model", shape: Sequence[int], config: "RunConfig") -> Grid:
    """The grid of short rollouts."""
    if config.rollout.grid == "inference":
        return Grid(model.inference_times(config.rollout.grid_steps, shape))
    return Grid(model.training_times(shape))


def _ends(model: "Model", shape: Sequence[int], request: PreviewRequest, config: "RunConfig") -> dict[str, float]:
    """Where the rollout starts and ends. Raises PreviewError where there is no room for a step."""
    view, path = request.view, model.noise_path
    whole = view.start == "noise"
    grid = Grid(model.inference_times(config.rollout.grid_steps, shape)) if whole else _grid(model, shape, config)
    t = torch.tensor([t_at_share(path, view.target)], dtype=torch.float64)
    plan = plan_from_noise(t, path, grid) if whole else plan_offsets(t, torch.tensor([view.offset]), path, grid)
    if int(plan.k[0]) == 0:
        raise PreviewError(
            f"target = {view.target:g}: the schedule begins at noise level {_share(path.levels.at(grid.nodes[:1])):.3f}, so "
            "there is no room for a step before it.",
            "Choose a lower target.",
        )
    source, target = plan.source, plan.target
    return {
        "steps": int(plan.k[0]), "source_sigma": float(source.sigma[0]), "source_t": float(source.t[0]),
        "target_sigma": float(target.sigma[0]), "target_t": float(target.t[0]),
    }  # fmt: skip


def _share(level: Level) -> float:
    return float(level.sigma[0] / (level.alpha[0] + level.sigma[0]))


def _draw_strips(
    variants: Sequence[Variant], reports: Sequence[DriftReport], folder: Path, put_away: PutAway
) -> list[dict[str, Any]]:
    """A filmstrip of each variant and its single pictures, in full size, and small for a report to share."""
    write_strips([report.strips[0] for report in reports], folder, [variant.label for variant in variants])
    drawn = []
    for number, (variant, report) in enumerate(zip(variants, reports, strict=True)):
        strip = dataclasses.replace(report.strips[0], weights=variant.label)
        file = f"filmstrip-{number}.png"
        filmstrip(strip).save(folder / file, compress_level=1)
        record = strip_record(strip, variant.label, str(number), put_away)
        drawn.append({**record, "weights": variant.weights, "filmstrip": file})
    return drawn


def _together(variants: Sequence[Variant], reports: Sequence[DriftReport]) -> DriftReport:
    """The curves of all variants in one report, each under its label; base against tuned keep these names."""
    pair = _is_pair(variants)
    curves = [
        dataclasses.replace(curve, label=curve.weights if pair else variant.label)
        for variant, report in zip(variants, reports, strict=True)
        for curve in report.curves
    ]
    same = len({report.probe for report in reports}) == 1
    return dataclasses.replace(
        reports[0], curves=tuple(curves), probe=reports[0].probe if same else "",
        seconds=sum(report.seconds for report in reports), strips=(),
    )  # fmt: skip


def _write_report(report: DriftReport, folder: Path, result: dict[str, Any]) -> None:
    for name, file, text in (
        ("report", "report.json", report_to_json(report)),
        ("csv", "report.csv", report_to_csv(report)),
    ):
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
        result[name] = file


def _finite(value: Any) -> Any:
    """JSON has no NaN: None in its place."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# In words -------------------------------------------------------------------------------------------------------------


def _sentence(label: str, sigma: float, steps: int, numbers: Mapping[str, float | None]) -> str:
    distance = numbers["distance"]
    if distance is None:
        return f"{label}: the model's output holds values that are not numbers; the training has diverged."
    return (
        f"{label}: after {steps} grid step{'' if steps == 1 else 's'} to sigma {sigma:.2f} its own state differs from the "
        f"true one by {100 * distance:.1f} % of its length, and the clean picture that it predicts there by "
        f"{100 * numbers['picture_difference']:.1f} % of full brightness (one noise; part of it no model can avoid)."
    )


def _curve_sentences(variants: Sequence[Variant], reports: Sequence[DriftReport], share: float) -> list[str]:
    """The curves in words at the noise level `share`: each tuned variant against the base with the same solver, else
    each by itself.
    """
    all_sentences: list[str] = []
    for variant, report in zip(variants, reports, strict=True):
        if variant.weights == "base" and any(each.weights == "tuned" for each in variants):
            continue
        base = next(
            (
                other for each, other in zip(variants, reports, strict=True)
                if (each.weights, each.config, each.correction) == ("base", variant.config, variant.correction)
            ),
            None,
        )  # fmt: skip
        both = report if base is None or base is report else report.with_curves(*base.curves)
        sentences = [
            each for each in words(both, share) if each != variant.correction.sentence
        ]  # which stands there already
        alone = base is None or base is report
        start = f"{variant.label}: " if len(reports) > 2 or (len(reports) > 1 and alone) else ""
        all_sentences += [start + sentence for sentence in sentences if sentence not in all_sentences]
    return list(dict.fromkeys(all_sentences))
