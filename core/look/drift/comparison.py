"""Curves and reports against each other, sample by sample: base against tuned, run against run. No torch."""

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .report import Curve, DriftReport, Role


@dataclass(frozen=True)
class Change:
    """A relative change in percent with its 95 % interval; None where a single sample leaves the spread unknown."""

    percent: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """-1 fell, 1 rose, 0 when the interval holds 0 or there is none."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def __str__(self) -> str:
        verb = "fell" if self.percent < 0 else "rose"
        if self.low is None or self.high is None:
            return f"{verb} by {abs(self.percent):.1f} % (one sample: no uncertainty known)"
        if self.sign == 0:
            return f"did not change measurably ({self.percent:+.1f} % ± {(self.high - self.low) / 2:.1f} %)"
        return f"{verb} by {abs(self.percent):.1f} % ± {(self.high - self.low) / 2:.1f} %"


def relative_change(after: Sequence[float], before: Sequence[float], resamples: int = 2000) -> Change:
    """How the mean changed, with a paired bootstrap over the samples (the same place = the same picture and noise).

    Raises: ValueError when the two differ in length or are empty. A mean of 0 before cannot change relatively: 0 when
        both are 0.
    """
    if len(after) != len(before) or len(after) == 0:
        raise ValueError(
            f"{len(after)} values against {len(before)}: a paired comparison needs the same samples on both sides."
        )

    def percent(chosen: Sequence[int]) -> float:
        new, old = sum(after[i] for i in chosen), sum(before[i] for i in chosen)
        return 100 * (new / old - 1) if old else 0.0 if new == old else math.inf

    whole = percent(range(len(after)))
    if len(after) < 2:
        return Change(whole, None, None)
    draws = random.Random(0)  # the same report always gives the same words
    drawn = sorted(percent(draws.choices(range(len(after)), k=len(after))) for _ in range(resamples))
    return Change(whole, drawn[int(0.025 * resamples)], drawn[int(0.975 * resamples)])


@dataclass(frozen=True)
class Verdict:
    """Tuned against base on one set of pictures. `kind`: what the two changes mean together (docs/mathematics.md,
    "Drift measures")."""

    role: Role
    sigma: float
    offset: int
    samples: int
    drift: Change
    loss: Change
    kind: Literal[
        "blur",
        "less drift",
        "less drift, better model",
        "better model, more drift",
        "more drift",
        "worse model",
        "better model",
        "no difference",
    ]


def verdict(tuned: Curve, base: Curve, share: float = 0.5) -> Verdict | None:
    """Drift at the level nearest `share` and the farthest offset, and the clean loss over all its levels, tuned against
    base.

    None when the curves have no per-sample values to compare. Falling drift with a rising clean loss is *blur*: a model
    that predicts less also strays less.
    """
    here, there = tuned.at(share), base.at(share)
    if here is None or there is None or not tuned.clean_loss or len(tuned.clean_loss) != len(base.clean_loss):
        return None
    new, old = here.measures["distance"].values, there.measures["distance"].values
    losses = [[p.measures["loss"].values for p in curve.clean_loss] for curve in (tuned, base)]
    values = [new, old, *losses[0], *losses[1]]
    if any(each is None or len(each) != len(new) for each in values):
        return None
    drift, loss = (
        relative_change(new, old),
        relative_change(*([mean(column) for column in zip(*levels, strict=True)] for levels in losses)),
    )
    match drift.sign, loss.sign:
        case -1, 1:
            kind = "blur"
        case -1, -1:
            kind = "less drift, better model"
        case -1, _:
            kind = "less drift"
        case 1, -1:
            kind = "better model, more drift"
        case 1, _:
            kind = "more drift"
        case _, 1:
            kind = "worse model"
        case _, -1:
            kind = "better model"
        case _:
            kind = "no difference"
    return Verdict(tuned.role, here.sigma, here.offset, tuned.samples, drift, loss, kind)


def against(mine: DriftReport, other: DriftReport, share: float = 0.5) -> Verdict | str:
    """The tuned model of one report against that of another, sample by sample; or in words why they cannot be compared."""
    if mine.probe != other.probe:
        return "they were measured on different pictures, noise, levels or solver, so their numbers cannot be set against each other"
    for role in ("held-out", "training"):
        pair = mine.find("tuned", role), other.find("tuned", role)
        if None not in pair:
            found = verdict(*pair, share)
            return found if found is not None else "a measured number is not finite or is missing"
    return "one of them was measured before training only"


def compare(reports: Sequence[tuple[str, DriftReport]]) -> DriftReport:
    """Several reports in one, each curve under the label given for its report: solver against solver, run against run.

    The first report's base curves stay; later ones only where their probe differs, because else they are the same
    numbers.
    Raises: ValueError for no report, two equal labels, or different kinds of models.
    """
    if not reports or len({label for label, _ in reports}) < len(reports):
        raise ValueError(
            f"labels {[label for label, _ in reports]}: at least one report, and a different label for each."
        )
    if len({report.prediction_type for _, report in reports}) > 1:
        raise ValueError(
            "The reports are of models with different predictions; their losses and outputs cannot stand on one axis."
        )
    first, curves = reports[0][1], []
    for label, report in reports:
        for curve in report.curves:
            same_base = (
                curve.weights == "base"
                and report is not first
                and report.probe == first.probe
                and first.find("base", curve.role)
            )
            if not same_base:
                name = (
                    label if curve.weights == "tuned" else f"{label}, base" if report.probe != first.probe else "base"
                )
                curves.append(dataclasses.replace(curve, label=name))
    probe = first.probe if len({report.probe for _, report in reports}) == 1 else ""
    return dataclasses.replace(
        first,
        probe=probe,
        curves=tuple(curves),
        step=None,
        seconds=sum(report.seconds for _, report in reports),
        strips=tuple(strip for _, report in reports for strip in report.strips),
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
