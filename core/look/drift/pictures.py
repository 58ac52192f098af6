"""Draws drift reports: filmstrip, curves, spectrum. Pillow and matplotlib's object interface; no torch, no global
figure state.

All three stand on a light card of their own, so that they read the same on a light and on a dark page. Colours are
Okabe and Ito's (told apart with every kind of colour blindness); tuned and base also differ by line.
"""

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .report import Curve, DriftReport, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CARD, INK, MUTED, LINE = "#fbfbf9", "#1d2129", "#5a6270", "#d5d9df"
TRUE_COLOUR, OWN_COLOUR = "#00765a", "#b84a00"
COLOURS = {"tuned": "#0072b2", "base": "#b37400"}
MORE_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#5a6270",
)  # for comparisons of more than base and tuned
BAND_COLOURS = {"low_db": "#0072b2", "mid_db": "#009e73", "high_db": "#d55e00"}
BANDS = {"low_db": "low", "mid_db": "middle", "high_db": "high"}
HEAT = "inferno"  # dark = equal, bright = different; even in lightness
SCALE = 2  # device pixels per unit of the filmstrip: sharp on dense screens
CELL = 96  # longest side of a picture in the filmstrip, units


@dataclass(frozen=True)
class Frame:
    """One column: what the model makes of the true and of its own state at one level. Pictures (H, W, 3) uint8."""

    step: int
    t: float
    sigma: float
    clean: np.ndarray
    rolled: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """(H, W) in 0..1: absolute difference, averaged over the colours."""
        return np.abs(self.clean.astype(np.float32) - self.rolled.astype(np.float32)).mean(2) / 255


@dataclass(frozen=True)
class Strip:
    """The frames of one picture. `truth`: the picture itself, decoded. `settings`: the report's."""

    weights: str
    caption: str
    truth: np.ndarray
    frames: tuple[Frame, ...]
    settings: dict[str, Any]


def draw(report: DriftReport, folder: Path, *, frames: bool = False) -> list[str]:
    """Write the report's pictures into `folder`; their names, curves.png first. With `frames` also
    `frames/<strip>-<step>-<row>.png`."""
    names = ["curves.png"]
    (folder / names[0]).write_bytes(figure_png(curves_figure(report)))
    if any(curve.spectrum is not None for curve in report.curves):
        names.append("spectrum.png")
        (folder / names[-1]).write_bytes(figure_png(spectrum_figure(report)))
    # One scale for all strips: base and tuned must be comparable at a glance.
    scale = heat_scale(report.strips)
    first = next((strip.weights for strip in report.strips), None)
    numbers: dict[str, int] = {}
    for strip in report.strips:
        numbers[strip.weights] = numbers.get(strip.weights, 0) + 1
        stem = "filmstrip" + ("" if strip.weights == first else f"-{strip.weights}")
        stem += "" if numbers[strip.weights] == 1 else f"-{numbers[strip.weights]}"
        filmstrip(strip, scale=scale).save(folder / f"{stem}.png")
        names.append(f"{stem}.png")
        if frames:
            (folder / "frames").mkdir(exist_ok=True)
            for frame in strip.frames:
                for row, pixels in (
                    ("clean", frame.clean),
                    ("rolled", frame.rolled),
                    ("difference", heat(frame.difference, scale)),
                ):
                    names.append(f"frames/{stem}-{frame.step:03d}-{row}.png")
                    Image.fromarray(pixels).save(folder / names[-1])
    return names


# The filmstrip -------------------------------------------------------------------------------------------------------


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: the same on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size * SCALE)


def heat_scale(strips: Sequence[Strip]) -> float:
    """The difference, 0..1, that is drawn darkest: nearly the largest, and never so little that rounding would glow."""
    differences = [frame.difference.ravel() for strip in strips for frame in strip.frames]
    return max(0.05, float(np.quantile(np.concatenate(differences), 0.995))) if differences else 1.0


def heat(difference: np.ndarray, scale: float) -> np.ndarray:
    """(H, W) differences -> (H, W, 3) uint8 colours."""
    import matplotlib

    return matplotlib.colormaps[HEAT](np.clip(difference / scale, 0, 1), bytes=True)[..., :3]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """The text in at most so many lines of `width` device pixels, the last with an ellipsis where it does not fit."""
    result = [""]
    for word in text.split():
        longer = f"{result[-1]} {word}".strip()
        if font.getlength(longer) <= width or not result[-1]:
            result[-1] = longer
        else:
            result.append(word)
    if len(result) > lines or font.getlength(result[-1]) > width:
        result = result[:lines]
        while result[-1] and font.getlength(result[-1] + "…") > width:
            result[-1] = result[-1][:-1]
        result[-1] = result[-1].rstrip() + "…"
    return result


class _Canvas:
    """Drawing in units; text by its left or middle and its top."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGBA", (width * SCALE, height * SCALE), (0, 0, 0, 0))
        self.pen = ImageDraw.Draw(self.image)
        self.pen.rounded_rectangle(
            (0, 0, width * SCALE - 1, height * SCALE - 1), 12 * SCALE, fill=CARD, outline=LINE, width=SCALE
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int,
        colour: str = INK,
        *,
        bold: bool = False,
        middle: bool = False,
        right: bool = False,
    ):
        self.pen.text(
            (x * SCALE, y * SCALE),
            text,
            fill=colour,
            font=_font(size, bold),
            anchor="ma" if middle else "ra" if right else "la",
        )

    def paragraph(
        self, x: float, y: float, text: str, size: int, width: float, colour: str = MUTED, lines: int = 6
    ) -> float:
        for line in _wrapped(text, _font(size), width * SCALE, lines):
            self.text(x, y, line, size, colour)
            y += size * 1.32
        return y

    def line(self, *points: tuple[float, float], colour: str = LINE, width: float = 1):
        self.pen.line([(x * SCALE, y * SCALE) for x, y in points], fill=colour, width=round(width * SCALE))

    def box(self, x: float, y: float, w: float, h: float, colour: str):
        self.pen.rectangle((x * SCALE, y * SCALE, (x + w) * SCALE - 1, (y + h) * SCALE - 1), fill=colour)

    def picture(
        self, x: float, y: float, pixels: np.ndarray, w: float, h: float, border: str = LINE, sharp: bool = False
    ):
        size = (round(w * SCALE), round(h * SCALE))
        small = pixels.shape[1] < size[0]
        how = (
            Image.Resampling.NEAREST
            if sharp and small
            else Image.Resampling.BICUBIC
            if small
            else Image.Resampling.LANCZOS
        )
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), 5 * SCALE, fill=255)
        at = (round(x * SCALE), round(y * SCALE))
        self.image.paste(Image.fromarray(pixels).resize(size, how), at, mask)
        self.pen.rounded_rectangle(
            (*at, at[0] + size[0] - 1, at[1] + size[1] - 1), 5 * SCALE, outline=border, width=SCALE
        )


def filmstrip(strip: Strip, *, scale: float | None = None) -> Image.Image:
    """The strip as one picture, RGBA: true path above, own path below, their difference as a heat map.

    `scale`: the difference that is drawn darkest (`heat_scale`); None = this strip's own.
    """
    scale = heat_scale([strip]) if scale is None else scale
    rows, columns = strip.truth.shape[:2]
    factor = CELL / max(rows, columns)
    w, h = columns * factor, rows * factor
    margin, gutter, gap = 26, 178, 9
    left = margin + gutter
    right = left + len(strip.frames) * (w + gap) + 20
    width, top = round(right + w + margin), 128
    row_y = [top, top + h + 12, top + 2 * (h + 12)]
    height = round(row_y[2] + h + 100)
    canvas = _Canvas(width, height)

    s = strip.settings
    start = "pure noise" if s["start"] is None else f"the true picture at sigma {strip.frames[0].sigma:.2f}"
    order = f" of order {s['order']}" if s["sampler"] in ("unipc", "dpm") else ""
    guided = f", guidance {s['guidance']:g}" if s["guidance"] > 1 else ""
    canvas.text(margin, 20, "What the model sees on the true path, and on its own", 17, bold=True)
    subtitle = (
        f"{strip.weights} model · “{strip.caption}” · {s['sampler']}{order}, {s['grid_steps']} "
        f"steps{guided} · both start from {start}"
    )
    canvas.text(margin, 47, _wrapped(subtitle, _font(11), (width - 2 * margin) * SCALE, 1)[0], 11, MUTED)

    # The axis of noise, from left to right as sampling goes.
    first_x, last_x = left + w / 2, left + (len(strip.frames) - 1) * (w + gap) + w / 2
    axis_y = 88
    canvas.line((left, axis_y), (last_x + w / 2, axis_y), colour=MUTED)
    canvas.pen.polygon(
        [((last_x + w / 2 + dx) * SCALE, (axis_y + dy) * SCALE) for dx, dy in ((0, -4), (8, 0), (0, 4))], fill=MUTED
    )
    canvas.text(margin, axis_y - 8, "noise", 11, MUTED, bold=True)
    canvas.text(margin, axis_y + 6, "sigma, and step of the sampler", 9, MUTED)
    for i, frame in enumerate(strip.frames):
        x = first_x + i * (w + gap)
        canvas.pen.ellipse([(x - 3) * SCALE, (axis_y - 3) * SCALE, (x + 3) * SCALE, (axis_y + 3) * SCALE], fill=INK)
        canvas.text(x, axis_y - 20, f"{frame.sigma:.2f}", 11, bold=True, middle=True)
        canvas.text(x, axis_y + 9, "start" if frame.step == 0 else f"step {frame.step}", 9, MUTED, middle=True)
    canvas.text(right + w / 2, axis_y - 20, "the picture", 11, bold=True, middle=True)

    labels = (
        (
            "True path",
            TRUE_COLOUR,
            "The true picture with the noise of each level, as in training. Shown: what the model sees in it.",
        ),
        (
            "Own path",
            OWN_COLOUR,
            "The state that the sampler has made by itself up to here, as in use. Shown: the same prediction from it.",
        ),
        (
            "Difference",
            INK,
            "Between the two rows; one scale for all columns. Below: its mean, as a share of full brightness.",
        ),
    )
    for y, (name, colour, text) in zip(row_y, labels, strict=True):
        canvas.box(margin, y + 2, 4, h - 4, colour)
        canvas.text(margin + 12, y, name, 13, colour, bold=True)
        canvas.paragraph(margin + 12, y + 21, text, 9, gutter - 26)
    means = [float(frame.difference.mean()) for frame in strip.frames]
    for i, frame in enumerate(strip.frames):
        x = left + i * (w + gap)
        canvas.picture(x, row_y[0], frame.clean, w, h, TRUE_COLOUR)
        canvas.picture(x, row_y[1], frame.rolled, w, h, OWN_COLOUR)
        canvas.picture(x, row_y[2], heat(frame.difference, scale), w, h, sharp=True)
        canvas.box(x, row_y[2] + h + 7, w, 4, LINE)
        canvas.box(x, row_y[2] + h + 7, max(1, w * means[i] / max(*means, 0.01)), 4, OWN_COLOUR)
        canvas.text(x + w / 2, row_y[2] + h + 14, f"{100 * means[i]:.1f} %", 11, bold=True, middle=True)
    canvas.line((right - 14, row_y[0]), (right - 14, row_y[2] + h))
    canvas.picture(right, row_y[0], strip.truth, w, h, INK)
    canvas.paragraph(right, row_y[1] + 4, "The pair's own picture: where the true path ends.", 9, w)

    bar_h, bar_x = h - 22, right + 6
    ramp = heat(np.repeat(np.linspace(scale, 0, 64)[:, None], 2, 1), scale)
    canvas.picture(bar_x, row_y[2] + 16, ramp, 14, bar_h)
    for share in (0, 0.5, 1):
        canvas.text(bar_x + 20, row_y[2] + 10 + bar_h * (1 - share), f"{100 * scale * share:.0f} %", 9, MUTED)
    canvas.text(bar_x - 6, row_y[2] - 2, "difference", 9, MUTED, bold=True)

    canvas.line((margin, height - 58), (width - margin, height - 58))
    reason = (
        "From pure noise the own path knows nothing of this picture: it ends in another one for the same "
        "prompt, and nearly all of the difference is that."
        if s["start"] is None
        else "Part of the difference is no fault: what the start state did not tell, no walk can know (the "
        "floor). The curves tell the solver's part from the rest."
    )
    canvas.paragraph(
        margin,
        height - 48,
        f"Black columns: the model does not mind its own states. Columns that light up to the right: drift. {reason}",
        10,
        width - 2 * margin,
        lines=2,
    )
    return canvas.image


# Curves --------------------------------------------------------------------------------------------------------------


def figure_png(figure: "Figure") -> bytes:
    """The figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor=CARD)
    return out.getvalue()


@dataclass(frozen=True)
class _Look:
    colour: str
    line: str
    name: str


def _looks(curves: Sequence[Curve]) -> dict[str, _Look]:
    """How each label is drawn. Base and tuned have their colours; in comparisons every label its own."""
    labels = list(dict.fromkeys(curve.label for curve in curves))
    looks = {}
    for label in labels:
        colour = COLOURS.get(label, MORE_COLOURS[len([l for l in looks if l not in COLOURS]) % len(MORE_COLOURS)])
        looks[label] = _Look(colour, "--" if label == "base" or label.endswith(", base") else "-", label)
    return looks


def _panel(axes: "Axes", title: str, reading: str, y_label: str, flow: bool, points: Sequence[Point]) -> None:
    """The frame of a panel: what it shows, how to read it, and the axis of noise."""
    axes.set_facecolor(CARD)
    axes.text(0, 1.17, title, transform=axes.transAxes, fontsize=11, fontweight="bold", color=INK, va="bottom")
    axes.text(0, 1.14, reading, transform=axes.transAxes, fontsize=8, color=MUTED, va="top", linespacing=1.25)
    axes.set_ylabel(y_label, fontsize=8.5, color=INK)
    _noise_axis(axes, flow, points)
    axes.grid(True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _noise_axis(axes: "Axes", flow: bool, points: Sequence[Point]) -> None:
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


def _plot(
    axes: "Axes",
    points: Sequence[Point],
    name: str,
    look: _Look,
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
    style = {"color": look.colour, "linestyle": look.line, "linewidth": 1.8, "marker": "o", "markersize": 3.5, **style}
    axes.plot(x, y, label=label, **style)
    errors = np.array([1.96 * factor * m.error if m.error is not None else 0.0 for _, m in known])
    if errors.any():
        axes.fill_between(x, np.array(y) - errors, np.array(y) + errors, color=style["color"], alpha=0.13, linewidth=0)
    return True


def _legend(axes: "Axes", **options: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            fontsize=7.5, frameon=True, facecolor=CARD, edgecolor=LINE, labelcolor=INK, handlelength=2.4, **options
        )


def _nothing(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=MUTED)


def curves_figure(report: DriftReport) -> "Figure":
    """Six panels over the noise level; bands are 95 % intervals over the samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.4, 8.6), dpi=110, facecolor=CARD)
    panels = figure.subplots(
        2, 3, gridspec_kw={"hspace": 0.62, "wspace": 0.24, "left": 0.05, "right": 0.985, "top": 0.82, "bottom": 0.065}
    )
    flow = report.path == "rectified-flow"
    looks = _looks(report.curves)
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
    _panel(
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
            _plot(
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
        _plot(
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
    _legend(axes)

    axes = panels[0, 1]
    fine = max((curve.fine_samples for curve in held), default=0)
    _panel(
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
            found |= _plot(
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
        _nothing(axes, "not measured: no samples with a fine rollout")
    _legend(axes)

    axes = panels[0, 2]
    _panel(
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
        _plot(axes, points, "cos_clean", looks[curve.label], label=f"own against true state, {curve.label}")
        _plot(
            axes,
            points,
            "cos_truth",
            looks[curve.label],
            label=f"towards the true picture, {curve.label}",
            linewidth=1.0,
            markerfacecolor=CARD,
        )
    _legend(axes)

    axes = panels[1, 0]
    _panel(
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
        _plot(
            axes,
            curve.clean_loss,
            "loss",
            looks[curve.label],
            label=name(curve) + ("" if curve in seen else ", held out" if seen else ""),
            **style,
        )
    axes.set_ylim(bottom=0)
    _legend(axes)

    axes = panels[1, 1]
    _panel(
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
            _plot(
                axes, curve.trajectory, "std_ratio", looks[curve.label], label=f"spread, {curve.label}", markersize=2.5
            )
            _plot(
                axes,
                curve.trajectory,
                "norm_ratio",
                looks[curve.label],
                label=f"output norm, {curve.label}",
                linewidth=1.0,
                markerfacecolor=CARD,
            )
        _legend(axes)
    else:
        _nothing(axes, "no trajectory was measured")

    axes = panels[1, 2]
    unit = "sigma" if flow else "training steps"
    _panel(
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
        _plot(axes, points, "noise_shift", looks[curve.label], label=name(curve))
    _legend(axes)

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


# Spectrum ------------------------------------------------------------------------------------------------------------


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
        axes = panels[0, column]
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
        _noise_axis(axes, flow, curve.trajectory)
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
        if column == 0:
            axes.set_ylabel("spatial frequency, share of the finest", fontsize=8.5, color=INK)
        axes = panels[1, column]
        axes.set_facecolor(CARD)
        axes.grid(True, color=LINE, linewidth=0.6)
        axes.axhline(0, color=MUTED, linewidth=1)
        for band, name in BANDS.items():
            _plot(
                axes,
                curve.trajectory,
                band,
                _Look(BAND_COLOURS[band], "-", name),
                label=f"{name} frequencies",
                markersize=0,
            )
        _noise_axis(axes, flow, curve.trajectory)
        axes.set_xlim(panels[0, column].get_xlim())
        axes.set_ylim(-1.1 * bands_limit, 1.45 * bands_limit)  # room for the legend
        if column == 0:
            axes.set_ylabel("power, rolled over clean, dB", fontsize=8.5, color=INK)
            _legend(axes, ncols=3, loc="upper left")
    box = panels[0, -1].get_position()
    bar = figure.colorbar(
        mesh, cax=figure.add_axes((0.92, box.y0, 0.014 * 7.6 / figure.get_figwidth() * 1.3, box.height))
    )
    bar.set_label("power, rolled over clean, dB", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_edgecolor(LINE)
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


def _edges(middles: np.ndarray) -> np.ndarray:
    """Borders between values, and half a step beyond the ends."""
    if len(middles) < 2:
        return np.array([middles[0] - 0.5, middles[0] + 0.5])
    between = (middles[1:] + middles[:-1]) / 2
    return np.concatenate(
        [[middles[0] - (between[0] - middles[0])], between, [middles[-1] + (middles[-1] - between[-1])]]
    )


def without_pictures(strip: Strip) -> dict[str, Any]:
    """What of a strip a page needs beside its files: steps, levels and the mean difference of each column."""
    return {
        "weights": strip.weights,
        "caption": strip.caption,
        "frames": [
            {
                **{f.name: getattr(frame, f.name) for f in dataclasses.fields(frame)[:3]},
                "difference": float(frame.difference.mean()),
            }
            for frame in strip.frames
        ],
    }
