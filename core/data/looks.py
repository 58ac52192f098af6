"""What a picture looks like in a few numbers: how sharp it is, and a fingerprint by which nearly the same pictures are found.

Both are measured on a small copy, and only once for each picture (`inspecting`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDES = (512, 256, 128, 64)
"""Sharpness is measured on copies with the area of these squares, never enlarged. Above 512 px a milder blur is not looked for."""

BLURRED = 0.4
"""Sharpness below it is reported. Measured at 512 px on 36 pictures (photographs and graphics of scikit-image, scikit-learn and Gradio,
demo pictures, screenshots): as they are 0.67 to 0.91, one colour gradient 0.21; after a Gaussian blur of 1 px 1 of the 36 is below, of
2 px 18, of 2.5 px 33, of 3 and 5 px all."""

_TILES = 4
_WINDOW = 9
_LEAST_SIDE = 32  # pixels: a smaller copy has too few in a tile
_LEAST_CONTRAST = 1.0  # grey levels from pixel to pixel, on average, along each axis: below it a tile is plain
_STRUCTURED = 8.0  # standard deviation in grey levels from which a picture without any contrast between neighbours is blurred, not plain
_THUMB = 8
_LEAST_STRUCTURE = 4.0  # standard deviation of the thumbnail, in levels: below it a picture is one plain colour
_MOST_BITS, _LEAST_CORRELATION, _MOST_DIFFERENCE = 12, 0.97, 32.0
MOST_COMPARED = 10_000
"""Pictures among which nearly the same ones are looked for: the time grows with the square; 0.02 s for 1,000, 0.3 s for this number."""


@dataclass(frozen=True)
class Look:
    """sharpness: for each of `SIDES`, 0 (no detail) to 1, None where there is nothing to measure; fingerprint: None for a plain colour."""

    sharpness: tuple[float | None, ...]
    fingerprint: bytes | None

    def sharpness_at(self, resolution: int) -> float | None:
        """At the largest of `SIDES` that is at most `resolution`; the smallest one below that."""
        return next(
            (value for side, value in zip(SIDES, self.sharpness, strict=True) if side <= resolution), self.sharpness[-1]
        )


def copy_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of a copy with the area of a square of `side`; a smaller picture keeps its own."""
    scale = min(1.0, side / (width * height) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def look_at(picture: Image.Image) -> Look:
    """Measure an RGB picture of any size. Cost: about 12 ms beside decoding it."""
    copy = picture.resize(copy_size(*picture.size, SIDES[0]), Image.Resampling.LANCZOS, reducing_gap=2.0)
    grey, values = copy.convert("L"), []
    for side in SIDES:
        size = copy_size(*picture.size, side)
        if size != grey.size:
            grey = grey.resize(size, Image.Resampling.LANCZOS)
        values.append(sharpness(np.asarray(grey)))
    return Look(tuple(values), fingerprint(copy))


def sharpness(grey: np.ndarray) -> float | None:
    """How much of the contrast between neighbouring pixels (H, W; uint8) goes when the picture is blurred: nearly all of it where there was
    fine detail, little where it was blurred before.

    In each of 4 x 4 tiles it is `sum max(0, |dx| - |d blur(x)|) / sum |dx|`, along the axis where it is less (motion blurs one axis); the
    picture has the value of its sharpest tile, so that a blurred background does not count. Noise counts as detail.
    Where no tile has contrast it is 0. None: a side has fewer than 32 pixels, or the picture is plain.

    Source: Crete, Dolmiere, Ladret, Nicolas, "The blur effect", 2007. Differs: tiles; 1 minus their value.
    """
    if min(grey.shape) < _LEAST_SIDE:
        return None
    values = grey.astype(np.int16)
    contrast, shares = zip(_contrast_and_share(values), _contrast_and_share(values.T), strict=True)
    sharp = np.minimum(shares[0], shares[1].T)[np.minimum(contrast[0], contrast[1].T) >= _LEAST_CONTRAST]
    if sharp.size:
        return float(sharp.max())
    return 0.0 if grey.std() >= _STRUCTURED else None


def _contrast_and_share(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each tile of int16 values (4, 4): the mean |difference of neighbours| in a row, and the share of it that a box blur of 9 pixels
    takes away. The blur itself is not needed: the difference of two neighbours in it is that of the pixels 9 apart, divided by 9."""
    half = _WINDOW // 2
    differences = np.abs(values[:, half + 1 : -half] - values[:, half : -half - 1])
    lost = np.maximum(_WINDOW * differences - np.abs(values[:, _WINDOW:] - values[:, :-_WINDOW]), 0)
    total = _tile_sums(differences)
    return total / _tile_sums(np.ones_like(differences)), _tile_sums(lost) / np.maximum(_WINDOW * total, 1)


def _tile_sums(values: np.ndarray) -> np.ndarray:
    """(4, 4) sums of the tiles of (H, W)."""
    starts = [[length * tile // _TILES for tile in range(_TILES)] for length in values.shape]
    return np.add.reduceat(np.add.reduceat(values, starts[0], axis=0, dtype=np.int64), starts[1], axis=1)


def fingerprint(picture: Image.Image) -> bytes | None:
    """200 bytes of an RGB picture: 64 bits, each whether a pixel of a 9 x 8 grey copy is lighter than its left neighbour (a "difference
    hash"), then an 8 x 8 copy in colour. None for a picture of one plain colour."""
    thumb = np.asarray(picture.resize((_THUMB, _THUMB), Image.Resampling.BOX), dtype=np.uint8)
    if thumb.std(axis=(0, 1)).max() < _LEAST_STRUCTURE:
        return None
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes() + thumb.tobytes()


@functools.lru_cache(maxsize=8)
def near_duplicates(fingerprints: Sequence[bytes | None]) -> dict[int, int]:
    """Number of a picture -> the first one that it nearly equals; pictures that equal no earlier one are not in it.

    Nearly the same: at most 12 of the 64 bits differ, and the colour copies correlate by 0.97 or more and differ by at most 32 levels on
    average. Measured on 26 photographs and graphics: found again at half the size, as a JPEG of quality 40 and 15 % brighter 25 of them
    (the other is one plain colour to it), with 3 % cut off each side 17. Of all pairs of 99 different pictures none was reported.

    Args:
        fingerprints: a tuple (results are remembered by it); at most `MOST_COMPARED`, beyond it the answer is empty.
    """
    known = [number for number, each in enumerate(fingerprints) if each is not None]
    if len(known) < 2 or len(fingerprints) > MOST_COMPARED:
        return {}
    rows = np.frombuffer(b"".join(fingerprints[number] for number in known), np.uint8).reshape(len(known), -1)  # type: ignore[misc]
    bits = np.ascontiguousarray(rows[:, :8]).view(np.uint64)[:, 0]
    colours = rows[:, 8:].astype(np.float32)
    first: dict[int, int] = {}
    for row in range(1, len(known)):
        for other in np.flatnonzero(np.bitwise_count(bits[:row] ^ bits[row]) <= _MOST_BITS):
            if int(other) not in first and _alike(colours[row], colours[other]):
                first[row] = int(other)
                break
    return {known[row]: known[other] for row, other in first.items()}


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    if np.abs(one - other).mean() > _MOST_DIFFERENCE:
        return False
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other) >= _LEAST_CORRELATION * float(np.linalg.norm(one) * np.linalg.norm(other))
