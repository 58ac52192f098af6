"""Problems whose answer is known on paper, and real schedules to meet them on. Tests import this as `oracles`."""

from dataclasses import dataclass

import torch
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.noise import (
    Level,
    NoisePath,
    Prediction,
    RectifiedFlow,
    VariancePreserving,
    consistent_target,
)
from rollout_studio.core.maths.rollout import Predict
from torch import Tensor

SHAPE = (2, 3, 4, 5)  # no two axes alike, none of length 1


def stable_diffusion_abar() -> Tensor:
    """alphas_cumprod of Stable Diffusion 1 and 2: "scaled linear" betas .00085 .. .012 over 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


PATHS: dict[str, NoisePath] = {"flow": RectifiedFlow(), "vp": VariancePreserving(stable_diffusion_abar())}
PREDICTION_TYPES = [(name, kind) for name, path in PATHS.items() for kind in path.prediction_types]


def flow_times(steps: int, shift: float = 3.0) -> Tensor:
    """Sigmas of a shifted linear schedule, noisiest first, terminal 0 included: what SD 3 samples with."""
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * s / (1 + (shift - 1) * s)


def vp_times(steps: int) -> Tensor:
    """Evenly spaced training timesteps, noisiest first, 999 .. 0."""
    return torch.linspace(999, 0, steps + 1, dtype=torch.float64)


def grid_for(path: NoisePath, steps: int = 30, shift: float = 3.0) -> Grid:
    return Grid(flow_times(steps, shift) if isinstance(path, RectifiedFlow) else vp_times(steps))


def random_pair(shape=SHAPE, seed: int = 0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Clean latents and noise."""
    draws = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype) for _ in range(2))


def true_pair(x0: Tensor, noise: Tensor) -> Predict:
    """The perfect predictor: whatever the state, the row's true pair. A rollout must land exactly on `alpha' x0 + sigma' noise`."""
    return lambda x, level, rows: Prediction(x0[rows], noise[rows])


def exact_output(x: Tensor, x0: Tensor, level: Level, prediction_type: str) -> Tensor:
    """The network answer at x whose implied clean image is x0."""
    return consistent_target(x, x0, level, prediction_type)


@dataclass(frozen=True)
class Gaussian:
    """Data `x0 ~ N(mu, s^2)`, every element alike: the best predictor and the exact flow are known
    (docs/mathematics.md, "Gaussian closed forms")."""

    mu: float = 0.7
    s: float = 0.5

    def v(self, level: Level) -> Tensor:
        return level.alpha**2 * self.s**2 + level.sigma**2

    def predict(self, x: Tensor, level: Level, rows: Tensor | None = None) -> Prediction:
        level = level.like(x)
        away = (x - level.alpha * self.mu) / self.v(level)
        return Prediction(self.mu + level.alpha * self.s**2 * away, level.sigma * away)

    def flow(self, x: Tensor, here: Level, there: Level) -> Tensor:
        """The exact solution of the probability-flow ODE."""
        here, there = here.like(x), there.like(x)
        return there.alpha * self.mu + (self.v(there) / self.v(here)).sqrt() * (x - here.alpha * self.mu)

    def euler_gain(self, here: Level, there: Level) -> Tensor:
        """By what one Euler step multiplies the distance from the mean: sqrt(v'/v) cos(phi' - phi), phi = atan2(sigma, alpha s)."""
        turn = torch.atan2(there.sigma, there.alpha * self.s) - torch.atan2(here.sigma, here.alpha * self.s)
        return (self.v(there) / self.v(here)).sqrt() * turn.cos()
