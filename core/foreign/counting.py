"""How many pictures a run of another tool has, and what its epochs are in steps."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .sheet import Sheet

_REPEATED = re.compile(r"(\d+)_(.*)")
_MOST = 100_000


@dataclass(frozen=True)
class Folder:
    """A folder of pictures. `repeats` and `caption` are those of a name like "10_sks dog", `caption` None without."""

    path: Path
    pictures: int
    repeats: int = 1
    caption: str | None = None


def repeats_and_caption(name: str) -> tuple[int, str] | None:
    """ "10_sks dog" -> (10, "sks dog"); None for a name of another form."""
    match = _REPEATED.fullmatch(name)
    return (int(match[1][:6]), match[2].strip()) if match is not None else None


def count(path: Path) -> int:
    """Pictures directly in a folder; 0 where it cannot be read."""
    from ..data.listing import count_pictures

    return count_pictures(path, _MOST)


def repeated_folders(path: Path) -> list[Folder]:
    """The sub-folders whose names say repeats and caption, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        return []
    found = [(name, repeats_and_caption(name)) for name in names]
    return [Folder(path / name, count(path / name), read[0], read[1]) for name, read in found if read is not None]


def shares(rows: list[int]) -> list[int]:
    """How often things come beside each other, in the smallest whole numbers: [60, 15] -> [4, 1]."""
    common = math.gcd(*rows)
    found = [each // common for each in rows]
    return found if max(found) <= 10_000 else [max(1, round(each * 10_000 / max(found))) for each in found]


def shares_of(rows: Sequence[int]) -> list[int] | None:
    """`shares` of several sets of pictures, whose `rows` are pictures x repeats; None with one set, or where some cannot be counted."""
    return shares(list(rows)) if len(rows) > 1 and min(rows) > 0 else None


def share_words(repeats: float, share: int) -> str:
    """The sentence about repeats that became a share."""
    return f"{repeats:g} repeats there. Here a thing comes as often as its repeats say, so they are pictures x repeats of its folder, as a share: {share}."


def _rows_of_step(sheet: Sheet) -> int:
    """Pictures that one step sees."""
    return math.prod(
        int(float(sheet.flat.get(name, 1))) for name in ("train_batch_size", "gradient_accumulation_steps")
    )


def place_epochs(sheet: Sheet, key: str, epochs: int, rows: int, *, doubled: bool = False) -> None:
    """A length in epochs as steps. `rows`: pictures x repeats of an epoch, 0 where they cannot be counted.

    `doubled`: class pictures fill rows of their own there, as many as instance pictures; here they come along with each step.
    """
    each = _rows_of_step(sheet)
    if rows <= 0:
        sheet.leave(key, f"{epochs} epochs: the pictures are not on this computer, so they cannot be counted. max_train_steps = pictures x "
                    f"repeats x {epochs} / {each}")  # fmt: skip
        return
    steps = max(1, math.ceil(rows / each) * epochs)
    why = " Class pictures come along with each step here, so their steps are not counted." if doubled else ""
    sheet.change(
        key,
        {"max_train_steps": steps},
        f"{epochs} epochs of {rows} pictures (with repeats) at {each} a step are {steps} steps.{why}",
    )


def place_every(sheet: Sheet, key: str, option: str, every: float, rows: int) -> None:
    """ "Every n epochs" as steps."""
    each = _rows_of_step(sheet)
    if rows <= 0:
        sheet.leave(
            key,
            f"every {every:g} epochs: the pictures are not on this computer, so they cannot be counted; set {option}",
        )
    else:
        steps = max(1, round(math.ceil(rows / each) * every))
        sheet.change(
            key,
            {option: steps},
            f"{'Every epoch is' if every == 1 else f'Every {every:g} epochs are'} every {steps} steps.",
        )
