"""The crop and mask tool: one picture of the set opened large in the browser (`js/picture_tool.js`), what it sends back checked and saved.

gr.ImageEditor was tried (6.31, Chromium): it returns pixels and no crop box, its canvas cannot be reached by keyboard, and without WebGL it logs
errors. So this is a canvas of ours. A crop is noted beside the picture and honoured by the data layer (`core.data.beside`): the picture stays
as it is, which a person's own folder was promised, and a mask keeps fitting it whatever part is cut out.
"""

import base64
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from PIL import Image

from ....core.config import DataConfig
from ....core.data import beside
from ....core.data.beside import BadCrop, Cut
from ....core.data.buckets import bucket_sizes
from ....core.data.inspecting import inspect_one
from ....core.data.pictures import BadPicture
from ....core.findings import printable
from ...parts.previews import Previews
from ...parts.translation import with_words
from .captions import Refused, keep_replaced

_SCRIPT = (Path(__file__).parents[2] / "js" / "picture_tool.js").read_text(encoding="utf-8")
_SIDE = 1024
"""Pixels of the longer side of the copy that is worked on; a mask is painted at it and brought to the picture's size."""
_MOST_SENT = 8 * 2**20
_PNG = "data:image/png;base64,"
_CLOSED = {"stamp": "", "state": "closed"}


@dataclass(frozen=True)
class Marks:
    """What the tool wants saved of a picture. `cut` None = the whole picture; `mask`: None = as it is, "none" = no mask, else grey, any size."""

    folder: str
    name: str
    cut: Cut | None
    mask: Image.Image | Literal["none"] | None


class PictureTool:
    """The component in the current layout, and what it shows."""

    def __init__(self, previews: Previews) -> None:
        self.previews = previews
        self.component = gr.HTML(
            value="", html_template='<dialog class="rs-tool"></dialog>', js_on_load=with_words(_SCRIPT), apply_default_css=False, shown=_CLOSED, elem_id="picture-tool",
        )  # fmt: skip

    def opened(self, data: DataConfig, folder: Path, name: str) -> Any:
        """An update that opens a picture of the folder. Raises Refused where it cannot be."""
        picture = folder / name
        width, height = picture_size(picture)
        url = self.previews.thumbnail(picture, _SIDE)
        if url is None:
            raise Refused(f"{printable(name)} cannot be shown.")
        try:
            cut = beside.read_cut(picture, width, height)
        except BadCrop:
            cut = None  # the checks name it; the tool makes a new one
        mask = beside.found_mask(picture)
        shown = {
            **self._stamped("open"), "name": name, "folder": str(folder), "url": url, "width": width, "height": height,
            "cut": None if cut is None else {"left": cut.left, "top": cut.top, "right": cut.right, "bottom": cut.bottom},
            "mask": self.previews.thumbnail(mask, _SIDE, lossless=True) if mask.is_file() else None, "area": data.resolution**2, "shapes": _shapes(data),
            "masks": data.masked_training != "off",
        }  # fmt: skip
        return gr.HTML(shown=shown)

    def closed(self) -> Any:
        """An update that closes it."""
        return gr.HTML(shown=self._stamped("closed"))

    def kept(self, reason: str) -> Any:
        """An update that keeps it open, with what was done, and says why it was not saved."""
        return gr.HTML(shown={**self._stamped("kept"), "error": reason})

    @staticmethod
    def _stamped(state: str) -> dict[str, str]:
        return {"stamp": str(time.monotonic_ns()), "state": state}


def picture_size(picture: Path) -> tuple[int, int]:
    """(width, height) of a picture the right way up. Raises Refused where it cannot be read."""
    found = inspect_one(picture)
    if isinstance(found, BadPicture):
        raise Refused(f"{printable(picture.name)} cannot be used: {found.message}. {found.remedy}")
    return found.width, found.height


def _shapes(data: DataConfig) -> list[tuple[str, str]]:
    """(text, "width:height") of the shapes that pictures are trained in, the square first."""
    square = (data.resolution, data.resolution)
    try:
        sizes = bucket_sizes(data.resolution, data.bucket_step) if data.aspect_buckets else (square,)
    except ValueError:
        return []  # the mark at the resolution says what is wrong with it
    ordered = sorted(sizes, key=lambda size: (size != square, size[0] < size[1], abs(size[0] - size[1]), size))
    kinds = {0: "square", 1: "landscape", -1: "portrait"}
    return [(f"{w} × {h} ({kinds[(w > h) - (w < h)]})", f"{w}:{h}") for w, h in ordered]


def read_marks(raw: str | None) -> Marks:
    """What the tool sent, checked. Raises Refused for what this page's own script would never send."""
    unreadable = "What was drawn arrived in a form that cannot be read. Reload the page."
    try:
        if raw is None or len(raw) > _MOST_SENT:
            raise Refused(unreadable)
        sent = json.loads(raw)
        folder, name, cut, mask = sent["folder"], sent["name"], sent["cut"], sent["mask"]
        sides = None if cut is None else tuple(cut[side] for side in ("left", "top", "right", "bottom"))
        if (
            not isinstance(folder, str)
            or not isinstance(name, str)
            or (sides is not None and any(type(side) is not int for side in sides))
        ):
            raise Refused(unreadable)
        return Marks(
            folder, name, None if sides is None else Cut(*sides), None if mask is None else _read_mask(mask["png"])
        )
    except (ValueError, TypeError, KeyError, OSError, RecursionError, Image.DecompressionBombError) as error:
        raise error if isinstance(error, Refused) else Refused(unreadable) from error


def _read_mask(png: object) -> Image.Image | Literal["none"]:
    if png == "":
        return "none"
    if not isinstance(png, str) or not png.startswith(_PNG):
        raise ValueError("no PNG")
    data = base64.b64decode(png[len(_PNG) :], validate=True)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if max(image.size) > _SIDE:
            raise ValueError("larger than what is worked on")
        return image.convert("L")


def save_marks(folder: Path, marks: Marks) -> None:
    """Save crop and mask beside the picture. The mask before is moved into a hidden folder `.replaced`, because a person may have made it elsewhere.

    Raises: Refused, OSError.
    """
    picture = folder / marks.name
    size = picture_size(picture)
    crop_file, mask_file, before = beside.crop_path(picture), beside.mask_path(picture), beside.found_mask(picture)
    for file in (crop_file, *([mask_file, before] if marks.mask is not None else [])):
        _may_change(file)
    mask = marks.mask
    try:
        cut = None if marks.cut is None else beside.checked(marks.cut, *size)
    except BadCrop as bad:
        raise Refused(f"{bad.message[0].upper()}{bad.message[1:]}. {bad.remedy}") from None
    if isinstance(mask, Image.Image):
        mask = mask.resize(size, Image.Resampling.BILINEAR)
        seen = mask if cut is None else mask.crop((cut.left, cut.top, cut.right, cut.bottom))
        if seen.getextrema()[1] < 128:
            raise Refused("The mask leaves nothing to train on in what is kept. Paint some of it with “Train here”.")
    beside.write_cut(picture, cut, *size)
    if mask is None:
        return
    if isinstance(mask, Image.Image):
        keep_replaced(mask_file)
        beside.write_mask(picture, mask)
        return
    while (before := beside.found_mask(picture)).is_file():  # ours, then OneTrainer's, which would count again
        keep_replaced(before)
        before.unlink()


def _may_change(file: Path) -> None:
    """Raises Refused for a file that is another one's, or that its owner protected."""
    if file.is_symlink():
        raise Refused(f"{file.name} is a link to another place; change it there.")
    if file.exists() and not file.stat().st_mode & 0o222:
        raise Refused(f"{file.name} is write-protected; take that off in its properties first.")
