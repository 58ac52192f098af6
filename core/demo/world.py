"""The picture world: captioned 64x64 scenes with one object each, drawn by rule.

A `Scene` names what is to be seen; `draw` makes a picture of it and jitters what words leave open (a pixel of place, a
few degrees, a shade); `caption` describes it and `parse` reads the description back. 200 of the 2,100 scenes are never
drawn for training: `held_out()`. Because everything is drawn by rule, `judge` can read by rule whether a picture shows
what the caption names.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
"""Side of a picture in pixels."""
OVERSAMPLE = 4
"""Outlines are filled at this multiple of the resolution and averaged down, which anti-aliases them."""

COLOURS = {
    "red": (214, 40, 40),
    "orange": (242, 128, 24),
    "yellow": (250, 218, 48),
    "green": (44, 158, 72),
    "blue": (44, 96, 226),
    "purple": (128, 58, 176),
    "pink": (246, 128, 184),
}
BACKGROUNDS = {
    "white": (244, 244, 244),
    "grey": (150, 150, 150),
    "black": (20, 20, 20),
    "beige": (222, 202, 160),
    "navy": (24, 38, 104),
}
SIZES = {"small": 9.0, "large": 14.0}
"""Half the width of an object, in pixels."""
PLACES = {
    "left": (18, 32),
    "right": (46, 32),
    "top": (32, 18),
    "bottom": (32, 46),
    "centre": (32, 32),
}
"""Where the middle of an object is: (x, y) in pixels."""
WORDS_FOR_PLACES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "centre": "in the centre",
}
CLASS_NOUN = "shape"
"""The noun that fits every object; captions use it now and then in the place of the object's name."""


# Outlines -----------------------------------------------------------------------------------------------------------
# An outline is a list of polygons in a box from -1 to 1 (x to the right, y downwards), each with True (fill) or False
# (cut out).

Outline = list[tuple[np.ndarray, bool]]


def regular(corners: int, turn: float = 0.0, radius: float = 1.0) -> np.ndarray:
    """A regular polygon; `turn` in degrees, 0 puts the first corner at the top."""
    angle = np.radians(turn) + 2 * np.pi * np.arange(corners) / corners
    return radius * np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def boxed(points: np.ndarray) -> np.ndarray:
    """The polygon moved and scaled so that the longer side of its bounding box goes from -1 to 1."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * 2 / (high - low).max()


def star() -> np.ndarray:
    points = np.empty((10, 2))
    points[0::2], points[1::2] = regular(5), regular(5, turn=36, radius=0.42)
    return boxed(points)


def cross(arm: float = 0.33) -> np.ndarray:
    a = arm
    return np.array(
        [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    )


SHAPES: dict[str, Outline] = {
    "circle": [(regular(64), True)],
    "square": [(0.88 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float), True)],
    "triangle": [(boxed(regular(3)), True)],
    "star": [(1.04 * star(), True)],
    "cross": [(cross(), True)],
    "ring": [(regular(64), True), (regular(64, radius=0.56), False)],
}


def coverage(outline: Outline, *, centre: tuple[float, float], radius: float, turn: float = 0.0) -> np.ndarray:
    """How much of each pixel an outline covers: (64, 64), 0..1.

    Args:
        centre: (x, y) of the middle of the outline's box, in pixels.
        radius: half the side of the box, in pixels.
        turn: clockwise, in degrees.
    """
    image = Image.new("L", (SIDE * OVERSAMPLE, SIDE * OVERSAMPLE), 0)
    pen = ImageDraw.Draw(image)
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for points, filled in outline:
        corners = (points @ rotation * radius + np.array(centre)) * OVERSAMPLE
        pen.polygon([tuple(corner) for corner in corners], fill=255 if filled else 0)
    fine = np.asarray(image, dtype=np.float32) / 255
    return fine.reshape(SIDE, OVERSAMPLE, SIDE, OVERSAMPLE).mean(axis=(1, 3))


# Scenes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows. A field that is None is open: `caption` does not mention it, `judge` does not mark it."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    background: str | None = None


ATTRIBUTES = tuple(field.name for field in fields(Scene))


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every complete scene, 2,100 of them, in a fixed order."""
    values = itertools.product(SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS)
    return tuple(Scene(**dict(zip(ATTRIBUTES, row, strict=True))) for row in values)


@cache
def held_out() -> tuple[Scene, ...]:
    """200 scenes, shuffled, that no demo model was trained on: their captions are the test prompts."""
    order = np.random.default_rng(2100).permutation(len(all_scenes()))
    return tuple(all_scenes()[i] for i in order[:200])


@cache
def training_scenes() -> tuple[Scene, ...]:
    """The other 1,900 scenes."""
    hidden = set(held_out())
    return tuple(scene for scene in all_scenes() if scene not in hidden)


def backdrop(background: str, rng: np.random.Generator) -> np.ndarray:
    """An empty background, a little lighter above than below: (64, 64, 3), 0..255."""
    shade = np.array(BACKGROUNDS[background], dtype=np.float32) + rng.uniform(-5, 5)
    slope = 1 + rng.uniform(0.02, 0.07) * np.linspace(1, -1, SIDE, dtype=np.float32)
    return np.broadcast_to(slope[:, None, None] * shade, (SIDE, SIDE, 3))


def compose(behind: np.ndarray, paint: np.ndarray, covered: np.ndarray) -> Image.Image:
    """`paint` (a colour or a picture, 0..255) over `behind` where `covered` (64, 64) is true."""
    mixed = behind + covered[..., None] * (paint - behind)
    return Image.fromarray(np.clip(mixed + 0.5, 0, 255).astype(np.uint8), "RGB")


def pose(size: str, place: str, rng: np.random.Generator) -> dict:
    """Where exactly an object stands, for `coverage`: a pixel, some percent and a few degrees are left to chance."""
    x, y = PLACES[place] + rng.uniform(-1.5, 1.5, size=2)
    return {"centre": (x, y), "radius": SIZES[size] * rng.uniform(0.93, 1.07), "turn": rng.uniform(-8, 8)}


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A picture of a complete scene, 64x64 RGB; the same `rng` state draws the same picture."""
    missing = [name for name in ATTRIBUTES if getattr(scene, name) is None]
    if missing:
        raise ValueError(f"The scene leaves {', '.join(missing)} open: only a complete scene can be drawn.")
    behind = backdrop(scene.background, rng)
    paint = np.array(COLOURS[scene.colour], dtype=np.float32) + rng.uniform(-9, 9, size=3).astype(np.float32)
    return compose(behind, paint, coverage(SHAPES[scene.shape], **pose(scene.size, scene.place, rng)))


# Captions -----------------------------------------------------------------------------------------------------------


def caption(scene: Scene) -> str:
    """A scene in words; what is open is not mentioned: `a small red circle on a white background, on the left`."""
    adjectives = [word for word in (scene.size, scene.colour) if word is not None]
    noun = CLASS_NOUN if scene.shape is None else scene.shape
    article = "an" if [*adjectives, noun][0][0] in "aeiou" else "a"
    text = " ".join([article, *adjectives, noun])
    if scene.background is not None:
        text += f" on a {scene.background} background"
    if scene.place is not None:
        text += f", {WORDS_FOR_PLACES[scene.place]}"
    return text


def parse(text: str) -> Scene:
    """The scene that a caption describes; unknown words are passed over, what is not mentioned stays None."""
    words = re.findall(r"[a-z]+", text.lower())
    values_of = {
        "shape": SHAPES, "colour": COLOURS, "size": SIZES, "place": PLACES, "background": BACKGROUNDS,
    }  # fmt: skip
    return Scene(**{name: next((word for word in words if word in values), None) for name, values in values_of.items()})


OPENINGS = ("a picture of ", "a photo of ")


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as the models were trained on: mostly complete, sometimes vague, sometimes (10 %) empty.

    Empty captions teach the unconditional half of guidance; the generic noun gives DreamBooth a class to start from.
    """
    if rng.random() < 0.10:
        return ""
    opened = {name: rng.random() < 0.12 for name in ("size", "place", "background")}
    generic = rng.random() < 0.08
    opened |= {"shape": generic, "colour": rng.random() < (0.5 if generic else 0.03)}
    text = caption(replace(scene, **{name: None for name, is_open in opened.items() if is_open}))
    return rng.choice(OPENINGS) + text if rng.random() < 0.06 else text
