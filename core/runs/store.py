"""The run store: a run is a directory and a process of its own. No torch here; the page and the command line use it.

    runs/<name>/          one run: see `folder.py`
    runs/.trash/<name>/   a deleted one: see `trash.py`
    runs/.queue.sqlite3   the durable queue: see `queue.py`

**How the queue is drained.** There is no daemon. `RunStore.pump()` starts the next waiting run on every device on which
nothing is alive; it takes milliseconds and is safe to call from several processes at once. The page's timer calls it every
other second and `rollout-studio runs` calls it once, so a queue moves while the page is open (or whenever the command
is given), survives restarts of either, and never starts a run twice.
"""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import names, platform_calls
from ..formats import FORMATS, VERSION, remarks
from .errors import RunError
from .folder import RunDir
from .heartbeat import ask_for_stacks, stacks
from .json_files import dump
from .orphans import is_orphan, mark_crashed
from .process import WORKER, is_half_started, reap
from .queue import Job, Queue
from .root import RunsRoot, numbered
from .rows import Rows, RunSummary
from .trash import Thrown, Trash, remove

if TYPE_CHECKING:
    from ..config import RunConfig

# `RunStore.list` hides the type of that name in the signatures of its class
Summaries = list[RunSummary]
Jobs = list[Job]
Names = list[str]
ThrownRuns = list[Thrown]


class RunStore:
    """All runs under one folder, and their queue. Safe for several processes on the same folder.

    Args:
        root: the folder; None = the variable ROLLOUT_STUDIO_RUNS, else `runs` in the working directory. Made when absent.
        worker: the command that trains a run; the run's folder, and `--resume` where wanted, are appended to it.
    """

    def __init__(self, root: Path | str | None = None, worker: Sequence[str] = WORKER) -> None:
        self._folder = RunsRoot(root)
        self.root = self._folder.path
        self._trash = Trash(self._folder)
        self._queue = Queue(self._folder, self.get, worker)
        self._rows = Rows(self._queue.held_up)

    # -- runs -----------------------------------------------------------------------------------------------------------

    def path_of(self, name: str) -> Path:
        """Where the run `name` lies; refuses names that are not slugs, and links that lead elsewhere."""
        return self._folder.path_of(name)

    def get(self, name: str) -> RunDir:
        """The run `name`. Raises RunError, naming the runs that exist, when there is none."""
        path = self.path_of(name)
        if not (path / "config.json").is_file():
            known = ", ".join(run.name for run in self.list()[:8]) or "none yet"
            raise RunError(f"There is no run {name!r} in {self.root}. Runs: {known}.")
        return RunDir(path)

    def create(
        self,
        config: "RunConfig | Mapping[str, Any]",
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
        with self._queue.exclusive():
            if name is None:
                stem = f"{names.slug(preset) if preset else 'run'}-{time.strftime('%Y%m%d-%H%M%S')}"
                name = next(free for free in numbered(stem) if not (self.root / free).exists())
            path = self.path_of(name)
            if path.exists():
                raise RunError(f"{path} exists already. Choose another name, or delete that run first.")
            # Made beside and renamed, so that no half-made run is ever listed.
            fresh = RunDir(self.root / f".new-{os.getpid()}-{uuid.uuid4().hex[:8]}")
            fresh.commands_path.mkdir(parents=True)
            platform_calls.write_atomically(
                fresh.config_path, (dump(remarks("settings") | config_to_flat(config), indent=2) + "\n").encode()
            )
            state = {"cwd": Path.cwd(), **({} if about is None else about), "state": "created", "format": FORMATS["run"], "version": VERSION, "created": round(time.time(), 3),
                     "step": 0, "preset": preset, "total_steps": config.training.max_train_steps}  # fmt: skip
            fresh.write_state(**state)
            os.rename(fresh.path, path)
            platform_calls.sync_folder(self.root)
        return RunDir(path)

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with the first number behind it that no run has: "mine", "mine-2", "mine-3"."""
        return self._folder.free_name(wanted)

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
            about = (
                {} if changes else {key: state[key] for key in ("control", "control_of", "control_how") if key in state}
            )
        where = {"cwd": state["cwd"]} if "cwd" in state else {}
        return self.create({**run.read_config(), **(changes or {})}, new_name, state.get("preset"), {**where, **about})

    def list(self) -> Summaries:
        """Every run, newest first. A damaged one is listed as failed, with what is wrong, not hidden."""
        reap()
        runs, dirs = [], self._folder.runs()
        for run in dirs:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                runs.append(self.summary(run))
        self._rows.forget_all_but({run.name for run in dirs})
        return sorted(runs, key=lambda run: (run.created, run.name), reverse=True)

    def summary(self, run: RunDir | str) -> RunSummary:
        """The row of one run: its state as written, except that a live state without a live process is `crashed`.

        A run that no process owns is read again only when one of its files has changed: an open page lists all runs every second.

        Raises: FileNotFoundError when a RunDir's folder is gone.
        """
        return self._rows.of(self.get(run) if isinstance(run, str) else run)

    def delete(self, name: str, *, for_good: bool = False) -> None:
        """Move a run with all its files to the trash, or remove it at once, `for_good`: a full disk has no room for a trash.

        Refuses one that a live process owns, and anything outside the root.
        """
        with self._queue.exclusive() as database:
            run = self.get(name)
            if run.owner() is not None:
                raise RunError(f"Run {name!r} is running. Stop it first, then delete it.")
            database.execute("DELETE FROM jobs WHERE run = ?", (name,))
            gone = [self._trash.discard(run.path)] if for_good else []
            if not for_good:
                self._trash.put(run)
        remove(gone)

    def trash(self) -> ThrownRuns:
        """The deleted runs, the newest first."""
        return self._trash.entries()

    def restore(self, name: str) -> RunDir:
        """Bring a run back from the trash; under its old name where that is free. It is not queued again."""
        with self._queue.exclusive():
            run = RunDir(self.root / self._trash.restore(name))
            if run.read_state()["state"] == "queued":
                run.write_state(state="stopped" if run.events_path.exists() else "created")
        return run

    def empty_trash(self, *which: str) -> None:
        """Remove deleted runs for good: those named, or all of them."""
        with self._queue.exclusive():
            gone = self._trash.take_out(which if which else None)
        remove(gone)

    def failure(self, name: str) -> dict[str, Any] | None:
        """The last `error` event of a run (message, remedy, traceback), or None."""
        return self.get(name).last_event("error")

    def send(self, name: str, command: str, **args: Any) -> str:
        """Send a command to a live run; returns its id. Raises RunError when no process of the run is there to take it."""
        run = self.get(name)
        if run.owner() is None:
            raise RunError(f"Run {name!r} is not running, so it cannot {command.replace('-', ' ')}. Resume it first.")
        return run.send(command, **args)

    def stacks(self, name: str) -> str:
        """What the process of a run that hangs is doing, as far as it has written that; a frozen one is asked to. "" where there is nothing."""
        run = self.get(name)
        ask_for_stacks(run)
        return stacks(run)

    def kill(self, name: str) -> bool:
        """End a run's own process at once, for one that answers no command; False when it was already gone.

        What it trained since its last checkpoint is lost; `reconcile` then calls it crashed, and it can be resumed.
        """
        run = self.get(name)
        owner = run.owner()
        if owner is None or owner["pid"] == os.getpid():
            return False
        ended = platform_calls.kill(owner)
        reap()
        self.reconcile()
        return ended

    # -- the queue --------------------------------------------------------------------------------------------------------

    def start(self, name: str, resume: bool = False) -> int:
        """Start a run's worker now, as a detached process; returns its pid.

        It does not check whether the device is busy: `enqueue` and `pump` do. Raises RunError when the run is alive, when it
        has ended and `resume` is false (its results would be overwritten), or when there is no checkpoint to resume.
        """
        return self._queue.start(name, resume)

    def enqueue(self, name: str, resume: bool = False) -> Job:
        """Put a run at the end of its device's queue; twice is once. `pump` starts it when the device is free."""
        return self._queue.enqueue(name, resume)

    def queue(self) -> Jobs:
        """Waiting runs in the order in which they will start. Writes nothing. Raises StorageError when it cannot be read."""
        return self._queue.waiting()

    def move(self, name: str, places: int) -> None:
        """Move a waiting run by `places` in the queue: -1 is one earlier, 1 one later; stops at the ends."""
        self._queue.move(name, places)

    def dequeue(self, name: str) -> bool:
        """Take a waiting run out of the queue; it can be queued again. False when it was not waiting."""
        return self._queue.dequeue(name)

    def pump(self) -> Names:
        """Start the next waiting run on every device on which no run is alive; returns the names started.

        One call starts at most one run per device. A run that cannot start is marked failed and the next one is tried; one that
        cannot even be marked keeps its place, and `summary` gives the reason. A damaged run folder does not hold up others.
        """
        return self._queue.pump()

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

    # -- after a crash ----------------------------------------------------------------------------------------------------

    def reconcile(self) -> Summaries:
        """Call every run by its right name whose process is gone: `crashed at step N, last checkpoint M`. Returns those.

        Called when the page or the command line starts, and by the page's timer: cheap (a few files per run).
        """
        reap()
        found: Summaries = []
        unsettled = [run for run in self._folder.runs() if not self._rows.settled(run)]
        is_needed = any(is_orphan(run) for run in unsettled) or self._folder.litter()
        if not is_needed and not self._queue.without_place(unsettled):
            return found
        with self._queue.exclusive() as database:
            for run in self._queue.without_place(self._folder.runs()):
                with contextlib.suppress(RunError):
                    self._queue.give_place(run, database)
            waiting = {job.run for job in self._queue.waiting()}
            for leftover in self._folder.litter():
                shutil.rmtree(leftover, ignore_errors=True)
            for run in self._folder.runs():
                # Not to be written: the others still get their names, and `summary` calls this one crashed as well.
                with contextlib.suppress(RunError, OSError):
                    # One that waits is half started: the queue starts it again.
                    if is_orphan(run) and not (run.name in waiting and is_half_started(run)):
                        mark_crashed(run)
                        found.append(self.summary(run))
        return found
