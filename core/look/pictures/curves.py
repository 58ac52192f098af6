"""The curves of a drift report: six panels over the noise level."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..drift.report import Curve, DriftReport
from .panels import legend, looks_of, nothing, panel, plot
from .style import CARD, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves_figure(report: DriftReport) -> "Figure":
    """Six panels over the noise level; bands are 95 % intervals over the samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.4, 8.6), dpi=110, facecolor=CARD)
    panels = figure.subplots(
        2, 3, gridspec_kw={"hspace": 0.62, "wspace": 0.24, "left": 0.05, "right": 0.985, "top": 0.82, "bottom": 0.065}
    )
    flow = report.path == "rectified-flow"
    looks = looks_of(report.curves)
    held = [curve for curve in report.curves if curve.role == "held-out"] or list(report.curves)
    seen = [curve for curve in report.curves if curve not in held]
    short = [point for curve in report.curves for point in curve.short]
    walked = [point for curve in report.curves for point in curve.trajectory]
    losses = [point for curve in report.curves for point in curve.clean_loss]
    offsets = sorted({point.offset for point in short})
    far = offsets[-1] if offsets else 0

    def name(curve: Curve) -> str:
        return curve.label + (", training pictures" if curve in seen else "")

    axes = panels[0, 0]
    panel(
        axes,
        "1  Drift after a short rollout",
        f"How far the model's own state is from the true one, {_listed(offsets)} steps after\n"
        "its source (more steps: bolder). An exact model has some too: the floor.",
        "distance, % of the state's length",
        flow,
        short,
    )
    for curve in held:
        for offset in offsets:
            strength = 0.45 + 0.55 * (offsets.index(offset) + 1) / len(offsets)
            points = [point for point in curve.short if point.offset == offset]
            plot(
                axes,
                points,
                "distance",
                looks[curve.label],
                factor=100,
                label=name(curve) if offset == far else None,
                alpha=strength,
                linewidth=0.8 + 1.4 * (strength - 0.45) / 0.55,
            )
    for curve in seen:
        points = [point for point in curve.short if point.offset == far]
        plot(
            axes,
            points,
            "distance",
            looks[curve.label],
            factor=100,
            label=name(curve),
            linewidth=1.0,
            marker="x",
            linestyle=":",
        )
    axes.set_ylim(bottom=0)
    legend(axes)

    axes = panels[0, 1]
    fine = max((curve.fine_samples for curve in held), default=0)
    panel(
        axes,
        f"2  Where it comes from ({far} steps away)",
        f"Solver: what finer steps of the same model take away ({fine} sample{'' if fine == 1 else 's'}).\n"
        "Floor and model cannot be told apart without knowing the exact flow.",
        "% of the state's length",
        flow,
        short,
    )
    found = False
    parts = {
        "floor_model": ("floor + model", "o"),
        "solver": ("solver", "^"),
        "floor": ("floor (known here)", "s"),
        "model": ("model (known here)", "D"),
    }
    for curve in held:
        points = [point for point in curve.short if point.offset == far]
        for part, (text, marker) in parts.items():
            thin = 1.0 if part in ("solver", "floor", "model") else 1.8
            found |= plot(
                axes,
                points,
                part,
                looks[curve.label],
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

    axes = panels[0, 2]
    panel(
        axes,
        f"3  Direction ({far} steps away)",
        "Filled: does it say the same at its own as at the true state? 1 = yes.\n"
        "Open: does it point at the true picture? An exact flow may not, either.",
        "cosine",
        flow,
        short,
    )
    for curve in held:
        points = [point for point in curve.short if point.offset == far]
        plot(axes, points, "cos_clean", looks[curve.label], label=f"own against true state, {curve.label}")
        plot(
            axes,
            points,
            "cos_truth",
            looks[curve.label],
            label=f"towards the true picture, {curve.label}",
            linewidth=1.0,
            markerfacecolor=CARD,
        )
    legend(axes)

    axes = panels[1, 0]
    panel(
        axes,
        "4  Clean loss",
        "Mean squared error on true noisy states: fixed pictures, levels and noise.\n"
        "Drift that falls while this rises is blur, not success.",
        "mean squared error",
        flow,
        losses,
    )
    for curve in report.curves:
        style = {"linestyle": ":", "marker": "x", "linewidth": 1.0} if curve in seen else {}
        plot(
            axes,
            curve.clean_loss,
            "loss",
            looks[curve.label],
            label=name(curve) + ("" if curve in seen else ", held out" if seen else ""),
            **style,
        )
    axes.set_ylim(bottom=0)
    legend(axes)

    axes = panels[1, 1]
    panel(
        axes,
        "5  Spread and strength along the whole walk",
        "Over many pictures free of a floor: an exact flow keeps both at 1.\n"
        "Filled: spread of the states. Open: norm of the model's output.",
        "rolled over clean",
        flow,
        walked or short,
    )
    if walked:
        axes.axhline(1, color=MUTED, linewidth=1)
        for curve in held:
            plot(
                axes, curve.trajectory, "std_ratio", looks[curve.label], label=f"spread, {curve.label}", markersize=2.5
            )
            plot(
                axes,
                curve.trajectory,
                "norm_ratio",
                looks[curve.label],
                label=f"output norm, {curve.label}",
                linewidth=1.0,
                markerfacecolor=CARD,
            )
        legend(axes)
    else:
        nothing(axes, "no trajectory was measured")

    axes = panels[1, 2]
    unit = "sigma" if flow else "training steps"
    panel(
        axes,
        f"6  Effective noise level ({far} steps away)",
        "At which level of its pair would the state be at home? 0: its own; above:\n"
        "it lags, still noisier than it should be. Has a floor, as 1 has.",
        f"shift of t, {unit}",
        flow,
        short,
    )
    axes.axhline(0, color=MUTED, linewidth=1)
    for curve in held:
        points = [point for point in curve.short if point.offset == far]
        plot(axes, points, "noise_shift", looks[curve.label], label=name(curve))
    legend(axes)

    step = "" if report.step is None else f" at step {report.step}"
    figure.text(0.012, 0.975, f"Drift{step}", fontsize=15, fontweight="bold", color=INK, va="top")
    s = report.settings
    samples = held[0]
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
