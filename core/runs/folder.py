"""The folder of one run: its files, and who may write them. No torch here; the page and the command line use it.

    runs/<name>/
      config.json     flat, resolved, as it will train     events.jsonl   append-only (but see `forget_after`)
      state.json      state, step, message                 commands/      one file per command, oldest first
      run.lock        who trains: pid, start time, boot    process.json   the worker that the store started
      checkpoints/ samples/ drift/ lora/ log.txt

Who writes what: the training process owns events.jsonl, state.json and run.lock while it lives; the store writes them only
before it starts and after it is gone, so no write needs to be merged.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import names, platform_calls
from ..formats import NUMBER, WRITTEN_BY, refusal
from . import commands
from .commands import Command
from .errors import RunError
from .json_files import dump, jsonable, read_json

STATES = ("created", "queued", "starting", "running", "paused", "stopping", "done", "stopped", "failed", "crashed")
ACTIVE_STATES = ("starting", "running", "paused", "stopping")  # a live process must stand behind these

HEARTBEAT = "heartbeat.json"
_WRITTEN_AGAIN = ("step", "skipped", "scaled", "sample", "drift", "saved")  # events of steps that a resume trains again
_BACKWARDS_BYTES = 64 * 1024
_STATE_BLOCK = 4096  # a state is a multiple of this long
_CHECKPOINT = re.compile(r"step-(\d+)")


def check_name(name: str) -> str:
    """`name` itself when it may name a run, on every system. Raises RunError with the rule else."""
    try:
        return names.check(name, "run")
    except names.BadName as error:
        raise RunError(str(error)) from None


_STATE_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "state": (f"one of {', '.join(STATES)}", lambda value: value in STATES),
    **dict.fromkeys(("step", "total_steps"), ("a whole number or null", lambda value: value is None or type(value) is int)),
    **dict.fromkeys(("created", "updated", "started"), ("a number of seconds", lambda value: type(value) in (int, float) and math.isfinite(value))),
    **dict.fromkeys(("message", "preset", "control", "control_of", "control_how"),
                    ("text or null", lambda value: value is None or isinstance(value, str))),
    "cwd": ("text", lambda value: isinstance(value, str)),
}  # fmt: skip
"""Field of a state -> (what it must be, in words; whether a value is that). Other fields may be anything."""


def log_tail(path: Path, lines: int, limit_bytes: int) -> str:
    """The end of a log: at most `lines` lines and `limit_bytes` bytes; carriage returns of progress bars resolved. "" where there is no such file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    kept = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(kept[-lines:])


class RunDir:
    """The files of one run. Cheap to make; holds no handles, so any number may exist for one directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.name = self.path.name
        self.config_path = self.path / "config.json"
        self.events_path = self.path / "events.jsonl"
        self.state_path = self.path / "state.json"
        self.process_path = self.path / "process.json"
        self.lock_path = self.path / "run.lock"
        self.commands_path = self.path / "commands"
        self.checkpoints_path = self.path / "checkpoints"
        self.samples_path = self.path / "samples"
        self.drift_path = self.path / "drift"
        self.lora_path = self.path / "lora"
        self.log_path = self.path / "log.txt"

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    def read_config(self) -> dict[str, Any]:
        """The flat configuration that the run trains with."""
        config = read_json(self.config_path)
        if config is None:
            raise RunError(f"{self.path} holds no config.json: it is not a run.")
        newer = refusal("settings", config.get(NUMBER), config.get(WRITTEN_BY))
        if newer is not None:
            raise RunError(f"Run {self.name} {newer.what}", newer.remedy)
        return config

    # -- events -------------------------------------------------------------------------------------------------------

    def emit(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event as one line of JSON, visible to readers at once; returns it as written.

        One `write` call per line, so that a reader never sees half a line followed by another. A line that was cut by a
        kill or a full disk is closed first. Raises OSError when the disk is full, TypeError for fields JSON cannot hold.
        """
        record = jsonable({"event": event, "time": round(time.time(), 3), **fields})
        line = dump(record).encode() + b"\n"
        with open(self.events_path, "ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            written = file.write(line)
            if written != len(line):
                raise OSError(
                    28, f"Only {written} of {len(line)} bytes of an event could be written", str(self.events_path)
                )
        return record

    def events(self, offset: int = 0, limit_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """Events written since the byte `offset`, and the offset for the next call. Half a line stays for next time.

        A line that is not a JSON object (cut by a kill) comes as `{"event": "damaged", "time": None, "bytes": n}`. A file that
        became shorter than `offset` is read from its beginning. `limit_bytes` bounds one read of a long file; at least
        one whole line is returned even when it is longer.
        """
        try:
            with open(self.events_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < offset:
                    offset = 0
                file.seek(offset)
                data = file.read() if limit_bytes is None else file.read(limit_bytes)
                if limit_bytes is not None and b"\n" not in data:
                    data += file.readline()
        except FileNotFoundError:
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        return [_parse_event(line) for line in whole.split(b"\n") if line.strip()], offset + len(whole)

    def last_event(self, kind: str) -> dict[str, Any] | None:
        """The last event of a kind, or None. Reads the file backwards, and parses only lines that could be of that kind."""
        mark = f'"{kind}"'.encode()
        for _, line in _backwards(self.events_path):
            if mark in line and (event := _parse_event(line))["event"] == kind:
                return event
        return None

    def forget_after(self, step: int) -> None:
        """Blank out the events of steps after `step`, because a resume writes them again: so every step has one event.

        For the trainer, before it goes on from the checkpoint of `step`. Written in place: the file keeps its length, and every
        reader its offset. Errors, warnings and ends stay, whatever their step.
        """
        if not self.events_path.exists():
            return
        with open(self.events_path, "r+b") as file:
            for offset, line in _backwards(self.events_path):
                event = _parse_event(line)
                written_again = event["event"] in _WRITTEN_AGAIN and isinstance(event.get("step"), int)
                if written_again and event["step"] > step:
                    file.seek(offset)
                    file.write(b" " * len(line))
                elif written_again and event["event"] == "step":
                    return  # everything before it was written before this step

    # -- commands -----------------------------------------------------------------------------------------------------

    def send(self, command: str, **args: Any) -> str:
        """Leave a command for the run's process; returns its id. Raises RunError for an unknown command, and where none can be left."""
        return commands.leave(self.commands_path, command, args)

    def take_commands(self, only: Container[str] = commands.COMMANDS) -> list[Command]:
        """Commands that came since the last call, oldest first; their files are removed. Costs one listing when none came.

        `only`: names of commands; files of others stay for a later call.

        A file that is not a command is set aside as `<name>.bad` and reported by a `warning` event.
        """
        return commands.take(self.commands_path, only, self.emit)

    def pending_commands(self) -> list[Command]:
        """Commands that were sent and not yet taken, oldest first; none is removed. For viewers that show what is requested."""
        return commands.pending(self.commands_path)

    def forget_commands(self) -> None:
        """Remove commands that were meant for a process that is gone."""
        commands.forget(self.commands_path)

    # -- state and ownership ------------------------------------------------------------------------------------------

    def read_state(self) -> dict[str, Any]:
        """The last written state: at least `{"state": ...}`; `created` before one was written. Raises RunError for a damaged one."""
        state = {"state": "created", **(read_json(self.state_path) or {})}
        newer = refusal("run", state.get("format"), state.get("version"))
        if newer is not None:
            raise RunError(f"Run {self.name} {newer.what}", newer.remedy)
        for name, (rule, holds) in _STATE_RULES.items():
            if name in state and not holds(state[name]):
                value = state[name]
                shown = type(value).__name__ if isinstance(value, (dict, list)) else dump(value)
                raise RunError(
                    f"{self.state_path} is damaged: {name} must be {rule}, and is {shown:.80}. Move it away to go on."
                )
        return state

    def write_state(self, **fields: Any) -> dict[str, Any]:
        """Merge `fields` into the state, atomically, and return the whole. Raises RunError for an unknown state.

        The file has blanks behind its content, so that it can be written even on a full disk: then it is overwritten in place.
        """
        if fields.get("state", "created") not in STATES:
            raise RunError(f"state = {fields['state']!r}: must be one of {', '.join(STATES)}.")
        state = jsonable({**self.read_state(), **fields, "updated": round(time.time(), 3)})
        data = dump(state, indent=1).encode()
        data += b" " * (-len(data) % _STATE_BLOCK)
        try:
            platform_calls.write_atomically(self.state_path, data)
        except OSError as error:
            if not (
                platform_calls.no_room(error)
                and self.state_path.exists()
                and platform_calls.overwrite(self.state_path, data)
            ):
                raise
        return state

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own this run for as long as the block lasts. Raises RunError when a live process owns it already.

        The lock names its holder by pid, start time and boot, so one left by a killed process or before a restart of the
        machine is taken over, and a reused pid never holds it.
        """
        me = platform_calls.identity()
        guard = self.path / ".lock-guard"  # serialises reading and taking; the lock itself may last for days
        with platform_calls.file_lock(guard):
            holder = read_json(self.lock_path)
            if holder is not None and platform_calls.is_alive(holder):
                raise RunError(
                    f"Run {self.name!r} is already being trained by process {holder['pid']}. Stop that one first."
                )
            try:
                platform_calls.write_atomically(self.lock_path, dump(me).encode())
            except OSError as error:
                remedy = (
                    "Free some space there"
                    if platform_calls.no_room(error)
                    else "Make it a folder that you may write to"
                )
                raise RunError(
                    f"Nothing can be written into {self.path} ({error.strerror}), so run {self.name!r} cannot train. {remedy}."
                ) from error
        try:
            yield
        finally:
            with (
                contextlib.suppress(FileNotFoundError),
                platform_calls.file_lock(guard),
            ):  # else the folder was moved away
                if read_json(self.lock_path) == jsonable(me):
                    self.lock_path.unlink()

    def owner(self) -> dict[str, Any] | None:
        """The live process that trains this run or is about to, as `platform_calls.identity` gives it; None when none.

        Raises RunError when one of the two files that name it is damaged and no other names a live one.
        """
        damaged: RunError | None = None
        for path in (self.lock_path, self.process_path):
            try:
                who = read_json(path)
            except RunError as error:
                damaged = error
                continue
            if platform_calls.is_alive(who):
                return who
        with contextlib.suppress(RunError):  # a torn one is written anew in seconds
            if platform_calls.is_alive(who := read_json(self.path / HEARTBEAT)):
                return who
        if damaged is not None:
            raise damaged
        return None

    # -- other files -----------------------------------------------------------------------------------------------

    def last_checkpoint(self) -> int | None:
        """The highest step whose checkpoint is complete (has its manifest); hashes are verified when it is loaded."""
        if not self.checkpoints_path.is_dir():
            return None
        steps = [
            int(match[1])
            for path in self.checkpoints_path.iterdir()
            if (match := _CHECKPOINT.fullmatch(path.name)) and (path / "manifest.json").is_file()
        ]
        return max(steps, default=None)

    def log_tail(self, lines: int = 200, limit_bytes: int = 64_000) -> str:
        """The end of log.txt: at most `lines` lines and `limit_bytes` bytes; carriage returns of progress bars resolved."""
        return log_tail(self.log_path, lines, limit_bytes)

    def size_bytes(self) -> int:
        """What its files take on the disk, roughly: their lengths added up. Some milliseconds for a run of hundreds of files."""
        total, folders = 0, [self.path]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:  # removed meanwhile
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(Path(entry.path))
                        else:
                            total += entry.stat(follow_symlinks=False).st_size
        return total


def require(run: RunDir) -> None:
    """Raises FileNotFoundError where a run's folder was moved or removed: a writer would make half of it anew."""
    if not run.config_path.is_file():
        raise FileNotFoundError(2, "The run's folder was moved or removed", str(run.path))


def _parse_event(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict) and isinstance(record.get("event"), str):
        return record
    return {"event": "damaged", "time": None, "bytes": len(line)}


def _backwards(events_path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line of a file of events, the last one first."""
    if not events_path.exists():
        return
    with open(events_path, "rb") as file:
        begin, rest = file.seek(0, os.SEEK_END), b""
        while begin > 0:
            end, begin = begin, max(0, begin - _BACKWARDS_BYTES)
            file.seek(begin)
            data = file.read(end - begin) + rest
            lines, offset = data.split(b"\n"), begin + len(data)
            rest = lines.pop(0) if begin else b""
            for line in reversed(lines):
                offset -= len(line)
                yield offset, line
                offset -= 1


def device_of(config: Mapping[str, Any]) -> str:
    """The device that a flat configuration names: cuda:0, cuda:1, mps or cpu, `auto` resolved; of several processes the first one's."""
    return platform_calls.device_name(str(config.get("device", "auto")))


def devices_of(config: Mapping[str, Any]) -> frozenset[str]:
    """All devices that a run of a flat configuration takes: with `num_processes` GPUs from the one that it names on."""
    first, count = device_of(config), config.get("num_processes", 1)
    kind, _, number = first.partition(":")
    if kind != "cuda" or type(count) is not int:
        return frozenset({first})
    return frozenset(f"cuda:{int(number) + more}" for more in range(max(1, count)))


def devices_taken(run: RunDir) -> frozenset[str]:
    """All devices that a run takes; what `auto` means here where its config cannot be read."""
    try:
        return devices_of(run.read_config())
    except RunError:
        return devices_of({})
