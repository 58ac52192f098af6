"""The curves of one run over its training steps: the loss with its parts, and how much was rolled out."""

import math
from dataclasses import replace
from typing import Any

from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, Series
from ..parts.charts import Line, chart, smoothed
from ..parts.live_chart import chart_data

_LOSS_PARTS = (
    ("main", "denoising part", "clean"),
    ("adr", "anti-drift part", "rolled"),
    ("prior", "class pictures", "quiet"),
    ("preservation", "output preservation", "bad"),
)
"""(column of the series, its name in the legend, colour)."""


def curves(run: RunSummary, log: RunLog) -> str:
    """All charts of a run as HTML that needs no script; "" for one without a step."""
    series = log.series.frozen()
    if not len(series):
        return ""
    weight, x_range = _weight(series), _x_range(run, series)
    loss = _loss_lines(series)
    lines = [Line("each step", loss[0].xs, loss[0].ys, "quiet", faint=True)]
    lines += [replace(line, ys=smoothed(line.ys, weight)) for line in loss]
    drawn = chart(lines, title="Loss, smoothed" if weight else "Loss", x_label="training step", x_range=x_range)
    return f'<div class="rs-charts"><div>{drawn}</div>{_small_charts(series, weight, x_range)}</div>'


def live_loss(run: RunSummary, log: RunLog) -> dict[str, Any] | None:
    """The loss with its parts for a `live_chart`; None before the first step."""
    series = log.series.frozen()
    if not len(series):
        return None
    return chart_data(f"{run.name} {run.created}", _loss_lines(series), title="Loss", x_label="training step", end=_x_range(run, series)[1], raw=("loss",))  # fmt: skip


def rollout_charts(run: RunSummary, log: RunLog) -> str:
    """How much was rolled out; "" where nothing was, and a word where a live run has no step yet."""
    series = log.series.frozen()
    if not len(series):
        return '<div class="rs-empty rs-card">The curves begin with the first training step.</div>' if run.alive else ""
    small = _small_charts(series, _weight(series), _x_range(run, series))
    return f'<div class="rs-charts">{small}</div>' if small else ""


def _weight(series: Series) -> float:
    return 0.0 if len(series.steps) < 20 else 0.9


def _x_range(run: RunSummary, series: Series) -> tuple[float, float]:
    return (0, run.total_steps or series.steps[-1])


def _small_charts(series: Series, weight: float, x_range: tuple[float, float]) -> str:
    small = [*_share_chart(series, weight, x_range), *_length_chart(series, weight, x_range)]
    return f'<div class="rs-pair">{"".join(f"<div>{each}</div>" for each in small)}</div>' if small else ""


def _loss_lines(series: Series) -> list[Line]:
    """The loss and its parts as they are: a part that is all of the loss is left out."""
    steps, loss = series.steps, series.column("loss")
    lines = [Line("loss", steps, loss, "ink")]
    for name, words, color in _LOSS_PARTS:
        values = series.column(name)
        if any(value > 0 for value in values) and not (name == "main" and _same(values, loss)):
            lines.append(Line(words, steps, values, color))
    return lines


def _moved_column(series: Series) -> str:
    """The column that counts the rows trained at another state than their own: rolled out, or moved by the control."""
    return "rolled_rows" if any(value > 0 for value in series.column("rolled_rows")) else "source_noise_rows"


def _share_chart(series: Series, weight: float, x_range: tuple[float, float]) -> list[str]:
    """The chance of a row and the share that was moved, in percent; empty without a chance."""
    chance, moved = series.column("effective_probability"), _moved_column(series)
    if not any(value > 0 for value in chance):
        return []
    share = [
        100 * some / all_ if all_ > 0 else math.nan
        for some, all_ in zip(series.column(moved), series.column("rows"), strict=True)
    ]
    words = "rolled out" if moved == "rolled_rows" else "trained at the source's noise"
    lines = [
        Line("chance", series.steps, [100 * value for value in chance], "quiet", dashed=True),
        Line(words, series.steps, smoothed(share, weight), "rolled"),
    ]
    note = "Below the chance, because a chosen row that draws 0 steps stays where it is."
    drawn = chart(lines, title="Share of the rows", x_label="training step", y_label="%", x_range=x_range, height=110)
    return [f'{drawn}<p class="rs-quiet">{note}</p>']


def _length_chart(series: Series, weight: float, x_range: tuple[float, float]) -> list[str]:
    """The mean length of the rollouts in grid steps; empty where no row was rolled out."""
    moved = _moved_column(series)
    if moved != "rolled_rows" or not any(value > 0 for value in series.column("mean_offset")):
        return []
    offsets = [
        value if count > 0 else math.nan
        for value, count in zip(series.column("mean_offset"), series.column(moved), strict=True)
    ]
    highest = max(offset for offset in offsets if not math.isnan(offset))
    line = Line("mean of the rolled rows", series.steps, smoothed(offsets, weight), "rolled")
    return [
        chart([line], title="Length of the rollouts", y_range=(0, 1.15 * highest), x_label="training step", y_label="grid steps",
              x_range=x_range, height=110)
    ]  # fmt: skip


def _same(one: list[float], other: list[float]) -> bool:
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True)
    )
