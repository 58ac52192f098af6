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
from PIL import Image
from torch import Tensor

from ...data import pictures, transform
from ...data.buckets import MULTIPLE, bucket_sizes, choose
from ...families.guidance import Guidance
from ...maths.grid import Grid, Level
from ...maths.rollout import plan_from_noise, plan_offsets
from ..drift import measure as drift
from ..drift.files import report_to_csv, report_to_json
from ..drift.report import DriftReport, Weights
from ..drift.settings import ProbeSet, Settings, Stopped
from ..drift.states import t_at_share
from ..drift.words import words
from ..pictures.curves import curves_figure
from ..pictures.filmstrip import filmstrip
from ..pictures.panels import figure_png
from ..pictures.spectrum import spectrum_figure
from ..pictures.strips import strip_record
from ..remembering import Memory, Remembering, content_key
from .request import PreviewError, PreviewRequest

if TYPE_CHECKING:
    import numpy as np

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
    """The request's picture, cropped to a shape that the model takes, as latents; its prompt, encoded.

    Raises: PreviewError for a missing or broken picture and for a missing prompt.
    """
    caption = request.text()
    try:
        data = pictures.read_bytes(request.picture)
        digest = hashlib.sha256(data).hexdigest()
        size = _size(model, request, data)
        key, text_key = content_key("latents", digest, size), content_key("text", caption)
        latents = None if memory is None else memory.get(key)
        if latents is None:
            image = pictures.decode(data)
            pixels = transform.apply(image, transform.crop_for(*image.size, size, center=True, digest=digest))
            scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = model.encode_images(scaled)[0].cpu()
    except pictures.BadPicture as bad:
        raise PreviewError(f"{request.picture}: {bad.message}.", bad.remedy) from bad
    conditioning = None if memory is None else memory.get(text_key)
    if conditioning is None:
        conditioning = model.by_words([caption])[0]
    if memory is not None:
        memory.put(key, latents, [latents])
        memory.put(text_key, conditioning, list(conditioning.values()))
    return Encoded(latents, conditioning, caption)


def _size(model: "Model", request: PreviewRequest, data: bytes) -> tuple[int, int]:
    """(width, height) in pixels: the bucket that training would put the picture into."""
    found, config = pictures.inspect(data), request.config.data
    height, width = model.default_size
    side = round((height * width) ** 0.5) if request.resolution is None else request.resolution
    resolution = max(MULTIPLE, side // MULTIPLE * MULTIPLE)
    if not config.aspect_buckets:
        return resolution, resolution
    return choose(found.width, found.height, bucket_sizes(resolution, config.bucket_step))


# Measuring and drawing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One rollout to show: these weights with the solver of this config. `enter` gives the model with these weights."""

    label: str
    weights: Weights
    config: "RunConfig"
    enter: Callable[[], AbstractContextManager["Model | Remembering"]]


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


def strip_settings(request: PreviewRequest, config: "RunConfig") -> Settings:
    """One picture, one noise, the short rollout to the target with its filmstrip: what the first picture needs, no more."""
    view = request.view
    return Settings.from_config(
        config, levels=(), loss_levels=(), offsets=(view.offset,), samples=1, fine_samples=0, trajectory_samples=1,
        start=None if view.start == "noise" else 0.8, end=view.target, steps_back=None if view.start == "noise" else view.offset,
        shown=view.columns, strips=1,
    )  # fmt: skip


def curve_settings(request: PreviewRequest, config: "RunConfig") -> Settings:
    """Several noises, all levels, the solver's part by itself, the clean loss, and the whole trajectory for the spectrum."""
    view = request.view
    return Settings.from_config(
        config, levels=tuple(sorted({*Settings.levels, view.target})), offsets=tuple(sorted({1, view.offset})),
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
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure and draw what the request asks for, into `folder`.

    Args:
        model: for its schedule and noise path; what is measured is what each variant's `enter` gives.
        step: of the training, for the record.
        report_progress: called with the share that is done and what is being done.
        part: called with the result so far when the filmstrips are there and the curves are not.
        should_stop: called before every network call; true stops with `Stopped`.

    Returns: the result, JSON-able, its files named as in `folder` (`request.located_in`): `strips` (label, caption, filmstrip, truth, frames with step, t,
        sigma, difference and three pictures each), `numbers` (label -> measure -> value, at the target), `words`,
        `walked` (grid steps, sigma and t of both ends), `report`, `csv`, and on request `curves`, `spectrum`.
    Raises: Stopped, PreviewError, and what the model raises.
    """
    began = time.monotonic()
    ends = [_ends(model, encoded.latents.shape, request, variant.config) for variant in variants]
    plan = _Plan.of(request, variants, ends, model.guidance)
    progress = _Progress(plan.work, report_progress, should_stop)
    probe = ProbeSet((encoded.latents,), (encoded.conditioning,), (encoded.caption,), request.role)

    def measured(settings: Sequence[Settings], work: Sequence[float], what: str) -> list[DriftReport]:
        return [
            _measured(variant, own, probe, step, progress, rows, f"{what}: {variant.label}")
            for variant, own, rows in zip(variants, settings, work, strict=True)
        ]

    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": list(request.what), "caption": encoded.caption, "picture": str(request.picture),
        "model": model.source.name, "step": step, "target": request.view.target, "walked": ends,
        "strips": [], "numbers": {}, "words": [],
    }  # fmt: skip
    _add_strips(result, variants, measured(plan.strips, plan.strip_work, "rollout"), folder)
    progress.finish(STRIP_WORK * len(variants), "the filmstrip")
    if plan.curves:
        part(_finite({**result, "seconds": time.monotonic() - began}))
        reports = measured(plan.curves, plan.curve_work, "curves")
        _add_curves(result, request, variants, reports, folder, progress)
    return _finite({**result, "seconds": time.monotonic() - began})


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
        guidance: Guidance,
    ) -> "_Plan":
        def rows(settings: Settings, samples: int, steps: int) -> int:
            return drift.expected_rows(settings, samples, steps, guidance.evaluations(settings.guidance))

        strips = [strip_settings(request, variant.config) for variant in variants]
        with_curves = set(request.what) != {"strip"}
        curves = [curve_settings(request, variant.config) for variant in variants] if with_curves else []
        steps = [round(each["steps"]) + 1 for each in ends]
        strip_work = [rows(each, 1, n) for each, n in zip(strips, steps, strict=True)]
        curve_work = [rows(each, each.samples, each.grid_steps) for each in curves]
        drawing = STRIP_WORK * len(variants)
        drawing += (CURVES_WORK if "curves" in request.what else 0) + (
            SPECTRUM_WORK if "spectrum" in request.what else 0
        )
        return cls(strips, curves, strip_work, curve_work, sum(strip_work) + sum(curve_work) + drawing)


def _measured(
    variant: Variant, settings: Settings, probe: ProbeSet, step: int | None, progress: _Progress, work: float, what: str
) -> DriftReport:
    with variant.enter() as shown:
        report = drift.measure(
            shown, [probe], settings, weights=variant.weights, step=step, should_stop=progress.should_stop,
            progress=progress.of(work, what),
        )  # fmt: skip
    progress.finish(work, what)
    return report


def _add_strips(
    result: dict[str, Any], variants: Sequence[Variant], reports: Sequence[DriftReport], folder: Path
) -> None:
    """The filmstrips, the numbers at the target and a sentence on each."""
    result["strips"] = _draw_strips(variants, reports, folder)
    for variant, report, strip in zip(variants, reports, result["strips"], strict=True):
        end = report.curves[0].trajectory[-1]
        numbers = {name: measure.value for name, measure in end.measures.items()}
        numbers["picture_difference"] = strip["frames"][-1]["difference"]
        result["numbers"][variant.label] = numbers
        result["words"].append(_sentence(variant.label, end.sigma, round(end.steps), numbers))
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


def _ends(model: "Model", shape: Sequence[int], request: PreviewRequest, config: "RunConfig") -> dict[str, float]:
    """Where the rollout starts and ends. Raises PreviewError where there is no room for a step."""
    view, path, grid_steps = request.view, model.noise_path, config.rollout.grid_steps
    whole = view.start == "noise"
    times = model.inference_times(grid_steps, shape) if whole or config.rollout.grid == "inference" else model.training_times(shape)  # fmt: skip
    grid = Grid(times)
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


def _draw_strips(variants: Sequence[Variant], reports: Sequence[DriftReport], folder: Path) -> list[dict[str, Any]]:
    """A filmstrip of each variant and its single pictures, in full size."""

    def save(pixels: "np.ndarray", stem: str) -> str:
        name = f"frames/{stem}.png"
        Image.fromarray(pixels).save(folder / name)
        return name

    (folder / "frames").mkdir(exist_ok=True)
    drawn = []
    for number, (variant, report) in enumerate(zip(variants, reports, strict=True)):
        strip = dataclasses.replace(report.strips[0], weights=variant.label)
        file = f"filmstrip-{number}.png"
        filmstrip(strip).save(folder / file, compress_level=1)
        record = strip_record(strip, variant.label, str(number), save)
        drawn.append({**record, "weights": variant.weights, "filmstrip": file})
    return drawn


def _together(variants: Sequence[Variant], reports: Sequence[DriftReport]) -> DriftReport:
    """The curves of all variants in one report, each under its label; base against tuned keep these names."""
    pair = [variant.weights for variant in variants] in (["base", "tuned"], ["tuned", "base"])
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
            (other for each, other in zip(variants, reports, strict=True) if each.weights == "base" and each.config == variant.config),
            None,
        )  # fmt: skip
        both = report if base is None or base is report else report.with_curves(*base.curves)
        sentences = words(both, share)
        start = f"{variant.label}: " if len(reports) > 2 or (len(reports) > 1 and base is None) else ""
        all_sentences += [start + sentence for sentence in sentences if sentence not in all_sentences]
    return list(dict.fromkeys(all_sentences))
