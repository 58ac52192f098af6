"""Look through the folders of a training set: what will be trained on, with which caption and shape, and everything
that is wrong.

Only the folder itself is read, never its sub-folders: a class folder or a cache inside it must not slip into the
instance pictures. Sub-folders with pictures are named. Every picture is decoded once, so what the scan lets pass does
not fail an hour later.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..demo import resolve
from ..findings import Finding
from ..sizes import size
from . import captions, pictures
from .buckets import MULTIPLE, Size, bucket_sizes, choose
from .transform import crop_for

Progress = Callable[[str, int, int], None]
TELL_EVERY_S = 0.1


def steadily(progress: Progress | None) -> Progress:
    """`progress`, at most every `TELL_EVERY_S` seconds except for the end of each kind of work; it may be told of every item."""
    last: tuple[str, float] = ("", float("-inf"))

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if progress is not None and (done == total or what != last[0] or now - last[1] >= TELL_EVERY_S):
            last = what, now
            progress(what, done, total)

    return tell


"""Called with (what, done, total)."""

_KEPT_TOO_LITTLE = 0.6
_SIDECARS = frozenset(
    {".txt", ".json", ".jsonl", ".csv", ".md", ".npz", ".npy", ".safetensors", ".pt", ".yaml", ".yml", ".toml"}
)


@dataclass(frozen=True)
class Item:
    """One picture: where, what it is called in logs, what it shows, its upright size, the bucket it trains in, the
    sha256 of its file."""

    path: Path
    name: str
    caption: str
    width: int
    height: int
    bucket: Size
    digest: str


@dataclass(frozen=True)
class Scan:
    """What `scan` found. `items` are the instance pictures that can be used, `class_items` those of the class folder
    (empty without prior preservation), both in the order of their names; `problems` everything that a person should
    know."""

    items: tuple[Item, ...]
    class_items: tuple[Item, ...] = ()
    problems: tuple[Finding, ...] = ()

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(problem for problem in self.problems if problem.level == "error")


def scan(data, progress: Progress | None = None) -> Scan:
    """Scan the instance folder and, with prior preservation, the class folder.

    Args:
        data: the data section of a config.
        progress: called with ("pictures", done, total), ten times a second at most; what it raises ends the scan.

    Cost: reads and decodes every picture once, on a few threads; a second scan in the same process only looks at names
    and times.
    """
    try:
        bucket_sizes(data.resolution, data.bucket_step)
    except ValueError as error:
        return Scan((), problems=(Finding("error", "resolution", str(error), "Set a multiple of 16.", "resolution"),))
    if data.instance_data_dir is None:
        missing = Finding(
            "error",
            "instance_data_dir",
            "no folder with pictures is given.",
            'Name the folder with your pictures, or "demo-dreambooth" for the shipped set.',
            "folder-missing",
        )
        return Scan((), problems=(missing,))
    items, problems = scan_instance_folder(data.instance_data_dir, "instance_data_dir", data, progress)
    class_items: tuple[Item, ...] = ()
    if data.with_prior_preservation:
        class_items, more = _scan_class(data, progress)
        problems += more
        problems += _overlap(items, class_items)
    return Scan(items, class_items, tuple(problems))


def scan_instance_folder(
    folder: str | Path, option: str, data, progress: Progress | None = None
) -> tuple[tuple[Item, ...], list[Finding]]:
    """The pictures of the thing in `folder`, which `option` named, captioned by the rules of the data section."""
    return scan_folder(
        folder,
        option=option,
        data=data,
        strategy=data.caption_strategy,
        prompt=data.instance_prompt,
        prompt_option="instance_prompt",
        trigger_word=data.trigger_word,
        progress=progress,
    )


def scan_class_folder(folder: Path, data) -> tuple[tuple[Item, ...], list[Finding]]:
    """The class pictures in `folder`, captioned by a text file beside them, or with the class prompt."""
    return scan_folder(
        folder,
        option="class_data_dir",
        data=data,
        strategy="textfile",
        prompt=data.class_prompt,
        prompt_option="class_prompt",
        trigger_word=None,
        may_be_empty=True,
    )


def _scan_class(data, progress: Progress | None) -> tuple[tuple[Item, ...], list[Finding]]:
    if data.class_prompt is None or not captions.clean(data.class_prompt):
        return (), [
            Finding(
                "error",
                "class_prompt",
                "prior preservation needs a class prompt, and none is given.",
                'Say what the thing is an example of ("a photo of a dog"), or set with_prior_preservation = false.',
                "class-prompt-missing",
            )
        ]
    if data.class_data_dir is None:
        return (), []  # they are generated
    folder = located(data.class_data_dir)
    if data.instance_data_dir is not None and folder.resolve() == located(data.instance_data_dir).resolve():
        return (), [
            Finding(
                "error",
                "class_data_dir",
                f"{folder} is also instance_data_dir; class pictures are others of the same kind.",
                "Give class pictures a folder of their own; it may be empty, then they are generated.",
                "class-folder-same",
            )
        ]
    if not folder.exists():
        return (), []  # made when the pictures are generated
    return scan_class_folder(folder, data)


def located(name: str | Path) -> Path:
    """The folder behind an option: a built-in name, or a path in which `~` is the home folder."""
    return Path(resolve(str(name))).expanduser()


def scan_folder(
    folder: str | Path,
    *,
    option: str,
    data,
    strategy: str,
    prompt: str | None,
    prompt_option: str,
    trigger_word: str | None,
    may_be_empty: bool = False,
    progress: Progress | None = None,
) -> tuple[tuple[Item, ...], list[Finding]]:
    """(usable pictures by name, findings) of one folder.

    Args:
        folder: a path or a built-in name.
        option: the option that named it, for the messages.
        data: the data section: resolution, buckets, crop.
        strategy: `caption_strategy`; textfile = `photo.txt` beside `photo.png`, else `prompt`.
        prompt: the caption of pictures that have none of their own; None = there must be one.
        prompt_option: the option that would give it, for the messages.
        trigger_word: put in front of captions that lack it.
        may_be_empty: whether a folder without pictures is fine.
    """
    folder = located(folder)
    listing, problem = _list(folder, option)
    if problem is not None:
        return (), [problem]
    problems = listing.findings(folder)
    inspected = _inspect_all(listing.pictures, progress)
    sizes = (
        bucket_sizes(data.resolution, data.bucket_step)
        if data.aspect_buckets
        else ((data.resolution, data.resolution),)
    )
    texts = _Captions(listing, strategy, prompt, prompt_option, trigger_word)

    items: list[Item] = []
    small: list[Item] = []
    for path, found in zip(listing.pictures, inspected, strict=True):
        if isinstance(found, pictures.BadPicture):
            problems.append(Finding("warning", str(path), f"left out: {found.message}.", found.remedy, "picture-bad"))
            texts.skip(path)
            continue
        if found.remark:
            problems.append(
                Finding("note", str(path), found.remark + ".", "Turn and save it in an image editor.", "exif-bad")
            )
        caption = texts.of(path)
        if caption is None:
            continue
        bucket = choose(found.width, found.height, sizes)
        item = Item(path, path.name, caption, found.width, found.height, bucket, found.digest)
        items.append(item)
        crop = crop_for(found.width, found.height, bucket, center=True, digest=found.digest)
        if crop.scale > 1.0001:
            small.append(item)
        if crop.kept(found.width, found.height) < _KEPT_TOO_LITTLE:
            problems.append(
                Finding(
                    "warning",
                    str(path),
                    f"only {crop.kept(found.width, found.height):.0%} of its {found.width} x {found.height} pixels are kept to fit "
                    f"{bucket[0]} x {bucket[1]}.",
                    "Crop it yourself around the subject"
                    + ("." if data.aspect_buckets else ", or turn aspect_buckets on."),
                    "picture-cropped",
                )
            )
    for item in small:
        problems.append(
            Finding(
                "warning",
                str(item.path),
                f"too small: {item.width} x {item.height} is enlarged to fill {item.bucket[0]} x {item.bucket[1]}, and the model learns "
                "the blur.",
                f"Use a larger original, or a resolution of at most {_resolution_for(item)}.",
                "picture-small",
            )
        )
    problems += texts.findings()
    problems += _duplicates(items)
    if not items and not may_be_empty:
        problems.append(
            _empty(folder, option, listing, any_error=any(problem.level == "error" for problem in problems))
        )
    return tuple(items), problems


def _resolution_for(item: Item) -> int:
    return max(MULTIPLE, min(item.width, item.height) // MULTIPLE * MULTIPLE)


# The folder's names ---------------------------------------------------------------------------------------------------


@dataclass
class _Listing:
    pictures: list[Path]
    other_pictures: list[Path]
    texts: list[Path]
    unknown: list[str]
    folders: list[Path]

    def findings(self, folder: Path) -> list[Finding]:
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
        for sub_folder in self.folders:
            count = _count_pictures(sub_folder)
            if count:
                found.append(
                    Finding(
                        "warning",
                        str(sub_folder),
                        f"sub-folders are not read; {count}{'+' if count == _ENOUGH else ''} pictures in it are left out.",
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


def _list(folder: Path, option: str) -> tuple[_Listing | None, Finding | None]:
    def wrong(message: str, remedy: str) -> tuple[None, Finding]:
        return None, Finding("error", option, message, remedy, "folder-missing")

    if not folder.exists():
        return wrong(
            f"the folder {folder} does not exist.", "Check the spelling, or make the folder and put the pictures in it."
        )
    if not folder.is_dir():
        return wrong(f"{folder} is a file; a folder with pictures is needed.", "Name the folder that the file lies in.")
    listing = _Listing([], [], [], [], [])
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
        elif suffix in pictures.SUFFIXES:
            listing.pictures.append(path)
        elif suffix in pictures.OTHER_PICTURE_SUFFIXES:
            listing.other_pictures.append(path)
        elif suffix == ".txt":
            listing.texts.append(path)
        elif suffix not in _SIDECARS and name.lower() not in ("thumbs.db", "desktop.ini"):
            listing.unknown.append(name)
    return listing, None


_ENOUGH = 1000


def _count_pictures(folder: Path) -> int:
    """How many pictures lie in a sub-folder, counting no further than `_ENOUGH`; 0 where it cannot be read."""
    count = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                count += Path(entry.name).suffix.lower() in pictures.SUFFIXES and not entry.name.startswith(".")
                if count == _ENOUGH:
                    break
    except OSError:
        return 0  # it is only mentioned, never read
    return count


def _empty(folder: Path, option: str, listing: _Listing, any_error: bool) -> Finding:
    remedy = f"Put pictures ({', '.join(pictures.FORMATS)}) into it."
    if any_error or listing.pictures or listing.other_pictures:
        message = f"no picture in {folder} can be used."
        remedy = "Mend what is named in this list."
    else:
        message = f"there are no pictures in {folder}."
        for sub_folder in listing.folders:
            if _count_pictures(sub_folder):
                message += f" Sub-folders are not read, and {sub_folder.name} has some."
                remedy = f"Point {option} at {sub_folder}."
                break
    return Finding("error", option, message, remedy, "folder-empty")


# The pictures ---------------------------------------------------------------------------------------------------------

# Verdicts by (path, size, times): the page scans again at every change of a setting. Bounded by starting over.
_verdicts: dict[tuple, pictures.Inspection | pictures.BadPicture] = {}
_MOST_VERDICTS = 300_000


def _inspect_all(paths: list[Path], progress: Progress | None) -> list[pictures.Inspection | pictures.BadPicture]:
    if len(_verdicts) > _MOST_VERDICTS:
        _verdicts.clear()
    results, tell = [], steadily(progress)
    # Pillow decodes outside the interpreter's lock. At most four: each may hold a picture of 64 Mpx.
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        for done, result in enumerate(pool.map(_inspect, paths), start=1):
            results.append(result)
            tell("pictures", done, len(paths))
    return results


def _inspect(path: Path) -> pictures.Inspection | pictures.BadPicture:
    try:
        status = os.stat(path)
        key = (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    except OSError:
        key = None  # a link to nowhere: reading it says why
    if key is not None and key in _verdicts:
        return _verdicts[key]
    try:
        verdict: pictures.Inspection | pictures.BadPicture = pictures.inspect(pictures.read_bytes(path))
    except pictures.BadPicture as bad:
        verdict = bad
    if key is not None:
        _verdicts[key] = verdict
    return verdict


# Their captions -------------------------------------------------------------------------------------------------------


class _Captions:
    """Which caption each picture of a folder gets, and what was odd about them."""

    def __init__(
        self, listing: _Listing, strategy: str, prompt: str | None, prompt_option: str, trigger_word: str | None
    ):
        self.strategy, self.prompt_option, self.trigger_word = strategy, prompt_option, trigger_word
        self.prompt = captions.clean(prompt) if prompt is not None else ""
        self.texts = {path.stem: path for path in listing.texts}
        self.folded = {path.stem.casefold(): path for path in listing.texts}
        self.pictures = {path.name.casefold() for path in listing.pictures + listing.other_pictures}
        self.used: dict[Path, list[str]] = defaultdict(list)
        self.problems: list[Finding] = []
        self.with_prompt: list[str] = []
        self.triggered = 0
        self.given = 0

    def _file(self, path: Path) -> Path | None:
        return self.texts.get(path.stem, self.folded.get(path.stem.casefold()))

    def skip(self, path: Path) -> None:
        """The picture is left out; its caption file is then no orphan."""
        file = self._file(path)
        if file is not None:
            self.used[file].append(path.name)

    def of(self, path: Path) -> str | None:
        """The picture's caption; None where it has none, which is then among the findings."""
        caption, lacking = "", "no caption is given"
        if self.strategy == "filename":
            caption, lacking = captions.from_name(path), "its name gives no caption"
        elif self.strategy == "textfile":
            caption, lacking = self._read(path)
        if not caption:
            caption = self.prompt
            if caption and self.strategy != "instanceprompt":
                self.with_prompt.append(path.name)
        if not caption:
            self.problems.append(
                Finding(
                    "error",
                    str(path),
                    f"{lacking}, and {self.prompt_option} is not set.",
                    f"Write {path.stem}.txt beside it, or set {self.prompt_option} for all pictures without one.",
                    "caption-missing",
                )
            )
            return None
        self.given += 1
        if self.trigger_word is not None and captions.clean(self.trigger_word):
            told = captions.with_trigger(caption, self.trigger_word)
            self.triggered += told != caption
            caption = told
        return caption

    def _read(self, path: Path) -> tuple[str, str]:
        """(caption or "", why there is none)."""
        file = self._file(path)
        if file is None:
            return "", f"it has no caption file {path.stem}.txt"
        self.used[file].append(path.name)
        try:
            with file.open("rb") as stream:
                data = stream.read(captions.MAX_BYTES + 1)
            if len(data) > captions.MAX_BYTES:  # say the true size without reading it all
                raise captions.BadCaption(
                    f"it has {size(file.stat().st_size)}; a caption has at most {size(captions.MAX_BYTES)}"
                )
            caption, remark = captions.decode(data)
        except OSError as error:
            return "", self._bad(file, f"it cannot be read ({error.strerror})")
        except captions.BadCaption as bad:
            return "", self._bad(file, str(bad))
        if remark:
            self.problems.append(Finding("warning", str(file), f"{remark}.", "Save it as UTF-8.", "caption-encoding"))
        if not caption:
            self.problems.append(
                Finding(
                    "warning",
                    str(file),
                    "the caption file is empty.",
                    "Write the caption into it, or delete it.",
                    "caption-empty",
                )
            )
            return "", f"its caption file {file.name} is empty"
        return caption, ""

    def _bad(self, file: Path, reason: str) -> str:
        self.problems.append(
            Finding("warning", str(file), f"not used as a caption: {reason}.", "Save it as UTF-8 text.", "caption-bad")
        )
        return f"its caption file {file.name} cannot be used"

    def findings(self) -> list[Finding]:
        found = list(self.problems)
        if self.strategy == "textfile":
            found += self._orphans()
            for file, names in self.used.items():
                if len(names) > 1:
                    found.append(
                        Finding(
                            "warning",
                            str(file),
                            f"is the caption of {len(names)} pictures: {', '.join(names)}.",
                            "Rename the pictures so that each has its own caption, or remove the copies.",
                            "duplicate-stem",
                        )
                    )
        if self.with_prompt:
            count = len(self.with_prompt)
            found.append(
                Finding(
                    "note",
                    self.prompt_option,
                    f"{count} picture{'s' if count > 1 else ''} without a caption of {'their' if count > 1 else 'its'} own use "
                    f'"{self.prompt}".',
                    "",
                    "caption-default",
                )
            )
        if self.triggered:
            found.append(
                Finding(
                    "note",
                    "trigger_word",
                    f'"{captions.clean(self.trigger_word)}" was put in front of {self.triggered} of {self.given} captions that lack it.',
                    "",
                    "trigger-inserted",
                )
            )
        return found

    def _orphans(self) -> Iterable[Finding]:
        for file in self.texts.values():
            if file in self.used:
                continue
            if file.stem.casefold() in self.pictures:  # photo.jpg.txt
                message = f"is the caption of no picture: captions are named {Path(file.stem).stem}.txt, without the picture's ending."
                yield Finding(
                    "warning", str(file), message, f"Rename it to {Path(file.stem).stem}.txt.", "caption-orphan"
                )
            else:
                yield Finding(
                    "warning",
                    str(file),
                    "a caption without a picture.",
                    f"Add the picture {file.stem}.png (or .jpg ...), or delete the caption.",
                    "caption-orphan",
                )


# Twins ----------------------------------------------------------------------------------------------------------------


def _duplicates(items: list[Item]) -> Iterable[Finding]:
    by_digest: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_digest[item.digest].append(item)
    for twins in by_digest.values():
        if len(twins) > 1:
            yield Finding(
                "warning",
                str(twins[0].path),
                f"the same picture {len(twins)} times ({', '.join(twin.name for twin in twins[:4])}"
                f"{', ...' if len(twins) > 4 else ''}); it counts that often.",
                "Delete the copies; to show all pictures more often, set repeats.",
                "duplicate-picture",
            )


def _overlap(items: tuple[Item, ...], class_items: tuple[Item, ...]) -> Iterable[Finding]:
    instance = {item.digest for item in items}
    for item in class_items:
        if item.digest in instance:
            yield Finding(
                "warning",
                str(item.path),
                "a class picture that is also an instance picture; it would teach that the thing is the ordinary kind.",
                "Remove it from the class folder.",
                "class-overlap",
            )


def bucket_counts(items: Iterable[Item]) -> dict[Size, int]:
    """How many pictures each used bucket has, most first."""
    counts = Counter(item.bucket for item in items)
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))
