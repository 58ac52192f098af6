"""What a solver is: one step of the probability-flow ODE, every row at its own time."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import Level, NoisePath, Prediction, per_row

# A solver's view of the network: the rows are already chosen. The rollout counts the calls.
Evaluate = Callable[[Tensor, Level], Prediction]


@dataclass(frozen=True)
class Past:
    """What a multistep solver remembers of the rows in flight, newest first. Rows stack along the first axis.

    A row that has just joined has `steps = 0`; what stands in its place in the other fields is never used.
    """

    x0_hats: tuple[Tensor, ...]  # each (R, ...): clean images implied by earlier evaluations
    lams: tuple[Tensor, ...]  # each (R,): where they were made
    steps: Tensor  # (R,) int: how many of them a row can use
    x: Tensor  # (R, ...): the state from which the newest step started
    level: Level  # (R,): where that was

    def joined_by(self, newcomers: int) -> "Past":
        """The past with `newcomers` rows behind the present ones that have none."""
        if newcomers == 0:
            return self

        def padded(values: Tensor) -> Tensor:
            return torch.cat([values, values.new_ones(newcomers, *values.shape[1:])])

        return Past(
            tuple(map(padded, self.x0_hats)),
            tuple(map(padded, self.lams)),
            torch.cat([self.steps, self.steps.new_zeros(newcomers)]),
            padded(self.x),
            self.level.map(padded),
        )


class Solver(ABC):
    """One step from the level `here` to the cleaner level `there`, per row.

    Invariants, held by tests: a network that always answers the true pair lands exactly on `alpha' x0 + sigma' noise`; the global
    error shrinks at least with `order`; a step makes `calls_per_step` calls; no random numbers are drawn; nothing is
    kept in the object: what is remembered is returned. Both numbers are declared in `SOLVERS`.
    """

    def __init__(self, order: int, calls_per_step: int) -> None:
        self.order, self.calls_per_step = order, calls_per_step

    @abstractmethod
    def step(
        self, predict: Evaluate, path: NoisePath, x: Tensor, here: Level, there: Level, past: Past | None = None
    ) -> tuple[Tensor, Past | None]:
        """The state at `there`, like x, and what the next step needs to know.

        Args:
            predict: the network at (x, level), answering like x in x's precision.
            x: (R, ...) float32 or wider, the state at `here`; here, there: (R,), there less noisy in every row.
            past: what the step before returned, with as many rows as x; None at the start.
        """


def combined(weights: Tensor, states: list[Tensor]) -> Tensor:
    """`sum_i weights[:, i] * states[i]`: weights (R, n) in float64, states n tensors (R, ...)."""
    total = per_row(weights[:, 0], states[0]) * states[0]
    for column, state in zip(weights.T[1:], states[1:], strict=True):
        total = total + per_row(column, state) * state
    return total


def after(past: Past | None, x0_hat: Tensor, x: Tensor, here: Level, keep: int) -> Past:
    """The past once a step has evaluated `x0_hat` at `here` from the state `x`; only the `keep` newest stay.

    An evaluation at pure noise (lam = -inf) is no use to a polynomial in lam: the row's past begins after it.
    """
    x0_hats = (x0_hat, *(past.x0_hats if past is not None else ()))[:keep]
    lams = (here.lam, *(past.lams if past is not None else ()))[:keep]
    steps = past.steps + 1 if past is not None else torch.ones(len(here), dtype=torch.long)
    return Past(x0_hats, lams, torch.where(here.lam.isfinite(), steps, 0), x, here)
