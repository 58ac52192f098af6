"""Files beside a picture that say what of it is trained on. The picture itself is never changed.

    photo.png  photo.txt  photo-crop.json  photo-mask.png

`photo-crop.json`: the part that is kept, in pixels of the picture the right way up, with the size of the picture that it was made for:
`{"left": 10, "top": 0, "right": 90, "bottom": 80, "width": 96, "height": 80}`. Training sees that part alone, as though the rest did not exist.

`photo-mask.png`: as large as the picture the right way up; white = trained on here, black = not. It covers the whole picture, also where a
part is cut out, so that either can be made anew without the other. A file with such a name is never a picture to train on. OneTrainer's
`photo-masklabel.png` is such a mask, too, where there is no `photo-mask.png`; its `photo-condlabel.png` is not read, and no picture either.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from .. import platform_calls
from ..errors import Trouble

_MASK_ENDING = "-mask"
_LABEL_ENDING = "-masklabel"
_CONDITION_ENDING = "-condlabel"
_CROP_ENDING = "-crop.json"
SMALLEST = 16
"""Pixels of a side of a crop, at least."""
_MAX_BYTES = 4096


class BadCrop(Trouble, ValueError):
    """A crop cannot be honoured: the reason, as a part of a sentence, and what to do about it."""


@dataclass(frozen=True)
class Cut:
    """The part of a picture that is kept, in pixels of the whole picture the right way up; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def is_mask(name: str) -> bool:
    """Whether a file of this name is the mask of a picture, and so no picture itself: `photo-mask.png`."""
    return _before(name, _MASK_ENDING) is not None or is_label(name)


def is_label(name: str) -> bool:
    """Whether it is a mask as OneTrainer names them, which counts where there is none of our name: `photo-masklabel.png`."""
    return _before(name, _LABEL_ENDING) is not None


def is_beside(name: str) -> bool:
    """Whether a file of this name belongs to a picture and is none itself: a mask, or a condition of OneTrainer."""
    return is_mask(name) or _before(name, _CONDITION_ENDING) is not None


def masked_stem(name: str) -> str:
    """The name, without ending, of the picture whose mask this is: `photo-mask.png` -> `photo`."""
    return _before(name, _LABEL_ENDING) or _before(name, _MASK_ENDING) or ""


def by_picture(masks: Iterable[Path]) -> dict[str, Path]:
    """Name of a picture without its ending, folded -> its mask."""
    first = sorted(masks, key=lambda path: not is_label(path.name))  # what comes later stands
    return {masked_stem(path.name).casefold(): path for path in first}


def _before(name: str, ending: str) -> str | None:
    path = Path(name)
    fits = path.suffix.lower() == ".png" and path.stem.lower().endswith(ending) and len(path.stem) > len(ending)
    return path.stem[: -len(ending)] if fits else None


def mask_path(picture: Path) -> Path:
    """Where the mask of a picture is written."""
    return picture.with_name(f"{picture.stem}{_MASK_ENDING}.png")


def found_mask(picture: Path) -> Path:
    """Where the mask of a picture lies, or would lie: OneTrainer's where that alone is there."""
    label = picture.with_name(f"{picture.stem}{_LABEL_ENDING}.png")
    return label if label.is_file() and not mask_path(picture).is_file() else mask_path(picture)


def crop_path(picture: Path) -> Path:
    """Where the crop of a picture is noted, or would be."""
    return picture.with_name(f"{picture.stem}{_CROP_ENDING}")


def checked(cut: Cut, width: int, height: int) -> Cut:
    """The part, where it is one of a picture of this size. Raises BadCrop."""
    inside = cut.left >= 0 and cut.top >= 0 and cut.right <= width and cut.bottom <= height
    least = min(SMALLEST, width, height)
    if not inside or cut.width < least or cut.height < least:
        raise BadCrop(
            f"the crop from ({cut.left}, {cut.top}) to ({cut.right}, {cut.bottom}) is no part of a picture of {width} x {height} px with "
            f"at least {SMALLEST} px a side",
            "Crop it again, or delete the crop.",
        )
    return cut


def read_cut(picture: Path, width: int, height: int) -> Cut | None:
    """The part of a picture of `width` x `height` (the right way up) that is kept; None = all of it. Raises BadCrop."""
    file = crop_path(picture)
    again = f"Crop it again, or delete {file.name}."
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadCrop(f"{file.name} cannot be read ({error.strerror})", "Check that you may read it.") from None
    try:
        noted = json.loads(raw) if len(raw) <= _MAX_BYTES else None
        numbers = {key: noted[key] for key in ("left", "top", "right", "bottom", "width", "height")}
    except (ValueError, TypeError, KeyError):
        raise BadCrop(f"{file.name} is no crop: left, top, right, bottom, width and height are needed", again) from None
    if any(type(number) is not int for number in numbers.values()):
        raise BadCrop(f"{file.name} is no crop: its six values are whole numbers of pixels", again)
    made_for = numbers.pop("width"), numbers.pop("height")
    if made_for != (width, height):
        raise BadCrop(
            f"{file.name} was made for a picture of {made_for[0]} x {made_for[1]} px; this one has {width} x {height}",
            again,
        )
    try:
        return checked(Cut(**numbers), width, height)
    except BadCrop as bad:
        raise BadCrop(f"{file.name}: {bad.message}", again) from None


def write_cut(picture: Path, cut: Cut | None, width: int, height: int) -> None:
    """Note the part that is kept; None = all of it. Raises BadCrop, OSError."""
    file = crop_path(picture)
    if cut is None:
        file.unlink(missing_ok=True)
        return
    noted = {**asdict(checked(cut, width, height)), "width": width, "height": height}
    platform_calls.write_atomically(file, f"{json.dumps(noted)}\n".encode())


def write_mask(picture: Path, mask: Image.Image | None) -> None:
    """Save a grey mask of the picture's size beside it; None = there is none any more. Raises OSError."""
    file = mask_path(picture)
    if mask is None:
        file.unlink(missing_ok=True)
        return
    data = io.BytesIO()
    mask.convert("L").save(data, "PNG", optimize=False)
    platform_calls.write_atomically(file, data.getvalue())
