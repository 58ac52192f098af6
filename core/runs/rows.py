"""The list of runs: one row per run, read from its files, and read again only when one of them has changed."""

import os
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from .errors import RunError
from .folder import ACTIVE_STATES, RunDir, device_of
from .heartbeat import stall_of
from .notes import FILE as NOTES
from .notes import read_notes
from .orphans import crash_message
from .process import START_GRACE_S

_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class RunSummary:
    """One row of the list of runs. Times are seconds since 1970; `device` is the one of its config (auto resolved)."""

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
    tags: tuple[str, ...] = ()
    stalled: str | None = None
    """What is the case where its process is there and hangs (`heartbeat`)."""

    @property
    def resumable(self) -> bool:
        """Whether `start(name, resume=True)` would go on from a checkpoint."""
        return not self.alive and self.state in ("stopped", "failed", "crashed") and self.last_checkpoint is not None


@dataclass(frozen=True)
class _Known:
    """A row that is true as long as the files of its run have this mark; `settled`: its written state is not an active one,
    and it does not wait in the queue."""

    mark: tuple[int, ...]
    summary: RunSummary
    settled: bool

    def has_its_checkpoint(self, run: RunDir) -> bool:
        """A checkpoint that stops being whole changes nothing but its own folder."""
        last = self.summary.last_checkpoint
        return last is None or os.path.exists(run.checkpoints_path / f"step-{last:06d}" / "manifest.json")


class Rows:
    """The rows of runs, kept as long as they are true: an open page lists all runs every second.

    Args:
        held_up: run -> why it waits though its turn has come.
    """

    def __init__(self, held_up: Mapping[str, str]) -> None:
        self._held_up = held_up
        self._known: dict[str, _Known] = {}

    def of(self, run: RunDir) -> RunSummary:
        """The row of one run. Raises: FileNotFoundError when its folder is gone."""
        mark, newest = _mark(run)
        known = self._known.get(run.name)
        if known is not None and known.mark == mark and run.name not in self._held_up and known.has_its_checkpoint(run):
            return known.summary
        summary, written = self._read(run)
        # A file that has just been written may be written again within the same tick of its clock.
        if not summary.alive and summary.state not in ACTIVE_STATES and time.time_ns() - newest > _SETTLED_NS:
            self._known[run.name] = _Known(mark, summary, written not in (*ACTIVE_STATES, "queued"))
        return summary

    def _read(self, run: RunDir) -> tuple[RunSummary, str]:
        """(the row of a run, read from its files; the state that is written there)."""
        written = "failed"
        try:
            state, alive = run.read_state(), run.owner() is not None
            written, message = state["state"], state.get("message")
            if state["state"] in ACTIVE_STATES and not alive:
                # The process may have written its last state between the two reads.
                state = run.read_state()
                patience_s = START_GRACE_S if state["state"] == "starting" else 2
                if state["state"] in ACTIVE_STATES and abs(time.time() - state.get("updated", 0)) > patience_s:
                    state, message = {**state, "state": "crashed"}, crash_message(run, state)
            if state["state"] == "queued":
                message = self._held_up.get(run.name, message)
            device, checkpoint = device_of(run.read_config()), run.last_checkpoint()
        except (RunError, OSError) as error:
            state, alive, message, device, checkpoint = {"state": "failed"}, False, str(error), "unknown", None
        created = state["created"] if "created" in state else run.path.stat().st_mtime
        summary = RunSummary(
            name=run.name,
            path=run.path,
            state=state["state"],
            step=state.get("step"),
            total_steps=state.get("total_steps"),
            device=device,
            created=created,
            updated=state.get("updated", created),
            message=message,
            last_checkpoint=checkpoint,
            alive=alive,
            preset=state.get("preset"),
            control=state.get("control"),
            control_of=state.get("control_of"),
            tags=_tags(run),
            stalled=_stalled(run) if alive and state["state"] in ACTIVE_STATES else None,
        )
        return summary, written

    def settled(self, run: RunDir) -> bool:
        """Whether a run is known to have no process and a state that needs none, and none of its files has changed since."""
        known = self._known.get(run.name)
        return known is not None and known.settled and known.mark == _mark(run)[0]

    def forget_all_but(self, names: AbstractSet[str]) -> None:
        """Drop the rows of runs that are there no more."""
        for name in self._known.keys() - names:
            self._known.pop(name, None)


def _stalled(run: RunDir) -> str | None:
    stall = stall_of(run)
    return None if stall is None else stall.words()


def _tags(run: RunDir) -> tuple[str, ...]:
    """Damaged notes are reported where they are shown; they hide no run."""
    try:
        return read_notes(run).tags
    except (RunError, OSError):
        return ()


def _mark(run: RunDir) -> tuple[tuple[int, ...], int]:
    """(what changes when a file changes from which a run's row is made; when the last of them did, in nanoseconds)."""
    mark: list[int] = []
    newest = 0
    for path in (
        run.state_path,
        run.config_path,
        run.lock_path,
        run.process_path,
        run.checkpoints_path,
        run.path / NOTES,
    ):
        try:
            found = os.stat(path)
        except OSError as error:
            mark.append(-(error.errno or 1))
        else:
            mark += (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(mark), newest
