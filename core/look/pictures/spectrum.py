"""The spectrum of a drift report: which details drift, and when."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..drift.report import Curve, DriftReport
from .panels import LineStyle, legend, noise_axis, plot
from .style import CARD, COLOURS, INK, LINE, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_COLOURS = {"low_db": "#0072b2", "mid_db": "#009e73", "high_db": "#d55e00"}
BANDS = {"low_db": "low", "mid_db": "middle", "high_db": "high"}


def spectrum_figure(report: DriftReport) -> "Figure":
    """Power by frequency along the trajectory, rolled over clean: a map for each curve, its three bands below."""
    from matplotlib.figure import Figure

    curves = [curve for curve in report.curves if curve.spectrum is not None]
    flow = report.path == "rectified-flow"
    count = len(curves)
    figure = Figure(figsize=(max(7.6, 5.6 * count + 1.2), 7.2), dpi=110, facecolor=CARD)
    panels = figure.subplots(
        2,
        count,
        squeeze=False,
        gridspec_kw={
            "height_ratios": (3, 2),
            "hspace": 0.34,
            "wspace": 0.16,
            "left": 0.085 / max(1, count * 0.75),
            "right": 0.9,
            "top": 0.80,
            "bottom": 0.08,
        },
    )
    maps = [
        np.array([[np.nan if v is None else v for v in row] for row in curve.spectrum.db], dtype=float)
        for curve in curves
    ]
    known = np.concatenate([np.abs(m[np.isfinite(m)]) for m in maps])
    limit = max(0.3, float(np.quantile(known, 0.98))) if len(known) else 1.0
    bands = [point.measures[band] for curve in curves for point in curve.trajectory for band in BANDS]
    reach = [abs(m.value) + (0.0 if m.error is None else 1.96 * m.error) for m in bands if m.value is not None]
    bands_limit = max(0.2, *reach) if reach else 0.2
    for column, (curve, power) in enumerate(zip(curves, maps, strict=True)):
        mesh = _map(panels[0, column], curve, power, limit, flow)
        _bands_over_noise(panels[1, column], curve, bands_limit, panels[0, column].get_xlim(), flow)
    panels[0, 0].set_ylabel("spatial frequency, share of the finest", fontsize=8.5, color=INK)
    panels[1, 0].set_ylabel("power, rolled over clean, dB", fontsize=8.5, color=INK)
    legend(panels[1, 0], ncols=3, loc="upper left")
    _colour_bar(figure, mesh, panels[0, -1])
    figure.text(0.02, 0.975, "Which details drift, and when", fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(
        0.02,
        0.93,
        "Fine detail above, broad shapes below; sampling runs to the right. White: as much power as in true\n"
        "states (an exact flow, over many pictures). Red: too much. Blue: too little; at the top right, "
        "washed-out detail.",
        fontsize=8,
        color=MUTED,
        va="top",
        linespacing=1.3,
    )
    return figure


def _map(axes: "Axes", curve: Curve, power: np.ndarray, limit: float, flow: bool) -> Any:
    """Frequency over noise, in colours up to `limit` dB; returns the mesh, for a colour bar."""
    x, f = np.array(curve.spectrum.log_snr), np.array(curve.spectrum.frequencies)
    mesh = axes.pcolormesh(
        _edges(x),
        np.concatenate([[0.0], _edges(f)[1:]]),
        power.T,
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        shading="flat",
        rasterized=True,
    )
    noise_axis(axes, flow, curve.trajectory)
    axes.set_xlim(*sorted((_edges(x)[0], _edges(x)[-1])))
    axes.set_xlabel("")
    for border in (1 / 3, 2 / 3):
        axes.axhline(border, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for name, middle in zip(BANDS.values(), (1 / 6, 1 / 2, 5 / 6), strict=True):
        axes.text(
            0.985,
            middle,
            name,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=8,
            color=INK,
            bbox={"facecolor": CARD, "alpha": 0.8, "edgecolor": "none", "boxstyle": "round,pad=0.2"},
        )
    axes.set_ylim(0, _edges(f)[-1])
    axes.set_title(
        f"{curve.label} model" if curve.label in COLOURS else curve.label,
        fontsize=11,
        fontweight="bold",
        color=INK,
        loc="left",
    )
    return mesh


def _bands_over_noise(axes: "Axes", curve: Curve, limit: float, x_limits: tuple[float, float], flow: bool) -> None:
    """The power of the three bands, under its map."""
    axes.set_facecolor(CARD)
    axes.grid(True, color=LINE, linewidth=0.6)
    axes.axhline(0, color=MUTED, linewidth=1)
    for band, name in BANDS.items():
        plot(
            axes,
            curve.trajectory,
            band,
            LineStyle(BAND_COLOURS[band], "-", name),
            label=f"{name} frequencies",
            markersize=0,
        )
    noise_axis(axes, flow, curve.trajectory)
    axes.set_xlim(x_limits)
    axes.set_ylim(-1.1 * limit, 1.45 * limit)  # room for the legend


def _colour_bar(figure: "Figure", mesh: Any, beside: "Axes") -> None:
    box = beside.get_position()
    bar = figure.colorbar(
        mesh, cax=figure.add_axes((0.92, box.y0, 0.014 * 7.6 / figure.get_figwidth() * 1.3, box.height))
    )
    bar.set_label("power, rolled over clean, dB", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(LINE)


def _edges(middles: np.ndarray) -> np.ndarray:
    """Borders between values, and half a step beyond the ends."""
    if len(middles) < 2:
        return np.array([middles[0] - 0.5, middles[0] + 0.5])
    between = (middles[1:] + middles[:-1]) / 2
    return np.concatenate(
        [[middles[0] - (between[0] - middles[0])], between, [middles[-1] + (middles[-1] - between[-1])]]
    )
