"""Noise levels, the paths on which they lie, and the grid of times between which a rollout steps: once, in numpy.

The page draws with it and `core/before` computes with it; training, drift and previews use the same functions through the tensors of
`noise.NoisePath` and `rollout.plan_offsets`. No torch. Unless stated otherwise, values are numbers or arrays of any shape, the results
have that shape, in float64.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ..config import RolloutConfig

ALPHA_MIN = 0.02
"""A source with less signal than this carries nothing of the picture."""
ROUNDING = 1e-3
"""In grid steps: a float32 time on a node may come out this far beyond it."""

Values: TypeAlias = Any
"""A float64 number where numbers were given, an array of float64 where an array was."""
Number = TypeVar("Number")


@dataclass(frozen=True)
class Level:
    """Noise levels: the path's coordinate `t`, and the factors of `x_t = alpha * x0 + sigma * noise`; of one shape."""

    t: Values
    alpha: Values
    sigma: Values


class Path(ABC):
    """How `alpha` and `sigma` depend on `t`. Final subclasses: FlowPath, VariancePreservingPath."""

    name: ClassVar[str]
    is_flow: ClassVar[bool]
    t_max: float
    """The noisiest coordinate; 0 is the least noisy one."""

    def at(self, t: ArrayLike) -> Level:
        """The levels at some times.

        Args:
            t: rectified flow: sigma in 0..1; variance preserving: the training timestep in 0..T-1, fractions allowed.
        Raises: ValueError when a value lies outside (beyond float32 rounding) or is not a number.
        """
        times = np.asarray(t, dtype=np.float64)
        slack = 1e-5 * self.t_max
        inside = (times >= -slack) & (times <= self.t_max + slack)
        if not inside.all():
            raise ValueError(
                f"t = {times[~inside].tolist()}: must lie in 0..{self.t_max:g} on a {self.name} path; "
                "give this path's own coordinate, not a network's time input."
            )
        return self._level(_within(times, 0.0, self.t_max)[()])

    @abstractmethod
    def _level(self, t: Values) -> Level: ...

    @abstractmethod
    def time_of_sigma(self, sigma: ArrayLike) -> Values:
        """The times at which a row carries `sigma` of noise; the nearest end of the path beyond them."""

    @abstractmethod
    def share_of_noise(self, level: Level) -> Values:
        """Where a level lies between picture (0) and noise (1): sigma on a flow path, else the angle between the two."""


class FlowPath(Path):
    """`x_t = (1 - sigma) * x0 + sigma * noise`; t is sigma. Source: Liu et al., arXiv 2209.03003."""

    name = "rectified-flow"
    is_flow = True
    t_max = 1.0

    def _level(self, t: Values) -> Level:
        return Level(t, 1.0 - t, t)

    def time_of_sigma(self, sigma: ArrayLike) -> Values:
        return np.clip(sigma, 0.0, 1.0)

    def share_of_noise(self, level: Level) -> Values:
        return level.sigma


class VariancePreservingPath(Path):
    """`x_t = sqrt(abar) * x0 + sqrt(1 - abar) * noise`; t is the training timestep.

    Between two entries of the table the angle `atan2(sigma, alpha)` is interpolated linearly: exact at whole timesteps, always
    on the unit circle, and finite for a table that ends at zero signal.

    Args:
        alphas_cumprod: (T,) strictly decreasing, in 0..1.
    Raises: ValueError for another shape or order.
    """

    name = "variance-preserving"
    is_flow = False

    def __init__(self, alphas_cumprod: ArrayLike) -> None:
        abar = np.asarray(alphas_cumprod, dtype=np.float64)
        if abar.ndim != 1 or len(abar) < 2 or (np.diff(abar) >= 0).any() or abar[0] > 1 or abar[-1] < 0:
            raise ValueError(
                f"alphas_cumprod of shape {abar.shape}: must be a strictly decreasing list in 0..1; "
                "give the table of the checkpoint's own scheduler."
            )
        self.angles = np.arctan2(np.sqrt(1 - abar), np.sqrt(abar))
        """(T,) growing with t."""
        self.t_max = float(len(abar) - 1)

    def _level(self, t: Values) -> Level:
        left = np.minimum(np.floor(t).astype(int), len(self.angles) - 2)
        return self._on_circle(t, _between(self.angles[left], self.angles[left + 1], t - left))

    def _on_circle(self, t: Values, angle: Values) -> Level:
        return Level(t, np.maximum(np.cos(angle), 0.0), np.sin(angle))

    def at_angle(self, angle: ArrayLike) -> Level:
        """The levels at angles `atan2(sigma, alpha)`. Beyond the table's ends `t` goes on in a straight line."""
        angle = np.asarray(angle, dtype=np.float64)
        left = np.clip(np.searchsorted(self.angles, angle, side="right") - 1, 0, len(self.angles) - 2)
        t = left + (angle - self.angles[left]) / (self.angles[left + 1] - self.angles[left])
        return self._on_circle(t[()], angle[()])

    def time_of_sigma(self, sigma: ArrayLike) -> Values:
        return np.clip(self.at_angle(np.arcsin(np.clip(sigma, 0.0, 1.0))).t, 0.0, self.t_max)

    def share_of_noise(self, level: Level) -> Values:
        return np.arctan2(level.sigma, level.alpha) / (np.pi / 2)


class Grid:
    """The times between which a rollout steps.

    Args:
        times: (n,) noisiest first, in the path's own coordinate; repeats are removed (PNDM repeats one). Whether or not they end in
            a 0, one is there afterwards: it serves to place a `t` below the last node and is never a source.
    Raises: ValueError when fewer than two different times are left or they do not fall.
    """

    def __init__(self, times: ArrayLike) -> None:
        nodes = np.asarray(times, dtype=np.float64).reshape(-1)
        nodes = nodes[np.append(True, np.diff(nodes) != 0)] if len(nodes) else nodes
        if len(nodes) < 2 or not (np.diff(nodes) < 0).all() or nodes[-1] < 0:
            raise ValueError(
                f"grid times {nodes[:4].tolist()} ... {nodes[-2:].tolist()}: must fall from noise to clean, at least two of them, "
                "none below 0; give the schedule noisiest first."
            )
        self.nodes: NDArray[np.float64] = nodes if nodes[-1] == 0 else np.append(nodes, 0.0)
        """(steps + 1,) from the noisiest to 0."""

    @property
    def steps(self) -> int:
        """Whole steps from the noisiest node to clean."""
        return len(self.nodes) - 1

    def index(self, t: ArrayLike) -> Values:
        """The fractional index of each time: 0 at the noisiest node, growing as noise falls.

        Linear in t between two nodes. A time beyond the noisiest node has index 0: it has nowhere to come from.
        """
        times = _within(np.asarray(t, dtype=np.float64), 0.0, self.nodes[0])[()]
        right = _within(np.searchsorted(-self.nodes, -times), 1, self.steps)
        return right - (times - self.nodes[right]) / (self.nodes[right - 1] - self.nodes[right])

    def time(self, index: ArrayLike) -> Values:
        """The time at each fractional index; the inverse of `index`. Beyond the ends: the first and the last node."""
        index = _within(np.asarray(index, dtype=np.float64), 0.0, self.steps)[()]
        left = np.minimum(np.floor(index).astype(int), self.steps - 1)
        return _between(self.nodes[left], self.nodes[left + 1], index - left)


def build_grid(
    rollout: "RolloutConfig", inference_times: Callable[[int], ArrayLike], training_times: Callable[[], ArrayLike]
) -> Grid:
    """The grid that the options ask for, from a model's two schedules (each noisiest first, in the path's coordinate)."""
    return Grid(inference_times(rollout.grid_steps) if rollout.grid == "inference" else training_times())


def falling(times: NDArray[np.floating]) -> NDArray[np.floating]:
    """The times (n,) of a sampler as a grid: those below all before them, with a 0 at the end. Keeps the precision."""
    lowest_before = np.minimum.accumulate(times)[:-1]
    kept = times[np.append(True, times[1:] < lowest_before)]
    return kept if kept[-1] <= 0 else np.append(kept, np.zeros(1, kept.dtype))


def sources(t: ArrayLike, k: ArrayLike, path: Path, grid: Grid) -> tuple[Values, Level]:
    """(the offsets that are left, the levels there) of sources `k` whole grid steps noisier than the times `t`.

    An offset that would start beyond the noisiest node, or at less signal than `ALPHA_MIN`, is reduced until it does not; where none
    is left, the source is `t` itself. `t` and `k` are broadcast. Cost: max(k) levels for each time.
    """
    k = np.asarray(k)
    index = np.asarray(grid.index(t))
    # Usable sources form an unbroken run from the target upwards, so counting them gives the farthest.
    back = index[..., None] - np.arange(1, int(k.max(initial=0)) + 1)
    usable = (back >= -ROUNDING) & (path.at(grid.time(back)).alpha >= ALPHA_MIN)
    actual = np.minimum(k, usable.sum(-1))
    return actual[()], path.at(np.where(actual > 0, grid.time(index - actual), t))


def shifted(sigma: Number, shift: float) -> Number:
    """Bend flow times towards noise: `shift * s / (1 + (shift - 1) * s)`. Keeps 0 and 1; 1.0 is the identity.

    sigma: a number, an array or a tensor; precision stays. Raises: ValueError for a shift that is not above 0.
    Source: Esser et al., arXiv 2403.03206, eq. 23.
    """
    if not shift > 0:
        raise ValueError(f"shift = {shift}: must be above 0 (1.0 leaves the times as they are).")
    values: Any = sigma
    return shift * values / (1 + (shift - 1) * values)


def _within(values: Values, low: float, high: float) -> Values:
    """`np.clip`, which takes twice as long on a few numbers."""
    return np.minimum(np.maximum(values, low), high)


def _between(start: Values, end: Values, share: Values) -> Values:
    """From `start` (share 0) to `end` (share 1) in a straight line, exact at both ends."""
    away = end - start
    return np.where(share < 0.5, start + share * away, end - away * (1 - share))[()]
