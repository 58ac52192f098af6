"""The noise path: what `x_t` is made of, and what a network's output implies about it. One space for every model.

Every model is described by `x_t = alpha(t) * x0 + sigma(t) * noise`, one `t` per row of a batch. What a network answers
(epsilon, v, x0 or a flow velocity) is turned into the pair `(x0_hat, noise_hat)` here and nowhere else, so a solver never asks
which kind it was. How `t` becomes a network's time input, and a network's own sign, belong to `families/`.

Levels are small (B,) tensors in float64 on the CPU, wherever the latents live: their logarithms and differences need the
digits, a device may have no float64 (MPS), and a decision on them then costs no wait for the device. How a level follows from
a time is computed in `grid`, in numpy; here are the tensors.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor, Tensor

from . import grid

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_matching"]
_WIDE = (torch.float32, torch.float64)


def state_dtype(x: Tensor) -> torch.dtype:
    """The precision in which states are carried: float32, or wider when `x` is. Never a network's reduced one.

    In bfloat16 26-56 % of the displacement of a rollout is lost (measured; docs/mathematics.md, "Notation and noise
    paths").
    """
    return x.dtype if x.dtype in _WIDE else torch.promote_types(x.dtype, torch.float32)


def sent(values: Tensor, x: Tensor) -> Tensor:
    """Values of any shape in the state precision of `x`, on its device, without waiting for what that computes.

    CUDA takes a copy of ordinary memory before the call returns, so the values may be gone at once.
    """
    # The cast stands before the move: a device without float64 refuses to receive it.
    return values.to(state_dtype(x)).to(x.device, non_blocking=x.device.type == "cuda")


def placed(rows: LongTensor, x: Tensor) -> LongTensor:
    """Places of rows, (R,), on the device of `x`; like `sent` without waiting for it."""
    return rows.to(x.device, non_blocking=x.device.type == "cuda")  # type: ignore[return-value]


def per_row(values: Tensor, x: Tensor) -> Tensor:
    """Values (B,), shaped (B, 1, ..., 1) to multiply the rows of `x`, on its device and in its state precision."""
    return sent(values, x).reshape(-1, *[1] * (x.ndim - 1))


def numbers(values: Tensor) -> NDArray[np.float64]:
    """Values (B,) of any float precision and device, for the functions of `grid`."""
    return torch.as_tensor(values).detach().cpu().double().reshape(-1).numpy()


@dataclass(frozen=True)
class Level(grid.Level):
    """A noise level per row: the coordinate `t` and the factors of `x_t = alpha * x0 + sigma * noise`, each (B,)."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, level: grid.Level) -> "Level":
        """Arrays (B,) as tensors, float64 on the CPU."""
        return cls(*(torch.as_tensor(values, dtype=torch.float64) for values in (level.t, level.alpha, level.sigma)))

    @classmethod
    def joined(cls, levels: Iterable["Level"]) -> "Level":
        """The rows of all of them, one after the other; all on one device."""
        return cls(*map(torch.cat, zip(*((each.t, each.alpha, each.sigma) for each in levels), strict=True)))

    @property
    def lam(self) -> Tensor:
        """log(alpha / sigma), (B,); -inf at pure noise, +inf at clean data. Half the log-SNR."""
        return self.alpha.log() - self.sigma.log()

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows) -> "Level":
        return self.map(lambda values: values[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Level":
        return Level(change(self.t), change(self.alpha), change(self.sigma))

    def expand(self, ndim: int) -> "Level":
        """The level as (B, 1, ..., 1) tensors of `ndim` axes; device and precision stay."""
        return self.map(lambda values: values.reshape(-1, *[1] * (ndim - 1)))

    def to(self, x: Tensor) -> "Level":
        """The level, still (B,), on the device and in the state precision of `x`. One transfer at most."""
        if self.t.device == x.device:
            dtype = state_dtype(x)
            return self if self.t.dtype == dtype else self.map(lambda values: values.to(dtype))
        return Level(*sent(torch.stack((self.t, self.alpha, self.sigma)), x).unbind())

    def like(self, x: Tensor) -> "Level":
        """The level ready to multiply the rows of `x`: its device, state precision and number of axes. One transfer at most."""
        return self.to(x).expand(x.ndim)


@dataclass(frozen=True)
class Prediction:
    """What a network's answer implies at `(x, level)`; both shaped like x, `x = alpha * x0_hat + sigma * noise_hat`."""

    x0_hat: Tensor
    noise_hat: Tensor

    @property
    def velocity(self) -> Tensor:
        """The flow velocity `u`, noise-ward: dx / dsigma on the rectified flow."""
        return self.noise_hat - self.x0_hat


class NoisePath(ABC):
    """How `alpha` and `sigma` depend on `t`. Final subclasses: RectifiedFlow, VariancePreserving.

    `ode_time` and its companions give the variable in which the probability-flow ODE is a straight line for a network that
    answers the true pair: single-step solvers with inner stages (rk4) must place their midpoints in it.
    """

    prediction_types: ClassVar[tuple[PredictionType, ...]]
    levels: grid.Path
    """The same path in numpy."""

    @property
    def name(self) -> str:
        return self.levels.name

    @property
    def t_max(self) -> float:
        """The noisiest coordinate."""
        return self.levels.t_max

    @abstractmethod
    def ode_time(self, level: Level) -> Tensor:
        """The integration variable, (B,), growing with noise."""

    @abstractmethod
    def at_ode_time(self, s: Tensor) -> Level:
        """The level at the integration variable `s` (B,)."""

    @abstractmethod
    def at_ratio(self, ratio: Tensor) -> Level:
        """The level where `sigma / alpha` is `ratio` (B,), which may be inf; the path's own end where it does not go so far."""

    @abstractmethod
    def ode_scale(self, level: Level) -> Tensor:
        """(B,): the integrated state is `x / ode_scale`."""

    @abstractmethod
    def slope(self, prediction: Prediction) -> Tensor:
        """d(x / ode_scale) / d(ode_time), like x."""

    def at(self, t: Tensor) -> Level:
        """The level of each row, (B,) float64 on the CPU.

        Args:
            t: (B,) any float precision and device; rectified flow: sigma in 0..1; variance preserving: the training
               timestep in 0..T-1, fractions allowed.
        Raises: ValueError when a value lies outside (beyond float32 rounding) or is not a number.
        """
        return Level.of(self.levels.at(numbers(t)))

    def noised(self, x0: Tensor, noise: Tensor, level: Level) -> Tensor:
        """`alpha * x0 + sigma * noise` in state precision (float32 or wider), like x0."""
        level = level.like(x0)
        return level.alpha * x0.to(state_dtype(x0)) + level.sigma * noise.to(state_dtype(x0))

    def check(self, prediction_type: PredictionType) -> None:
        """Raises ValueError unless a network of this kind can live on this path."""
        if prediction_type not in self.prediction_types:
            raise ValueError(
                f"prediction_type = {prediction_type}: a {self.name} path takes {', '.join(self.prediction_types)}; "
                "leave the option unset to use what the checkpoint says."
            )


class RectifiedFlow(NoisePath):
    """`x_t = (1 - sigma) * x0 + sigma * noise`; t is sigma, 0 (clean) .. 1 (noise).

    Source: Liu et al. 2209.03003; the noise-ward sign is diffusers'.
    """

    prediction_types = ("flow_matching",)
    levels = grid.FlowPath()

    def ode_time(self, level: Level) -> Tensor:
        return level.sigma

    def at_ode_time(self, s: Tensor) -> Level:
        return self.at(s)

    def at_ratio(self, ratio: Tensor) -> Level:
        return self.at(1 - 1 / (1 + ratio))

    def ode_scale(self, level: Level) -> Tensor:
        return torch.ones_like(level.sigma)

    def slope(self, prediction: Prediction) -> Tensor:
        return prediction.velocity


class VariancePreserving(NoisePath):
    """`x_t = sqrt(abar) * x0 + sqrt(1 - abar) * noise`; t is the training timestep, 0 .. T-1, fractions allowed.

    Args:
        alphas_cumprod: (T,) the checkpoint's own table, strictly decreasing, in 0..1.
    Raises: ValueError for another shape or order.
    """

    prediction_types = ("epsilon", "v_prediction", "sample")
    levels: grid.VariancePreservingPath

    def __init__(self, alphas_cumprod: Tensor):
        self.levels = grid.VariancePreservingPath(torch.as_tensor(alphas_cumprod).detach().cpu().double().numpy())

    def ode_time(self, level: Level) -> Tensor:
        return level.sigma / level.alpha

    def at_ode_time(self, s: Tensor) -> Level:
        return Level.of(self.levels.at_angle(np.arctan(numbers(s))))

    def at_ratio(self, ratio: Tensor) -> Level:
        return self.at(self.at_ode_time(ratio).t.clamp(0.0, self.t_max))

    def ode_scale(self, level: Level) -> Tensor:
        return level.alpha

    def slope(self, prediction: Prediction) -> Tensor:
        return prediction.noise_hat


def prediction_from_output(output: Tensor, x: Tensor, level: Level, prediction_type: PredictionType) -> Prediction:
    """The pair that a network's answer implies.

    Args:
        output: like x, canonical: epsilon, v = alpha * noise - sigma * x0, x0, or u = noise - x0 (noise-ward).
        x: (B, ...) the state that the network saw; level: (B,) where it saw it.
    Raises: ValueError for an unknown prediction type. Divides by alpha (epsilon) or sigma (sample): these must not be 0.
    """
    x, output, level = x.to(state_dtype(x)), output.to(state_dtype(x)), level.like(x)
    match prediction_type:
        case "epsilon":
            return Prediction((x - level.sigma * output) / level.alpha, output)
        case "v_prediction":
            return Prediction(level.alpha * x - level.sigma * output, level.sigma * x + level.alpha * output)
        case "sample":
            return Prediction(output, (x - level.alpha * output) / level.sigma)
        case "flow_matching":
            return Prediction(x - level.sigma * output, x + level.alpha * output)
    raise _unknown(prediction_type)


def target_output(x0: Tensor, noise: Tensor, level: Level, prediction_type: PredictionType) -> Tensor:
    """What a plain row regresses to: the answer of a network that knows the pair `(x0, noise)`. Like x0, state precision."""
    x0, noise = x0.to(state_dtype(x0)), noise.to(state_dtype(x0))
    match prediction_type:
        case "epsilon":
            return noise
        case "v_prediction":
            level = level.like(x0)
            return level.alpha * noise - level.sigma * x0
        case "sample":
            return x0
        case "flow_matching":
            return noise - x0
    raise _unknown(prediction_type)


def consistent_target(xr: Tensor, x0: Tensor, level: Level, prediction_type: PredictionType) -> Tensor:
    """The answer at the rolled state `xr` whose implied clean image is the true `x0`. Like x0, state precision.

    Grows as 1 / sigma: rows below `min_sigma` are not rolled out. Source: arXiv 2210.05147, 2312.00210;
    docs/mathematics.md, "Training target of a rolled row".
    """
    xr, x0 = xr.to(state_dtype(x0)), x0.to(state_dtype(x0))
    level = level.like(x0)
    match prediction_type:
        case "epsilon":
            return (xr - level.alpha * x0) / level.sigma
        case "v_prediction":
            return (level.alpha * xr - x0) / level.sigma
        case "sample":
            return x0
        case "flow_matching":
            return (xr - x0) / level.sigma
    raise _unknown(prediction_type)


def _unknown(prediction_type: str) -> ValueError:
    return ValueError(f"prediction_type = {prediction_type!r}: must be one of {', '.join(get_args(PredictionType))}.")
