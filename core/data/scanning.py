"""Scan the folders of a training set: what will be trained on, with which caption and shape, and everything
that is wrong.

Only the folder itself is read, never its sub-folders: a class folder or a cache inside it must not slip into the
instance pictures. Sub-folders with pictures are named. Every picture is decoded once, so what the scan lets pass does
not fail an hour later.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..demo import resolve
from ..findings import Finding
from . import captions, masks, pictures
from .beside import BadCrop, Cut, read_cut
from .buckets import MULTIPLE, Size, bucket_sizes, choose
from .captioning import Captioning
from .inspecting import inspect_all
from .listing import empty_folder, list_folder
from .looks import BLURRED, MOST_COMPARED, Look, near_duplicates
from .masks import Mask
from .progress import Progress
from .transform import Crop, crop_for

_KEPT_TOO_LITTLE = 0.6


@dataclass(frozen=True)
class Item:
    """One picture: where, what it is called in logs, what it shows, its upright size, the bucket it trains in, the
    sha256 of its file; `cut`: the part that is kept of it (`beside`), whose size is then `width` and `height`; None = all; which thing
    it shows (its place in `DataConfig.things`), and the mask of what trains (None = all of it)."""

    path: Path
    name: str
    caption: str
    width: int
    height: int
    bucket: Size
    digest: str
    cut: Cut | None = None
    concept: int = 0
    mask: Mask | None = None

    @property
    def content(self) -> str:
        """What tells it from every other picture to train on: the digest, the part that is kept, and the mask."""
        cut = "" if self.cut is None else f" {self.cut.left} {self.cut.top} {self.cut.right} {self.cut.bottom}"
        return f"{self.digest}{cut}{'' if self.mask is None else f' masked by {self.mask.digest}'}"

    def crop(self, size: Size, *, center: bool) -> Crop:
        """What the bucket `size` takes of it, in pixels of the whole upright picture."""
        crop = crop_for(self.width, self.height, size, center=center, digest=self.digest)
        return crop if self.cut is None else crop.moved(self.cut.left, self.cut.top)


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


def scan_thing(data, progress: Progress | None = None) -> Scan:
    """Scan the instance folder and, with prior preservation, the class folder: those of one thing, whatever `concepts` says.

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
        may_have_masks=False,
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
    may_have_masks: bool = True,
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
        may_have_masks: whether `masked_training` is about these pictures; class pictures train whole.
    """
    folder = located(folder)
    listing, problem = list_folder(folder, option)
    if problem is not None:
        return (), [problem]
    found_masks = masks.taken(folder, listing, data.masked_training != "off", may_have_masks)
    problems = [*listing.findings(folder), *found_masks.findings()]
    inspected, square = inspect_all(listing.pictures, progress), ((data.resolution, data.resolution),)
    sizes = bucket_sizes(data.resolution, data.bucket_step) if data.aspect_buckets else square
    texts = Captioning(listing, strategy, prompt, prompt_option, trigger_word)

    items: list[Item] = []
    sound: list[Item] = []  # those without a caption too: they are looked at all the same
    looks: dict[str, Look] = {}
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
        item, wrong = _item(path, found, caption, sizes, found_masks, center=data.center_crop)
        problems += wrong
        if item is None:
            continue
        looks[found.digest] = found.look
        sound.append(item)
        items += [item] if caption is not None else []
    problems += (*_about(sound, looks, data), *texts.findings())
    if not items and not may_be_empty:
        problems.append(empty_folder(folder, option, listing, any(each.level == "error" for each in problems)))
    return tuple(items), problems


def _item(
    path: Path,
    found: pictures.Inspection,
    caption: str | None,
    sizes: tuple[Size, ...],
    found_masks: masks.Masks,
    *,
    center: bool,
) -> tuple[Item | None, tuple[Finding, ...]]:
    """The picture with what is kept of it, the bucket and the mask of that; None where its crop cannot be honoured."""
    try:
        cut = read_cut(path, found.width, found.height)
    except BadCrop as bad:
        return None, (Finding("error", str(path), f"{bad.message}.", bad.remedy, "crop-bad"),)
    width, height = (found.width, found.height) if cut is None else (cut.width, cut.height)
    text = "" if caption is None else caption
    item = Item(path, path.name, text, width, height, choose(width, height, sizes), found.digest, cut)
    mask = found_masks.of(path, found, item.crop(item.bucket, center=center))
    return replace(item, mask=mask.mask), mask.problems


# What is wrong with pictures ------------------------------------------------------------------------------------------


def _about(items: list[Item], looks: dict[str, Look], data) -> Iterable[Finding]:
    """`looks`: what is measured of a picture, by digest."""
    for item in items:
        yield from _blurred(item, looks[item.digest], data.resolution)
        yield from _cropped(item, data.aspect_buckets)
    yield from _enlarged(items)
    yield from _duplicates(items)
    yield from _near_duplicates(items, looks)


def _crop(item: Item) -> Crop:
    return crop_for(item.width, item.height, item.bucket, center=True, digest=item.digest)


def _cropped(item: Item, aspect_buckets: bool) -> Iterable[Finding]:
    kept = _crop(item).kept(item.width, item.height)
    if kept < _KEPT_TOO_LITTLE:
        yield Finding(
            "warning",
            str(item.path),
            f"only {kept:.0%} of its {item.width} x {item.height} pixels are kept to fit {item.bucket[0]} x {item.bucket[1]}.",
            "Crop it yourself around the subject" + ("." if aspect_buckets else ", or turn aspect_buckets on."),
            "picture-cropped",
        )


def _enlarged(items: list[Item]) -> Iterable[Finding]:
    for item in items:
        if _crop(item).scale > 1.0001:
            yield Finding(
                "warning",
                str(item.path),
                f"too small: {item.width} x {item.height} is enlarged to fill {item.bucket[0]} x {item.bucket[1]}, and the model "
                "learns the blur.",
                f"Use a larger original, or a resolution of at most {_resolution_for(item)}.",
                "picture-small",
            )


def _blurred(item: Item, look: Look, resolution: int) -> Iterable[Finding]:
    sharp = look.sharpness_at(resolution)
    if sharp is not None and sharp < BLURRED:
        yield Finding(
            "warning",
            str(item.path),
            f"blurred, or without fine detail: its sharpest part has a sharpness of {sharp:.2f} of 1 (below {BLURRED} is reported), and the "
            "model learns the blur.",
            "Take a sharper picture in its place, or keep it where it is meant to look so.",
            "picture-blurred",
        )


def _near_duplicates(items: list[Item], looks: dict[str, Look]) -> Iterable[Finding]:
    """Pictures that nearly equal an earlier one. Exact copies are reported by themselves, and parts of one picture are meant."""
    firsts = {item.digest: item for item in reversed(items)}
    different = [item for item in items if firsts[item.digest] is item]
    if len(different) > MOST_COMPARED:
        yield Finding(
            "note",
            "",
            f"nearly the same pictures were not looked for: that is done for at most {MOST_COMPARED} pictures.",
            "",
            "near-duplicate-many",
        )
    pairs = near_duplicates(tuple(looks[item.digest].fingerprint for item in different))
    for number, first in pairs.items():
        if different[number].cut == different[first].cut:
            yield Finding(
                "warning",
                str(different[number].path),
                f"nearly the same picture as {different[first].name}; what it shows counts twice.",
                "Keep the better one, or keep both where they are meant to count twice.",
                "near-duplicate",
            )


def _resolution_for(item: Item) -> int:
    return max(MULTIPLE, min(item.width, item.height) // MULTIPLE * MULTIPLE)


def _duplicates(items: list[Item]) -> Iterable[Finding]:
    by_digest: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_digest[item.content].append(item)
    for copies in by_digest.values():
        if len(copies) > 1:
            yield Finding(
                "warning",
                str(copies[0].path),
                f"the same picture {len(copies)} times ({', '.join(copy.name for copy in copies[:4])}"
                f"{', ...' if len(copies) > 4 else ''}); it counts that often.",
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
