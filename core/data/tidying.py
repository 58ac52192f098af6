"""The size of the cache: what it holds, what is removed when it is too large, and how it is emptied. No torch.

Every use of an entry sets its time of change (`cache.TensorCache`), so the oldest are those that were unused for longest. Removing an
entry never makes a result wrong: whoever needs it makes it again. A run reads what does not fit into its memory once an epoch, and stops
where it is gone; so what was used lately stays, whatever the limit.
"""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = {"latents": "latents of pictures", "text": "encoded captions and prompts"}
"""The kinds that can be made again from a run's own pictures and model. Generated class pictures are another folder, `class`."""
IN_USE_S = 3 * 24 * 3600.0
"""An entry that was used in this time may be another run's at this moment."""


@dataclass(frozen=True)
class Amount:
    """So many files, of so many bytes together."""

    files: int = 0
    bytes_: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.files + other.files, self.bytes_ + other.bytes_)


@dataclass(frozen=True)
class _Entry:
    path: Path
    bytes_: int
    used: float


def amounts(cache_dir: Path) -> dict[str, Amount]:
    """What the cache holds of each kind of `KINDS`, and of generated class pictures as "class". Cost: a look at every file."""
    found = {kind: _sum(_entries(cache_dir, (kind,))) for kind in KINDS}
    pictures = [path for path in (cache_dir / "class").glob("*/*.png") if path.is_file()]
    found["class"] = Amount(len(pictures), sum(path.stat().st_size for path in pictures))
    return found


def tidy(cache_dir: Path, limit_bytes: float, in_use_s: float = IN_USE_S) -> Amount:
    """Remove the entries that were unused for longest until the others are at most `limit_bytes`; returns what was removed.

    Entries used less than `in_use_s` seconds ago stay. Two processes may tidy at once.
    """
    entries = sorted(_entries(cache_dir, KINDS), key=lambda entry: entry.used)
    excess, removed = sum(entry.bytes_ for entry in entries) - limit_bytes, []
    for entry in entries:
        if excess <= 0 or entry.used > time.time() - in_use_s:
            break
        removed += _removed(entry)
        excess -= entry.bytes_
    return _sum(removed)


def empty(cache_dir: Path, kinds: Iterable[str] = tuple(KINDS)) -> Amount:
    """Remove every entry of some kinds; returns what was removed. A run that is training and reads the cache stops at its next step
    with the advice to resume it."""
    return _sum([gone for entry in _entries(cache_dir, kinds) for gone in _removed(entry)])


def _entries(cache_dir: Path, kinds: Iterable[str]) -> Iterator[_Entry]:
    for kind in kinds:
        for path in (cache_dir / kind).glob("*/*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            yield _Entry(path, stat.st_size, stat.st_mtime)


def _removed(entry: _Entry) -> list[_Entry]:
    """The entry where this call removed it; Windows keeps a file that is being read."""
    try:
        os.unlink(entry.path)
    except (FileNotFoundError, PermissionError):
        return []
    return [entry]


def _sum(entries: Iterable[_Entry]) -> Amount:
    return sum((Amount(1, entry.bytes_) for entry in entries), Amount())
