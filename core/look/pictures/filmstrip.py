"""The filmstrip: what the model sees on the true path and on its own, and their difference as a heat map. Pillow; no torch."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .style import CARD, HEAT, HEAT_FULL, HEAT_TICKS, INK, LINE, MUTED, OWN_COLOUR, TRUE_COLOUR

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

    @property
    def where(self) -> tuple[float, float] | None:
        """The middle of the difference, (across, down) in 0..1 from the upper left; None where the two are the same."""
        weight = self.difference.astype(np.float64) ** 2
        whole = float(weight.sum())
        if whole == 0:
            return None
        rows, columns = weight.shape
        across = float((weight.sum(0) * (np.arange(columns) + 0.5)).sum() / whole / columns)
        down = float((weight.sum(1) * (np.arange(rows) + 0.5)).sum() / whole / rows)
        return across, down


@dataclass(frozen=True)
class Strip:
    """The frames of one picture. `truth`: the picture itself, decoded. `settings`: the report's."""

    weights: str
    caption: str
    truth: np.ndarray
    frames: tuple[Frame, ...]
    settings: dict[str, Any]


# Colours of the difference --------------------------------------------------------------------------------------------


def heat(difference: np.ndarray) -> np.ndarray:
    """(H, W) differences, 0..1 -> (H, W, 3) uint8 colours on the one fixed scale (`style.HEAT_SCALE`)."""
    import matplotlib

    share = np.sqrt(np.clip(difference / HEAT_FULL, 0, 1))
    return matplotlib.colormaps[HEAT](share, bytes=True)[..., :3]


# Drawing --------------------------------------------------------------------------------------------------------------


@lru_cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: the same on every machine."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size * SCALE)


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


@dataclass(frozen=True)
class _Layout:
    """Where everything is, in units: columns of pictures (w, h) from `left`, the picture itself at `right`, three rows."""

    left: float
    right: float
    w: float
    h: float
    width: int
    height: int
    row_y: tuple[float, float, float]

    margin: ClassVar[int] = 26
    gutter: ClassVar[int] = 178
    gap: ClassVar[int] = 9

    @classmethod
    def of(cls, strip: Strip) -> "_Layout":
        rows, columns = strip.truth.shape[:2]
        factor = CELL / max(rows, columns)
        w, h = columns * factor, rows * factor
        left = cls.margin + cls.gutter
        right = left + len(strip.frames) * (w + cls.gap) + 20
        top = 128
        row_y = (top, top + h + 12, top + 2 * (h + 12))
        return cls(left, right, w, h, round(right + w + cls.margin), round(row_y[2] + h + 100), row_y)


def filmstrip(strip: Strip) -> Image.Image:
    """The strip as one picture, RGBA: true path above, own path below, their difference as a heat map."""
    at = _Layout.of(strip)
    canvas = _Canvas(at.width, at.height)
    _heading(canvas, at, strip)
    _axis(canvas, at, strip)
    _rows(canvas, at, strip)
    _colour_scale(canvas, at)
    _foot(canvas, at, strip)
    return canvas.image


def _heading(canvas: _Canvas, at: _Layout, strip: Strip) -> None:
    """What it shows, of which model, and with which solver."""
    s = strip.settings
    start = "pure noise" if s["start"] is None else f"the true picture at sigma {strip.frames[0].sigma:.2f}"
    order = f" of order {s['order']}" if s["sampler"] in ("unipc", "dpm") else ""
    guided = f", guidance {s['guidance']:g}" if s["guidance"] > 1 else ""
    canvas.text(at.margin, 20, "What the model sees on the true path, and on its own", 17, bold=True)
    subtitle = (
        f"{strip.weights} model · “{strip.caption}” · {s['sampler']}{order}, {s['grid_steps']} "
        f"steps{guided} · both start from {start}"
    )
    canvas.text(at.margin, 47, _wrapped(subtitle, _font(11), (at.width - 2 * at.margin) * SCALE, 1)[0], 11, MUTED)


def _axis(canvas: _Canvas, at: _Layout, strip: Strip) -> None:
    """The axis of noise, from left to right as sampling goes."""
    first_x, last_x = at.left + at.w / 2, at.left + (len(strip.frames) - 1) * (at.w + at.gap) + at.w / 2
    axis_y = 88
    canvas.line((at.left, axis_y), (last_x + at.w / 2, axis_y), colour=MUTED)
    canvas.pen.polygon(
        [((last_x + at.w / 2 + dx) * SCALE, (axis_y + dy) * SCALE) for dx, dy in ((0, -4), (8, 0), (0, 4))], fill=MUTED
    )
    canvas.text(at.margin, axis_y - 8, "noise", 11, MUTED, bold=True)
    canvas.text(at.margin, axis_y + 6, "sigma, and step of the sampler", 9, MUTED)
    for i, frame in enumerate(strip.frames):
        x = first_x + i * (at.w + at.gap)
        canvas.pen.ellipse([(x - 3) * SCALE, (axis_y - 3) * SCALE, (x + 3) * SCALE, (axis_y + 3) * SCALE], fill=INK)
        canvas.text(x, axis_y - 20, f"{frame.sigma:.2f}", 11, bold=True, middle=True)
        canvas.text(x, axis_y + 9, "start" if frame.step == 0 else f"step {frame.step}", 9, MUTED, middle=True)
    canvas.text(at.right + at.w / 2, axis_y - 20, "the picture", 11, bold=True, middle=True)


def _rows(canvas: _Canvas, at: _Layout, strip: Strip) -> None:
    """The three rows of pictures with their labels, and the picture itself beside them."""
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
            "Between the two rows; the same colours in every picture. Below: its mean, as a share of full brightness.",
        ),
    )
    for y, (name, colour, text) in zip(at.row_y, labels, strict=True):
        canvas.box(at.margin, y + 2, 4, at.h - 4, colour)
        canvas.text(at.margin + 12, y, name, 13, colour, bold=True)
        canvas.paragraph(at.margin + 12, y + 21, text, 9, at.gutter - 26)
    means = [float(frame.difference.mean()) for frame in strip.frames]
    for i, frame in enumerate(strip.frames):
        x = at.left + i * (at.w + at.gap)
        canvas.picture(x, at.row_y[0], frame.clean, at.w, at.h, TRUE_COLOUR)
        canvas.picture(x, at.row_y[1], frame.rolled, at.w, at.h, OWN_COLOUR)
        canvas.picture(x, at.row_y[2], heat(frame.difference), at.w, at.h, sharp=True)
        canvas.box(x, at.row_y[2] + at.h + 7, at.w, 4, LINE)
        canvas.box(x, at.row_y[2] + at.h + 7, max(1, at.w * means[i] / max(*means, 0.01)), 4, OWN_COLOUR)
        canvas.text(x + at.w / 2, at.row_y[2] + at.h + 14, f"{100 * means[i]:.1f} %", 11, bold=True, middle=True)
    canvas.line((at.right - 14, at.row_y[0]), (at.right - 14, at.row_y[2] + at.h))
    canvas.picture(at.right, at.row_y[0], strip.truth, at.w, at.h, INK)
    canvas.paragraph(at.right, at.row_y[1] + 4, "The pair's own picture: where the true path ends.", 9, at.w)


def _colour_scale(canvas: _Canvas, at: _Layout) -> None:
    """What the colours of the difference mean."""
    bar_h, bar_x = at.h - 22, at.right + 6
    ramp = heat(np.repeat(HEAT_FULL * np.linspace(1, 0, 64)[:, None] ** 2, 2, 1))
    canvas.picture(bar_x, at.row_y[2] + 16, ramp, 14, bar_h)
    for tick in HEAT_TICKS:
        y = at.row_y[2] + 10 + bar_h * (1 - (tick / HEAT_FULL) ** 0.5)
        canvas.text(bar_x + 20, y, f"{100 * tick:g} %", 9, MUTED)
    canvas.text(bar_x - 6, at.row_y[2] - 2, "difference", 9, MUTED, bold=True)


def _foot(canvas: _Canvas, at: _Layout, strip: Strip) -> None:
    """How to read it."""
    canvas.line((at.margin, at.height - 58), (at.width - at.margin, at.height - 58))
    reason = (
        "From pure noise the own path knows nothing of this picture: it ends in another one for the same "
        "prompt, and nearly all of the difference is that."
        if strip.settings["start"] is None
        else "Part of the difference cannot be avoided: what the start state does not contain, no rollout can recover (the "
        "floor). The curves separate the solver's part from the rest."
    )
    canvas.paragraph(
        at.margin,
        at.height - 48,
        f"Black columns: the model does not mind its own states. Columns that light up to the right: drift. {reason}",
        10,
        at.width - 2 * at.margin,
        lines=2,
    )
