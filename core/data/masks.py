"""Masks: which part of a picture trains. From `photo-mask.png` beside `photo.jpg` (white = train here), else from the picture's own transparency.

A mask goes through the crop, resize and flip of its picture, then to the cells of the latents. What a cell counts is decided when it
trains (`weights`), so the cache holds plain shares, and neither `hard` nor a weight for the background makes an entry anew.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..findings import Finding
from . import pictures, transform
from .beside import by_picture
from .listing import Listing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mask:
    """Where a picture's mask is: a file beside it, or (path None) its own transparency; and the sha256 of the file it lies in."""

    path: Path | None
    digest: str


@dataclass(frozen=True)
class Found:
    """The mask of one picture, None where all of it trains, and what is wrong with it."""

    mask: Mask | None = None
    problems: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """What is known of a mask after it was read once. `white`: the box around everything that is not black; None = all black."""

    size: tuple[int, int]
    digest: str
    white: tuple[int, int, int, int] | None
    full: bool


@dataclass
class Masks:
    """The masks of a folder's pictures."""

    on: bool
    files: dict[str, Path]
    """Name of a picture without its ending, folded -> its mask."""
    folder: Path
    allowed: bool = True
    """Whether `masked_training` is about these pictures."""

    def of(self, path: Path, picture: pictures.Inspection, crop: transform.Crop) -> Found:
        """The mask of a sound picture. `crop`: what of it trains."""
        if not self.on:
            return Found()
        file = self.files.get(path.stem.casefold())
        where = path if file is None else file
        try:
            seen = _seen(where, alpha=file is None)
        except pictures.BadPicture as bad:
            return _wrong(where, f"the mask cannot be used: {bad.message}.", bad.remedy, "mask-bad")
        if seen is None or (file is None and seen.full):
            return Found()
        if seen.size != (picture.width, picture.height):
            width, height = seen.size
            return _wrong(
                where,
                f"the mask has {width} x {height} pixels, its picture {path.name} {picture.width} x {picture.height}.",
                "Save the mask in the size of its picture.",
                "mask-size",
            )
        if seen.white is None:
            what = "the picture is transparent everywhere" if file is None else "the mask is black everywhere"
            return _wrong(
                where, f"{what}, so nothing of {path.name} would train.",
                "Paint white what is to be learned, or take the mask away: the whole picture trains then.", "mask-empty",
            )  # fmt: skip
        left, top, right, bottom = seen.white
        if right <= crop.left or left >= crop.right or bottom <= crop.top or top >= crop.bottom:
            return _wrong(
                where, f"the crop to {crop.size[0]} x {crop.size[1]} cuts off everything that the mask of {path.name} leaves.",
                "Crop the picture and its mask yourself around the subject.", "mask-empty",
            )  # fmt: skip
        return Found(Mask(file, seen.digest))

    def findings(self) -> list[Finding]:
        """Masks that do nothing because masks are off."""
        if self.on or not self.files:
            return []
        one = len(self.files) == 1
        words = "1 picture has a mask" if one else f"{len(self.files)} pictures have a mask"
        why = "masks are off" if self.allowed else "class pictures train whole"
        remedy = "Set masked_training to soft to train on the white parts alone." if self.allowed else ""
        return [Finding("note", str(self.folder), f"{words}, which {'does' if one else 'do'} nothing: {why}.", remedy, "mask-unused")]  # fmt: skip


def _wrong(where: Path, message: str, remedy: str, code: str) -> Found:
    return Found(None, (Finding("error", str(where), message, remedy, code),))


def taken(folder: Path, listing: Listing, on: bool, allowed: bool = True) -> Masks:
    """The masks of a folder's pictures. Those without a picture are reported by the listing."""
    stems = {path.stem.casefold() for path in listing.pictures}
    files = {stem: path for stem, path in by_picture(listing.masks).items() if stem in stems}
    return Masks(on and allowed, files, folder, allowed)


_known: dict[tuple, _Seen | None] = {}
_MOST_KNOWN = 300_000


def _seen(path: Path, *, alpha: bool) -> _Seen | None:
    """What is known of a mask; None for a picture without transparency. Read once while name, size and times are as before."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise pictures.BadPicture(f"cannot be read ({error.strerror})", "Check that you may read it.") from None
    key = (str(path), alpha, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if key not in _known:
        if len(_known) > _MOST_KNOWN:
            _known.clear()
        data = pictures.read_bytes(path)
        shades = pictures.shades(data, alpha=alpha)
        _known[key] = None if shades is None else _Seen(
            shades.size, hashlib.sha256(data).hexdigest(), shades.getbbox(), shades.getextrema() == (255, 255)
        )  # fmt: skip
    return _known[key]


def cut(shades: Image.Image, crop: transform.Crop, *, flip: bool) -> np.ndarray:
    """float32 (H, W) in 0..1: a mask at the bucket's size. Bilinear, because the ripples of a sharper filter would make black grey."""
    return transform.apply(shades, crop, flip=flip, resample=Image.Resampling.BILINEAR).astype(np.float32) / 255


def to_cells(pixels: "Tensor", height: int, width: int) -> "Tensor":
    """(H, W) -> (1, h, w): the white share of each latent cell."""
    down, across = pixels.shape[0] // height, pixels.shape[1] // width
    return pixels.reshape(height, down, width, across).mean((1, 3))[None]


def weights(cells: "Tensor", *, hard: bool, background: float) -> "Tensor":
    """What each cell of a masked picture counts, like cells (white shares): `background` where it is black, 1 where it is white."""
    shares = (cells >= 0.5).to(cells) if hard else cells
    return background + (1 - background) * shares
