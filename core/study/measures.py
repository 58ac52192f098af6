"""What is measured of the runs of a study, read from the files that they left. No torch; the demo's judge has measured before (`judging`)."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..look.drift.evidence import BANDS
from ..look.drift.files import REPORT_FILE, read_report
from ..look.drift.report import Curve, DriftReport, Point, ReportError
from ..runs.folder import RunDir
from .similarity import similarity_values

JUDGED = "study-judged.json"
"""In a run's folder: what the demo's judge saw, and how it looked."""


@dataclass(frozen=True)
class Kind:
    """A measure. `better`: which side is; None = it explains, and does not score. `floor`: what is left of it at best, in words."""

    title: str
    better: Literal["lower", "higher"] | None
    unit: str = ""
    floor: str = ""


_FLOOR = "never 0: the noise of a picture cannot be known"
_SAMPLINGS = {
    "": "",
    "_few": ", few sampling steps",
    "_unguided": ", without guidance",
    "_few_unguided": ", few sampling steps without guidance",
}
"""End of a measure's name -> its words: the same pictures, sampled in other ways (`plan.Judging.samplings`)."""
_JUDGED: dict[str, Kind] = {
    "likeness": Kind(
        "likeness of the object to the new thing",
        "higher",
        floor="silhouettes; above 0: more like it than any old shape",
    ),
    "thing": Kind("the new thing is seen", "higher", "%", "100 % at most"),
    "background": Kind("its background is the one asked for", "higher", "%", "100 % at most"),
    "old_shape": Kind("old prompts: right shape", "higher", "%", "100 % at most; the base's own share"),
    "old_all": Kind("old prompts: all attributes right", "higher", "%", "100 % at most; the base's own share"),
}
KINDS: dict[str, Kind] = {
    "clean_loss": Kind("held-out clean loss", "lower", floor=_FLOOR),
    **{f"clean_loss_{band}": Kind(f"held-out clean loss, {band} noise", "lower", floor=_FLOOR) for band in BANDS},
    "drift_short": Kind("drift over the shortest offset", None, floor="an exact model drifts too"),
    "drift_long": Kind("drift over the longest offset", None, floor="an exact model drifts too"),
    "spread": Kind("spread of the sampled end states over true ones", None, floor="1 for an exact model"),
    **{
        f"{name}{end}": Kind(f"{kind.title}{words}", kind.better, kind.unit, kind.floor)
        for end, words in _SAMPLINGS.items()
        for name, kind in _JUDGED.items()
    },
    "nearest_training": Kind(
        "distance of the samples to the nearest training picture, over that of held-out pictures",
        None,
        floor="1 for new pictures of the same things, 0 for copies",
    ),
    "dino_image": Kind("samples and training pictures, cosine by DINO", None, floor="1 at most, for copies"),
    "clip_image": Kind("samples and training pictures, cosine by CLIP", None, floor="1 at most, for copies"),
    "clip_text": Kind("samples and their prompts, cosine by CLIP", "higher"),
    "train_seconds": Kind("seconds of the training steps", "lower", "s"),
    "network_rows": Kind("rows that the network was asked for", "lower"),
}
"""Name -> what it is, in the order of the tables."""


@dataclass(frozen=True)
class Measured:
    """Of a run that has ended. `values`: every measure that it has; `probe`: what its drift was measured on, None where it was not."""

    values: Mapping[str, float]
    probe: str | None


def measured(run: RunDir) -> Measured:
    """What the run's files say. Cost: reads its events and its last drift report once. Raises ReportError for a damaged one."""
    found: dict[str, float] = {}
    events = run.events()[0]
    steps = [event for event in events if event["event"] == "step"]
    last = {
        event["step"]: event for event in steps
    }  # a step that a resume trained again counts once, but its time was spent
    found["train_seconds"] = sum(event["seconds"] for event in steps)
    found["network_rows"] = float(sum(event.get("network_rows", 0) for event in last.values()))
    report = _last_report(run, events)
    if report is not None:
        found |= of_report(report)
    found |= judged(run) | similarity_values(run)
    values = {name: value for name, value in found.items() if name in KINDS and math.isfinite(value)}
    return Measured(values, None if report is None else report.probe)


def _last_report(run: RunDir, events: Sequence[Mapping[str, Any]]) -> DriftReport | None:
    """The drift report of the run's end; None where it made none after training. Raises ReportError for a damaged one."""
    ends = [event["step"] for event in events if event["event"] == "drift" and event["step"] > 0]
    file = run.drift_path / f"step-{max(ends):06d}" / REPORT_FILE if ends else None
    if file is None:
        return None
    try:
        return read_report(file)
    except OSError as error:
        raise ReportError(f"{file} cannot be read ({error.strerror}).", "Measure the run's drift again.") from error


def of_report(report: DriftReport) -> dict[str, float]:
    """Of the tuned weights: clean loss, over all levels and by band, drift at the middle level, and the spread at the end of the trajectory."""
    curve = report.find("tuned", "held-out") or report.find("tuned", "training")
    if curve is None:
        return {}
    found: dict[str, float | None] = {"clean_loss": _mean_loss(curve.clean_loss)}
    for band, (low, high) in BANDS.items():
        found[f"clean_loss_{band}"] = _mean_loss(
            [point for point in curve.clean_loss if low <= point.share < high or point.share == high == 1.0]
        )
    found |= _drifts(curve)
    spread = curve.trajectory[-1].measures.get("std_ratio") if curve.trajectory else None
    found["spread"] = None if spread is None else spread.value
    return {name: value for name, value in found.items() if value is not None}


def _mean_loss(points: "tuple[Point, ...] | list[Point]") -> float | None:
    values = [point.measures["loss"].value for point in points]
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None


def _drifts(curve: Curve) -> dict[str, float | None]:
    offsets = sorted({point.offset for point in curve.short})
    if not offsets:
        return {}
    ends = {"drift_short": curve.at(0.5, offsets[0]), "drift_long": curve.at(0.5, offsets[-1])}
    return {name: point.measures["distance"].value for name, point in ends.items() if point is not None}


def judged(run: RunDir) -> dict[str, float]:
    """What the judge saw, shares in percent; nothing where it has not looked."""
    record = judged_record(run)
    if record is None:
        return {}
    return {
        name: 100 * value if name in KINDS and KINDS[name].unit == "%" else value
        for name, value in record["seen"].items()
    }


def judged_record(run: RunDir) -> Mapping | None:
    """The judge's file of a run; None where there is none that can be read, so that it is made anew."""
    try:
        record = json.loads((run.path / JUDGED).read_text(encoding="utf-8"))
        good = all(isinstance(value, int | float) and -2 <= value <= 2 for value in record["seen"].values())
        return record if good and isinstance(record["how"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
