"""What the page shows of a set of pictures: one page of cards with their captions and marks, the checks, and the class pictures."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.config import DataConfig
from ....core.data import Scan, scan_thing
from ....core.data.beside import BadCrop, Cut, found_mask, read_cut
from ....core.data.captions import clean, from_name, mentions, tag_counts
from ....core.data.inspecting import inspect_one
from ....core.data.pictures import BadPicture
from ....core.data.scanning import Item, located
from ....core.findings import Finding, printable
from ...parts.previews import Previews
from ...parts.words import is_text
from .captions import Draft, DroppedSets, Edits, Kind, caption_file, caption_names, read_caption
from .checks import checks_card, marks_of
from .class_pictures import about_class_pictures, class_card
from .many import Caption, without_trigger

PER_PAGE = 24
_MOST_TAGS = 200
_HINTS = {
    "dropped": "Write what each picture shows. Saving puts a text file beside it.",
    "own": "Write what each picture shows. Nothing is written into your folder until you press Save or Write captions, and your pictures are never changed.",
    "built-in": "",
}


@dataclass
class SetView:
    """What the panel shows of a set: `shown` for the script, the others as HTML."""

    shown: dict[str, Any]
    checks: str
    classes: str


class SetReader:
    """Reads sets of pictures for the page."""

    def __init__(self, sets: DroppedSets, previews: Previews) -> None:
        self.sets, self.previews = sets, previews

    def read(self, data: DataConfig, edits: Edits | None = None, **answer: Any) -> SetView:
        """Read the folder and describe all of it; `answer` are the script's `saved`, `changed`, `proposed`, `moved_from`, `label`."""
        edits = edits if edits is not None else Edits()
        shown: dict[str, Any] = {
            "folder": "", "page": 0, "pages": 1, "per_page": PER_PAGE, "total": 0, "names": [], "items": [], "head": "", "hint": "", "where": "",
            "editable": False, "removable": False, "markable": False, "tags": [], "removed": 0, "trigger": "", "stamp": str(time.monotonic_ns()), "saved": {}, "changed": {},
            "proposed": {}, "moved_from": "", "label": "", **answer,
        }  # fmt: skip
        folder = folder_of(data)
        if folder is None:
            shown["head"] = "No pictures yet. Drop some above, or name a folder on this computer."
            return SetView(shown, "", class_card(data, Scan(()), [], self.previews, PER_PAGE))
        found = scan_thing(data)
        of_class = [finding for finding in found.problems if about_class_pictures(finding, data)]
        problems = [finding for finding in found.problems if finding not in of_class]
        kind = self.sets.kind(folder)
        paths = picture_paths(found, folder)
        pages = max(1, -(-len(paths) // PER_PAGE))
        page = min(edits.page, pages - 1) if edits.folder == str(folder) else 0
        edits = edits if edits.folder == str(folder) else Edits(str(folder))
        editable = kind != "built-in" and data.caption_strategy == "textfile" and bool(paths)
        shown |= {
            "folder": printable(str(folder)) if not is_text(str(folder)) else str(folder), "page": page, "pages": pages, "total": len(paths),
            "names": [path.name for path in paths if is_text(path.name)], "editable": editable, "removable": kind == "dropped",
            "markable": kind != "built-in",
            "removed": self.sets.removed(folder) if kind == "dropped" else 0, "trigger": trigger_of(data),
            "head": _head(kind, folder, len(paths), sum(finding.code == "picture-bad" for finding in problems), data), "hint": _HINTS[kind],
            "where": f"Saving writes a text file beside each of these pictures, in {printable(str(folder))}.",
        }  # fmt: skip
        names = known_caption_names(folder)
        if editable:
            texts = known_captions(data, edits, paths, names)
            shown["tags"] = list(tag_counts(each.used for each in texts.values()).items())[:_MOST_TAGS]
            problems = _with_trigger_findings(problems, texts, trigger_of(data), folder)
        cards = _Cards(data, edits, found, problems, names, editable, self.previews)
        shown["items"] = [cards.card(path) for path in paths[page * PER_PAGE : (page + 1) * PER_PAGE]]
        well = f"All {len(paths)} pictures can be read, are sharp and large enough for {data.resolution} px and have a caption; none is there twice."
        places = (
            {
                str(file): at
                for at, path in enumerate(paths)
                for file in (caption_file(path, names), found_mask(path), path)
            }
            if problems
            else {}
        )
        classes = class_card(data, found, of_class, self.previews, PER_PAGE)
        return SetView(shown, checks_card(problems, len(paths), well, places), classes)


class _Cards:
    """The cards of one reading of a set, as the script takes them."""

    def __init__(
        self, data: DataConfig, edits: Edits, found: Scan, problems: list[Finding], names: Mapping[str, str], editable: bool, previews: Previews,
    ) -> None:  # fmt: skip
        self.data, self.edits, self.problems, self.names = data, edits, problems, names
        self.editable, self.previews = editable, previews
        self.items = {item.path: item for item in found.items}
        self.first_with: dict[str, Item] = {}  # digest of a picture's content -> the first picture with it
        for item in found.items:
            self.first_with.setdefault(item.content, item)

    def card(self, path: Path) -> dict[str, Any]:
        """One picture with its caption, its marks and its thumbnail."""
        file, (size, cut) = caption_file(path, self.names), _size_and_cut(path)
        saved, problem = self._saved_caption(path, file)
        unreadable = any(finding.code == "picture-bad" and finding.where == str(path) for finding in self.problems)
        fallback, draft = fallback_caption(self.data), self.edits.drafts.get(path.name)
        own = saved if draft is None else clean(draft.text)
        return {
            "name": path.name if is_text(path.name) else printable(path.name),
            "size": f"{size[0]} × {size[1]} px" if size is not None else "",
            "cut": _shares(size, cut) if size is not None and cut is not None else None, "readable": not unreadable,
            "caption": "" if unreadable else saved,
            "fallback": "" if unreadable else fallback, "marks": self._marks(path, file, draft, own if own else fallback, cut),
            "url": None if unreadable else self.previews.thumbnail(path),
            "editable": self.editable and not problem and not unreadable and is_text(path.name),
        }  # fmt: skip

    def _saved_caption(self, path: Path, file: Path) -> tuple[str, str]:
        """(the picture's own caption as it is on the disk, why it cannot be used or "")."""
        if self.data.caption_strategy == "textfile":
            return read_caption(file)
        return (from_name(path) if self.data.caption_strategy == "filename" else ""), ""

    def _marks(
        self, path: Path, file: Path, draft: Draft | None, caption: str, cut: Cut | None
    ) -> list[dict[str, str]]:
        """The marks of a picture, for the caption that it has with what is typed."""
        outdated = ("caption-missing", "caption-empty") if draft is not None else ()
        findings = [finding for finding in self.problems if finding.code not in outdated]
        mask = found_mask(path)
        marks = marks_of(findings, {str(path), str(file), str(mask)})
        if draft is not None and not caption:
            full = "Write one, or set the caption for pictures without one."
            marks.append({"level": "error", "short": "no caption", "full": full})
        item = self.items.get(path)
        if cut is not None:
            full = f"Training sees {cut.width} × {cut.height} px of it."
            marks.append({"level": "note", "short": "cropped", "full": full})
        if mask.is_file():
            off = self.data.masked_training == "off"
            does = "has no effect while masked_training is off." if off else "white is trained on."
            marks.append({"level": "note", "short": "mask, off" if off else "mask", "full": f"{mask.name}: {does}"})
        if item is not None and self.first_with[item.content] is not item:
            full = f"The same picture as {printable(self.first_with[item.content].name)}; remove one of them."
            marks.append({"level": "warning", "short": "twice", "full": full})
        trigger = trigger_of(self.data)
        if trigger and caption and not mentions(caption, trigger):
            full = "Training puts the trigger word in front by itself; the button above writes it into the caption."
            marks.append({"level": "note", "short": f'no "{trigger}"', "full": full})
        return marks


def _size_and_cut(path: Path) -> tuple[tuple[int, int] | None, Cut | None]:
    """(width and height, the part that is kept or None for all); None and None for a picture that cannot be used. Remembered from the scan."""
    found = inspect_one(path)
    if isinstance(found, BadPicture):
        return None, None
    try:
        return (found.width, found.height), read_cut(path, found.width, found.height)
    except BadCrop:
        return (found.width, found.height), None  # the scan has reported it


def _shares(size: tuple[int, int], cut: Cut) -> dict[str, float]:
    """Where the kept part lies in the picture, for a frame over its thumbnail: shares of the whole picture's width and height."""
    w, h = size
    return {"left": cut.left / w, "top": cut.top / h, "width": cut.width / w, "height": cut.height / h, "aspect": w / h}


def _with_trigger_findings(
    problems: list[Finding], texts: Mapping[str, Caption], trigger: str, folder: Path
) -> list[Finding]:
    """The findings, with one for each picture without the trigger word in place of their number: those lead to the picture."""
    kept = [finding for finding in problems if finding.code != "trigger-inserted"]
    message = f'the caption lacks "{trigger}"; training puts it in front by itself.'
    remedy = "The button above the pictures writes it into the captions."
    return kept + [
        Finding("note", str(folder / name), message, remedy, "caption-trigger")
        for name in without_trigger(texts, trigger)
    ]


def known_captions(data: DataConfig, edits: Edits, paths: list[Path], names: Mapping[str, str]) -> dict[str, Caption]:
    """The captions of pictures by name, as an edit finds them; without those that cannot be edited. `names`: `known_caption_names` of the folder."""
    fallback, out = fallback_caption(data), {}
    for path in paths:
        saved, problem = read_caption(caption_file(path, names))
        if not problem and is_text(path.name):
            out[path.name] = Caption(saved, edits.drafts.get(path.name), fallback)
    return out


def folder_of(data: DataConfig) -> Path | None:
    """The folder of the pictures; None where none is chosen."""
    return None if data.instance_data_dir is None else located(data.instance_data_dir)


def trigger_of(data: DataConfig) -> str:
    """The trigger word as captions have it; "" where there is none."""
    return clean(data.trigger_word) if data.trigger_word is not None else ""


def known_caption_names(folder: Path) -> dict[str, str]:
    """The caption files of a folder, as `caption_names` gives them; empty where it cannot be read."""
    try:
        return caption_names(folder)
    except OSError:
        return {}  # the scan has reported what is wrong with the folder


def fallback_caption(data: DataConfig) -> str:
    """The caption of pictures without one of their own; "" where there is none."""
    return clean(data.instance_prompt) if data.instance_prompt is not None else ""


def picture_paths(found: Scan, folder: Path) -> list[Path]:
    """Every picture of the folder, usable or not, in the order of their names."""
    bad = {
        Path(finding.where)
        for finding in found.problems
        if finding.code in ("picture-bad", "caption-missing", "crop-bad")
    }
    every = {item.path for item in found.items} | {path for path in bad if path.parent == folder}
    return sorted(every, key=lambda path: (path.name.casefold(), path.name))


def count_of(count: int, thing: str, plural: str = "s") -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {thing}{'' if count == 1 else plural}"


def _head(kind: Kind, folder: Path, count: int, left_out: int, data: DataConfig) -> str:
    pictures, where = count_of(count, "picture"), printable(str(folder))
    if left_out:
        pictures += f" ({left_out} left out, see the checks)"
    if count == 0:
        return f"No pictures in {where}."
    if kind == "built-in":
        return f"{pictures}, built in: they cannot be edited. Drop your own to edit."
    head = (
        f"{pictures}, dropped here; they lie in {where}."
        if kind == "dropped"
        else f"{pictures} in your folder {where}; no picture there is changed or removed."
    )
    if data.caption_strategy != "textfile":
        source = "are the names of the files" if data.caption_strategy == "filename" else "are the same for all"
        head += f" Captions {source} (the caption strategy, under All settings), so there are none to edit here."
    return head
