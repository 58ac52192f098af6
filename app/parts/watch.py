"""What all viewers of one page share: the runs folder, polled once however many browsers ask; and the queue's pump."""

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

from ...core.runs.errors import StorageError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import AT_ONCE, RunLog, follow
from ...core.runs.store import RunStore
from ...core.runs.trash import Thrown
from .preview_client import PreviewClient
from .previews import Previews

_POLL_EVERY_S = 1.0
_PUMP_EVERY_S = 2.0
_ENDINGS_KEPT = 20
ENDED = ("done", "stopped", "failed", "crashed")


def signature(*parts: Any) -> str:
    """A short mark of what a part was drawn from: equal marks, nothing to send."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class Watch:
    """The page's view of the runs folder. Thread-safe; the answers are at most a second old."""

    def __init__(self, runs_dir: Path | str | None) -> None:
        self.store = RunStore(runs_dir)
        self.previews = Previews()
        self._lock = threading.Lock()
        self._polled = self._pumped = float("-inf")
        self._runs: list[RunSummary] = []
        self._trash: list[Thrown] = []
        self.ended = 0
        """How many runs have ended since the page was started."""
        self.endings: list[RunSummary] = []
        """The last of them, the newest last."""
        self._preview_client: PreviewClient | None = None
        self._readers: set[str] = set()
        self.waiting: list[str] = []
        """Names of the waiting runs in the order in which they will start; as old as the last answer of `runs`."""
        self.problem: str | None = None
        """What is wrong with the runs folder, where the queue cannot move or the runs cannot be listed; as old as `waiting`."""

    @property
    def preview_client(self) -> PreviewClient:
        """The one client of the preview worker, for all viewers; the worker itself starts with the first request."""
        if self._preview_client is None:
            with self._lock:
                if self._preview_client is None:  # it was not made meanwhile
                    self._preview_client = PreviewClient(self.previews.folder / "drift")
        return self._preview_client

    def close(self) -> None:
        """The page ends: so does the preview worker, if there is one. Runs go on."""
        with self._lock:
            client = self._preview_client
        if client is not None:
            client.close()

    def runs(self, fresh: bool = False) -> list[RunSummary]:
        """All runs, newest first. Now and then this also names crashed runs and starts waiting ones."""
        with self._lock:
            now = time.monotonic()
            if fresh or now - self._pumped > _PUMP_EVERY_S:
                self.problem = None
                try:
                    self.store.reconcile()
                    if self.store.pump():
                        self._polled = float("-inf")
                except StorageError as error:
                    self.problem = f"{error} Until then no waiting run starts."
                self._pumped = time.monotonic()
            if fresh or now - self._polled > _POLL_EVERY_S:
                try:
                    before, self._runs = self._runs, self.store.list()
                    self._trash = self.store.trash()
                    self._note_endings(before)
                    queued = any(run.state == "queued" for run in self._runs)
                    self.waiting = [job.run for job in self.store.queue()] if queued else []
                except StorageError as error:
                    self.problem = str(error)
                self._polled = time.monotonic()
            return self._runs

    def _note_endings(self, before: list[RunSummary]) -> None:
        going = {run.name for run in before if run.alive or run.state == "queued"}
        ended = [run for run in self._runs if run.name in going and not run.alive and run.state in ENDED]
        self.endings = [*self.endings, *ended][-_ENDINGS_KEPT:]
        self.ended += len(ended)

    def trash(self) -> list[Thrown]:
        """The deleted runs, the newest first; as old as the last answer of `runs`."""
        return self._trash

    def run(self, name: str | None) -> RunSummary | None:
        """One run of the list by its name, or None."""
        return next((run for run in self.runs() if run.name == name), None)

    def current(self) -> RunSummary | None:
        """The run to show to a viewer who has not chosen one: a live one, else the newest."""
        runs = self.runs()
        return next((run for run in runs if run.alive), runs[0] if runs else None)

    def log(self, run: RunSummary) -> RunLog:
        """The digest of a run's events, up to date; of a long file at first the beginning, while a thread of its own reads on."""
        log = follow(RunDir(run.path), AT_ONCE)
        if log.behind:
            with self._lock:
                if run.name not in self._readers:
                    self._readers.add(run.name)
                    threading.Thread(target=self._read_on, args=(run.name, log), daemon=True).start()
        return log

    def _read_on(self, name: str, log: RunLog) -> None:
        try:
            while log.update(AT_ONCE).behind:
                time.sleep(0.01)  # whoever wants to look at what there is so far is not kept waiting
        finally:
            with self._lock:
                self._readers.discard(name)
