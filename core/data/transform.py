"""From a picture to the pixels of its bucket: crop to the bucket's shape, then one Lanczos resize."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from .buckets import Size


@dataclass(frozen=True)
class Crop:
    """What is cut out of an upright picture (pixels, may be fractional) and the size that it is brought to."""

    left: float
    top: float
    right: float
    bottom: float
    size: Size

    @property
    def scale(self) -> float:
        """How much larger the result is than what was cut out; above 1 the picture is enlarged, that is, blurred."""
        return self.size[0] / (self.right - self.left)

    def kept(self, width: int, height: int) -> float:
        """The share of a `width` x `height` picture that stays, 0..1."""
        return (self.right - self.left) * (self.bottom - self.top) / (width * height)

    def moved(self, x: float, y: float) -> "Crop":
        """The same crop where what it was made for lies at (x, y) of a larger picture."""
        return replace(self, left=self.left + x, top=self.top + y, right=self.right + x, bottom=self.bottom + y)


def crop_for(width: int, height: int, size: Size, *, center: bool, digest: str) -> Crop:
    """The largest part of a picture that has the bucket's shape: its middle, or a place drawn from the picture's own
    sha256.

    Latents are cached, so a picture has one crop, not a new one every epoch; drawn from its content, it is the same in
    every run.
    """
    scale = max(size[0] / width, size[1] / height)
    # never wider than the picture by a rounding error: Pillow refuses a box outside
    cut_width, cut_height = min(width, size[0] / scale), min(height, size[1] / scale)
    if center:
        x = y = 0.5
    else:
        drawn = hashlib.blake2b(f"crop {digest}".encode(), digest_size=16).digest()
        x, y = (int.from_bytes(drawn[i : i + 8], "big") / 2**64 for i in (0, 8))
    left, top = (width - cut_width) * x, (height - cut_height) * y
    return Crop(left, top, min(width, left + cut_width), min(height, top + cut_height), size)


def apply(
    image: Image.Image, crop: Crop, *, flip: bool = False, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> np.ndarray:
    """uint8 (H, W, 3), of a grey image (H, W): `crop` of the image at the bucket's size, mirrored left to right where `flip`.

    Cut and resize are one operation, so a 1 x 5000 picture never becomes a giant on its way.
    """
    picture = image.resize(crop.size, resample, box=(crop.left, crop.top, crop.right, crop.bottom))
    pixels = np.array(picture)
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels
