"""Quantiles of Student's t, without scipy. No torch."""

import functools
import math


@functools.lru_cache
def t_quantile(p: float, degrees: int) -> float:
    """Student's t: the value below which a share `p` of it lies, .5 <= p < 1. Accurate to 1e-6 of itself for p up to .99999.

    With x = sqrt(degrees) tan(a) the density becomes cos(a)^(degrees - 1), which Simpson's rule integrates well; the rest is bisection.
    """
    if not 0.5 <= p < 1 or degrees < 1:
        raise ValueError(f"p = {p}, degrees = {degrees}: 0.5 <= p < 1 and at least one degree of freedom are needed.")
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)

    def share(angle: float) -> float:
        n = 400
        ends = 1 + math.cos(angle) ** (degrees - 1)
        inner = sum((4 if i % 2 else 2) * math.cos(angle * i / n) ** (degrees - 1) for i in range(1, n))
        return 0.5 + scale * angle * (ends + inner) / (3 * n)

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) < p else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)
