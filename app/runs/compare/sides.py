"""The runs of a comparison, and which of their steps are the same moment: at equal steps or at equal seconds of training."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ....core.before.controls import controls_of
from ....core.look.drift.over_training import Reading, over_training
from ....core.runs.rows import RunSummary
from ....core.runs.run_log import RunLog, Series

Axis = Literal["steps", "seconds"]
MOST = 4
"""So many runs are compared at once."""
NEAR = 0.1
"""By seconds, what lies within this share of the shorter run counts as the same moment."""
_MOST_MOMENTS = 5
_STATES = {
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "crashed",
    "queued": "waiting",
    "created": "not started",
}


@dataclass(frozen=True)
class Side:
    """One run of a comparison, as it is now."""

    run: RunSummary
    log: RunLog
    series: Series
    readings: list[Reading]
    color: str
    dashed: bool

    @property
    def name(self) -> str:
        return self.run.name

    def moment(self, step: int, axis: Axis) -> float:
        """Where a training step lies on the axis; NaN where its seconds are not known."""
        return float(step) if axis == "steps" else self.series.clock_at(step)

    def end(self, axis: Axis) -> float:
        """Where the run has got to on the axis."""
        return self.moment(self.series.steps[-1], axis) if len(self.series) else 0.0


def sides(runs: Iterable[RunSummary], log_of: Callable[[RunSummary], RunLog]) -> list[Side]:
    """The runs of a comparison in their order; the first one is what the others are set against."""
    found = []
    for number, run in enumerate(runs):
        log = log_of(run)
        readings = over_training({step: event.get("summary") for step, event in log.drifts.items()})
        found.append(Side(run, log, log.series.frozen(), readings, f"run-{number + 1}", number % 2 == 1))
    return found


def default_choice(run: RunSummary, runs: Sequence[RunSummary]) -> list[str]:
    """What to compare before anything is chosen: a run with its controls, the run first; for a control, the run that it controls."""
    subject = subject_of(run, runs)
    return [subject.name, *(each.name for each in controls_of(subject, runs).values())][:MOST]


def subject_of(run: RunSummary, runs: Iterable[RunSummary]) -> RunSummary:
    """The run itself, or the one that it is a control of, where that still exists."""
    return next(
        (
            each
            for each in runs
            if run.control is not None and each.name == run.control_of and each.created <= run.created
        ),
        run,
    )


def state_words(run: RunSummary) -> str:
    """The state of a run in a word or two."""
    return _STATES.get(run.state, "training")


def shared_moment(
    one: Side, other: Side, steps_of: Callable[[Side], Sequence[int]], axis: Axis
) -> tuple[int, int] | None:
    """The latest steps of two runs that are the same moment on the axis; None when there is none after step 0.

    By steps: the same step. By seconds: the two nearest, at most a tenth of the shorter run's time apart.
    """
    mine, theirs = ([step for step in steps_of(side) if step > 0] for side in (one, other))
    if axis == "steps":
        common = set(mine) & set(theirs)
        return (max(common), max(common)) if common else None
    near = NEAR * min(one.end(axis), other.end(axis))
    pairs = [(a, b, one.moment(a, axis), other.moment(b, axis)) for a in mine for b in theirs]
    good = [
        (min(x, y) - abs(x - y), a, b) for a, b, x, y in pairs if abs(x - y) <= near
    ]  # late, and close together; NaN is not near
    return max(good)[1:] if good else None


def moments(all_sides: Sequence[Side], axis: Axis) -> list[list[int | None]]:
    """Columns of the sample table: for each moment, the step of each run that has samples there (None = it has none near).

    The moments are those of the first run that has samples, thinned, and never later than the shortest run.
    """
    lead = next((side for side in all_sides if side.log.samples), None)
    if lead is None:
        return []
    shortest = min(
        (max(side.moment(step, axis) for step in side.log.samples) for side in all_sides if side.log.samples),
        default=0.0,
    )
    found = []
    for step in sorted(lead.log.samples):
        where = lead.moment(step, axis)
        row = [_nearest(side, where, axis) for side in all_sides]
        if where <= shortest * (1 + (NEAR if axis == "seconds" else 0)) and (
            step == 0 or sum(each is not None for each in row) > 1
        ):
            found.append(row)
    if len(found) > _MOST_MOMENTS:
        found = [found[round(place * (len(found) - 1) / (_MOST_MOMENTS - 1))] for place in range(_MOST_MOMENTS)]
    return found


def _nearest(side: Side, where: float, axis: Axis) -> int | None:
    steps = [step for step in side.log.samples if math.isfinite(side.moment(step, axis))]
    best = min(steps, key=lambda step: abs(side.moment(step, axis) - where), default=None)
    if best is None:
        return None
    apart, room = abs(side.moment(best, axis) - where), 0.0 if axis == "steps" else NEAR * side.end(axis)
    return best if apart <= room and (best == 0) == (where == 0) else None
