"""The record of a run while it trains: events and state on disk, a listener in the same process. A full disk delays it,
never breaks it.
"""

import time
from collections.abc import Callable
from typing import Any

from .checkpoint import is_disk_full
from .folder import RunDir
from .json_files import jsonable
from .run_log import PHASES

STATE_INTERVAL_S = 1.0
PROGRESS_INTERVAL_S = 0.2


class Journal:
    """Events and states of one run, in order. What a full disk refuses waits in memory and is written with the next
    event.

    `blocked`: something waits; the trainer pauses then.
    """

    def __init__(self, run: RunDir, listen: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.run, self._listen = run, listen
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._state_waiting: dict[str, Any] = {}
        self.reported_state: str | None = None
        """The state that was set last, written or not."""
        self._state_written = self._progress_at = 0.0
        self._last_phase: tuple[str, int, int] | None = None

    @property
    def blocked(self) -> bool:
        return bool(self._waiting or self._state_waiting)

    def emit(self, event: str, **fields: Any) -> None:
        """Append an event to the run and call the listener. Raises what `RunDir.emit` raises, except for a full
        disk.
        """
        if event != "phase":
            self._last_phase = None
        fields = {"time": round(time.time(), 3), **fields}  # of now, however long the disk makes it wait
        self._waiting.append((event, fields))
        self._flush_if_there_is_room()
        if self._listen is not None:
            self._listen(jsonable({"event": event, **fields}))

    def progress(self, name: str, done: int, total: int) -> None:
        """A `phase` event for a phase of `run_log.PHASES`: when it begins, when it is over, and at most five a second between."""
        if name not in PHASES:
            raise ValueError(f"{name!r} is not a phase that viewers can name. Phases: {', '.join(PHASES)}.")
        now, phase = time.monotonic(), (name, done, total)
        if phase == self._last_phase:
            return
        begins = self._last_phase is None or self._last_phase[0] != name or done == 0
        if begins or done == total or now - self._progress_at > PROGRESS_INTERVAL_S:
            self._progress_at, self._last_phase = now, phase
            self.emit("phase", name=name, done=done, total=total)

    def state(self, **fields: Any) -> None:
        """Merge into the run's state.json at once."""
        self._state_waiting |= fields
        self.reported_state = fields.get("state", self.reported_state)
        self._flush_if_there_is_room()

    def step(self, step: int) -> None:
        """The state's step, at most once a second: it is also the sign of life."""
        if time.monotonic() - self._state_written > STATE_INTERVAL_S:
            self.state(step=step)

    def flush(self) -> None:
        """Write what waits. Raises OSError when the disk is (still) full; nothing is lost by that."""
        try:
            while self._waiting:
                event, fields = self._waiting[0]
                self.run.emit(event, **fields)
                self._waiting.pop(0)
        finally:  # a state needs no new room, and is what shows that the run waits for some
            if self._state_waiting:
                self.run.write_state(**self._state_waiting)
                self._state_waiting = {}
                self._state_written = time.monotonic()

    def _flush_if_there_is_room(self) -> None:
        try:
            self.flush()
        except OSError as error:
            if not is_disk_full(error):
                raise
