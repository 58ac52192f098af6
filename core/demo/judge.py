"""Reads a picture of the world by rule: colour, place, shape, size, background. Numpy and Pillow only.

How: the frame of the picture gives the background (a colour with a slope from top to bottom); what differs from it is
the object; its bounding box gives place and size, its inner pixels the colour, and its silhouette, scaled to a standard
size, is correlated with silhouettes of every shape.

How far to trust it: on drawn pictures that went through the demo's autoencoder every attribute is right in at least
98 % of cases (`tests/core/test_demo.py`); `docs/demo.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from .things import CANDY, POST
from .world import ATTRIBUTES, BACKGROUNDS, COLOURS, PLACES, SHAPES, SIDE, SIZES, Outline, Scene, coverage

CROP = 24
"""Silhouettes are compared at 24x24 pixels."""
VISIBLE = 28.0
"""Least distance from the background, in 8-bit RGB, at which a pixel belongs to the object."""
THING = "thing"
SECOND = "second thing"
THING_CORRELATION = 0.80
"""A silhouette is the thing's when it correlates so much with it, and more than with every shape of the world."""


@dataclass(frozen=True)
class Found:
    """What was found in a picture. `silhouette` is (24, 24), 0..1; pixels are (x, y)."""

    background: np.ndarray
    colour: np.ndarray
    centre: tuple[float, float]
    radius: float
    silhouette: np.ndarray


def find(image: Image.Image) -> Found | None:
    """The object of a picture, or None where nothing stands out from the background."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)
    background = fit_background(pixels)
    distance = np.linalg.norm(pixels - background, axis=-1)
    visible = distance > VISIBLE
    if visible.sum() < 25:
        return None
    full = np.quantile(distance[visible], 0.4)  # pixels at the edge are paler than the object itself
    covered = np.clip((distance / full - 0.15) / 0.7, 0, 1)
    solid = covered > 0.5
    columns, rows = (np.flatnonzero(solid.sum(axis) >= 2) for axis in (0, 1))  # a single stray pixel does not count
    if len(columns) == 0 or len(rows) == 0:
        return None
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    centre, radius = ((left + right) / 2, (top + bottom) / 2), max(right - left, bottom - top) / 2
    inner = solid.copy()
    inner[1:-1, 1:-1] &= solid[:-2, 1:-1] & solid[2:, 1:-1] & solid[1:-1, :-2] & solid[1:-1, 2:]
    colour = np.median(pixels[inner if inner.sum() >= 6 else solid], axis=0)
    return Found(background[SIDE // 2, SIDE // 2], colour, centre, radius, crop(covered, centre, radius))


def fit_background(pixels: np.ndarray) -> np.ndarray:
    """The background behind the object, (64, 64, 3): a colour with a vertical slope, fitted to the picture's frame."""
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[2:-2, 2:-2] = False
    # an object may touch the frame
    frame &= np.linalg.norm(pixels - np.median(pixels[frame], axis=0), axis=-1) < 3 * VISIBLE
    height = np.linspace(-1, 1, SIDE)
    terms = np.stack([np.ones(SIDE), height], axis=1)
    solution, *_ = np.linalg.lstsq(terms[np.nonzero(frame)[0]], pixels[frame], rcond=None)
    return np.repeat((terms @ solution)[:, None], SIDE, axis=1).astype(np.float32)


def crop(covered: np.ndarray, centre: tuple[float, float], radius: float) -> np.ndarray:
    """The square around an object, scaled to 24x24; beyond the picture's edge there is nothing."""
    pad = SIDE // 2
    image = Image.fromarray(np.pad(covered, pad).astype(np.float32))
    box = (centre[0] - radius + pad, centre[1] - radius + pad, centre[0] + radius + pad, centre[1] + radius + pad)
    return np.asarray(image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=box))


@cache
def templates() -> tuple[tuple[str, ...], np.ndarray]:
    """Silhouettes of all shapes and of both things, a few degrees turned, cropped as `find` does: names, unit vectors."""
    outlines: dict[str, Outline] = {**SHAPES, THING: CANDY, SECOND: POST}
    names, rows = [], []
    for name, outline in outlines.items():
        for turn in range(-9, 10, 3):
            for radius in SIZES.values():
                covered = coverage(outline, centre=(32, 32), radius=radius, turn=turn)
                solid = covered > 0.5
                columns, lines = np.flatnonzero(solid.any(0)), np.flatnonzero(solid.any(1))
                left, right, top, bottom = columns[0], columns[-1] + 1, lines[0], lines[-1] + 1
                half = max(right - left, bottom - top) / 2
                names.append(name)
                rows.append(unit(crop(covered, ((left + right) / 2, (top + bottom) / 2), half)))
    return tuple(names), np.stack(rows)


def unit(silhouette: np.ndarray) -> np.ndarray:
    """Flat, without its mean, of length 1: the dot product of two is their correlation."""
    flat = silhouette.ravel() - silhouette.mean()
    return flat / max(np.linalg.norm(flat), 1e-6)


def correlations(silhouette: np.ndarray) -> dict[str, float]:
    """How well a silhouette agrees with each shape and with both things, -1..1, over all turns."""
    names, rows = templates()
    scores = rows @ unit(silhouette)
    return {
        name: float(scores[[i for i, other in enumerate(names) if other == name]].max())
        for name in dict.fromkeys(names)
    }


def nearest(value: Sequence[float], named: dict[str, tuple]) -> str:
    return min(named, key=lambda name: float(np.linalg.norm(np.subtract(value, named[name]))))


def read(image: Image.Image) -> Scene:
    """What a picture shows. Where no object is found, only the background is read."""
    found = find(image)
    if found is None:
        frame = fit_background(np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float32))
        return Scene(background=nearest(frame[SIDE // 2, SIDE // 2], BACKGROUNDS))
    scores = correlations(found.silhouette)
    return Scene(
        shape=max(SHAPES, key=scores.__getitem__),
        colour=nearest(found.colour, COLOURS),
        size=min(SIZES, key=lambda size: abs(np.log(found.radius / SIZES[size]))),
        place=nearest(found.centre, PLACES),
        background=nearest(found.background, BACKGROUNDS),
    )


def adherence(images: Iterable[Image.Image], scenes: Iterable[Scene]) -> dict[str, float]:
    """The fraction of pictures, 0..1, that show what the scene names: per attribute, and `all` attributes at once.

    Attributes that a scene leaves open are not counted; one that no scene names is absent from the result.
    """
    right: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "all")}
    for image, scene in zip(images, scenes, strict=True):
        seen = read(image)
        named = [name for name in ATTRIBUTES if getattr(scene, name) is not None]
        hits = [getattr(seen, name) == getattr(scene, name) for name in named]
        for name, hit in zip(named, hits, strict=True):
            right[name].append(hit)
        right["all"].append(all(hits))
    return {name: sum(hits) / len(hits) for name, hits in right.items() if hits}


def thing_score(image: Image.Image) -> float:
    """How much better the silhouette fits the thing than any shape of the world, -2..2; above 0: rather the thing."""
    found = find(image)
    if found is None:
        return -2.0
    scores = correlations(found.silhouette)
    return scores[THING] - max(scores[name] for name in SHAPES)


def shows_thing(image: Image.Image, thing: str = THING) -> bool:
    """Whether the object is the new thing, or the `SECOND` one, by its silhouette."""
    found = find(image)
    if found is None:
        return False
    scores = correlations(found.silhouette)
    return scores[thing] >= THING_CORRELATION and max(scores, key=scores.__getitem__) == thing
