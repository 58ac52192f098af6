"""Euler."""

from torch import Tensor

from ..noise import Level, NoisePath
from .base import Evaluate, Past, Solver


class Euler(Solver):
    """`x' = alpha' * x0_hat + sigma' * noise_hat`: DDIM (2010.02502, eq. 12, eta 0) on a variance preserving path,
    `x + (sigma' - sigma) * u` on the rectified flow. Order 1, one call a step."""

    def step(
        self, predict: Evaluate, path: NoisePath, x: Tensor, here: Level, there: Level, past: Past | None = None
    ) -> tuple[Tensor, None]:
        prediction = predict(x, here)
        there = there.like(x)
        return there.alpha * prediction.x0_hat + there.sigma * prediction.noise_hat, None
