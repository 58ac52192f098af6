"""What a drift measurement says about training against drift: is there something to gain, is it the model's or the solver's, and where. No torch.

An exact flow drifts too (its floor), so the distance alone says nothing. What has no floor does: an exact flow keeps the spread of its states
and the power in every band of frequencies (docs/drift.md). Where these differ beyond their uncertainty, the rollout lost or added something;
where finer steps would change the states about as much, that is the solver's doing, and no training mends it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ...maths.student import t_quantile
from .evidence import Result, remedies_in_words
from .report import Curve, Measure, Point

SOLVER_SHARE = 0.5
"""From here on the solver is called the reason: its part of the state, over what the state has lost or gained."""
LEAST_SPREAD, LEAST_DB = 0.02, 0.3
"""Deviations below these are called none, however certain: 2 % of the spread, 0.3 dB of a band's power (7 %)."""
CONFIDENCE = 0.95
FEWEST_SAMPLES = 3
_BANDS = {"low_db": "coarse shapes", "mid_db": "middle sizes", "high_db": "fine detail"}

Kind = Literal["nothing to gain", "solver", "model", "unknown"]


@dataclass(frozen=True)
class Deviation:
    """One measure at one level that an exact flow would have kept. `share`: the level as `Point.share`; `value`: relative spread less 1, or dB."""

    share: float
    name: str
    value: float


@dataclass(frozen=True)
class Advice:
    """`solver_share`: the solver's part of the drift, 0..1, None where no finer rollout was measured. `deviations`: the largest first."""

    kind: Kind
    solver_share: float | None
    deviations: tuple[Deviation, ...]

    @property
    def where(self) -> tuple[float, ...]:
        """The levels at which something differs, in rising order."""
        return tuple(sorted({each.share for each in self.deviations}))


def advise(curve: Curve) -> Advice:
    """From the short rollouts over the farthest offset, as training does them, of one set of weights.

    All deviations are tested together (Student's t over the samples, Bonferroni), so that a perfect model is called so in 95 % of measurements.
    """
    farthest = max((point.offset for point in curve.short), default=0)
    points = [point for point in curve.short if point.offset == farthest]
    solver = _solver_share(points)
    if not points or curve.samples < FEWEST_SAMPLES:
        return Advice("unknown", solver, ())
    found = tuple(sorted(_deviations(points, curve.samples), key=_weight, reverse=True))
    if not found:
        return Advice("nothing to gain", solver, ())
    return Advice("solver" if _is_solvers(found[0], points) else "model", solver, found)


def _is_solvers(worst: Deviation, points: list[Point]) -> bool:
    """Would finer steps change the state there about as much as it deviates? Both as shares of the state's length. The drift itself is no
    measure for that: most of it is the floor."""
    solver = next(point for point in points if point.share == worst.share).measures.get("solver")
    if solver is None or solver.value is None:
        return False
    return solver.value >= SOLVER_SHARE * abs(10 ** (_decibels(worst) / 20) - 1)


def _solver_share(points: list[Point]) -> float | None:
    """On the samples that have a fine rollout, which are the first ones."""
    coarse = fine = 0.0
    for point in points:
        solver, distance = point.measures.get("solver"), point.measures.get("distance")
        if solver is None or distance is None or not solver.values or not distance.values:
            continue
        fine += math.fsum(solver.values)
        coarse += math.fsum(distance.values[: len(solver.values)])
    return fine / coarse if coarse > 0 else None


def _deviations(points: list[Point], samples: int) -> Iterator[Deviation]:
    names = ("std_ratio", *_BANDS)
    tests = sum(_known(point.measures.get(name)) for point in points for name in names)
    if not tests:
        return
    limit = t_quantile(1 - (1 - CONFIDENCE) / (2 * tests), samples - 1)
    for point in points:
        for name in names:
            measure = point.measures.get(name)
            if not _known(measure):
                continue
            value = measure.value - (1 if name == "std_ratio" else 0)
            if abs(value) > limit * measure.error and abs(value) >= (LEAST_SPREAD if name == "std_ratio" else LEAST_DB):
                yield Deviation(point.share, name, value)


def _known(measure: Measure | None) -> bool:
    return (
        measure is not None and measure.value is not None and measure.error is not None and math.isfinite(measure.value)
    )


def _decibels(one: Deviation) -> float:
    """Deviations of spread and of power on one scale."""
    return 20 * math.log10(max(1 + one.value, 1e-6)) if one.name == "std_ratio" else one.value


def _weight(one: Deviation) -> float:
    return abs(_decibels(one))


def advice_in_words(found: Advice, prediction_type: str | None = None, evidence: Iterable[Result] | None = None) -> str:
    """One or two sentences for a person who asks whether to train against drift.

    Args:
        prediction_type: of the model, by which the evidence of studies is chosen; None = any. evidence: None = what ships with the program.
    """
    part = "" if found.solver_share is None else f" The solver's part of the drift is {100 * found.solver_share:.0f} %."
    if found.kind == "unknown":
        return f"Too few samples to say whether training against drift could gain anything: measure at least {FEWEST_SAMPLES} (drift_num_images)."
    if found.kind == "nothing to gain":
        return (
            f"Nothing to gain: over these rollouts the states keep their spread and every band of frequencies within the uncertainty.{part} Plain training "
            "is the thing to do."
        )
    worst = found.deviations[0]
    what = (
        f"the spread of the states is off by {100 * worst.value:+.1f} %"
        if worst.name == "std_ratio"
        else f"the power of {_BANDS[worst.name]} is off by {worst.value:+.1f} dB"
    )
    levels = ", ".join(f"{share:.2f}" for share in found.where)
    if found.kind == "solver":
        return (
            f"The solver loses it: {what} at noise share {worst.share:.2f}, and finer steps would change the states about as much.{part} Take more steps or "
            "another solver; no training mends that."
        )
    return (
        f"The model loses it: {what} at noise share {worst.share:.2f} (beyond the uncertainty at {levels}).{part} That is where a remedy could help. "
        f"{remedies_in_words(found.where, prediction_type, evidence)}"
    )
