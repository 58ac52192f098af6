"""Paired differences over few seeds: mean, standard error and Student's interval; a verdict only where one can be given. No torch, no scipy.

Three seeds alone hardly tell how much a difference varies from seed to seed: Student's factor for two degrees of freedom is 4.3, and with a hundred
comparisons 45. All variants of a study together tell it well, so their spread is pooled as in a randomised block design (blocks = seeds; Montgomery, Design and
Analysis of Experiments, 4.1). For two variants that is the paired t exactly.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ..maths.student import t_quantile

LEAST_SEEDS = 3
"""For an interval: with two, Student's factor at 95 % is 12.7, and one of two seeds decides everything."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """How much a measure of a study varies beside what variant and seed explain: standard deviation of the residuals, and their degrees of freedom."""

    deviation: float
    degrees: int


def spread(table: Collection[Sequence[float]]) -> Spread | None:
    """Pooled over all variants of a measure. `table`: a row a variant, in each the same seeds in the same order. None for fewer than two of either."""
    rows = [list(row) for row in table]
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    grand = statistics.fmean(value for row in rows for value in row)
    seeds = [statistics.fmean(column) - grand for column in zip(*rows, strict=True)]
    square = sum(
        (value - statistics.fmean(row) - seed) ** 2 for row in rows for value, seed in zip(row, seeds, strict=True)
    )
    degrees = (len(rows) - 1) * (len(seeds) - 1)
    return Spread(math.sqrt(square / degrees), degrees)


@dataclass(frozen=True)
class Difference:
    """A measure of a variant less that of what it is compared with, over the seeds that have both.

    `error`: standard error of the mean, None for a single seed: that of these pairs, or the pooled one of the study where that is larger. `half`: half the width
    of the interval of 95 % for all `comparisons` of the study together (Bonferroni: each at 1 - 0.05 / comparisons); None below `LEAST_SEEDS` seeds, and of
    one that is not among those tested (`comparisons` 0). `values`: one a seed.
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


def difference(
    values: Sequence[float], others: Sequence[float], comparisons: int = 1, pooled: Spread | None = None
) -> Difference:
    """Of two measures, the same place = the same seed. Raises ValueError for different lengths or none.

    `pooled`: of all variants of the study with these seeds; without it the pairs speak for themselves.
    """
    if len(values) != len(others) or not values:
        raise ValueError(
            f"{len(values)} values against {len(others)}: a paired difference needs the same seeds on both sides."
        )
    paired = tuple(mine - other for mine, other in zip(values, others, strict=True))
    mean, n = statistics.fmean(paired), len(paired)
    error, degrees = (statistics.stdev(paired) / math.sqrt(n) if n > 1 else None), n - 1
    if error is not None and pooled is not None:
        # a variant whose seeds differ more than those of the others answers for that itself
        error, degrees = max(error, pooled.deviation * math.sqrt(2 / n)), pooled.degrees
    half = None
    if comparisons > 0 and n >= LEAST_SEEDS and error is not None:
        half = t_quantile(1 - (1 - CONFIDENCE) / comparisons / 2, degrees) * error
    return Difference(mean, error, half, paired, comparisons)
