"""Striped and plain things of random outlines, for the autoencoder: what a LoRA may be taught later, except the two things of the demo."""

import numpy as np
from rollout_studio.core.demo import judge, things, world

LIKENESS = 0.78
"""Correlation of silhouettes, -1..1: a little below `judge.THING_CORRELATION`."""
COLOUR_DISTANCE = 90.0
"""Least distance, in 8-bit RGB, of a thing's two colours, in the better order, to those of a thing to be taught."""

Colours = tuple[tuple[int, int, int], ...]


def round_off(points: np.ndarray, times: int = 3) -> np.ndarray:
    """Chaikin's corner cutting: each corner becomes two, a quarter of the way along both its sides."""
    for _ in range(times):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1).reshape(-1, 2)
    return points


def random_outline(rng: np.random.Generator) -> world.Outline:
    """Three to nine corners around a middle, angular or rounded, stretched; one in four with a hole, one in four mirrored."""
    corners = int(rng.integers(3, 10))
    angle = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2 * np.pi / corners + rng.uniform(0, 2 * np.pi)
    points = rng.uniform(0.35, 1, corners)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], axis=1)
    if rng.random() < 0.25:
        points = np.concatenate([points, points[::-1] * [-1, 1]])
        points = points[np.argsort(np.arctan2(points[:, 1], points[:, 0]))]
    points = points * np.exp(rng.uniform(-0.5, 0.5, 2))
    if rng.random() < 0.6:
        points = round_off(points)
    points = world.boxed(points)
    hole = [(points * rng.uniform(0.35, 0.5), False)] if rng.random() < 0.25 else []
    return [(points, True), *hole]


def likeness(outline: world.Outline, names: tuple[str, ...]) -> float:
    """The best correlation, -1..1, of an outline's silhouette with the judge's of `names`."""
    covered = world.coverage(outline, centre=(32, 32), radius=world.SIZES["large"])
    found = judge.correlations(judge.crop(covered, (32, 32), world.SIZES["large"]))
    return max(found[name] for name in names)


def fits(outline: world.Outline, colours: Colours) -> bool:
    """Whether a thing may be trained on: neither its outline nor its two stripes are those of the things to be taught. One colour always may."""
    if likeness(outline, (judge.THING, judge.SECOND)) > LIKENESS:
        return False
    if len(colours) < 2:
        return True
    mine = np.array(colours, dtype=float)
    far = [
        np.linalg.norm(mine - np.array(order), axis=1).max()
        for pair in (things.STRIPES, things.POST_STRIPES)
        for order in (pair, pair[::-1])
    ]
    return bool(np.linalg.norm(mine[0] - mine[1]) > 120 and min(far) > COLOUR_DISTANCE)


def draw_striped(number: int, seed: int) -> np.ndarray:
    """`number` pictures of things, no two alike, one in three of a single colour: uint8 (N, 64, 64, 3)."""
    rng, pictures = np.random.default_rng(seed), []
    while len(pictures) < number:
        outline = random_outline(rng)
        colours = tuple(
            tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(1 if len(pictures) % 3 == 0 else 2)
        )
        if not fits(outline, colours):
            continue
        paint = (
            things.stripes(rng.uniform(2, 4), colours) if len(colours) == 2 else np.array(colours[0], dtype=np.float32)
        )
        size, place = rng.choice(list(world.SIZES)), rng.choice(list(world.PLACES))
        behind = world.backdrop(str(rng.choice(list(world.BACKGROUNDS))), rng)
        pictures.append(
            np.asarray(world.compose(behind, paint, world.coverage(outline, **world.pose(size, place, rng))))
        )
    return np.stack(pictures)
