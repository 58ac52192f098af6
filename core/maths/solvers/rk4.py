"""The classical Runge-Kutta method."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..noise import Level, NoisePath
from .base import Course, Evaluate, Past, Solver


class Rk4(Solver):
    """Classical Runge-Kutta. Order 4, four calls a step.

    Integrates `dx / dsigma` on the rectified flow and `d(x / alpha) / d(sigma / alpha)` on a variance preserving path, with the
    midpoint in that variable: in any other the true pair would not be hit exactly.
    Raises: ValueError for a step from pure noise on a variance preserving path (alpha = 0), where that variable is infinite.
    """

    def stages(self, path: NoisePath, course: Course) -> list[Level]:
        begin, end = self._ends(path, course)
        return [Level.of(course.here), path.at_ode_time((begin + end) / 2), Level.of(course.there)]

    def factors(self, path: NoisePath, course: Course) -> list[Tensor]:
        """The step in the integration variable, and the scales of the stages."""
        begin, end = self._ends(path, course)
        return [end - begin, *(path.ode_scale(level) for level in self.stages(path, course))]

    def _ends(self, path: NoisePath, course: Course) -> tuple[Tensor, Tensor]:
        begin, end = path.ode_time(Level.of(course.here)), path.ode_time(Level.of(course.there))
        if not bool(torch.isfinite(begin).all()):
            raise ValueError(
                "sampler = rk4 from pure noise: impossible on a schedule that ends at zero signal; "
                "use euler, dpm or unipc, or start from a less noisy level."
            )
        return begin, end

    def step(
        self,
        predict: Evaluate,
        path: NoisePath,
        x: Tensor,
        stages: Sequence[Level],
        factors: Sequence[Tensor],
        past: Past | None,
    ) -> tuple[Tensor, None]:
        (here, middle, there), (h, *scales) = stages, factors

        def slope(y: Tensor, level: Level, scale: Tensor) -> Tensor:
            return path.slope(predict(y * scale, level))

        y = x / scales[0]
        first = path.slope(predict(x, here))
        second = slope(y + h / 2 * first, middle, scales[1])
        third = slope(y + h / 2 * second, middle, scales[1])
        fourth = slope(y + h * third, there, scales[2])
        return (y + h / 6 * (first + 2 * second + 2 * third + fourth)) * scales[2], None
