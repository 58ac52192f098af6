"""Captions: from `photo.txt` beside `photo.png`, from the instance prompt, or from the file's name; and the trigger
word in them."""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ..sizes import size

MAX_BYTES = 64 * 2**10
"""Of a caption file. Text encoders read 77 to 512 tokens; a longer file is not a caption."""

_MARKS = (  # byte order marks, the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)


class BadCaption(ValueError):
    """A caption file cannot be used; the text is the reason."""


def decode(data: bytes) -> tuple[str, str]:
    """(caption on one line, a remark on its encoding or "").

    UTF-8, or UTF-16/32 where a byte order mark names it. Anything else is read as Windows' Western encoding (Latin-1 and
    its extension for typographic quotes), and the remark names it, because it may be wrong.

    Raises:
        BadCaption: longer than `MAX_BYTES`, or no text.
    """
    if len(data) > MAX_BYTES:
        raise BadCaption(f"it has {size(len(data))}; a caption has at most {size(MAX_BYTES)}")
    for mark, encoding, name in _MARKS:
        if data.startswith(mark):
            try:
                return clean(data[len(mark) :].decode(encoding)), ""
            except UnicodeDecodeError:
                raise BadCaption(f"it is marked as {name} but is not valid {name}") from None
    if b"\0" in data:
        raise BadCaption("it contains zero bytes, so it is not text, or UTF-16 without its byte order mark")
    try:
        return clean(data.decode("utf-8")), ""
    except UnicodeDecodeError:
        pass  # not UTF-8: the fallback below, with a remark
    remark = "is not UTF-8; it was read as Latin-1 (Windows-1252), so check its accents"
    try:
        return clean(data.decode("cp1252")), remark
    except UnicodeDecodeError:  # five byte values have no meaning there; in Latin-1 all have
        return clean(data.decode("latin-1")), remark


def clean(text: str) -> str:
    """One line: line breaks, tabs and control characters become blanks, runs of blanks one."""
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text).split())


def from_name(path: Path) -> str:
    """The file's name as a caption: `a_red_dog-2.png` -> "a red dog-2"."""
    return clean(path.stem.replace("_", " "))


def mentions(caption: str, trigger: str) -> bool:
    """Whether the trigger word stands in the caption as a whole word, in any case."""
    return re.search(rf"(?<!\w){re.escape(trigger.casefold())}(?!\w)", caption.casefold()) is not None


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word in front unless it mentions it already: "a dog" -> "sks, a dog"."""
    trigger = clean(trigger) if trigger is not None else ""
    if not trigger or mentions(caption, trigger):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def untriggered(caption: str, trigger: str | None) -> str:
    """The caption without the trigger word, in any case: "a large sks dog" -> "a large dog", "sks, a dog" -> "a dog"; "" where nothing is left."""
    word = clean(trigger) if trigger is not None else ""
    if not word:
        return caption
    left = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", caption, flags=re.IGNORECASE)
    return clean(re.sub(r"(\s*,)+", ",", left)).strip(" ,")


# Editing ------------------------------------------------------------------------------------------------------------------


def tags(caption: str) -> list[str]:
    """The parts of a caption between commas, without empty ones: "qrx, a cup,  red" -> ["qrx", "a cup", "red"]."""
    return [tag for tag in (clean(part) for part in caption.split(",")) if tag]


def tag_counts(several: Iterable[str]) -> dict[str, int]:
    """How many captions have each tag, most first, then by name. Case does not count; a tag is written as it was met first."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for caption in several:
        for tag in {tag.casefold(): tag for tag in reversed(tags(caption))}.values():
            spelled.setdefault(tag.casefold(), tag)
            counts[tag.casefold()] += 1
    return {spelled[key]: count for key, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))}


def with_tag(caption: str, tag: str, where: Literal["front", "end"]) -> str:
    """The caption with a tag at one end, unless it has it already, in any case. `tag` may be several, with commas between them."""
    have = tags(caption)
    known = {each.casefold() for each in have}
    new = list({each.casefold(): each for each in tags(tag) if each.casefold() not in known}.values())
    if not new:
        return caption
    return ", ".join([*new, *have] if where == "front" else [*have, *new])


def without_tag(caption: str, tag: str) -> str:
    """The caption without a tag, in any case; a caption that does not have it stays as it is, blanks and commas too."""
    gone = {each.casefold() for each in tags(tag)}
    kept = [each for each in tags(caption) if each.casefold() not in gone]
    return caption if len(kept) == len(tags(caption)) else ", ".join(kept)


def replaced(caption: str, find: str, replacement: str, *, match_case: bool) -> tuple[str, int]:
    """(the caption with every occurrence of `find` replaced, how many there were). `find` is plain text, not a pattern."""
    pattern = re.compile(re.escape(find), 0 if match_case else re.IGNORECASE)
    changed, count = pattern.subn(lambda _: replacement, caption)
    return (clean(changed), count) if count else (caption, 0)
