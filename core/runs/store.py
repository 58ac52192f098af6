"""The run store: a run is a directory and a process of its own. No torch here; the page and the command line use it.

    runs/<name>/
      config.json     flat, resolved, as it will train     events.jsonl   append-only (but see `forget_after`)
      state.json      state, step, message                 commands/      one file per command, oldest first
      run.lock        who trains: pid, start time, boot    process.json   the worker that the store started
      checkpoints/ samples/ drift/ lora/ log.txt
    runs/.queue.sqlite3   the durable queue

Who writes what: the training process owns events.jsonl, state.json and run.lock while it lives; the store writes them only
before it starts and after it is gone, so no write needs to be merged.

**How the queue is drained.** There is no daemon. `RunStore.pump()` starts the next waiting run on every device on which
nothing is alive; it takes milliseconds and is safe to call from several processes at once. The page's timer calls it every
other second and `rollout-studio runs` calls it once, so a queue moves while the page is open (or whenever the command
is given), survives restarts of either, and never starts a run twice.
"""

from __future__ import annotations  # RunStore.list would hide the type of that name in its own signatures

import contextlib
import json
import math
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import names, platform_calls

if TYPE_CHECKING:
    from ..config import RunConfig

COMMANDS = ("stop", "stop-and-save", "save", "sample", "drift", "pause", "resume")
STATES = ("created", "queued", "starting", "running", "paused", "stopping", "done", "stopped", "failed", "crashed")
ACTIVE_STATES = ("starting", "running", "paused", "stopping")  # a live process must stand behind these
DEFAULT_ROOT = "runs"
ROOT_VARIABLE = "ROLLOUT_STUDIO_RUNS"
WORKER = (sys.executable, "-m", "rollout_studio.core.train.worker")

_ANOTHER_FOLDER = f"Name a folder that you may write to with --runs-dir, or in the variable {ROOT_VARIABLE}."
_TOLD_AGAIN = ("step", "sample", "drift", "saved")  # events of steps that a resume trains again
_BACKWARDS_BYTES = 64 * 1024
_SETTLED_NS = 2_000_000_000
_STATE_BLOCK = 4096  # a state is a multiple of this long
_ROOM_TO_START = 1 << 20  # bytes that must be free for a worker to be started
_TOO_LITTLE = 64 * 1024  # bytes: with less the database says many things, and means that the disk is full
_CHECKPOINT = re.compile(r"step-(\d+)")


class RunError(Exception):
    """A run cannot be created, started, commanded or deleted; the message says why and what to do."""


class StorageError(RunError):
    """The runs folder cannot be made, read or written; the message says why and what to do. Runs can often still be listed."""


def check_name(name: str) -> str:
    """`name` itself when it may name a run, on every system. Raises RunError with the rule else."""
    try:
        return names.check(name, "run")
    except names.BadName as error:
        raise RunError(str(error)) from None


def jsonable(value: Any) -> Any:
    """`value` as strict JSON can hold it: paths as text with forward slashes, NaN and infinities as the strings "nan", "inf", "-inf".

    Raises: TypeError for what has no plain form (a tensor with more than one element, an object).
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy or torch; more than one element raises there
        return jsonable(value.item())
    raise TypeError(f"An event or state cannot hold {type(value).__name__}: {value!r:.80}. Give numbers, text, lists or mappings.")


def _dump(value: Any, **options: Any) -> str:
    return json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False, **options)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file that is written atomically; None when the file does not exist. Raises RunError for anything else there."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}). Make it a readable file, or move it away to go on.") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits; nested without end
        raise RunError(f"{path} is damaged ({error}). Move it away to go on.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it must hold a JSON object, and holds {text.strip():.80}. Move it away to go on.")
    return value


_STATE_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "state": (f"one of {', '.join(STATES)}", lambda value: value in STATES),
    **dict.fromkeys(("step", "total_steps"), ("a whole number or null", lambda value: value is None or type(value) is int)),
    **dict.fromkeys(("created", "updated", "started"), ("a number of seconds", lambda value: type(value) in (int, float) and math.isfinite(value))),
    **dict.fromkeys(("message", "preset", "control", "control_of", "control_how"),
                    ("text or null", lambda value: value is None or isinstance(value, str))),
    "cwd": ("text", lambda value: isinstance(value, str)),
}  # fmt: skip
"""Field of a state -> (what it must be, in words; whether a value is that). Other fields may be anything."""


@dataclass(frozen=True)
class Command:
    """One wish of a person to a live run. `id` returns in the run's `command` event when it has been heard."""

    name: str
    args: dict[str, Any]
    id: str


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
        config = _read_json(self.config_path)
        if config is None:
            raise RunError(f"{self.path} holds no config.json: it is not a run.")
        return config

    def device(self) -> str:
        """The device that the run asked for; what `auto` means here where its config cannot be read."""
        try:
            return _device_of(self.read_config())
        except RunError:
            return _device_of({})

    # -- events -------------------------------------------------------------------------------------------------------

    def emit(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event as one line of JSON, visible to readers at once; returns it as written.

        One `write` call per line, so that a reader never sees half a line followed by another. A line that was cut by a
        kill or a full disk is closed first. Raises OSError when the disk is full, TypeError for fields JSON cannot hold.
        """
        record = jsonable({"event": event, "time": round(time.time(), 3), **fields})
        line = _dump(record).encode() + b"\n"
        with open(self.events_path, "ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            written = file.write(line)
            if written != len(line):
                raise OSError(28, f"Only {written} of {len(line)} bytes of an event could be written", str(self.events_path))
        return record

    def events(self, offset: int = 0, limit_bytes: int | None = None) -> tuple[list[dict[str, Any]], int]:
        """Events written since the byte `offset`, and the offset to ask with next time. Half a line stays for next time.

        A line that is no JSON object (cut by a kill) comes as `{"event": "damaged", "time": None, "bytes": n}`. A file that
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
        for _, line in self._backwards():
            if mark in line and (event := _parse_event(line))["event"] == kind:
                return event
        return None

    def forget_after(self, step: int) -> None:
        """Blank out what was told of steps after `step`, because a resume tells it again: so every step is told once.

        For the trainer, before it goes on from the checkpoint of `step`. Written in place: the file keeps its length, and every
        reader its offset. Errors, warnings and ends stay, whatever their step.
        """
        if not self.events_path.exists():
            return
        with open(self.events_path, "r+b") as file:
            for offset, line in self._backwards():
                event = _parse_event(line)
                told_again = event["event"] in _TOLD_AGAIN and isinstance(event.get("step"), int)
                if told_again and event["step"] > step:
                    file.seek(offset)
                    file.write(b" " * len(line))
                elif told_again and event["event"] == "step":
                    return  # what lies before it was told before this step

    def _backwards(self) -> Iterator[tuple[int, bytes]]:
        """(offset, line) of every line of the events, the last one first."""
        if not self.events_path.exists():
            return
        with open(self.events_path, "rb") as file:
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

    # -- commands -----------------------------------------------------------------------------------------------------

    def send(self, command: str, **args: Any) -> str:
        """Leave a command for the run's process; returns its id. Raises RunError for an unknown command, and where none can be left."""
        if command not in COMMANDS:
            raise RunError(f"{command!r} is no command of a run. Commands: {', '.join(COMMANDS)}.")
        id = uuid.uuid4().hex[:12]
        record = {"command": command, "args": args, "id": id, "time": time.time()}
        try:
            self.commands_path.mkdir(parents=True, exist_ok=True)
            platform_calls.write_atomically(self.commands_path / f"{time.time_ns():020d}-{id}.json", _dump(record).encode())
        except OSError as error:
            remedy = "Free some space on that disk" if platform_calls.no_room(error) else "Make it a folder that you may write to"
            raise RunError(f"{command} cannot be asked: nothing can be written into {self.commands_path} ({error.strerror}). {remedy}, and ask again.") from error
        return id

    def take_commands(self, only: Container[str] = COMMANDS) -> list[Command]:
        """Commands that came since the last call, oldest first; their files are removed. Costs one listing when none came.

        `only`: names of commands; files of others stay for a later call.

        A file that is no command is set aside as `<name>.bad` and reported by a `warning` event.
        """
        try:
            files = sorted(path for path in self.commands_path.iterdir() if path.suffix == ".json" and path.name[0] != ".")
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
                self.emit("warning", message=f"{path.name} is not a command: {error}",
                          remedy=f"Commands are {', '.join(COMMANDS)}; the file was set aside as {path.stem}.bad.")
                continue
            path.unlink()
        return taken

    def pending_commands(self) -> list[Command]:
        """Commands that were left and not yet heard, oldest first; nothing is taken. For whoever shows that somebody asked."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(path for path in self.commands_path.iterdir() if path.suffix == ".json" and path.name[0] != "."):
                # Taken between the listing and the look: then it has been heard. No command: the run will say so itself.
                with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                    record = json.loads(path.read_text(encoding="utf-8"))
                    found.append(Command(str(record["command"]), dict(record["args"]), str(record["id"])))
        return found

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

    def forget_commands(self) -> None:
        """Drop commands that nobody will answer: they were meant for a process that is gone."""
        if self.commands_path.is_dir():
            for path in self.commands_path.glob("*.json"):
                path.unlink(missing_ok=True)

    # -- state and ownership ------------------------------------------------------------------------------------------

    def read_state(self) -> dict[str, Any]:
        """The last written state: at least `{"state": ...}`; `created` before anybody wrote one. Raises RunError for a damaged one."""
        state = {"state": "created", **(_read_json(self.state_path) or {})}
        for name, (rule, holds) in _STATE_RULES.items():
            if name in state and not holds(state[name]):
                value = state[name]
                shown = type(value).__name__ if isinstance(value, (dict, list)) else _dump(value)
                raise RunError(f"{self.state_path} is damaged: {name} must be {rule}, and is {shown:.80}. Move it away to go on.")
        return state

    def write_state(self, **fields: Any) -> dict[str, Any]:
        """Merge `fields` into the state, atomically, and return the whole. Raises RunError for an unknown state.

        The file has blanks behind its content, so that a full disk can still be told: then it is written where it lies.
        """
        if fields.get("state", "created") not in STATES:
            raise RunError(f"state = {fields['state']!r}: must be one of {', '.join(STATES)}.")
        state = jsonable({**self.read_state(), **fields, "updated": round(time.time(), 3)})
        data = _dump(state, indent=1).encode()
        data += b" " * (-len(data) % _STATE_BLOCK)
        try:
            platform_calls.write_atomically(self.state_path, data)
        except OSError as error:
            if not (platform_calls.no_room(error) and self.state_path.exists() and platform_calls.overwrite(self.state_path, data)):
                raise
        return state

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Own this run for as long as the block lasts. Raises RunError when a live process owns it already.

        The lock names its holder by pid, start time and boot, so one left by a killed process or before a restart of the
        machine is taken over, and a reused pid never holds it.
        """
        me = platform_calls.identity()
        guard = self.path / ".lock-guard"  # serialises looking and taking; the lock itself may last for days
        with platform_calls.file_lock(guard):
            holder = _read_json(self.lock_path)
            if platform_calls.is_alive(holder):
                raise RunError(f"Run {self.name!r} is already being trained by process {holder['pid']}. Stop that one first.")
            try:
                platform_calls.write_atomically(self.lock_path, _dump(me).encode())
            except OSError as error:
                remedy = "Free some space there" if platform_calls.no_room(error) else "Make it a folder that you may write to"
                raise RunError(f"Nothing can be written into {self.path} ({error.strerror}), so run {self.name!r} cannot train. {remedy}.") from error
        try:
            yield
        finally:
            with platform_calls.file_lock(guard):
                if _read_json(self.lock_path) == jsonable(me):
                    self.lock_path.unlink()

    def owner(self) -> dict[str, Any] | None:
        """The live process that trains this run or is about to, as `platform_calls.identity` gives it; None when none.

        Raises RunError when one of the two files that name it is damaged and the other names no live one.
        """
        damaged: RunError | None = None
        for path in (self.lock_path, self.process_path):
            try:
                who = _read_json(path)
            except RunError as error:
                damaged = error
                continue
            if platform_calls.is_alive(who):
                return who
        if damaged is not None:
            raise damaged
        return None

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
        try:
            with open(self.log_path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        kept = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        return "\n".join(kept[-lines:])


def _parse_event(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict) and isinstance(record.get("event"), str):
        return record
    return {"event": "damaged", "time": None, "bytes": len(line)}


# ---------------------------------------------------------------------------------------------------------------------
# The store
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSummary:
    """One row of the list of runs. Times are seconds since 1970; `device` is what the run asked for (auto resolved)."""

    name: str
    path: Path
    state: str
    step: int | None
    total_steps: int | None
    device: str
    created: float
    updated: float
    message: str | None
    last_checkpoint: int | None
    alive: bool
    preset: str | None
    control: str | None = None
    """Which control it is (`core/before/controls.py`), of which run."""
    control_of: str | None = None

    @property
    def resumable(self) -> bool:
        """Whether `start(name, resume=True)` would go on from a checkpoint."""
        return not self.alive and self.state in ("stopped", "failed", "crashed") and self.last_checkpoint is not None


@dataclass(frozen=True)
class Job:
    """One waiting run of the queue; `position` orders it among those of its device, smallest first."""

    id: int
    run: str
    device: str
    position: float
    resume: bool


_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, device TEXT NOT NULL, position REAL NOT NULL,
    resume INTEGER NOT NULL, claimed REAL)
"""

_children: list[subprocess.Popen] = []  # workers of this process, asked now and then so that none stays a zombie
_children_lock = threading.Lock()


def _reap() -> None:
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


class RunStore:
    """All runs under one folder, and their queue. Safe for several processes on the same folder.

    Args:
        root: the folder; None = the variable ROLLOUT_STUDIO_RUNS, else `runs` in the working directory. Made when absent.
        worker: the command that trains a run; the run's folder, and `--resume` where wanted, are appended to it.
    """

    def __init__(self, root: Path | str | None = None, worker: Sequence[str] = WORKER) -> None:
        if root is None:
            root = os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)
        self.root = Path(root).absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            why = error.strerror if isinstance(error, OSError) else error
            raise StorageError(f"The runs folder {str(self.root)!r:.300} cannot be made ({why}). {_ANOTHER_FOLDER}") from error
        self._worker = tuple(worker)
        self._database = self.root / ".queue.sqlite3"
        self._dirs: dict[str, RunDir] = {}  # kept because making one costs as much as looking whether it has changed
        self._known: dict[str, _Known] = {}
        self._held_up: dict[str, str] = {}  # waiting runs that the last `pump` could neither start nor mark failed, and why

    # -- the database: queue, and the one lock for starting, deleting and reconciling -------------------------------------

    # A rollback journal, not a WAL: transactions are short and rare, and reading must create no file, on a full or read-only disk either.

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: the only one in all processes on this root; rolled back when the block raises.

        Raises: StorageError for what the disk refuses, in the block too.
        """
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    connection.execute(_SCHEMA)
                    yield connection
                except BaseException:
                    if connection.in_transaction:  # sqlite itself may have rolled back
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise self._refusal(error) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._database, timeout=30, isolation_level=None)

    def _refusal(self, error: Exception) -> StorageError:
        """What the disk or the database said, with the remedy."""
        if platform_calls.no_room(error) or (isinstance(error, sqlite3.Error) and platform_calls.free_bytes(self.root) < _TOO_LITTLE):
            return StorageError(f"The disk of the runs folder {self.root} is full ({error}). Free some space there.")
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return StorageError(
                f"The queue's file {self._database} is damaged ({error}). Move it away; only the order of waiting runs is lost: queue them again."
            )
        if "locked" in str(error):
            return StorageError(f"The queue's file {self._database} is held by another process ({error}). Try again when that one has ended.")
        return StorageError(f"The runs folder {self.root} cannot be written ({error}). {_ANOTHER_FOLDER}")

    # -- runs -----------------------------------------------------------------------------------------------------------

    def path_of(self, name: str) -> Path:
        """Where the run `name` lies; refuses names that are no slugs, and links that lead elsewhere."""
        path = self.root / check_name(name)
        if path.is_symlink() or not path.resolve().is_relative_to(self.root.resolve()):
            raise RunError(f"{path} is a link. A run is a real folder inside {self.root}.")
        return path

    def get(self, name: str) -> RunDir:
        """The run `name`. Raises RunError, naming the runs that exist, when there is none."""
        path = self.path_of(name)
        if not (path / "config.json").is_file():
            known = ", ".join(run.name for run in self.list()[:8]) or "none yet"
            raise RunError(f"There is no run {name!r} in {self.root}. Runs: {known}.")
        return RunDir(path)

    def create(
        self,
        config: RunConfig | Mapping[str, Any],
        name: str | None = None,
        preset: str | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> RunDir:
        """Make a new run from a configuration; it does not start yet.

        Args:
            config: a RunConfig, or a flat mapping, which is checked first (raises ConfigError with all faults).
            name: None = a free one from the preset (or `run`) and the time. An existing one is refused.
            preset: from which preset it came; shown in the list.
            about: further fields of its state, which stay with it, such as `control` and `control_of` (`core/before/controls.py`).
        """
        from ..config import RunConfig, config_from_flat, config_to_flat

        if not isinstance(config, RunConfig):
            config = config_from_flat(config)
        with self._exclusive():
            if name is None:
                stem = f"{names.slug(preset) if preset else 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
                name = next(free for free in _numbered(stem) if not (self.root / free).exists())
            path = self.path_of(name)
            if path.exists():
                raise RunError(f"{path} exists already. Choose another name, or delete that run first.")
            # Made beside and renamed, so that no half-made run is ever listed.
            fresh = RunDir(self.root / f".new-{os.getpid()}-{uuid.uuid4().hex[:8]}")
            fresh.commands_path.mkdir(parents=True)
            platform_calls.write_atomically(fresh.config_path, (_dump(config_to_flat(config), indent=2) + "\n").encode())
            state = {"cwd": Path.cwd(), **({} if about is None else about), "state": "created", "created": round(time.time(), 3),
                     "step": 0, "preset": preset, "total_steps": config.training.max_train_steps}  # fmt: skip
            fresh.write_state(**state)
            os.rename(fresh.path, path)
            platform_calls.sync_folder(self.root)
        return RunDir(path)

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with the first number behind it that no run has: "mine", "mine-2", "mine-3"."""
        check_name(wanted)
        return next(free for free in _numbered(wanted) if not (self.root / free).exists())

    def clone(
        self,
        name: str,
        new_name: str | None = None,
        changes: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> RunDir:
        """A new run with the configuration of `name`, and `changes` (flat keys) on top; relative paths mean what they meant there.

        Args:
            about: see `create`; None = an unchanged clone of a control is the same control.
        """
        run = self.get(name)
        state = run.read_state()
        if about is None:
            about = {} if changes else {key: state[key] for key in ("control", "control_of", "control_how") if key in state}
        where = {"cwd": state["cwd"]} if "cwd" in state else {}
        return self.create({**run.read_config(), **(changes or {})}, new_name, state.get("preset"), {**where, **about})

    def list(self) -> list[RunSummary]:
        """Every run, newest first. A damaged one is listed as failed, with what is wrong, not hidden."""
        _reap()
        runs, dirs = [], self._run_dirs()
        for run in dirs:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                runs.append(self.summary(run))
        for name in self._known.keys() - {run.name for run in dirs}:
            self._known.pop(name, None)
        return sorted(runs, key=lambda run: (run.created, run.name), reverse=True)

    def summary(self, run: RunDir | str) -> RunSummary:
        """The row of one run: its state as written, except that a live state without a live process is `crashed`.

        A run that no process owns is read again only when one of its files has changed: an open page lists all runs every second.

        Raises: FileNotFoundError when a RunDir's folder is gone.
        """
        run = self.get(run) if isinstance(run, str) else run
        mark, newest = _mark(run)
        known = self._known.get(run.name)
        if known is not None and known.mark == mark and run.name not in self._held_up and known.has_its_checkpoint(run):
            return known.summary
        summary, written = self._look(run)
        # A file that has just been written may be written again within the same tick of its clock.
        if not summary.alive and summary.state not in ACTIVE_STATES and time.time_ns() - newest > _SETTLED_NS:
            self._known[run.name] = _Known(mark, summary, written not in ACTIVE_STATES)
        return summary

    def _look(self, run: RunDir) -> tuple[RunSummary, str]:
        """(the row of a run, read from its files; the state that is written there)."""
        written = "failed"
        try:
            state, alive = run.read_state(), run.owner() is not None
            written, message = state["state"], state.get("message")
            if state["state"] in ACTIVE_STATES and not alive:
                # The process may have written its last words between the two looks.
                state = run.read_state()
                if state["state"] in ACTIVE_STATES and time.time() - state.get("updated", 0) > 2:
                    state, message = {**state, "state": "crashed"}, _obituary(run, state)
            if state["state"] == "queued":
                message = self._held_up.get(run.name, message)
            device, checkpoint = _device_of(run.read_config()), run.last_checkpoint()
        except (RunError, OSError) as error:
            state, alive, message, device, checkpoint = {"state": "failed"}, False, str(error), "unknown", None
        created = state["created"] if "created" in state else run.path.stat().st_mtime
        summary = RunSummary(
            name=run.name, path=run.path, state=state["state"], step=state.get("step"),
            total_steps=state.get("total_steps"), device=device, created=created, updated=state.get("updated", created),
            message=message, last_checkpoint=checkpoint, alive=alive, preset=state.get("preset"),
            control=state.get("control"), control_of=state.get("control_of"),
        )
        return summary, written

    def delete(self, name: str) -> None:
        """Remove a run and all its files. Refuses one that a live process owns, and anything outside the root."""
        with self._exclusive() as database:
            run = self.get(name)
            if run.owner() is not None:
                raise RunError(f"Run {name!r} is running. Stop it first, then delete it.")
            database.execute("DELETE FROM jobs WHERE run = ?", (name,))
            # The rename is what deletes: it happens at once, whatever interrupts the removal of the files.
            trash = self.root / f".deleted-{uuid.uuid4().hex[:8]}"
            platform_calls.replace(run.path, trash)
        shutil.rmtree(trash)

    def failure(self, name: str) -> dict[str, Any] | None:
        """The last `error` event of a run (message, remedy, traceback), or None."""
        return self.get(name).last_event("error")

    def send(self, name: str, command: str, **args: Any) -> str:
        """Send a command to a live run; returns its id. Raises RunError when nobody is there to hear it."""
        run = self.get(name)
        if run.owner() is None:
            raise RunError(f"Run {name!r} is not running, so it cannot {command.replace('-', ' ')}. Resume it first.")
        return run.send(command, **args)

    def kill(self, name: str) -> bool:
        """End a run's own process at once, for one that answers no command; False when it was already gone.

        What it trained since its last checkpoint is lost; `reconcile` then calls it crashed, and it can be resumed.
        """
        run = self.get(name)
        owner = run.owner()
        if owner is None or owner["pid"] == os.getpid():
            return False
        ended = platform_calls.kill(owner)
        _reap()
        self.reconcile()
        return ended

    # -- starting -------------------------------------------------------------------------------------------------------

    def start(self, name: str, resume: bool = False) -> int:
        """Start a run's worker now, as a detached process; returns its pid.

        It does not ask whether the device is busy: `enqueue` and `pump` do. Raises RunError when the run is alive, when it
        has ended and `resume` is false (its results would be overwritten), or when there is no checkpoint to resume.
        """
        with self._exclusive() as database:
            database.execute("DELETE FROM jobs WHERE run = ?", (name,))
            return self._start(self.get(name), resume)

    def _start(self, run: RunDir, resume: bool) -> int:
        self._check_startable(run, resume)
        free = platform_calls.free_bytes(self.root)
        if free < _ROOM_TO_START:
            raise OSError(28, f"only {free // 1024} KiB are free, too little to start run {run.name}")
        before = run.read_state()
        cwd = Path(before.get("cwd", Path.cwd()))
        if not cwd.is_dir():
            raise RunError(f"Run {run.name!r} was made in {cwd}, which is gone; its relative paths would not be found. Make that folder again.")
        run.forget_commands()
        run.write_state(state="starting", message=None, step=run.last_checkpoint() if resume else 0, started=round(time.time(), 3))
        command = [*self._worker, str(run.path), *(["--resume"] if resume else [])]
        try:
            child = platform_calls.start_detached(command, run.log_path, cwd=cwd, extra_env=platform_calls.worker_environment())
        except OSError as error:
            run.write_state(state="failed", message=f"The worker could not be started: {error}")
            raise RunError(f"The worker of run {run.name!r} could not be started: {error}") from error
        who = platform_calls.identity(child.pid)
        with _children_lock:
            _children.append(child)
        platform_calls.write_atomically(run.process_path, _dump(who).encode())
        return child.pid

    def _check_startable(self, run: RunDir, resume: bool) -> None:
        owner = run.owner()
        if owner is not None:
            raise RunError(f"Run {run.name!r} is already running (process {owner['pid']}).")
        state = run.read_state()["state"]
        run.read_config()
        if resume and run.last_checkpoint() is None:
            raise RunError(f"Run {run.name!r} has no checkpoint to go on from. Clone it and start the clone.")
        if not resume and run.events_path.exists():
            remedy = "Resume it, or clone it and start the clone." if run.last_checkpoint() is not None else "Clone it and start the clone."
            raise RunError(f"Run {run.name!r} has already trained ({state}). {remedy}")

    # -- the queue --------------------------------------------------------------------------------------------------------

    def enqueue(self, name: str, resume: bool = False) -> Job:
        """Put a run at the end of its device's queue; twice is once. `pump` starts it when the device is free."""
        with self._exclusive() as database:
            run = self.get(name)
            self._check_startable(run, resume)
            last = database.execute("SELECT COALESCE(MAX(position), 0) FROM jobs").fetchone()[0]
            database.execute(
                "INSERT INTO jobs (run, device, position, resume) VALUES (?, ?, ?, ?) ON CONFLICT (run) DO NOTHING",
                (name, _device_of(run.read_config()), last + 1, int(resume)),
            )
            run.write_state(state="queued", message=None)
            return next(job for job in self._jobs(database) if job.run == name)

    def queue(self) -> list[Job]:
        """Waiting runs in the order in which they will start. Writes nothing. Raises StorageError when it cannot be read."""
        if not self._database.exists():
            return []
        try:
            with contextlib.closing(self._connect()) as database:
                made = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone()
                return self._jobs(database) if made else []
        except sqlite3.Error as error:
            raise self._refusal(error) from error

    @staticmethod
    def _jobs(database: sqlite3.Connection) -> list[Job]:
        rows = database.execute("SELECT id, run, device, position, resume FROM jobs WHERE claimed IS NULL ORDER BY position, id")
        return [Job(id, run, device, position, bool(resume)) for id, run, device, position, resume in rows]

    def move(self, name: str, places: int) -> None:
        """Move a waiting run by `places` in the queue: -1 is one earlier, 1 one later; stops at the ends."""
        with self._exclusive() as database:
            order = [job.run for job in self._jobs(database)]
            if name not in order:
                raise RunError(f"Run {name!r} is not waiting in the queue.")
            index = order.index(name)
            order.insert(min(max(index + places, 0), len(order) - 1), order.pop(index))
            database.executemany("UPDATE jobs SET position = ? WHERE run = ?", [(i + 1, run) for i, run in enumerate(order)])

    def dequeue(self, name: str) -> bool:
        """Take a waiting run out of the queue; it can be queued again. False when it was not waiting."""
        with self._exclusive() as database:
            removed = database.execute("DELETE FROM jobs WHERE run = ? AND claimed IS NULL RETURNING resume", (name,)).fetchone()
            if removed is not None:
                run = self.get(name)
                run.write_state(state="stopped" if run.events_path.exists() else "created")
            return removed is not None

    def retry(self, name: str) -> RunDir:
        """Queue a run that ended without success: resumed from its last checkpoint, else as a fresh clone. Returns which."""
        summary = self.summary(name)
        if summary.resumable:
            self.enqueue(name, resume=True)
            return self.get(name)
        if summary.alive or summary.state in ("queued", "done"):
            raise RunError(f"Run {name!r} is {summary.state}; there is nothing to retry.")
        run = self.clone(name, self.free_name(name)) if self.get(name).events_path.exists() else self.get(name)
        self.enqueue(run.name)
        return run

    def pump(self) -> list[str]:
        """Start the next waiting run on every device on which no run is alive; returns the names started.

        One call starts at most one run per device. A run that cannot start is marked failed and the next one is tried; one that
        cannot even be marked keeps its place, and `summary` says why. A damaged run folder holds up nobody else.
        """
        _reap()
        started = []
        if not self.queue():
            return started
        with self._exclusive() as database:
            waiting = self._jobs(database)
            busy = self._busy_devices()
            for job in waiting:
                if job.device in busy:
                    continue
                try:
                    run = self.get(job.run)
                    # Started, but the machine died before this database knew: the run's own state is what counts.
                    if run.read_state()["state"] == "queued":
                        self._start(run, job.resume)
                        started.append(job.run)
                        busy.add(job.device)
                except (RunError, OSError) as error:
                    if platform_calls.no_room(error):
                        raise
                    if not self._mark_failed(job.run, error):
                        continue
                database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
                self._held_up.pop(job.run, None)
        return started

    def _busy_devices(self) -> set[str]:
        busy = set()
        for run in self._run_dirs():
            with contextlib.suppress(RunError):  # damaged, and no live process known: `list` tells what is wrong with it
                if run.owner() is not None:
                    busy.add(run.device())
        return busy

    def _mark_failed(self, name: str, error: Exception) -> bool:
        """Whether a waiting run that could not start is marked so, or needs no mark; else it is remembered why it waits."""
        try:
            self.get(name).write_state(state="failed", message=str(error))
        except OSError as why:
            self._held_up[name] = f"It cannot be started: {error}. Nor can that be written into {self.root / name} ({why.strerror})."
            return False
        except RunError:  # deleted by hand: nothing left to mark; or damaged: `list` tells what is wrong with it
            return True
        return True

    def _run_dirs(self) -> list[RunDir]:
        """Every run's folder; also one that may not be entered, so that it is not hidden."""
        found = []
        try:
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if names.NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False) and _holds_a_run(entry.path):
                        run = self._dirs.get(entry.name)
                        if run is None:
                            run = self._dirs[entry.name] = RunDir(entry.path)
                        found.append(run)
        except OSError as error:
            raise StorageError(f"The runs folder {self.root} cannot be read ({error.strerror}). Make it again, or start again with another one.") from error
        return found

    # -- after a crash ----------------------------------------------------------------------------------------------------

    def reconcile(self) -> list[RunSummary]:
        """Call every run by its right name whose process is gone: `crashed at step N, last checkpoint M`. Returns those.

        Called when the page or the command line starts, and by the page's timer: cheap (a few files per run).
        """
        _reap()
        found = []
        if not any(self._orphaned(run) for run in self._run_dirs() if not self._settled(run)) and not self._litter():
            return found
        with self._exclusive():
            for leftover in self._litter():
                shutil.rmtree(leftover, ignore_errors=True)
            for run in self._run_dirs():
                # Not to be written: the others still get their names, and `summary` calls this one crashed as well.
                with contextlib.suppress(RunError, OSError):
                    if self._orphaned(run):
                        self._bury(run)
                        found.append(self.summary(run))
        return found

    def _litter(self) -> list[Path]:
        """Half-made and half-deleted runs that nobody is still busy with."""
        old = []
        for path in (*self.root.glob(".new-*"), *self.root.glob(".deleted-*")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if time.time() - path.stat().st_mtime > 600:
                    old.append(path)
        return old

    def _settled(self, run: RunDir) -> bool:
        """Whether a run is known to have no process and a state that needs none, and none of its files has changed since."""
        known = self._known.get(run.name)
        return known is not None and known.settled and known.mark == _mark(run)[0]

    @staticmethod
    def _orphaned(run: RunDir) -> bool:
        """Whether a run's process is gone though its state is a live one. A damaged run is not: `list` tells what is wrong with it."""
        try:
            if run.read_state()["state"] not in ACTIVE_STATES or run.owner() is not None:
                return False
            return run.read_state()["state"] in ACTIVE_STATES  # again: it may have ended properly between the two looks
        except (RunError, OSError):
            return False

    @staticmethod
    def _bury(run: RunDir) -> None:
        state = run.read_state()
        message, step = _obituary(run, state), _last_step(run, state)
        run.write_state(state="crashed", step=step, message=message)  # first: what cannot be written is not told again and again
        run.emit("end", state="crashed", step=step, message=message)
        run.process_path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Known:
    """A row that is true as long as the files of its run have this mark; `settled`: its written state is no live one."""

    mark: tuple[int, ...]
    summary: RunSummary
    settled: bool

    def has_its_checkpoint(self, run: RunDir) -> bool:
        """A checkpoint that stops being whole changes nothing but its own folder."""
        last = self.summary.last_checkpoint
        return last is None or os.path.exists(run.checkpoints_path / f"step-{last:06d}" / "manifest.json")


def _mark(run: RunDir) -> tuple[tuple[int, ...], int]:
    """(what changes when a file changes from which a run's row is made; when the last of them did, in nanoseconds)."""
    mark: list[int] = []
    newest = 0
    for path in (run.state_path, run.config_path, run.lock_path, run.process_path, run.checkpoints_path):
        try:
            found = os.stat(path)
        except OSError as error:
            mark.append(-(error.errno or 1))
        else:
            mark += (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(mark), newest


def _holds_a_run(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(os.path.join(path, "config.json")).st_mode)
    except PermissionError:
        return True  # it may not be entered; `summary` says so
    except OSError:
        return False


def _device_of(config: Mapping[str, Any]) -> str:
    device = config.get("device", "auto")
    return platform_calls.likely_device() if device == "auto" else str(device)


def _last_step(run: RunDir, state: Mapping[str, Any]) -> int:
    steps = [event["step"] for event in run.events()[0] if event["event"] == "step" and isinstance(event.get("step"), int)]
    return steps[-1] if steps else int(state.get("step") or 0)


def _obituary(run: RunDir, state: Mapping[str, Any]) -> str:
    last = run.last_checkpoint()
    way_on = "no checkpoint yet: retry starts again" if last is None else f"last checkpoint {last}: resume goes on from there"
    if state["state"] == "starting":
        tail = " ".join(run.log_tail(lines=4).split())[-300:]
        return f"The worker ended before training began ({way_on}). Its log ends: {tail or '(empty)'}"
    return f"crashed at step {_last_step(run, state)}, {way_on}"


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem[: 63 - len(str(number))]}-{number}"
        number += 1
