"""Pictures and captions as a person edits them on the page: what is written where, and what is never touched.

Three kinds of folder. *Dropped* sets lie in a folder of the page beside the runs: pictures are added to them and taken out of them there.
A person's *own* folder only ever gets caption files, and only after "Save captions". *Built-in* pictures are not changed at all. Whatever
the browser sends is checked here again: a caption is written only beside a picture that lies in the folder itself.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ....core import platform_calls
from ....core.data import captions
from ....core.data.beside import by_picture, crop_path, found_mask, is_beside, is_mask, mask_path
from ....core.data.pictures import SUFFIXES
from ....core.demo import ASSETS
from ....core.sizes import size

Kind = Literal["dropped", "own", "built-in"]

UPLOADS = tuple(sorted({*SUFFIXES, ".txt"}))
"""Endings that may be dropped: pictures, and captions beside them."""

_LONGEST_STEM = 80
_MOST_DRAFTS = 100_000
_REMOVED = ".removed"  # a hidden folder inside a set: scans pass over it
_REPLACED = ".replaced"
_NOT_IN_NAMES = set('<>:"/\\|?*')
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


class Refused(ValueError):
    """A request that cannot be fulfilled; the text says why and what to do."""


@dataclass(frozen=True)
class Draft:
    """A caption that was typed and is not saved: `was` is what the file held when the typing began."""

    text: str
    was: str


@dataclass(frozen=True)
class Edits:
    """What the browser holds: which page of which folder it shows, and the unsaved captions of that folder by picture name."""

    folder: str = ""
    page: int = 0
    drafts: Mapping[str, Draft] = field(default_factory=dict)


def read_edits(raw: str | None) -> Edits:
    """The browser's account, checked. Raises Refused for what this page's own script would never send."""
    if raw is None or raw == "":
        return Edits()
    try:
        sent = json.loads(raw)
        folder, page, drafts = sent["folder"], sent["page"], sent["drafts"]
        sound = (
            isinstance(folder, str) and type(page) is int and 0 <= page < 10**6
            and isinstance(drafts, dict) and len(drafts) <= _MOST_DRAFTS
            and all(type(each[key]) is str for each in drafts.values() for key in ("text", "was"))
        )  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        raise Refused("The captions arrived in a form that cannot be read. Reload the page.") from error
    if not sound:
        raise Refused("The captions arrived in a form that cannot be read. Reload the page.")
    return Edits(folder, page, {name: Draft(each["text"], each["was"]) for name, each in drafts.items()})


# Captions in a folder ---------------------------------------------------------------------------------------------------


def caption_names(folder: Path) -> dict[str, str]:
    """The caption files of a folder: stem -> name, and the stem without regard to case -> name. Raises OSError."""
    with os.scandir(folder) as entries:
        names = [
            entry.name for entry in entries if entry.name.lower().endswith(".txt") and not entry.name.startswith(".")
        ]
    return {Path(name).stem.casefold(): name for name in names} | {Path(name).stem: name for name in names}


def caption_file(picture: Path, names: Mapping[str, str]) -> Path:
    """Where the caption of `picture` lies, or will lie: the file that a scan would read."""
    stem = picture.stem
    return picture.with_name(names.get(stem, names.get(stem.casefold(), f"{stem}.txt")))


def read_caption(file: Path) -> tuple[str, str]:
    """(the caption that a file holds, why it cannot be used or ""); ("", "") where there is no file."""
    try:
        with file.open("rb") as stream:
            return captions.decode(stream.read(captions.MAX_BYTES + 1))[0], ""
    except FileNotFoundError:
        return "", ""
    except OSError as error:
        return "", f"it cannot be read ({error.strerror})"
    except captions.BadCaption as bad:
        return "", str(bad)


@dataclass
class Written:
    """What became of the captions to save, by picture name: what the file holds now, or why it was not written."""

    saved: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    """Of those that failed: the file holds something else than when the typing began."""


def save_captions(folder: Path, drafts: Mapping[str, Draft], empty_means: Literal["no file", "empty file"]) -> Written:
    """Write `photo.txt` beside `photo.png` for each draft: all or nothing for one caption, the others go on.

    Not written: the caption of no picture here, one that changed on disk meanwhile, a file that is write-protected or a link, and two
    different captions for one file.

    Args:
        folder: where the pictures lie.
        drafts: by the picture's name.
        empty_means: what an empty caption leaves behind; in a person's own folder no file is removed.
    """
    out = Written()
    try:
        names = caption_names(folder)
    except OSError as error:
        reason = f"the folder {folder} cannot be read ({error.strerror})"
        return Written(failed=dict.fromkeys(drafts, reason))
    by_file: dict[Path, set[str]] = {}
    for name, draft in drafts.items():
        if is_picture_name(name):
            by_file.setdefault(caption_file(folder / name, names), set()).add(captions.clean(draft.text))
    for name, draft in drafts.items():
        try:
            if not is_picture_name(name) or not (folder / name).is_file():
                raise Refused("there is no such picture in the folder any more")
            file = caption_file(folder / name, names)
            if len(by_file[file]) > 1:
                raise Refused(
                    f"{file.name} is the caption of several pictures, and they got different texts; rename one of the pictures"
                )
            out.saved[name] = _write(file, draft, empty_means, out.changed, name)
        except Refused as refused:
            out.failed[name] = str(refused)
        except OSError as error:
            out.failed[name] = f"{caption_file(folder / name, names).name} cannot be written ({error.strerror})"
    return out


def _write(file: Path, draft: Draft, empty_means: str, changed: dict[str, str], name: str) -> str:
    text = captions.clean(draft.text)
    try:
        data = f"{text}\n".encode()
    except UnicodeEncodeError:
        raise Refused("it has characters that no text file can hold; type it again") from None
    if len(data) > captions.MAX_BYTES:
        raise Refused(f"it has {size(len(data))}; a caption has at most {size(captions.MAX_BYTES)}")
    if file.is_symlink():
        raise Refused(f"{file.name} is a link to another place; edit it there")
    now, unreadable = read_caption(file)
    if unreadable:
        raise Refused(f"{file.name} holds something that is no caption: {unreadable}. Mend or remove it yourself")
    if now == text:
        return text
    if now != captions.clean(draft.was):
        changed[name] = now
        raise Refused(f'{file.name} was changed meanwhile, it says "{now}". Save again to replace that')
    if file.exists() and not file.stat().st_mode & 0o222:  # replacing it would work, against what its owner set
        raise Refused(f"{file.name} is write-protected; take that off in its properties first")
    if text or empty_means == "empty file":
        platform_calls.write_atomically(file, data if text else b"")
    else:
        file.unlink(missing_ok=True)
    return text


def is_picture_name(name: str) -> bool:
    """Whether it is the name of a picture, and of nothing outside the folder."""
    return (
        Path(name).name == name
        and "\\" not in name
        and not name.startswith(".")
        and Path(name).suffix.lower() in SUFFIXES
        and not is_beside(name)
    )


# Sets that were dropped -------------------------------------------------------------------------------------------------


@dataclass
class Added:
    """What became of dropped files. `folder` is None where nothing was kept; `twice` are pictures that were there already."""

    folder: Path | None = None
    pictures: int = 0
    captions: int = 0
    masks: int = 0
    twice: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class DroppedSets:
    """The sets of pictures that were dropped on the page: one folder each under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def kind(self, folder: Path) -> Kind:
        """What may be done with a folder."""
        real = folder.resolve()
        if real.is_relative_to(ASSETS.resolve()):
            return "built-in"
        return "dropped" if real.parent == self.root.resolve() else "own"

    def add(self, paths: Iterable[Path], into: Path | None = None) -> Added:
        """Copy dropped files into the set `into`, or into a new one. Captions keep to their pictures; names are never overwritten.

        Raises: OSError where the disk does not take them; a new set is then removed again.
        """
        paths = sorted(paths, key=lambda path: (path.name.casefold(), path.name))
        texts = {path.stem.casefold(): path for path in paths if path.suffix.lower() == ".txt"}
        masks = by_picture(path for path in paths if is_mask(path.name))
        pictures = [path for path in paths if path.suffix.lower() in SUFFIXES and not is_beside(path.name)]
        out = Added(refused=[f"{path.name} (no picture)" for path in paths if path.suffix.lower() not in UPLOADS])
        out.refused += [
            f"{path.name} (a condition)" for path in paths if is_beside(path.name) and not is_mask(path.name)
        ]
        if not pictures and (into is None or not (texts or masks)):
            out.refused += [f"{path.name} (a caption without its picture)" for path in texts.values()]
            out.refused += [f"{path.name} (a mask without its picture)" for path in masks.values()]
            return out
        folder = into if into is not None else self._new()
        try:
            out.folder = folder
            self._copy(folder, pictures, texts, masks, out)
        except OSError:
            if into is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return out

    def _copy(
        self, folder: Path, pictures: list[Path], texts: dict[str, Path], masks: dict[str, Path], out: Added
    ) -> None:
        present = {path.stem.casefold(): path for path in _pictures(folder)}
        used = set()
        for path in pictures:
            stem, data = safe_stem(path.stem), path.read_bytes()
            same = present.get(stem.casefold())
            if same is not None and same.suffix.lower() == path.suffix.lower() and same.read_bytes() == data:
                out.twice.append(path.name)
                target = same
            else:
                target = folder / f"{_free(stem, present)}{path.suffix.lower()}"
                platform_calls.write_atomically(target, data)
                present[target.stem.casefold()] = target
                out.pictures += 1
            mask = masks.pop(path.stem.casefold(), None)
            if mask is not None:
                _put_mask(target, mask, out)
            caption = texts.get(path.stem.casefold())
            if caption is not None:
                used.add(path.stem.casefold())
                platform_calls.write_atomically(target.with_suffix(".txt"), caption.read_bytes())
                out.captions += 1
        for key, mask in masks.items():
            target = present.get(safe_stem(key).casefold())
            if target is None:
                out.refused.append(f"{mask.name} (a mask without its picture)")
            else:
                _put_mask(target, mask, out)
        for key, caption in texts.items():
            if key in used:
                continue
            target = present.get(safe_stem(caption.stem).casefold())
            if target is None:
                out.refused.append(f"{caption.name} (a caption without its picture)")
            else:
                platform_calls.write_atomically(target.with_suffix(".txt"), caption.read_bytes())
                out.captions += 1

    def remove(self, folder: Path, name: str) -> None:
        """Take one picture, with its caption, out of a dropped set. It is put aside inside the set: `bring_back` undoes it."""
        if self.kind(folder) != "dropped":
            raise Refused("Only pictures that were dropped here are removed here. Remove it in its own folder.")
        if not is_picture_name(name) or not (folder / name).is_file():
            raise Refused(f"There is no picture {name} in this set any more.")
        aside = folder / _REMOVED / f"{time.time_ns():020d}"
        aside.mkdir(parents=True)
        caption = caption_file(folder / name, caption_names(folder))
        shared = sum(path.stem.casefold() == Path(name).stem.casefold() for path in _pictures(folder)) > 1
        platform_calls.replace(folder / name, aside / name)
        for beside in (caption, crop_path(folder / name), found_mask(folder / name)):
            if beside.is_file() and not shared:
                platform_calls.replace(beside, aside / beside.name)

    def removed(self, folder: Path) -> int:
        """How many removals of a set can be undone."""
        return len(self._aside(folder))

    def bring_back(self, folder: Path) -> str:
        """Undo the last removal of a set; gives the picture's name."""
        aside = self._aside(folder) if self.kind(folder) == "dropped" else []
        if not aside:
            raise Refused("No picture was removed from this set.")
        files = sorted(path for path in aside[-1].iterdir() if path.is_file())
        taken = [path.name for path in files if (folder / path.name).exists()]
        if taken:
            raise Refused(f"{taken[0]} was added again meanwhile; remove that one first.")
        for path in files:
            platform_calls.replace(path, folder / path.name)
        aside[-1].rmdir()
        return next((path.name for path in files if is_picture_name(path.name)), "")

    def copy(self, folder: Path) -> Path:
        """A new set with the same pictures and captions."""
        new = self._new()
        try:
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    platform_calls.write_atomically(new / path.name, path.read_bytes())
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return new

    def _aside(self, folder: Path) -> list[Path]:
        place = folder / _REMOVED
        return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []

    def _new(self) -> Path:
        folder = self.root / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        return folder


def _put_mask(picture: Path, mask: Path, out: Added) -> None:
    keep_replaced(mask_path(picture))
    platform_calls.write_atomically(mask_path(picture), mask.read_bytes())
    out.masks += 1


def keep_replaced(file: Path) -> None:
    """Before a mask is replaced: copy it into a hidden folder beside it, because a person may have made it elsewhere. Scans pass over it."""
    if file.is_file():
        aside = file.parent / _REPLACED
        aside.mkdir(exist_ok=True)
        platform_calls.write_atomically(aside / f"{file.stem}-{time.time_ns():020d}{file.suffix}", file.read_bytes())


def safe_stem(stem: str) -> str:
    """A file's name, without its ending, as every system takes it; what is readable stays as it is."""
    kept = captions.clean("".join(" " if character in _NOT_IN_NAMES else character for character in stem))
    kept = kept.encode("utf-8", "ignore").decode()[:_LONGEST_STEM].strip(" .")
    if not kept:
        return "picture"
    return f"_{kept}" if kept.split(".")[0].casefold() in _RESERVED else kept


def _free(stem: str, present: Mapping[str, Path]) -> str:
    number, free = 1, stem
    while free.casefold() in present:
        number += 1
        free = f"{stem}-{number}"
    return free


def _pictures(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_picture_name(path.name) and path.is_file()]
