"""Paired differences over few seeds: mean, standard error and Student's interval; a verdict only where one can be given. No torch, no scipy."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..maths.student import t_quantile

LEAST_SEEDS = 3
"""For an interval: with two, Student's factor at 95 % is 12.7, and one of two seeds decides everything."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A measure of a variant less that of what it is compared with, over the seeds that have both.

    `error`: standard error of the mean, None for a single seed. `half`: half the width of the interval of 95 % for all `comparisons` of the study
    together (Bonferroni: each at 1 - 0.05 / comparisons); None below `LEAST_SEEDS` seeds, and of one that is not among those tested (`comparisons` 0).
    `values`: one a seed.
    """

    mean: float
    error: float | None
    half: float | None
    values: tuple[float, ...]
    comparisons: int = 1

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval holds no 0, else 0."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return -1 if self.mean < 0 else 1

    def verdict(self, better: Literal["lower", "higher"] | None) -> str:
        """In words. A measure that has no better side only rises or falls."""
        if self.comparisons == 0:
            return "not tested"
        if self.half is None:
            return f"no verdict below {LEAST_SEEDS} seeds"
        if self.sign == 0:
            return "no difference beyond the interval"
        if better is None:
            return "higher" if self.sign > 0 else "lower"
        return "better" if (self.sign > 0) == (better == "higher") else "worse"


def difference(values: Sequence[float], others: Sequence[float], comparisons: int = 1) -> Difference:
    """Of two measures, the same place = the same seed. Raises ValueError for different lengths or none."""
    if len(values) != len(others) or not values:
        raise ValueError(
            f"{len(values)} values against {len(others)}: a paired difference needs the same seeds on both sides."
        )
    paired = tuple(mine - other for mine, other in zip(values, others, strict=True))
    mean, n = statistics.fmean(paired), len(paired)
    error = statistics.stdev(paired) / math.sqrt(n) if n > 1 else None
    half = None
    if comparisons > 0 and n >= LEAST_SEEDS and error is not None:
        half = t_quantile(1 - (1 - CONFIDENCE) / comparisons / 2, n - 1) * error
    return Difference(mean, error, half, paired, comparisons)
