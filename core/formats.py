"""Which format of each kind of file this version writes, and the sentence that refuses what a newer version wrote.

A number goes up with the first version whose files the version before cannot read whole; what read the old ones stays. Every file says its
number, and which version wrote it; one from before there were numbers says neither, and has format 1. No torch.
"""

import re
import sys
from typing import Any, NamedTuple

assert __package__ is not None
VERSION: str = sys.modules[__package__.rpartition(".")[0]].__version__
"""Of this program: the package's around `core`, whatever that is called (ComfyUI loads the pack under another name)."""

FORMATS = {
    "settings": 1,  # flat options: of a run, a preset, a config file, and those that a LoRA carries
    "run": 1,  # its folder: state, events, commands, where things lie
    "checkpoint": 2,  # of divided weights; whole ones are written as 1, see `runs/checkpoint`
    "LoRA": 1,
    "workflow": 1,
    "study": 1,
    "drift report": 1,
}
NUMBER, WRITTEN_BY = "_format", "_version"
"""How flat settings say both. A version that knows neither passes over keys that begin so."""


class Refusal(NamedTuple):
    """Why a file cannot be read. `what` goes on after its name."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


def remarks(kind: str) -> dict[str, Any]:
    """What a JSON file of this kind says of itself."""
    return {NUMBER: FORMATS[kind], WRITTEN_BY: VERSION}


def refusal(kind: str, number: Any, written_by: Any = None) -> Refusal | None:
    """Why a file cannot be read; None where it can be.

    Args:
        number: what it says of its format, whatever that is; None = nothing. written_by: of its version.
    """
    if number is None:
        return None
    if type(number) is not int or number < 1:
        return Refusal(f"is damaged: {str(number)[:40]!r} is no number of a format.", "Get it again.")
    if number <= FORMATS[kind]:
        return None
    return _newer(written_by, f"format {number} of {kind}, of which this version reads {FORMATS[kind]}")


def refusal_of_version(written_by: Any, unknown: str) -> Refusal | None:
    """The same for a file of a format that can be read, with something in it that is not known here; None where no newer version wrote it."""
    return _newer(written_by, f"which has {unknown}") if _numbers(written_by) > _numbers(VERSION) else None


def _newer(written_by: Any, what: str) -> Refusal:
    version = f" {written_by}" if _numbers(written_by) else ""
    words = f"was written by a newer version{version} of Rollout Studio ({what}); this is {VERSION}."
    return Refusal(words, "Update Rollout Studio to open it.")


def _numbers(version: Any) -> tuple[int, ...]:
    """The numbers of a version, to be compared; none of what is no version."""
    found = (
        re.fullmatch(r"(\d{1,6}(?:\.\d{1,6}){0,3})[A-Za-z0-9.+-]{0,30}", version) if isinstance(version, str) else None
    )
    return tuple(int(each) for each in found[1].split(".")) if found else ()
