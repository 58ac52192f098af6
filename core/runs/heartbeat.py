"""The sign of life of a run's process, heartbeat.json, and what it looks like when there is none.

Two things hang, and look alike from outside:

- the *process*: stopped (SIGSTOP, Ctrl+Z), starved, or stuck in native code that keeps Python's lock. A thread of it writes the file every
  few seconds; where it does not, nothing in it runs.
- the *work*: an endless loop, a deadlock, a network share that answers no more, while threads go on. So the thread also writes how long ago
  the work gave a sign, and how long that may be: in a step 20 times the slowest one so far and at least a minute, in whatever has no usual time
  (the first steps, a checkpoint, the export) half an hour, and while a model is opened, which may be a download, for ever.

So a long step of a slow machine and a long save never look hung. Times are of the monotonic clock, which all processes of a machine share and
which a corrected wall clock or a sleep of the machine does not move. No torch.
"""

import contextlib
import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import psutil

from .. import platform_calls
from .folder import HEARTBEAT, RunDir
from .json_files import dump

EVERY_S = 5.0
"""How often the file is written."""
SILENT_S = 60.0
"""Without a heartbeat for so long a process counts as hung."""
TIMES_SLOWEST, FEWEST_STEPS = 20, 3
"""How many times the slowest step so far one may take; after how many steps that is known."""
PATIENCE_S = 1800.0
"""How long work that has no usual time may give no sign."""
_BYTES = 1024  # a beat is padded to it, so that it can be overwritten in place, on a full disk too


class Heartbeat:
    """Writes the heartbeat of a run while it is entered. `mark`, `step` and `during` cost next to nothing.

    Args:
        run: whose folder gets heartbeat.json, and stacks.txt where the work stands still.
        on_request: also write the stacks when another process asks for them (`ask_for_stacks`). For a process of its own: it takes a signal,
            or on Windows, which has none, the one timer of `faulthandler`.
    """

    def __init__(self, run: RunDir, *, on_request: bool = False) -> None:
        self.run = run
        self._who = platform_calls.identity()
        self._on_request = on_request
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: IO[bytes] | None = None
        self._doing, self._marked = "starting", time.monotonic()
        self._allowed: float | None = None
        self._slowest, self._steps = 0.0, 0
        self._written_for: float | None = None  # the mark since which the stacks were written

    def __enter__(self) -> Self:
        if self._thread is None:
            self._over.clear()
            self.mark()
            if self._on_request:
                with contextlib.suppress(OSError):  # without room for a file there are no stacks to ask for
                    self._file = open(_stacks_path(self.run), "ab", buffering=0)
                    if hasattr(faulthandler, "register"):
                        faulthandler.register(signal.SIGUSR1, self._file, all_threads=True)
            self._write()
            self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more heartbeats from here: the work is over, or another process does it."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._file is not None:
            if hasattr(faulthandler, "unregister"):
                faulthandler.unregister(signal.SIGUSR1)
            else:
                faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None
        with contextlib.suppress(OSError):
            _path(self.run).unlink(missing_ok=True)

    def mark(self) -> None:
        """The work goes on."""
        self._marked = time.monotonic()

    @contextlib.contextmanager
    def during(self, doing: str, allowed_s: float | None = PATIENCE_S) -> Iterator[None]:
        """Inside, the work is this; it may give no sign for so long, None = for ever."""
        before = self._doing, self._allowed
        self._doing, self._allowed = doing, allowed_s
        self.mark()
        try:
            yield
        finally:
            self._doing, self._allowed = before
            self.mark()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Inside, an optimizer step, counted from 1."""
        known = self._steps >= FEWEST_STEPS
        began = time.monotonic()
        with self.during(f"step {number}", max(SILENT_S, TIMES_SLOWEST * self._slowest) if known else PATIENCE_S):
            yield
        self._slowest, self._steps = max(self._slowest, time.monotonic() - began), self._steps + 1

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(EVERY_S):
            now = time.monotonic()
            if now - last > 2 * EVERY_S + 5:  # the whole process stood still: the work could not go on
                self._marked += now - last
            last = now
            marked, allowed = self._marked, self._allowed
            if allowed is not None and now - marked > allowed and self._written_for != marked:
                self._written_for = marked
                self._write_stacks()
            self._write()
            if self._file is not None and not hasattr(faulthandler, "register"):
                faulthandler.dump_traceback_later(SILENT_S, file=self._file)

    def _write(self) -> None:
        now, allowed = time.monotonic(), self._allowed
        beat = {**self._who, "monotonic": round(now, 3), "still_s": round(max(0.0, now - self._marked), 3), "allowed_s": allowed,
                "doing": self._doing, "on_request": self._file is not None and hasattr(faulthandler, "register")}  # fmt: skip
        data = dump(beat).encode().ljust(_BYTES)
        # The disk may be full, or the folder moved away: the run itself meets that and says so. A beat that is not written is no reason to end it.
        with contextlib.suppress(OSError):
            path = _path(self.run)
            if not path.exists():
                path.write_bytes(data)
            else:
                platform_calls.overwrite(path, data, durable=False)

    def _write_stacks(self) -> None:
        with contextlib.suppress(OSError), open(_stacks_path(self.run), "w", encoding="utf-8") as file:
            file.write(f"The work stands still ({self._doing}). What each thread does, the newest call first:\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        print(f"the work stands still ({self._doing}); see {_stacks_path(self.run).name}", flush=True)


# Seen from outside ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stall:
    """A run that hangs. `seconds` without a sign; `is_frozen`: the whole process, else its work; `doing`: what; `pid`: of the process."""

    seconds: float
    is_frozen: bool
    doing: str
    allowed_s: float | None
    pid: int
    takes_requests: bool

    def words(self) -> str:
        """What is the case, for a person; in steps of ten seconds, so that it does not change all the time."""
        seconds = f"{self.seconds // 10 * 10:.0f} s" if self.seconds < 600 else f"{self.seconds // 60:.0f} min"
        if self.is_frozen:
            return f"No heartbeat for {seconds}: its process {self.pid} is there, but does not run. {_why_frozen(self.pid)}"
        return (
            f"No heartbeat of its work for {seconds}: process {self.pid} runs, but {self.doing} does not end; at most {self.allowed_s:.0f} s were "
            "to be expected."
        )


def _why_frozen(pid: int) -> str:
    try:
        status = psutil.Process(pid).status()
    except psutil.Error:
        return ""
    if status == psutil.STATUS_STOPPED:
        return f"It is stopped, as by Ctrl+Z or SIGSTOP: kill -CONT {pid} lets it go on."
    if status == psutil.STATUS_DISK_SLEEP:
        return "It waits for a disk or a network share."
    return "The machine may be short of memory, or native code keeps it."


def stall_of(run: RunDir) -> Stall | None:
    """Whether the process of a live run hangs; None: it does not, or writes no heartbeat (it just starts, or is of an older version)."""
    beat = _read(run)
    if beat is None or not platform_calls.is_alive(beat):
        return None
    silent, still, allowed = time.monotonic() - beat["monotonic"], beat["still_s"], beat["allowed_s"]
    pid, doing, takes = int(beat["pid"]), str(beat["doing"]), bool(beat["on_request"])
    if silent > SILENT_S:
        return Stall(silent, True, doing, allowed, pid, takes)
    if allowed is not None and still > allowed:
        return Stall(still, False, doing, allowed, pid, takes)
    return None


def has_heartbeat(run: RunDir) -> bool:
    """Whether the run's live process writes one."""
    beat = _read(run)
    return beat is not None and platform_calls.is_alive(beat)


_asked: set[tuple[int, float]] = set()


def ask_for_stacks(run: RunDir) -> None:
    """Have a frozen process write its stacks, once for each time that it freezes. Where Python's lock is kept by native code this still works; a
    process that is stopped writes them when it goes on. Nothing where it takes no request (Windows: there it writes them by itself)."""
    beat, stall = _read(run), stall_of(run)
    if beat is None or stall is None or not (stall.is_frozen and stall.takes_requests):
        return
    key = (stall.pid, beat["monotonic"])
    if key not in _asked:
        _asked.add(key)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(stall.pid, signal.SIGUSR1)


def stacks(run: RunDir, most: int = 20_000) -> str:
    """What the run's process last wrote of its stacks; "" where nothing was."""
    try:
        return _stacks_path(run).read_bytes()[-most:].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _read(run: RunDir) -> dict | None:
    """The last beat; None where there is none, or a line that is not one (cut by a full disk)."""
    try:
        beat = json.loads(_path(run).read_bytes())
        numbers = (
            beat["monotonic"],
            beat["still_s"],
            0 if beat["allowed_s"] is None else beat["allowed_s"],
            beat["pid"],
        )
        is_whole = all(type(number) in (int, float) for number in numbers) and {"doing", "on_request"} <= beat.keys()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return beat if is_whole else None


def _path(run: RunDir) -> Path:
    return run.path / HEARTBEAT


def _stacks_path(run: RunDir) -> Path:
    return run.path / "stacks.txt"
