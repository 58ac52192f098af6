"""The curves of a drift report: six panels over the noise level."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..drift.report import Curve, DriftReport, Point
from .panels import LineStyle, legend, line_styles, nothing, panel, plot
from .style import CARD, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Shown:
    """What the panels show of a report. `held`: the curves on held-out pictures, or all where there are none; `seen`: the others."""

    curves: Sequence[Curve]
    flow: bool

    @cached_property
    def styles(self) -> dict[str, LineStyle]:
        return line_styles(self.curves)

    @cached_property
    def held(self) -> list[Curve]:
        return [curve for curve in self.curves if curve.role == "held-out"] or list(self.curves)

    @cached_property
    def seen(self) -> list[Curve]:
        return [curve for curve in self.curves if curve not in self.held]

    @cached_property
    def short(self) -> list[Point]:
        return [point for curve in self.curves for point in curve.short]

    @cached_property
    def trajectory(self) -> list[Point]:
        return [point for curve in self.curves for point in curve.trajectory]

    @cached_property
    def losses(self) -> list[Point]:
        return [point for curve in self.curves for point in curve.clean_loss]

    @cached_property
    def offsets(self) -> list[int]:
        return sorted({point.offset for point in self.short})

    @property
    def far(self) -> int:
        return self.offsets[-1] if self.offsets else 0

    def name(self, curve: Curve) -> str:
        return curve.label + (", training pictures" if curve in self.seen else "")


def curves_figure(report: DriftReport) -> "Figure":
    """Six panels over the noise level; bands are 95 % intervals over the samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.4, 8.6), dpi=110, facecolor=CARD)
    panels = figure.subplots(
        2, 3, gridspec_kw={"hspace": 0.62, "wspace": 0.24, "left": 0.05, "right": 0.985, "top": 0.82, "bottom": 0.065}
    )
    shown = _Shown(report.curves, report.path == "rectified-flow")
    draws = (_drift, _parts, _direction, _clean_loss, _spread, _noise_level)
    for axes, draw in zip(panels.flat, draws, strict=True):
        draw(axes, shown)

    step = "" if report.step is None else f" at step {report.step}"
    figure.text(0.012, 0.975, f"Drift{step}", fontsize=15, fontweight="bold", color=INK, va="top")
    s = report.settings
    samples = shown.held[0]
    figure.text(
        0.012,
        0.938,
        f"{Path(report.model).name} · {s['sampler']}, {s['grid_steps']}-step grid · {samples.pictures} picture"
        f"{'' if samples.pictures == 1 else 's'}, {samples.samples} samples · bands: 95 % over the samples",
        fontsize=9,
        color=MUTED,
        va="top",
    )
    return figure


def _drift(axes: "Axes", shown: _Shown) -> None:
    """How far the model's own state is from the true one."""
    panel(
        axes,
        "1  Drift after a short rollout",
        f"How far the model's own state is from the true one, {_listed(shown.offsets)} steps after\n"
        "its source (more steps: bolder). An exact model has some too: the floor.",
        "distance, % of the state's length",
        shown.flow,
        shown.short,
    )
    for curve in shown.held:
        for offset in shown.offsets:
            strength = 0.45 + 0.55 * (shown.offsets.index(offset) + 1) / len(shown.offsets)
            points = [point for point in curve.short if point.offset == offset]
            plot(
                axes,
                points,
                "distance",
                shown.styles[curve.label],
                factor=100,
                label=shown.name(curve) if offset == shown.far else None,
                alpha=strength,
                linewidth=0.8 + 1.4 * (strength - 0.45) / 0.55,
            )
    for curve in shown.seen:
        points = [point for point in curve.short if point.offset == shown.far]
        plot(
            axes,
            points,
            "distance",
            shown.styles[curve.label],
            factor=100,
            label=shown.name(curve),
            linewidth=1.0,
            marker="x",
            linestyle=":",
        )
    axes.set_ylim(bottom=0)
    legend(axes)


def _parts(axes: "Axes", shown: _Shown) -> None:
    """The solver's part of that, and the rest."""
    fine = max((curve.fine_samples for curve in shown.held), default=0)
    panel(
        axes,
        f"2  Where it comes from ({shown.far} steps away)",
        f"Solver: what finer steps of the same model take away ({fine} sample{'' if fine == 1 else 's'}).\n"
        "Floor and model cannot be separated without knowing the exact flow.",
        "% of the state's length",
        shown.flow,
        shown.short,
    )
    found = False
    parts = {
        "floor_model": ("floor + model", "o"),
        "solver": ("solver", "^"),
        "floor": ("floor (known here)", "s"),
        "model": ("model (known here)", "D"),
    }
    for curve in shown.held:
        points = [point for point in curve.short if point.offset == shown.far]
        for part, (text, marker) in parts.items():
            thin = 1.0 if part in ("solver", "floor", "model") else 1.8
            found |= plot(
                axes,
                points,
                part,
                shown.styles[curve.label],
                factor=100,
                label=f"{text}, {curve.label}",
                marker=marker,
                linewidth=thin,
            )
    if found:
        axes.set_yscale("log")
        _plain_percent(axes)
    else:
        nothing(axes, "not measured: no samples with a fine rollout")
    legend(axes)


def _direction(axes: "Axes", shown: _Shown) -> None:
    """Where the outputs point."""
    panel(
        axes,
        f"3  Direction ({shown.far} steps away)",
        "Filled: is its output the same at its own as at the true state? 1 = yes.\n"
        "Open: does it point at the true picture? An exact flow may not, either.",
        "cosine",
        shown.flow,
        shown.short,
    )
    for curve in shown.held:
        points = [point for point in curve.short if point.offset == shown.far]
        plot(axes, points, "cos_clean", shown.styles[curve.label], label=f"own against true state, {curve.label}")
        plot(
            axes,
            points,
            "cos_truth",
            shown.styles[curve.label],
            label=f"towards the true picture, {curve.label}",
            linewidth=1.0,
            markerfacecolor=CARD,
        )
    legend(axes)


def _clean_loss(axes: "Axes", shown: _Shown) -> None:
    """What the model makes of true noisy states."""
    panel(
        axes,
        "4  Clean loss",
        "Mean squared error on true noisy states: fixed pictures, levels and noise.\n"
        "Drift that falls while this rises is blur, not success.",
        "mean squared error",
        shown.flow,
        shown.losses,
    )
    for curve in shown.curves:
        style = {"linestyle": ":", "marker": "x", "linewidth": 1.0} if curve in shown.seen else {}
        plot(
            axes,
            curve.clean_loss,
            "loss",
            shown.styles[curve.label],
            label=shown.name(curve) + ("" if curve in shown.seen else ", held out" if shown.seen else ""),
            **style,
        )
    axes.set_ylim(bottom=0)
    legend(axes)


def _spread(axes: "Axes", shown: _Shown) -> None:
    """What an exact flow would keep at 1 along the whole trajectory."""
    panel(
        axes,
        "5  Spread and strength along the whole trajectory",
        "Over many pictures free of a floor: an exact flow keeps both at 1.\n"
        "Filled: spread of the states. Open: norm of the model's output.",
        "rolled over clean",
        shown.flow,
        shown.trajectory or shown.short,
    )
    if shown.trajectory:
        axes.axhline(1, color=MUTED, linewidth=1)
        for curve in shown.held:
            plot(
                axes,
                curve.trajectory,
                "std_ratio",
                shown.styles[curve.label],
                label=f"spread, {curve.label}",
                markersize=2.5,
            )
            plot(
                axes,
                curve.trajectory,
                "norm_ratio",
                shown.styles[curve.label],
                label=f"output norm, {curve.label}",
                linewidth=1.0,
                markerfacecolor=CARD,
            )
        legend(axes)
    else:
        nothing(axes, "no trajectory was measured")


def _noise_level(axes: "Axes", shown: _Shown) -> None:
    """Where the state would be at home."""
    unit = "sigma" if shown.flow else "training steps"
    panel(
        axes,
        f"6  Effective noise level ({shown.far} steps away)",
        "At which level of its pair would the state be at home? 0: its own; above:\n"
        "it lags, still noisier than it should be. Has a floor, as 1 has.",
        f"shift of t, {unit}",
        shown.flow,
        shown.short,
    )
    axes.axhline(0, color=MUTED, linewidth=1)
    for curve in shown.held:
        points = [point for point in curve.short if point.offset == shown.far]
        plot(axes, points, "noise_shift", shown.styles[curve.label], label=shown.name(curve))
    legend(axes)


def _plain_percent(axes: "Axes") -> None:
    """A logarithmic axis with numbers that people read: 0.01, 0.1, 1, 10."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _listed(offsets: Sequence[int]) -> str:
    return (
        ", ".join(map(str, offsets[:-1])) + (" and " if len(offsets) > 1 else "") + str(offsets[-1])
        if offsets
        else "no"
    )
