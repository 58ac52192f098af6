"""Line charts as inline SVG: no plotting library on the page or in its process, a few kB a redraw, dark and light by CSS.

The drawing area stretches with the page; its labels are HTML beside it, so that they stay readable at 400 px.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .words import quantity, text


@dataclass(frozen=True)
class Line:
    """One curve. `color` names a CSS variable of the page's style (`clean`, `rolled`, `ink`, `quiet`)."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    color: str = "ink"
    faint: bool = False
    dashed: bool = False
    low: Sequence[float] | None = None
    """With `high`, one number for each point: the range around the line in which the truth lies; NaN where it is not known."""
    high: Sequence[float] | None = None
    dots: bool = False
    """A dot at each point: for the few points that were really measured."""


def smoothed(ys: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average with bias correction; gaps (NaN) keep the last value. `weight` in [0, 1): 0 = as is."""
    mean, total, out = 0.0, 0.0, []
    for y in ys:
        if not math.isnan(y):
            mean, total = weight * mean + (1 - weight) * y, weight * total + (1 - weight)
        out.append(mean / total if total else math.nan)
    return out


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = 400) -> tuple[list[float], list[float]]:
    """At most about `most` points: of each group the smallest and the largest, so that no spike disappears."""
    if len(xs) <= most:
        return list(xs), list(ys)
    group = math.ceil(2 * len(xs) / most)
    kept: list[int] = []
    for start in range(0, len(xs), group):
        members = [i for i in range(start, min(start + group, len(xs))) if not math.isnan(ys[i])]
        if members:
            kept += sorted({min(members, key=ys.__getitem__), max(members, key=ys.__getitem__)})
    return [xs[i] for i in kept], [ys[i] for i in kept]


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers between `low` and `high`, about `about` of them."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str = "",
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    height: int = 190,
    legend: bool = True,
    empty: str = "Nothing to draw yet.",
) -> str:
    """One chart as HTML. Points that are not finite leave gaps.

    The ranges default to those of the points, with a little air. `title` is also what a screen reader says.
    """
    thin = [(line, *thinned(line.xs, line.ys)) for line in lines]
    points = [
        (x, y) for _, xs, ys in thin for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)
    ]
    keys = "".join(
        f'<span><i class="rs-key" style="--k:var(--rs-{text(line.color)})"></i>{text(line.name)}</span>'
        for line in lines if legend and line.name and not line.faint
    )  # fmt: skip
    head = f'<div class="rs-chart-head"><b>{text(title)}</b><span class="rs-legend">{keys}</span></div>'
    if not points:
        return (
            f'<div class="rs-chart">{head}<div class="rs-empty" style="min-height:{height}px">{text(empty)}</div></div>'
        )
    x_low, x_high = x_range if x_range is not None else (min(x for x, _ in points), max(x for x, _ in points))
    ys_shown = [y for _, y in points] + [
        y for line in lines for side in (line.low, line.high) for y in side or () if math.isfinite(y)
    ]
    y_low, y_high = y_range if y_range is not None else _with_air(min(ys_shown), max(ys_shown))
    x_high = x_high if x_high > x_low else x_low + 1
    y_high = y_high if y_high > y_low else y_low + 1

    def across(x: float) -> float:
        return 1000 * (x - x_low) / (x_high - x_low)

    def down(y: float) -> float:
        return 1000 * (1 - (y - y_low) / (y_high - y_low))

    y_ticks, x_ticks = ticks(y_low, y_high), ticks(x_low, x_high, 5)
    grid = "".join(f'<line x1="0" x2="1000" y1="{down(y):.1f}" y2="{down(y):.1f}" class="rs-grid"/>' for y in y_ticks)
    drawn = (
        "".join(
            f'<path d="{_band(line, across, down)}" class="rs-band" style="--k:var(--rs-{text(line.color)})"/>'
            for line in lines
            if line.low is not None
        )
        + "".join(
            f'<path d="{_path(xs, ys, across, down)}" class="rs-line{" rs-faint" if line.faint else ""}{" rs-dashed" if line.dashed else ""}"'
            f' style="--k:var(--rs-{text(line.color)})"/>'
            for line, xs, ys in thin
        )
        + "".join(
            f'<path d="{_dots(line, across, down)}" class="rs-dots" style="--k:var(--rs-{text(line.color)})"/>'
            for line in lines
            if line.dots
        )
    )
    y_labels = "".join(f'<span style="top:{down(y) / 10:.2f}%">{text(quantity(y))}</span>' for y in y_ticks)
    x_labels = "".join(f'<span style="left:{across(x) / 10:.2f}%">{text(quantity(x, 6))}</span>' for x in x_ticks)
    description = f"{title}. {y_label} over {x_label}: " + "; ".join(
        _described(line) for line in lines if not line.faint
    )
    return (
        f'<div class="rs-chart">{head}{y_name(y_label)}<div class="rs-plot" style="height:{height}px"><div class="rs-y">{y_labels}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{text(description)}">{grid}{drawn}</svg></div>'
        f'<div class="rs-x">{x_labels}</div><div class="rs-x-name">{text(x_label)}</div></div>'
    )


def y_name(words: str) -> str:
    """What the upright axis counts, at its upper end; "" for nothing to say."""
    return f'<div class="rs-y-name">{text(words)}</div>' if words else ""


def _with_air(low: float, high: float) -> tuple[float, float]:
    """A little space around; down to zero where zero is near, because a loss is read from zero."""
    span = high - low if high > low else abs(high) if high else 1.0
    return (0.0 if 0 <= low < 1.5 * span else low - 0.05 * span), high + 0.05 * span


def _path(xs: Sequence[float], ys: Sequence[float], across, down) -> str:
    parts, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            # A value outside a given range is drawn at its edge.
            parts.append(f"{pen}{across(x):.1f} {min(max(down(y), -20.0), 1020.0):.1f}")
            pen = "L"
        else:
            pen = "M"
    if len(parts) == 1:
        parts.append("h6")  # a single point would be invisible
    return "".join(parts)


def _band(line: Line, across, down) -> str:
    """The area between `low` and `high`, in pieces where one of them is not known. A single point gets an upright line."""
    pieces: list[list[tuple[float, float, float]]] = [[]]
    for x, low, high in zip(line.xs, line.low, line.high, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            pieces[-1].append((across(x), min(max(down(low), 0.0), 1000.0), min(max(down(high), 0.0), 1000.0)))
        elif pieces[-1]:
            pieces.append([])
    parts = []
    for piece in filter(None, pieces):
        wide = piece if len(piece) > 1 else [(piece[0][0] - 4, *piece[0][1:]), (piece[0][0] + 4, *piece[0][1:])]
        there = [f"{x:.1f} {high:.1f}" for x, _, high in wide]
        back = [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(wide)]
        parts.append(f"M{'L'.join([*there, *back])}Z")
    return "".join(parts)


def _dots(line: Line, across, down) -> str:
    points = zip(line.xs, line.ys, strict=True)
    return "".join(f"M{across(x):.1f} {down(y):.1f}h0" for x, y in points if math.isfinite(x) and math.isfinite(y))


def _described(line: Line) -> str:
    last = next((y for y in reversed(line.ys) if math.isfinite(y)), None)
    return f"{line.name} is {quantity(last)} at the end" if last is not None else f"{line.name} has no values"
