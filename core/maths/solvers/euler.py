"""Euler."""

from collections.abc import Sequence

from torch import Tensor

from ..grid import Values
from ..noise import Level, NoisePath
from .base import Course, Evaluate, Past, Solver


class Euler(Solver):
    """`x' = alpha' * x0_hat + sigma' * noise_hat`: DDIM (2010.02502, eq. 12, eta 0) on a variance preserving path,
    `x + (sigma' - sigma) * u` on the rectified flow. Order 1, one call a step."""

    def factors(self, path: NoisePath, course: Course) -> Sequence[Values]:
        return [course.there.alpha, course.there.sigma]

    def step(
        self,
        predict: Evaluate,
        path: NoisePath,
        x: Tensor,
        stages: Sequence[Level],
        factors: Sequence[Tensor],
        past: Past | None,
    ) -> tuple[Tensor, None]:
        prediction, (alpha, sigma) = predict(x, stages[0]), factors
        return alpha * prediction.x0_hat + sigma * prediction.noise_hat, None
