"""Names that people give to what becomes a file or a folder: runs, presets, pictures. One rule that every system's disk can keep."""

import re
import sys
from pathlib import Path
from typing import Any

from .errors import Trouble

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RULE = "Use 1 to 64 letters, digits, dots, hyphens or underscores, starting with a letter or a digit."
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{port}{digit}" for port in ("com", "lpt") for digit in range(10)}


class BadName(Trouble, ValueError):
    """A name cannot be used; the message gives the reason and the rule."""


def check(name: Any, thing: str) -> str:
    """`name` itself when it may name a `thing` with a file, on every system. Raises BadName with the rule else."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.endswith("."):
        raise BadName(f"{str(name)[:80]!r} cannot name a {thing}.", RULE)
    if name.split(".")[0].lower() in _RESERVED:
        raise BadName(f"{name!r} is a device name on Windows and cannot name a {thing}.", RULE)
    return name


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a model on the hub, owner/model; not whether there is one."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def is_elsewhere(path: str) -> bool:
    """Whether it names another machine or is a URL: merely looking there hands it this person's log-in on some systems."""
    return path.startswith(("\\\\", "//", "file:"))


def not_a_path(text: str) -> str | None:
    """Why `text` can name no file and no folder, whatever is on the disk, as the end of a sentence; None where it can.

    Asked before the disk is: there a part that is too long is an error of the system, not "no such file".
    """
    try:
        parts = Path(text).expanduser().parts
    except RuntimeError:  # "~somebody", and there is no such account
        return f"{text[:80]!r} begins with ~ and a name, and no account has that name here; write the whole path."
    longest = max((_length(part) for part in parts), default=0)
    if longest > _LONGEST_PART:
        return f"one of its parts has {longest} {_UNIT}; a file's or a folder's name has at most {_LONGEST_PART}."
    if _length(text) > _LONGEST_PATH:
        return f"it has {_length(text)} {_UNIT}; a path has at most {_LONGEST_PATH}."
    return None


_LONGEST_PART, _LONGEST_PATH = 255, 4095
_UNIT = "bytes" if sys.platform == "linux" else "characters"


def _length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if sys.platform == "linux" else len(text)


def is_model_file(name: str) -> bool:
    """Whether a file's name is that of a model in one file; not whether there is one."""
    return name.lower().endswith((".safetensors", ".sft")) and not name.startswith(".")


def slug(text: str, otherwise: str = "run") -> str:
    """A name made from any text: unsuitable characters become hyphens; `otherwise` when nothing is left that may be one."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:48].rstrip("-._")
    return name if NAME.fullmatch(name) and name.split(".")[0].lower() not in _RESERVED else otherwise
