"""What the figures of curves and of the spectrum share: a panel's frame, the axis of noise, a line with its band.

matplotlib's object interface; no global figure state.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..drift.report import Curve, Point
from .style import CARD, COLOURS, INK, LINE, MORE_COLOURS, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure_png(figure: "Figure") -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=CARD)
    return out.getvalue()


@dataclass(frozen=True)
class LineStyle:
    colour: str
    line: str
    name: str


def line_styles(curves: Sequence[Curve]) -> dict[str, LineStyle]:
    """How each label is drawn. Base and tuned have their colours; in comparisons every label its own."""
    labels = list(dict.fromkeys(curve.label for curve in curves))
    styles = {}
    for label in labels:
        colour = COLOURS.get(
            label, MORE_COLOURS[len([name for name in styles if name not in COLOURS]) % len(MORE_COLOURS)]
        )
        styles[label] = LineStyle(colour, "--" if label == "base" or label.endswith(", base") else "-", label)
    return styles


def panel(axes: "Axes", title: str, reading: str, y_label: str, flow: bool, points: Sequence[Point]) -> None:
    """The frame of a panel: what it shows, how to read it, and the axis of noise."""
    axes.set_facecolor(CARD)
    axes.text(0, 1.17, title, transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK, va="bottom")
    axes.text(0, 1.14, reading, transform=axes.transAxes, fontsize=8, color=MUTED, va="top", linespacing=1.25)
    axes.set_ylabel(y_label, fontsize=8.5, color=INK)
    noise_axis(axes, flow, points)
    axes.grid(True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def noise_axis(axes: "Axes", flow: bool, points: Sequence[Point]) -> None:
    """Spaced by log-SNR, labelled with sigma: every kind of model has one, and noise stands left."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(labelsize=8, colors=INK)
    shares = [0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02]
    low, high = min(p.log_snr for p in points), max(p.log_snr for p in points)
    pad = 0.04 * (high - low) if high > low else 1.0
    ticks = [(2 * np.log((1 - s) / s), f"{s:g}") for s in shares]
    ticks = [(x, name) for x, name in ticks if low - pad <= x <= high + pad]
    axes.set_xlim(low - pad, high + pad)
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    name = "noise level σ" if flow else "noise share σ / (α + σ)"
    axes.set_xlabel(f"noise  ←   {name}, spaced by log-SNR   →  picture", fontsize=8.5, color=INK)


def plot(
    axes: "Axes",
    points: Sequence[Point],
    name: str,
    line: LineStyle,
    *,
    factor: float = 1.0,
    label: str | None = None,
    **style: Any,
) -> bool:
    """One measure over the noise levels, with 95 % bars where they are known. False where nothing was measured."""
    known = [
        (point.log_snr, point.measures[name])
        for point in points
        if name in point.measures and point.measures[name].value is not None
    ]
    if not known:
        return False
    known.sort(key=lambda item: item[0])
    x, y = [x for x, _ in known], [factor * m.value for _, m in known]
    style = {"color": line.colour, "linestyle": line.line, "linewidth": 1.8, "marker": "o", "markersize": 3.5, **style}
    axes.plot(x, y, label=label, **style)
    errors = np.array([1.96 * factor * m.error if m.error is not None else 0.0 for _, m in known])
    if errors.any():
        axes.fill_between(x, np.array(y) - errors, np.array(y) + errors, color=style["color"], alpha=0.13, linewidth=0)
    return True


def legend(axes: "Axes", **options: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=7.5, frameon=True, facecolor=CARD, edgecolor=LINE, labelcolor=INK, handlelength=2.4, **options
        )


def nothing(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=MUTED)
