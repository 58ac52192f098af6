"""Commands to a live run: one file per command in the run's folder `commands/`, oldest first.

The sender leaves a file; the run's process takes it, and confirms it by a `command` event.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import platform_calls
from .errors import RunError
from .json_files import dump

COMMANDS = ("stop", "stop-and-save", "save", "sample", "drift", "pause", "resume")


@dataclass(frozen=True)
class Command:
    """One command to a live run. `id` returns in the run's `command` event when it was taken."""

    name: str
    args: dict[str, Any]
    id: str


def leave(folder: Path, command: str, args: dict[str, Any]) -> str:
    """Leave a command in a run's folder of commands; returns its id. Raises RunError for an unknown command, and where none can be left."""
    if command not in COMMANDS:
        raise RunError(f"{command!r} is not a command of a run. Commands: {', '.join(COMMANDS)}.")
    id = uuid.uuid4().hex[:12]
    record = {"command": command, "args": args, "id": id, "time": time.time()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        platform_calls.write_atomically(folder / f"{time.time_ns():020d}-{id}.json", dump(record).encode())
    except OSError as error:
        remedy = (
            "Free some space on that disk"
            if platform_calls.no_room(error)
            else "Make it a folder that you may write to"
        )
        raise RunError(
            f"{command} cannot be sent: nothing can be written into {folder} ({error.strerror}). {remedy}, and send it again."
        ) from error
    return id


def take(folder: Path, only: Container[str], emit: Callable[..., Any]) -> list[Command]:
    """Commands that came since the last call, oldest first; their files are removed. Costs one listing when none came.

    Args:
        only: names of commands; files of others stay for a later call.
        emit: writes an event of the run: a file that is not a command is set aside as `<name>.bad` and reported by a `warning`.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
    except FileNotFoundError:
        return []
    taken = []
    for path in files:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["command"] not in COMMANDS or not isinstance(record["args"], dict):
                raise ValueError(f"unknown command {record['command']!r}")
            if record["command"] not in only:
                continue
            taken.append(Command(record["command"], record["args"], str(record["id"])))
        except (ValueError, KeyError, TypeError) as error:
            platform_calls.replace(path, path.with_suffix(".bad"))
            emit(
                "warning",
                message=f"{path.name} is not a command: {error}",
                remedy=f"Commands are {', '.join(COMMANDS)}; the file was set aside as {path.stem}.bad.",
            )
            continue
        path.unlink()
    return taken


def pending(folder: Path) -> list[Command]:
    """Commands that were sent and not yet taken, oldest first; none is removed. For viewers that show what is requested."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != "."):
            # Removed between listing and reading: the run has taken it. Not a command: the run will report it itself.
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                record = json.loads(path.read_text(encoding="utf-8"))
                found.append(Command(str(record["command"]), dict(record["args"]), str(record["id"])))
    return found


def forget(folder: Path) -> None:
    """Remove commands that were meant for a process that is gone."""
    if folder.is_dir():
        for path in folder.glob("*.json"):
            path.unlink(missing_ok=True)
