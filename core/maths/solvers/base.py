"""What a solver is: steps of the probability-flow ODE, every row at its own time.

The numbers of all steps (levels and the factors of states) depend on no state: they are computed before the first step, in float64 in
numpy, which takes half of torch's time for so few, and reach the device together. A step then only multiplies and adds, and nothing in it
waits for the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import grid
from ..noise import Level, NoisePath, Prediction, sent

# A solver's view of the network: the rows are already chosen. The rollout counts the calls.
Evaluate = Callable[[Tensor, Level], Prediction]


@dataclass(frozen=True)
class Course:
    """All steps of a walk, laid end to end: N = the rows in flight, summed over the steps.

    The rows of a step are the first ones of one order of rows; who joins later stands behind those who are there, and nobody leaves
    before the end.
    """

    here: grid.Level  # (N,) arrays: where a row's step starts
    there: grid.Level  # (N,) less noisy in every entry
    sizes: tuple[int, ...]  # rows in flight in each step; never falling

    @classmethod
    def through(cls, levels: Sequence[Level]) -> "Course":
        """The same rows from level to level, (R,) each."""
        here, there = (
            grid.Level(*(np.concatenate([getattr(one, name) for one in part]) for name in ("t", "alpha", "sigma")))
            for part in (levels[:-1], levels[1:])
        )
        return cls(here, there, (len(levels[0]),) * (len(levels) - 1))

    def earlier(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) each: where the same row's step before stands (a row's first step: itself), and how many of its earlier evaluations a
        polynomial in lam can use. One at pure noise (lam = -inf) is of no use: the row's past begins after it."""
        before, age, first = (np.zeros(sum(self.sizes), np.int64) for _ in range(3))
        begin, last = 0, 0
        for size in self.sizes:
            places = np.arange(begin, begin + size)
            before[places], first[places] = places, places
            old = places[:last]
            before[old], age[old], first[old] = old - last, age[old - last] + 1, first[old - last]
            begin, last = begin + size, size
        return before, np.maximum(age - (self.here.alpha[first] == 0), 0)


def lam(level: grid.Level) -> NDArray[np.float64]:
    """log(alpha / sigma), (N,); -inf at pure noise, +inf at clean data. Half the log-SNR."""
    with np.errstate(divide="ignore"):
        return np.log(level.alpha) - np.log(level.sigma)


@dataclass(frozen=True)
class Past:
    """What a multistep solver remembers of the rows in flight. Rows stack along the first axis; what stands in the place of a row that has
    just joined is multiplied by 0."""

    x0_hats: tuple[Tensor, ...]  # each (R, ...): clean images implied by earlier evaluations, newest first
    x: Tensor  # (R, ...): the state from which the newest step started

    def joined_by(self, newcomers: int) -> "Past":
        """With `newcomers` rows behind the present ones."""
        if newcomers == 0:
            return self

        def padded(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_ones(newcomers, *values.shape[1:])])

        return Past(tuple(map(padded, self.x0_hats)), padded(self.x))


class Solver(ABC):
    """Steps along a course, per row in time.

    Invariants, held by tests: a network that always answers the true pair lands exactly on `alpha' x0 + sigma' noise`; the global
    error shrinks at least with `order`; a step makes `calls_per_step` calls; no random numbers are drawn; nothing is
    kept in the object: what is remembered is returned; a step moves nothing between CPU and device, and reads nothing from it. Both numbers
    are declared in `SOLVERS`.
    """

    def __init__(self, order: int, calls_per_step: int) -> None:
        self.order, self.calls_per_step = order, calls_per_step

    def stages(self, path: NoisePath, course: Course) -> Sequence[grid.Level]:
        """Where the network is asked in a step, (N,) each, in order."""
        return [course.here]

    @abstractmethod
    def factors(self, path: NoisePath, course: Course) -> Sequence[grid.Values]:
        """What a step multiplies states by, (N,) float64 each."""

    @abstractmethod
    def step(
        self,
        predict: Evaluate,
        path: NoisePath,
        x: Tensor,
        stages: Sequence[Level],
        factors: Sequence[Tensor],
        past: Past | None,
    ) -> tuple[Tensor, Past | None]:
        """The state at the end of the step, like x, and what the next step needs to know.

        Args:
            predict: the network at (x, level), answering like x in x's precision.
            x: (R, ...) float32 or wider, where the step starts.
            stages: of this step's rows, (R,) each; factors: (R, 1, ..., 1) each; both on x's device, in its precision.
            past: what the step before returned, with as many rows as x; None at the start.
        """

    def steps(self, path: NoisePath, course: Course, x: Tensor) -> Iterator["Step"]:
        """The steps of a course for states like `x` (any number of rows). Cost: one transfer, before the first step."""
        stages, factors = self.stages(path, course), self.factors(path, course)
        numbers = [part for level in stages for part in (level.t, level.alpha, level.sigma)]
        table = sent(torch.from_numpy(np.stack([*numbers, *factors])), x)
        levels, rest = table.split([len(numbers), len(factors)])
        rest = rest.reshape(*rest.shape, *[1] * (x.ndim - 1))
        for part, own in zip(levels.split(course.sizes, 1), rest.split(course.sizes, 1), strict=True):
            rows = part.unbind()
            yield Step(self, path, [Level(*rows[i : i + 3]) for i in range(0, len(rows), 3)], own.unbind())


@dataclass(frozen=True)
class Step:
    """One step of a course, its numbers on the device."""

    solver: Solver
    path: NoisePath
    stages: Sequence[Level]
    factors: Sequence[Tensor]

    def take(self, predict: Evaluate, x: Tensor, past: Past | None) -> tuple[Tensor, Past | None]:
        """See `Solver.step`."""
        return self.solver.step(predict, self.path, x, self.stages, self.factors, past)


def combined(factors: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    """`sum_i factors[i] * states[i]`: factors (R, 1, ..., 1), states (R, ...)."""
    total = factors[0] * states[0]
    for factor, state in zip(factors[1:], states[1:], strict=True):
        total = torch.addcmul(total, factor, state)
    return total
