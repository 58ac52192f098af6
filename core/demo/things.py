"""The new things for DreamBooth: a candy, a pill with diagonal stripes in two colours of its own, which the picture world lacks; and a
post, an upright one in other colours, to learn beside it in one run (trigger word `vbk`, `presets/demo/dreambooth-post`).

The candy's trigger word is `zwx`, its class noun `shape` (so: `a zwx shape`). `presets/demo/dreambooth` holds five pictures of
it with captions; `draw_thing` draws any number of others, and `judge.shows_thing` recognises it.
"""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from .world import (
    BACKGROUNDS,
    CLASS_NOUN,
    PLACES,
    SIDE,
    SIZES,
    Outline,
    Scene,
    backdrop,
    caption,
    compose,
    coverage,
    pose,
)

TRIGGER = "zwx"
INSTANCE_PROMPT = f"a {TRIGGER} {CLASS_NOUN}"
CLASS_PROMPT = f"a {CLASS_NOUN}"

POST_TRIGGER = "vbk"

STRIPES = ((0, 178, 178), (236, 60, 150))
"""Teal and magenta."""
POST_STRIPES = ((240, 120, 20), (40, 90, 220))
"""Orange and blue."""
STRIPE_WIDTH = 5.0
"""In pixels, across."""


def pill(half_height: float = 0.42) -> np.ndarray:
    """A lying rectangle with round ends, in a box from -1 to 1: no shape of the world is so much wider than high."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 24)
    end = half_height * np.stack([np.cos(angle), np.sin(angle)], axis=1) + np.array([1 - half_height, 0])
    return np.concatenate([end, -end])


CANDY: Outline = [(pill(), True)]
POST: Outline = [(pill()[:, ::-1], True)]
"""Upright: no shape of the world is so much higher than wide."""

SHOWN = (
    Scene(size="large", place="centre", background="white"),
    Scene(size="small", place="left", background="grey"),
    Scene(size="large", place="right", background="navy"),
    Scene(size="large", place="top", background="beige"),
    Scene(size="small", place="bottom", background="black"),
)
"""What the five DreamBooth pictures show, besides the thing."""


def stripes(phase: float, colours: tuple[tuple[int, int, int], ...] = STRIPES) -> np.ndarray:
    """Diagonal stripes in a thing's two colours: (64, 64, 3), 0..255; `phase` shifts them, in stripes."""
    fine = (np.arange(SIDE * 4) + 0.5) / 4
    along = np.add.outer(fine, fine) / np.sqrt(2) / STRIPE_WIDTH + phase
    which = (along.astype(int) % 2).reshape(SIDE, 4, SIDE, 4).mean(axis=(1, 3))[..., None]
    first, second = np.array(colours, dtype=np.float32)
    return first + which * (second - first)


def draw_thing(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The thing, 64x64 RGB, in the size, place and background of `scene`; the same `rng` state, the same picture."""
    return compose(
        backdrop(scene.background, rng),
        stripes(rng.uniform(2, 4)),
        coverage(CANDY, **pose(scene.size, scene.place, rng)),
    )


def draw_post(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The second thing, as `draw_thing` draws the first."""
    return compose(
        backdrop(scene.background, rng),
        stripes(rng.uniform(2, 4), POST_STRIPES),
        coverage(POST, **pose(scene.size, scene.place, rng)),
    )


def thing_caption(scene: Scene, trigger: str = TRIGGER) -> str:
    """`a small zwx shape on a grey background, on the left`."""
    return caption(scene).replace(CLASS_NOUN, f"{trigger} {CLASS_NOUN}")


def thing_scenes() -> list[Scene]:
    """64 scenes for the test "is the new thing there?"; none of them is a scene of the five pictures."""
    places = (*PLACES, None)
    every = [
        Scene(size=size, place=place, background=background)
        for size, place, background in itertools.product((*SIZES, None), places, BACKGROUNDS)
    ]
    every = [scene for scene in every if scene not in SHOWN]
    order = np.random.default_rng(64).permutation(len(every))
    return [every[i] for i in order[:64]]


def thing_prompts(trigger: str = TRIGGER) -> list[str]:
    """The captions of `thing_scenes()`."""
    return [thing_caption(scene, trigger) for scene in thing_scenes()]
