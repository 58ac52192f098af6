"""The caption files of a folder: which pictures get one, and how it is written. No torch.

A caption is written whole or not at all, as it comes. What a second start has to do follows from the disk alone: where captions that are
there are kept, a picture with one is done. Where all are written anew, the hidden folder `.auto-captions` says which are:

    .auto-captions/unfinished.jsonl     first line: the settings; then one line a finished picture; gone when all are done
    .auto-captions/before-<time>/       the captions as they were, where they are to be kept
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..data import captions
from ..data.listing import Listing, list_folder
from ..data.scanning import located
from ..demo import ASSETS
from .models import CaptionError
from .settings import CaptionSettings

HIDDEN = ".auto-captions"
_UNFINISHED = "unfinished.jsonl"
_STICKS = tuple(",.;:!?")  # a text behind that begins so takes no blank before it


@dataclass(frozen=True)
class Skipped:
    """A picture that gets no caption: its name, why, and what to do about it."""

    picture: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Wanted:
    """A picture that gets a caption: in which file, and what that holds now (None = there is none)."""

    picture: Path
    file: Path
    held: bytes | None


@dataclass
class Plan:
    """What is to be done in a folder. `kept`: pictures whose caption stays; `done`: those that an earlier, stopped start has written."""

    folder: Path
    wanted: list[Wanted] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    kept: int = 0
    done: int = 0


def plan(folder: str | Path, settings: CaptionSettings) -> Plan:
    """Look at the folder; nothing is written, and no picture is opened.

    Raises: CaptionError where the folder cannot be used.
    """
    place = located(folder)
    if place.resolve().is_relative_to(ASSETS.resolve()):
        raise CaptionError("These pictures are built in, with their captions.", "Name a folder of your own.")
    listing, problem = list_folder(place, "The folder of pictures")
    if listing is None:
        assert problem is not None  # one of the two
        raise CaptionError(problem.message[:1].upper() + problem.message[1:], problem.remedy)
    if not listing.pictures:
        raise CaptionError(
            f"There are no pictures in {place}.", "Sub-folders are not read: name the folder that the pictures lie in."
        )
    made = Plan(
        place,
        skipped=[
            Skipped(Path(each.where).name, each.message, each.remedy)
            for each in listing.findings(place)
            if each.level == "warning"
        ],
    )
    finished = unfinished(place, settings) if settings.existing != "keep" else None
    owner: dict[Path, str] = {}
    names = _caption_names(listing)
    for picture in listing.pictures:
        stem = picture.stem
        file = names.get(stem, names.get(stem.casefold(), picture.with_name(f"{stem}.txt")))
        if file in owner:
            made.skipped.append(
                Skipped(picture.name, f"{owner[file]} has the same caption file, {file.name}", "Rename one of the two.")
            )
            continue
        owner[file] = picture.name
        if finished is not None and picture.name in finished.pictures:
            made.done += 1
            continue
        _place(made, picture, file, settings.existing == "keep")
    return made


def _place(made: Plan, picture: Path, file: Path, keep: bool) -> None:
    """Put one picture where it belongs in the plan."""
    try:
        held = _read(file)
        text = "" if held is None else captions.decode(held)[0]
    except captions.BadCaption as bad:
        made.skipped.append(Skipped(picture.name, f"{file.name} is no caption: {bad}", "Mend or remove that file."))
        return
    except OSError as error:
        made.skipped.append(
            Skipped(picture.name, f"{file.name} cannot be read ({error.strerror})", "Check that you may read it.")
        )
        return
    if text and keep:
        made.kept += 1
    elif file.is_symlink():
        made.skipped.append(
            Skipped(picture.name, f"{file.name} is a link to another place", "Write its caption there.")
        )
    elif held is not None and not file.stat().st_mode & 0o222:  # replacing it would work, against what its owner set
        made.skipped.append(
            Skipped(picture.name, f"{file.name} is write-protected", "Take that off in its properties.")
        )
    else:
        made.wanted.append(Wanted(picture, file, held))


def _caption_names(listing: Listing) -> dict[str, Path]:
    """The caption files by stem, and by stem without regard to case: what a scan would read."""
    return {path.stem.casefold(): path for path in listing.texts} | {path.stem: path for path in listing.texts}


def _read(file: Path) -> bytes | None:
    try:
        with file.open("rb") as stream:
            return stream.read(captions.MAX_BYTES + 1)
    except FileNotFoundError:
        return None


def composed(text: str, settings: CaptionSettings) -> str:
    """The caption: what the model wrote, on one line, between the texts around it, with the trigger word; "" where it wrote nothing."""
    text = captions.clean(text)
    if not text:
        return ""
    before = captions.clean(settings.text_before) if settings.text_before is not None else ""
    after = captions.clean(settings.text_after) if settings.text_after is not None else ""
    blank = "" if after.startswith(_STICKS) else " "
    return captions.with_trigger(captions.clean(f"{before} {text}{blank}{after}"), settings.trigger_word)


# Writing ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unfinished:
    """An earlier start with the same settings that was stopped: the folder with what it replaced, and which pictures it finished."""

    backup: str
    pictures: frozenset[str]


def unfinished(folder: Path, settings: CaptionSettings) -> Unfinished | None:
    """The start that this one continues; None where there is none. A torn last line, of a killed process, does not count."""
    try:
        lines = (folder / HIDDEN / _UNFINISHED).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    records = list(_records(lines))
    if (
        not records
        or records[0].get("settings") != settings.text_marks
        or not isinstance(records[0].get("backup"), str)
    ):
        return None
    return Unfinished(
        records[0]["backup"], frozenset(each["picture"] for each in records[1:] if isinstance(each.get("picture"), str))
    )


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # torn: its picture is done again
        if isinstance(record, dict):
            yield record


class Writer:
    """Writes the captions of a plan, one by one."""

    def __init__(self, folder: Path, settings: CaptionSettings) -> None:
        self.folder, self.settings = folder, settings
        self._journal = folder / HIDDEN / _UNFINISHED
        self._backup: Path | None = None
        _remove_leftovers(folder)
        if settings.existing == "keep":
            return
        earlier = unfinished(folder, settings)
        name = earlier.backup if earlier is not None else time.strftime("before-%Y%m%d-%H%M%S")
        if settings.existing == "back up":
            self._backup = folder / HIDDEN / name
        self._journal.parent.mkdir(exist_ok=True)
        if earlier is None:
            head = json.dumps({"settings": settings.text_marks, "backup": name})
            platform_calls.write_atomically(self._journal, f"{head}\n".encode())
        else:
            with self._journal.open("a", encoding="utf-8") as stream:
                stream.write("\n")  # ends a line that was torn

    def write(self, wanted: Wanted, caption: str) -> Skipped | None:
        """Put the caption beside its picture; gives why it was left out. Raises OSError where the disk does not take it."""
        if _read(wanted.file) != wanted.held:
            return Skipped(wanted.picture.name, f"{wanted.file.name} was changed meanwhile", "It is as you wrote it.")
        data = f"{caption}\n".encode()
        if len(data) > captions.MAX_BYTES:
            return Skipped(
                wanted.picture.name, "the model's text is too long for a caption", "Lower the longest caption."
            )
        if self._backup is not None and wanted.held:
            kept = self._backup / wanted.file.name
            if not kept.exists():  # of a start that was killed between the two: its copy is the older one
                kept.parent.mkdir(parents=True, exist_ok=True)
                platform_calls.write_atomically(kept, wanted.held)
        platform_calls.write_atomically(wanted.file, data)
        if self.settings.existing != "keep":
            with self._journal.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"picture": wanted.picture.name}) + "\n")
        return None

    def finish(self) -> None:
        """All is done: the next start with "all anew" begins from the front."""
        self._journal.unlink(missing_ok=True)
        if self._journal.parent.is_dir() and not any(self._journal.parent.iterdir()):
            self._journal.parent.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Remove the hidden parts of captions that a killed process left; those of a live one stay."""
    import psutil

    for path in folder.glob(".*.partial-*-*.txt"):
        number = path.name.rpartition(".partial-")[2].split("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            path.unlink(missing_ok=True)
