"""What a preview shows: one picture walked by every variant, as filmstrips, numbers and words; where asked, curves and the
spectrum. What is measured is `core/look/drift/`'s affair.
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
from ...maths.noise import Level
from ...maths.rollout import Grid, plan_from_noise, plan_offsets
from ..drift import measure as drift
from ..drift.files import report_to_csv, report_to_json
from ..drift.report import DriftReport, Weights
from ..drift.settings import ProbeSet, Settings, Stopped
from ..drift.states import t_at_share
from ..drift.words import words
from ..pictures.curves import curves_figure
from ..pictures.filmstrip import filmstrip, heat, heat_scale
from ..pictures.panels import figure_png
from ..pictures.spectrum import spectrum_figure
from ..remembering import Memory, Remembering, content_key
from .request import PreviewError, PreviewRequest

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...families.base import Conditioning, Model

STRIP_WORK, CURVES_WORK, SPECTRUM_WORK = 20, 45, 15  # what drawing costs, in rows of the demo's network


# The picture ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """The picture and the prompt, as the network takes them."""

    latents: Tensor
    conditioning: "Conditioning"
    caption: str


def sight(model: "Model", request: PreviewRequest, memory: Memory | None = None) -> Sight:
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
        raise PreviewError(f"{request.picture}: {bad.reason}.", bad.remedy) from bad
    conditioning = None if memory is None else memory.get(text_key)
    if conditioning is None:
        conditioning = model.encode_prompts([caption])[0]
    if memory is not None:
        memory.put(key, latents, [latents])
        memory.put(text_key, conditioning, list(conditioning.values()))
    return Sight(latents, conditioning, caption)


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
    """One walk to show: these weights with this solver. `enter` gives the model as it is then."""

    label: str
    weights: Weights
    walk: "RunConfig"
    enter: Callable[[], AbstractContextManager["Model | Remembering"]]


class _Progress:
    """Work done of the work planned, told as a share and a word; a way out wherever it is told."""

    def __init__(self, planned: float, tell: Callable[[float, str], None], should_stop: Callable[[], bool]) -> None:
        self.planned, self.done, self.tell, self.should_stop = planned, 0.0, tell, should_stop

    def of(self, work: float, what: str) -> Callable[[int, int, str], None]:
        """For `drift.measure`: the progress of one measurement that is `work` of the whole."""
        return lambda done, total, _: self.tell((self.done + work * done / max(1, total)) / self.planned, what)

    def finish(self, work: float, what: str) -> None:
        self.done += work
        self.tell(min(1.0, self.done / self.planned), what)
        if self.should_stop():
            raise Stopped("A newer request came.")


def strip_settings(request: PreviewRequest, walk: "RunConfig") -> Settings:
    """One picture, one noise, the short walk to the target with its filmstrip: what the first picture needs, no more."""
    view = request.view
    return Settings.from_config(
        walk, levels=(), loss_levels=(), offsets=(view.offset,), samples=1, fine_samples=0, trajectory_samples=1,
        start=None if view.start == "noise" else 0.8, end=view.target, walk=None if view.start == "noise" else view.offset,
        shown=view.columns, strips=1,
    )  # fmt: skip


def curve_settings(request: PreviewRequest, walk: "RunConfig") -> Settings:
    """Several noises, all levels, the solver's part apart, the clean loss, and the whole walk for the spectrum."""
    view = request.view
    return Settings.from_config(
        walk, levels=tuple(sorted({*Settings.levels, view.target})), offsets=tuple(sorted({1, view.offset})),
        samples=view.samples, fine_samples=min(2, view.samples), fine_offsets=(view.offset,),
        trajectory_samples=view.samples, strips=0,
    )  # fmt: skip


def show(
    request: PreviewRequest,
    variants: Sequence[Variant],
    model: "Model",
    seen: Sight,
    folder: Path,
    *,
    step: int | None = None,
    tell: Callable[[float, str], None] = lambda share, what: None,
    part: Callable[[dict[str, Any]], None] = lambda result: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Measure and draw what the request asks for, into `folder`.

    Args:
        model: for its schedule and noise path; what is measured is what each variant's `enter` gives.
        step: of the training, for the record.
        tell: called with the share that is done and what is being done.
        part: called with the result so far when the filmstrips are there and the curves are not.
        should_stop: asked before every network call.

    Returns: the result, JSON-able, its files named as in `folder` (`request.located_in`): `strips` (label, caption, filmstrip, truth, frames with step, t,
        sigma, difference and three pictures each), `numbers` (label -> measure -> value, at the target), `words`,
        `walked` (grid steps, sigma and t of both ends), `report`, `csv`, and where asked `curves`, `spectrum`.
    Raises: Stopped, PreviewError, and what the model raises.
    """
    began = time.monotonic()
    walked = [_walked(model, seen.latents.shape, request, variant.walk) for variant in variants]
    strips = [strip_settings(request, variant.walk) for variant in variants]
    curves = [curve_settings(request, variant.walk) for variant in variants] if set(request.what) != {"strip"} else []
    steps = [round(ends["steps"]) + 1 for ends in walked]
    evaluations = model.guidance.evaluations
    strip_work = [
        drift.expected_rows(each, 1, n, evaluations(each.guidance)) for each, n in zip(strips, steps, strict=True)
    ]
    curve_work = [
        drift.expected_rows(each, each.samples, each.grid_steps, evaluations(each.guidance)) for each in curves
    ]
    drawing = (CURVES_WORK if "curves" in request.what else 0) + (SPECTRUM_WORK if "spectrum" in request.what else 0)
    progress = _Progress(sum(strip_work) + STRIP_WORK * len(variants) + sum(curve_work) + drawing, tell, should_stop)
    probe = [ProbeSet((seen.latents,), (seen.conditioning,), (seen.caption,), request.role)]

    def measured(variant: Variant, settings: Settings, work: float, what: str) -> DriftReport:
        what = f"{what}: {variant.label}"
        with variant.enter() as shown:
            report = drift.measure(
                shown, probe, settings, weights=variant.weights, step=step, should_stop=should_stop,
                progress=progress.of(work, what),
            )  # fmt: skip
        progress.finish(work, what)
        return report

    folder.mkdir(parents=True, exist_ok=True)
    reports = [measured(*each, "walking") for each in zip(variants, strips, strip_work, strict=True)]
    result: dict[str, Any] = {
        "what": list(request.what), "caption": seen.caption, "picture": str(request.picture),
        "model": model.source.name, "step": step, "target": request.view.target, "walked": walked,
        "strips": _draw_strips(variants, reports, folder), "numbers": {}, "words": [],
    }  # fmt: skip
    for variant, report, strip in zip(variants, reports, result["strips"], strict=True):
        end = report.curves[0].trajectory[-1]
        numbers = {name: measure.value for name, measure in end.measures.items()}
        numbers["picture_difference"] = strip["frames"][-1]["difference"]
        result["numbers"][variant.label] = numbers
        result["words"].append(_said(variant.label, end.sigma, round(end.steps), numbers))
    _write_report(_together(variants, reports), folder, result)
    progress.finish(STRIP_WORK * len(variants), "the filmstrip")
    if curves:
        part(_finite({**result, "seconds": time.monotonic() - began}))
        reports = [measured(*each, "curves") for each in zip(variants, curves, curve_work, strict=True)]
        report = _together(variants, reports)
        _write_report(report, folder, result)
        result["words"] += _told(variants, reports, request.view.target)
        for kind, figure, work in (
            ("curves", curves_figure, CURVES_WORK),
            ("spectrum", spectrum_figure, SPECTRUM_WORK),
        ):
            if kind in request.what:
                (folder / f"{kind}.png").write_bytes(figure_png(figure(report)))
                result[kind] = f"{kind}.png"
                progress.finish(work, "drawing")
    return _finite({**result, "seconds": time.monotonic() - began})


def _walked(model: "Model", shape: Sequence[int], request: PreviewRequest, walk: "RunConfig") -> dict[str, float]:
    """Where the walk starts and ends. Raises PreviewError where there is no room for a step."""
    view, path, grid_steps = request.view, model.noise_path, walk.rollout.grid_steps
    whole = view.start == "noise"
    times = model.inference_times(grid_steps, shape) if whole or walk.rollout.grid == "inference" else model.training_times(shape)  # fmt: skip
    grid = Grid(times)
    t = torch.tensor([t_at_share(path, view.target)], dtype=torch.float64)
    plan = plan_from_noise(t, path, grid) if whole else plan_offsets(t, torch.tensor([view.offset]), path, grid)
    if int(plan.k[0]) == 0:
        raise PreviewError(
            f"target = {view.target:g}: the schedule begins at noise level {_share(path.at(grid.nodes[:1])):.3f}, so "
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
    """A filmstrip of each variant and its single pictures; one colour scale for all, so that they can be compared."""
    scale = heat_scale([report.strips[0] for report in reports])
    (folder / "frames").mkdir(exist_ok=True)
    told = []
    for number, (variant, report) in enumerate(zip(variants, reports, strict=True)):
        strip = dataclasses.replace(report.strips[0], weights=variant.label)
        file = f"filmstrip-{number}.png"
        filmstrip(strip, scale=scale).save(folder / file, compress_level=1)
        frames = []
        for place, frame in enumerate(strip.frames):
            shown = {"clean": frame.clean, "rolled": frame.rolled, "heat": heat(frame.difference, scale)}
            files = {}
            for row, pixels in shown.items():
                files[row] = f"frames/{number}-{place:02d}-{row}.png"
                Image.fromarray(pixels).save(folder / files[row])
            difference = float(frame.difference.mean())
            frames.append({"step": frame.step, "t": frame.t, "sigma": frame.sigma, "difference": difference, **files})
        Image.fromarray(strip.truth).save(folder / "frames" / "truth.png")
        told.append(
            {"label": variant.label, "weights": variant.weights, "caption": strip.caption, "sampler": variant.walk.rollout.sampler,
             "filmstrip": file, "truth": "frames/truth.png", "scale": scale, "frames": frames}
        )  # fmt: skip
    return told


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


def _said(label: str, sigma: float, steps: int, numbers: Mapping[str, float | None]) -> str:
    distance = numbers["distance"]
    if distance is None:
        return f"{label}: the model answers with what is not a number; the training has diverged."
    return (
        f"{label}: after {steps} grid step{'' if steps == 1 else 's'} to sigma {sigma:.2f} its own state differs from the "
        f"true one by {100 * distance:.1f} % of its length, and what it sees there by "
        f"{100 * numbers['picture_difference']:.1f} % of full brightness (one noise; part of it no model can avoid)."
    )


def _told(variants: Sequence[Variant], reports: Sequence[DriftReport], share: float) -> list[str]:
    """The curves in words at the noise level `share`: each tuned variant against the base with the same solver, else
    each by itself.
    """
    said: list[str] = []
    for variant, report in zip(variants, reports, strict=True):
        if variant.weights == "base" and any(each.weights == "tuned" for each in variants):
            continue
        base = next(
            (other for each, other in zip(variants, reports, strict=True) if each.weights == "base" and each.walk == variant.walk),
            None,
        )  # fmt: skip
        both = report if base is None or base is report else report.with_curves(*base.curves)
        sentences = words(both, share)
        start = f"{variant.label}: " if len(reports) > 2 or (len(reports) > 1 and base is None) else ""
        said += [start + sentence for sentence in sentences if sentence not in said]
    return list(dict.fromkeys(said))
