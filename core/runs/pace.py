"""How fast a run is, and how long it still takes: one number each, for the trainer, the page and the terminal alike. No torch.

A step in which rows were rolled out takes longer than a plain one, and now and then a step takes much longer because the machine did
something else. So the seconds of a step are medians, of each kind by itself, weighted by how often each kind came of late. What lies
between the steps (samples, drift reports, checkpoints) is counted apart.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

LAST_STEPS = 50
"""Steps that the speed of the moment is taken from."""
WARMING_STEPS = 3
"""The first steps of a process are slower than the rest; they count only while there is nothing else."""
KEPT = 1024


@dataclass(frozen=True)
class StepTime:
    """One step: its seconds; forwards of the network for each row, and calls of it, both 1 in a plain step without accumulation."""

    seconds: float
    rolled: bool
    forwards: float = math.nan
    calls: float = math.nan


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last step is done, and those that samples, drift reports and checkpoints take beside, where one was timed."""

    steps_s: float
    beside_s: float

    @property
    def seconds(self) -> float:
        return self.steps_s + self.beside_s


class Pace:
    """The step times of one process of a run."""

    def __init__(self) -> None:
        self.plain: deque[StepTime] = deque(maxlen=KEPT)
        self.rolled: deque[StepTime] = deque(maxlen=KEPT)
        self._last: deque[StepTime] = deque(maxlen=LAST_STEPS)
        self._beside: dict[str, deque[float]] = {}
        self._steps = 0

    def step(self, time: StepTime) -> None:
        """A training step was done. Times that are not positive numbers are left out."""
        if not (math.isfinite(time.seconds) and time.seconds > 0):
            return
        self._steps += 1
        if self._steps == WARMING_STEPS + 1:
            self._last.clear()
        self._last.append(time)
        if self._steps > WARMING_STEPS:
            (self.rolled if time.rolled else self.plain).append(time)

    def took(self, what: str, seconds: float) -> None:
        """Something between two steps was done."""
        self._beside.setdefault(what, deque(maxlen=5)).append(seconds)

    @property
    def step_s(self) -> float:
        """Seconds of a step as steps are of late; NaN before the first."""
        last = list(self._last)  # another thread may add to it meanwhile
        if not last:
            return math.nan
        kinds = ([each.seconds for each in last if each.rolled is rolled] for rolled in (False, True))
        return sum(len(kind) * statistics.median(kind) for kind in kinds if kind) / len(last)

    def left(self, steps: int, due: Mapping[str, int]) -> TimeLeft:
        """What is still to come: `steps` training steps, and of everything that lies between them how often it is due."""
        beside = (
            statistics.median(self._beside[what]) * number for what, number in due.items() if what in self._beside
        )
        return TimeLeft(self.step_s * steps if steps else 0.0, sum(beside))


def still_due(step: int, total: int, every: int) -> int:
    """How often something comes after `step` that is done at every `every`-th step (0 = never) and once after the last."""
    return 1 + (max(0, (total - 1) // every - step // every) if every > 0 else 0)
