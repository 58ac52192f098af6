"""Opening picture files: which formats, how large, which way up, in which colours, and what is wrong with
the others.

A picture is read whole into memory once; checks, hash and pixels all come from those same bytes, so a file that changes
meanwhile cannot pass the check and train as something else.
"""

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, features

from ..errors import Trouble
from ..sizes import size
from .looks import SIDES, Look, copy_size, look_at

FORMATS = ("PNG", "JPEG", "WEBP", "BMP") + (("AVIF",) if features.check("avif") else ())
"""What is read. Only these decoders of Pillow ever see a file: every other one would be more code that untrusted bytes
can reach."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp"} | ({".avif"} if "AVIF" in FORMATS else set()))
"""File names that are taken for pictures to train on."""

OTHER_PICTURE_SUFFIXES = frozenset({
    ".avif", ".gif", ".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".psb", ".eps", ".ps", ".svg", ".wmf", ".emf",
    ".ico", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".xcf", ".kra", ".ppm",
    ".pgm", ".pbm", ".pcx", ".dds",
}) - SUFFIXES  # fmt: skip
"""Pictures too, but not read: each is named with the remedy instead of being passed over."""

MAX_PIXELS = 64_000_000
"""Width times height. Larger ones are panoramas and bombs: 64 Mpx already need 192 MB while they are decoded."""

MAX_BYTES = 512 * 2**20
"""Of one file: a 64 Mpx picture with 16 bits a channel, uncompressed, fits."""

_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {5, 6, 7, 8}


class BadPicture(Trouble, ValueError):
    """A file cannot be used as a picture: the reason, as a part of a sentence, and what to do about it."""


@dataclass(frozen=True)
class Inspection:
    """A sound picture: its size in pixels the right way up, the sha256 of the file, what it looks like, and what a person should know
    ("" = nothing)."""

    width: int
    height: int
    digest: str
    look: Look
    remark: str = ""


def read_bytes(path: Path) -> bytes:
    """The file's bytes. Raises BadPicture for anything but an ordinary, readable file of at most `MAX_BYTES`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise BadPicture("not an ordinary file", "Put the picture itself there.")
        if status.st_size == 0:
            raise BadPicture("the file is empty (0 bytes)", "Copy it again from where it came, or delete it.")
        if status.st_size > MAX_BYTES:
            raise BadPicture(
                f"the file has {size(status.st_size)}; at most {size(MAX_BYTES)} are read",
                "Save a smaller copy.",
            )
        return path.read_bytes()
    except OSError as error:
        raise BadPicture(
            f"cannot be read ({error.strerror})", "Check that it is still there and that you may read it."
        ) from None


def inspect(data: bytes, digest: str | None = None) -> Inspection:
    """Decode the picture in full, give its size and measure it; JPEGs at a half to an eighth of their size where the measures need no
    more, which reads every byte in a third of the time. `digest`: the SHA-256 of `data` where it is known.

    Raises:
        BadPicture: it is not a picture, is of a format that is not read, is too large, or is broken.
    """
    with _open(data) as image:
        if image.format == "PNG":
            _verify(data)
        orientation, remark = _orientation(image)
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            image.draft(None, copy_size(width, height, SIDES[0]))
        _load(image)
        rgb = _to_rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.resize(copy_size(*rgb.size, SIDES[0]), Image.Resampling.LANCZOS, reducing_gap=2.0).transpose(
            _UPRIGHT[orientation]
        )
    if orientation in _SWAPS_SIDES:
        width, height = height, width
    return Inspection(
        width, height, hashlib.sha256(data).hexdigest() if digest is None else digest, look_at(rgb), remark
    )


def decode(data: bytes) -> Image.Image:
    """The picture's pixels: RGB, 8 bits, the right way up, without any metadata; of an animation the first frame.

    Transparent pixels are laid onto white, 16-bit ones scaled to 8 bits, palettes, grey and CMYK converted. Colour
    profiles are not applied (as in the usual training scripts): the numbers are taken for sRGB.

    Raises:
        BadPicture: as `inspect`.
    """
    with _open(data) as image:
        orientation, _ = _orientation(image)
        _load(image)
        rgb = _to_rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    bare = Image.new("RGB", rgb.size)  # a new picture carries no EXIF, profile or text chunks
    bare.paste(rgb)
    return bare


def shades(data: bytes, *, alpha: bool) -> Image.Image | None:
    """The picture as a mask: grey ("L"), the right way up. `alpha`: its opacity, None where it has no transparency; else its brightness,
    with transparent pixels black.

    Raises:
        BadPicture: as `inspect`.
    """
    with _open(data) as image:
        if alpha and not image.has_transparency_data:
            return None
        if image.format == "PNG":
            _verify(data)
        orientation, _ = _orientation(image)
        _load(image)
        if alpha:
            grey = image.convert("RGBA").getchannel("A")
        elif image.has_transparency_data:
            colours = image.convert("RGBA")
            grey = Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours).convert("L")
        else:
            grey = _to_rgb(image).convert("L")
    return grey.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else grey


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadPicture("the file is empty (0 bytes)", "Copy it again from where it came, or delete it.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("more than") from None
    except Image.UnidentifiedImageError:
        raise _not_a_picture(data) from None
    except Exception as error:  # noqa: BLE001 - decoders raise anything on untrusted bytes, and all of it is this finding
        raise _broken(error) from None
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} = {width * height / 1e6:.0f} Mpx, more than")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # noqa: BLE001 - as above: truncated data, wrong checksums, text-chunk bombs ...
        raise _broken(error) from None


def _verify(data: bytes) -> None:
    """A PNG's checksums, which Pillow passes over when it only decodes: a flipped bit would train as a smear."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()
    except Exception as error:  # noqa: BLE001 - as above
        raise _broken(error) from None


def _orientation(image: Image.Image) -> tuple[int, str]:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1), ""
    except Exception as error:  # noqa: BLE001 - the pixels are fine; only the orientation is unknown
        return 1, f"its EXIF data cannot be read ({type(error).__name__}), so it is taken as it lies"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey: Pillow's own conversion would clip, not scale
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _too_large(how: str) -> BadPicture:
    return BadPicture(
        f"it has {how} {MAX_PIXELS / 1e6:.0f} Mpx", "Save a smaller copy: training scales it down anyway."
    )


def _broken(error: Exception) -> BadPicture:
    reason = str(error).strip()
    return BadPicture(
        f"it is broken or cut off ({reason if reason else type(error).__name__})",
        "Copy or download it again, or open it in an image editor and save it as PNG.",
    )


def _not_a_picture(data: bytes) -> BadPicture:
    head = data[:512].lstrip()
    lowered = head.lower()
    convert = "Convert it to PNG or JPEG."
    again = "It is probably a failed download: fetch it again."
    if lowered.startswith((b"<svg", b"<?xml")) or b"<svg" in lowered:
        return BadPicture("it is an SVG or XML text, not a picture of pixels", convert)
    if lowered.startswith(b"<"):
        return BadPicture("it is a web page (HTML), not a picture", again)
    if head.startswith(b"version https://git-lfs"):
        return BadPicture(
            "it is a git-lfs pointer, not the picture", "Run `git lfs pull` in the repository it came from."
        )
    known = {
        b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "PSD", b"%!PS": "EPS", b"\xd7\xcd\xc6\x9a": "WMF",
        b"%PDF": "PDF", b"PK\x03\x04": "a zip archive", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL",
    }  # fmt: skip
    for signature, name in known.items():
        if head.startswith(signature):
            return BadPicture(f"it is {name}, which is not read, whatever its ending", convert)
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        name = "AVIF" if data[8:12] == b"avif" else "HEIC"
        return BadPicture(f"it is {name}, which this installation cannot read", convert)
    if not data.strip(b"\0"):
        return BadPicture("it consists of zero bytes only", "Copy it again from where it came, or delete it.")
    return BadPicture(
        f"it is not a picture of a known format ({', '.join(FORMATS)})", "Save it as PNG or JPEG, or remove it."
    )
