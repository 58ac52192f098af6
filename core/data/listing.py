"""The names in a folder of pictures, sorted by what they are. Nothing is opened."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..findings import Finding
from . import pictures
from .beside import is_beside, is_mask, masked_stem

_SIDECARS = frozenset(
    {".txt", ".json", ".jsonl", ".csv", ".md", ".npz", ".npy", ".safetensors", ".pt", ".yaml", ".yml", ".toml"}
)
_COUNTED_UP_TO = 1000


@dataclass
class Listing:
    """The names in a folder, by what they are: pictures, pictures of formats that are not read, captions, others, sub-folders,
    masks of pictures."""

    pictures: list[Path]
    other_pictures: list[Path]
    texts: list[Path]
    unknown: list[str]
    folders: list[Path]
    masks: list[Path] = field(default_factory=list)

    def findings(self, folder: Path) -> list[Finding]:
        """What is passed over in it."""
        found = [
            Finding(
                "warning",
                str(path),
                f"left out: {path.suffix.lower()} files are not read, only {', '.join(pictures.FORMATS)}.",
                "Convert it to PNG or JPEG.",
                "picture-bad",
            )
            for path in self.other_pictures
        ]
        stems = {path.stem.casefold() for path in self.pictures}
        found += [
            Finding(
                "warning",
                str(mask),
                f"left out: its name says that it is the mask of a picture {masked_stem(mask.name)}, and there is none.",
                "Delete it, or give it another name if it is a picture to train on.",
                "mask-orphan",
            )
            for mask in self.masks
            if masked_stem(mask.name).casefold() not in stems
        ]
        for sub_folder in self.folders:
            count = count_pictures(sub_folder, _COUNTED_UP_TO)
            if count:
                found.append(
                    Finding(
                        "warning",
                        str(sub_folder),
                        f"sub-folders are not read; {count}{'+' if count == _COUNTED_UP_TO else ''} pictures in it are left out.",
                        "Move its pictures up, or point at that folder.",
                        "sub-folder",
                    )
                )
        if self.unknown:
            some = ", ".join(self.unknown[:3]) + (", ..." if len(self.unknown) > 3 else "")
            count = len(self.unknown)
            found.append(
                Finding(
                    "note",
                    str(folder),
                    f"{count} other file{'s' if count > 1 else ''} left alone: {some}.",
                    "",
                    "other-files",
                )
            )
        return found


def list_folder(folder: Path, option: str) -> tuple[Listing | None, Finding | None]:
    """(the folder's listing, None), or (None, why it cannot be read); `option` is the option that named it."""

    def wrong(message: str, remedy: str) -> tuple[None, Finding]:
        return None, Finding("error", option, message, remedy, "folder-missing")

    if not folder.exists():
        return wrong(
            f"the folder {folder} does not exist.", "Check the spelling, or make the folder and put the pictures in it."
        )
    if not folder.is_dir():
        return wrong(f"{folder} is a file; a folder with pictures is needed.", "Name the folder that the file lies in.")
    listing = Listing([], [], [], [], [])
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                ((entry.name, entry.is_dir()) for entry in entries), key=lambda each: (each[0].casefold(), each[0])
            )
    except OSError as error:
        return wrong(f"the folder {folder} cannot be read ({error.strerror}).", "Check that you may read it.")
    for name, is_folder in names:
        path = folder / name
        suffix = path.suffix.lower()
        if name.startswith("."):  # hidden files, and the "._photo.jpg" that macOS puts into archives
            continue
        if is_folder:
            listing.folders.append(path)
        elif is_mask(name):
            listing.masks.append(path)
        elif is_beside(name):
            listing.unknown.append(name)
        elif suffix in pictures.SUFFIXES:
            listing.pictures.append(path)
        elif suffix in pictures.OTHER_PICTURE_SUFFIXES:
            listing.other_pictures.append(path)
        elif suffix == ".txt":
            listing.texts.append(path)
        elif suffix not in _SIDECARS and name.lower() not in ("thumbs.db", "desktop.ini"):
            listing.unknown.append(name)
    return listing, None


def count_pictures(folder: Path, most: int) -> int:
    """How many pictures lie directly in a folder, counting no further than `most`; 0 where it cannot be read. Only names are looked at."""
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                count += Path(name).suffix.lower() in pictures.SUFFIXES and name[0] != "." and not is_beside(name)
                if count == most:
                    break
    except OSError:
        return 0
    return count


def empty_folder(folder: Path, option: str, listing: Listing, any_error: bool) -> Finding:
    """The error of a folder without a picture that can be used. `any_error`: whether another finding gives the reason."""
    remedy = f"Put pictures ({', '.join(pictures.FORMATS)}) into it."
    if any_error or listing.pictures or listing.other_pictures:
        message = f"no picture in {folder} can be used."
        remedy = "Mend what is named in this list."
    else:
        message = f"there are no pictures in {folder}."
        for sub_folder in listing.folders:
            if count_pictures(sub_folder, _COUNTED_UP_TO):
                message += f" Sub-folders are not read, and {sub_folder.name} has some."
                remedy = f"Point {option} at {sub_folder}."
                break
    return Finding("error", option, message, remedy, "folder-empty")
