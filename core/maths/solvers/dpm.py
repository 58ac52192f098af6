"""DPM-Solver++ multistep."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..grid import Values
from ..noise import Level, NoisePath
from .base import Course, Evaluate, Past, Solver, combined, lam


class Dpm(Solver):
    """DPM-Solver++ 2M, midpoint form (2211.01095, algorithm 2). One call a step; order 1 is Euler in lam.

    The first step of a row is first order, and so is one that ends at clean data (h is infinite there).
    """

    def factors(self, path: NoisePath, course: Course) -> Sequence[Values]:
        """Of the state, the evaluation here, and the one before."""
        here, there, at = course.here, course.there, lam(course.here)
        h = lam(there) - at
        toward = -there.alpha * np.expm1(-h)  # how much of the implied clean image enters
        bend = np.zeros_like(h)
        if self.order == 2:
            before, usable = course.earlier()
            bends = (usable > 0) & np.isfinite(h)
            bend[bends] = toward[bends] * h[bends] / (2 * (at[bends] - at[before[bends]]))
        return [there.sigma / here.sigma, toward + bend, -bend]

    def step(
        self,
        predict: Evaluate,
        path: NoisePath,
        x: Tensor,
        stages: Sequence[Level],
        factors: Sequence[Tensor],
        past: Past | None,
    ) -> tuple[Tensor, Past]:
        x0_hat = predict(x, stages[0]).x0_hat
        states = [x, x0_hat, *(past.x0_hats if past is not None and self.order == 2 else ())]
        return combined(factors[: len(states)], states), Past((x0_hat,), x)
