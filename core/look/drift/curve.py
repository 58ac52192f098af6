"""From the raw rows of the rollouts to a curve: means with their errors, pooled ratios, the spectrum."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...maths.noise import Level, NoisePath
from .report import Curve, Measure, Point, Role, Spectrum, Weights
from .rollouts import Table
from .states import Row

MOST_VALUES = 64  # per-sample values kept of one measure; more samples are averaged in groups


def _joined(rows: Sequence[Row], numbers: Sequence[Sequence[int]]) -> Row:
    """The rows of several tables, in the order of the samples' numbers."""
    order = torch.tensor([n for part in numbers for n in part]).argsort()
    return {name: torch.cat([row[name] for row in rows])[order] for name in rows[0]}


def _mean(values: Tensor) -> Measure:
    """Mean, its standard error, and the values, (R,) with NaN where a sample has none."""
    known = values[~values.isnan()]
    if not len(known):
        return Measure(None)
    error = float(known.std() / len(known) ** 0.5) if len(known) > 1 else None
    groups = known.tensor_split(min(len(known), MOST_VALUES))
    return Measure(float(known.mean()), error, tuple(float(group.mean()) for group in groups))


def _ratio(above: Tensor, below: Tensor, finish: Callable[[Tensor], Tensor]) -> Measure:
    """`finish(mean above / mean below)`, pooled over the samples, with its jackknife standard error."""
    value = finish(above.mean() / below.mean())
    if not bool(value.isfinite()):
        return Measure(None)
    n = len(above)
    if n < 2:
        return Measure(float(value))
    without = finish((above.sum() - above) / (below.sum() - below))
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return Measure(float(value), float(error) if bool(error.isfinite()) else None)


def decibels(ratio: Tensor) -> Tensor:
    return 10 * ratio.log10()


def _measures(row: Row) -> dict[str, Measure]:
    """The named measures of the rows at one level."""
    paired = (
        "distance",
        "solver",
        "floor_model",
        "floor",
        "model",
        "cos_clean",
        "cos_truth",
        "noise_shift",
        "snr_shift_db",
    )
    measures = {name: _mean(row[name]) for name in paired if name in row}
    for name in ("solver", "floor_model", "floor", "model"):
        if name in measures and measures[name].value is None:
            del measures[name]  # no sample had the fine rollout at this offset
    measures["std_ratio"] = _ratio(row["var_rolled"], row["var_clean"], torch.sqrt)
    if "norm_rolled" in row:
        measures["norm_ratio"] = _ratio(row["norm_rolled"], row["norm_clean"], torch.sqrt)
    for column, name in zip((-3, -2, -1), ("low_db", "mid_db", "high_db"), strict=True):
        measures[name] = _ratio(row["power_rolled"][:, column], row["power_clean"][:, column], decibels)
    return measures


def _point(level: Level, offset: int, steps: float, measures: dict[str, Measure]) -> Point:
    return Point(float(level.t[0]), float(level.alpha[0]), float(level.sigma[0]), offset, steps, measures)


def curve_of_tables(
    tables: Sequence[Table],
    path: NoisePath,
    *,
    label: str,
    weights: Weights,
    role: Role,
    pictures: int,
    network_rows: int,
    network_calls: int,
) -> Curve:
    """The tables of all shapes as one curve. The trajectory is that of the table that has one (`measure` gives it to
    one shape)."""
    numbers = [table.numbers for table in tables]
    short, fine = [], 0
    for key in sorted(tables[0].short):
        row = _joined([table.short[key][1] for table in tables], numbers)
        if "solver" in row:
            fine = max(fine, int((~row["solver"].isnan()).sum()))
        level = path.at(torch.tensor([tables[0].short[key][0]], dtype=torch.float64))
        short.append(_point(level, key[1], float(row["steps"].mean()), _measures(row)))
    losses = []
    for share, (t, _) in sorted(tables[0].loss.items()):
        row = _joined([table.loss[share][1] for table in tables], numbers)
        losses.append(_point(path.at(torch.tensor([t], dtype=torch.float64)), 0, 0, {"loss": _mean(row["loss"])}))
    main = max(tables, key=lambda table: len(table.trajectory))
    points = [_point(level, step, step, _measures(row)) for level, step, row in main.trajectory]
    spectrum = None
    if points:
        db = [
            decibels(row["power_rolled"].mean(0) / row["power_clean"].mean(0))[:-3].tolist()
            for _, _, row in main.trajectory
        ]
        spectrum = Spectrum(
            tuple(point.sigma for point in points),
            tuple(point.log_snr for point in points),
            tuple(main.frequencies.tolist()),
            tuple(tuple(value if math.isfinite(value) else None for value in column) for column in db),
        )
    return Curve(
        label,
        weights,
        role,
        pictures,
        sum(map(len, numbers)),
        fine,
        len(main.trajectory[0][2]["distance"]) if points else 0,
        tuple(short),
        tuple(points),
        tuple(losses),
        spectrum,
        network_rows,
        network_calls,
    )
