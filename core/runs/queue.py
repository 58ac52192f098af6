"""The durable queue of a folder of runs, `.queue.sqlite3`, and its pump.

There is no daemon. `Queue.pump()` starts the next waiting run on every device (cuda:0, cuda:1, mps, cpu) on which nothing is
alive; it takes milliseconds and is safe to call from several processes at once.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from .. import platform_calls
from .errors import RunError, StorageError
from .folder import RunDir, device_of, devices_of, devices_taken
from .process import check_startable, is_half_started, never_began, reap, start_worker
from .root import ANOTHER_FOLDER, RunsRoot

_TOO_LITTLE = 64 * 1024  # bytes: with less the database says many things, and means that the disk is full


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


class Queue:
    """The waiting runs of a folder, and the one lock for starting, deleting and reconciling. Safe for several processes.

    Args:
        root: the folder of the runs.
        get: the run of a name; raises RunError when there is none.
        worker: the command that trains a run, see `process.start_worker`.
    """

    def __init__(self, root: RunsRoot, get: Callable[[str], RunDir], worker: Sequence[str]) -> None:
        self._root, self._get, self._worker = root, get, tuple(worker)
        self._database = root.path / ".queue.sqlite3"
        self.held_up: dict[str, str] = {}
        """Waiting runs that the last `pump` could neither start nor mark failed, and why."""

    # -- the database -----------------------------------------------------------------------------------------------------

    # A rollback journal, not a WAL: transactions are short and rare, and reading must create no file, on a full or read-only disk either.

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[sqlite3.Connection]:
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
        """The error of the disk or the database, with the remedy."""
        if platform_calls.no_room(error) or (
            isinstance(error, sqlite3.Error) and platform_calls.free_bytes(self._root.path) < _TOO_LITTLE
        ):
            return StorageError(
                f"The disk of the runs folder {self._root.path} is full ({error}). Free some space there."
            )
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return StorageError(
                f"The queue's file {self._database} is damaged ({error}). Move it away; only the order of waiting runs is lost: queue them again."
            )
        if "locked" in str(error):
            return StorageError(
                f"The queue's file {self._database} is held by another process ({error}). Try again when that one has ended."
            )
        return StorageError(f"The runs folder {self._root.path} cannot be written ({error}). {ANOTHER_FOLDER}")

    # -- who waits -------------------------------------------------------------------------------------------------------

    def enqueue(self, name: str, resume: bool = False) -> Job:
        """Put a run at the end of its device's queue; twice is once. `pump` starts it when the device is free."""
        with self.exclusive() as database:
            run = self._get(name)
            check_startable(run, resume)
            last = database.execute("SELECT COALESCE(MAX(position), 0) FROM jobs").fetchone()[0]
            database.execute(
                "INSERT INTO jobs (run, device, position, resume) VALUES (?, ?, ?, ?) ON CONFLICT (run) DO NOTHING",
                (name, device_of(run.read_config()), last + 1, int(resume)),
            )
            run.write_state(state="queued", message=None)
            return next(job for job in self._jobs(database) if job.run == name)

    def without_place(self, runs: Iterable[RunDir]) -> list[RunDir]:
        """Those of some runs that are marked as waiting and have no place: whoever queued them was killed in the middle of that. Writes nothing."""
        marked = []
        for run in runs:
            with contextlib.suppress(RunError, OSError):  # damaged: `list` reports what is wrong with it
                if run.read_state()["state"] == "queued":
                    marked.append(run)
        waiting = {job.run for job in self.waiting()} if marked else set()
        return [run for run in marked if run.name not in waiting]

    def give_place(self, run: RunDir, database: sqlite3.Connection) -> None:
        """Put a run that is marked as waiting at the end of the queue, to go on where it can. In a transaction of `exclusive`."""
        last = database.execute("SELECT COALESCE(MAX(position), 0) FROM jobs").fetchone()[0]
        resume = run.events_path.exists() and run.last_checkpoint() is not None
        database.execute(
            "INSERT INTO jobs (run, device, position, resume) VALUES (?, ?, ?, ?) ON CONFLICT (run) DO NOTHING",
            (run.name, device_of(run.read_config()), last + 1, int(resume)),
        )

    def waiting(self) -> list[Job]:
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
        rows = database.execute(
            "SELECT id, run, device, position, resume FROM jobs WHERE claimed IS NULL ORDER BY position, id"
        )
        return [
            # written by an older version, a job may say "cuda"
            Job(id, run, platform_calls.device_name(device), position, bool(resume))
            for id, run, device, position, resume in rows
        ]

    def move(self, name: str, places: int) -> None:
        """Move a waiting run by `places` in the queue: -1 is one earlier, 1 one later; stops at the ends."""
        with self.exclusive() as database:
            order = [job.run for job in self._jobs(database)]
            if name not in order:
                raise RunError(
                    f"Run {name!r} is not waiting in the queue. It has started, or was taken out; look at the list of runs."
                )
            index = order.index(name)
            order.insert(min(max(index + places, 0), len(order) - 1), order.pop(index))
            database.executemany(
                "UPDATE jobs SET position = ? WHERE run = ?", [(i + 1, run) for i, run in enumerate(order)]
            )

    def dequeue(self, name: str) -> bool:
        """Take a waiting run out of the queue; it can be queued again. False when it was not waiting."""
        with self.exclusive() as database:
            removed = database.execute(
                "DELETE FROM jobs WHERE run = ? AND claimed IS NULL RETURNING resume", (name,)
            ).fetchone()
            if removed is not None:
                run = self._get(name)
                run.write_state(state="stopped" if run.events_path.exists() else "created")
            return removed is not None

    # -- starting ---------------------------------------------------------------------------------------------------------

    def start(self, name: str, resume: bool = False) -> int:
        """Start a run's worker now, as a detached process; returns its pid.

        It does not ask whether the device is busy: `enqueue` and `pump` do. Raises RunError when the run is alive, when it
        has ended and `resume` is false (its results would be overwritten), or when there is no checkpoint to resume.
        """
        with self.exclusive() as database:
            database.execute("DELETE FROM jobs WHERE run = ?", (name,))
            return start_worker(self._get(name), resume, self._worker)

    def pump(self) -> list[str]:
        """Start the next waiting run on every device on which no run is alive; returns the names started.

        One call starts at most one run per device. A run that cannot start is marked failed and the next one is tried; one that
        cannot even be marked keeps its place, and `summary` says why. A damaged run folder holds up no other run.
        """
        reap()
        started: list[str] = []
        if not self.waiting():
            return started
        with self.exclusive() as database:
            waiting = self._jobs(database)
            busy = self._busy_devices()
            for job in waiting:
                devices = self._devices(job)
                if devices & busy:
                    busy |= devices  # a run that waits for several GPUs is not overtaken by those behind it
                    continue
                try:
                    run = self._get(job.run)
                    # Started, but the machine died before this database knew: the run's own state is what counts.
                    begins = is_half_started(run)
                    if begins and not never_began(run):
                        busy |= devices
                        continue
                    if begins or run.read_state()["state"] == "queued":
                        start_worker(run, job.resume, self._worker)
                        started.append(job.run)
                        busy |= devices
                except (RunError, OSError) as error:
                    if platform_calls.no_room(error):
                        raise
                    if not self._mark_failed(job.run, error):
                        continue
                database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
                self.held_up.pop(job.run, None)
        return started

    def _devices(self, job: Job) -> frozenset[str]:
        """What a waiting run will take; its device alone where its folder is gone or damaged, which `pump` reports."""
        try:
            return devices_of({**self._get(job.run).read_config(), "device": job.device})
        except RunError:
            return frozenset({job.device})

    def _busy_devices(self) -> set[str]:
        busy: set[str] = set()
        for run in self._root.runs():
            # Damaged, and no live process known: `list` reports what is wrong with it.
            with contextlib.suppress(RunError):
                if run.owner() is not None:
                    busy |= devices_taken(run)
        return busy

    def _mark_failed(self, name: str, error: Exception) -> bool:
        """Whether a waiting run that could not start is marked so, or needs no mark; else it is remembered why it waits."""
        try:
            self._get(name).write_state(state="failed", message=str(error))
        except OSError as why:
            self.held_up[name] = (
                f"It cannot be started: {error}. Nor can that be written into {self._root.path / name} ({why.strerror})."
            )
            return False
        except RunError:  # deleted by hand: nothing left to mark; or damaged: `list` reports what is wrong with it
            return True
        return True
