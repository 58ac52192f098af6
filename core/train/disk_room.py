"""A full disk: whatever a training writes waits for room, and is written when there is some."""

import time
from collections.abc import Callable
from typing import TypeVar

from ..runs.checkpoint import is_disk_full
from ..runs.folder import require
from .interrupt import Interrupt
from .outcome import DONE, PREEMPTED, Leave
from .status import Status

POLL_S = 0.25  # how often signals and commands are looked for meanwhile
ROOM_POLL_S = 5.0  # how often it is tried again

Written = TypeVar("Written")


class DiskRoom:
    """Does what writes, again and again until there is room for it or the run is ended."""

    def __init__(self, status: Status, interrupt: Interrupt) -> None:
        self.status, self.interrupt = status, interrupt

    def write(self, what: str, action: Callable[[], Written]) -> Written:
        """The result of `action`, which writes `what`. While the disk is full the run is reported as paused and waits here.

        Raises: Leave where a signal or a stop ends the run meanwhile, and what `action` raises, except for a full disk.
        """
        status, is_waiting, before = self.status, False, self.status.journal.reported_state
        while True:
            require(status.run)
            try:
                result = action()
            except Leave:
                raise
            except Exception as error:
                if not is_disk_full(error):
                    raise
                if not is_waiting:
                    self._report_full(what, error)
                is_waiting = True
                self._wait()
                continue
            if is_waiting:  # back to what it was: a person may have paused the run
                status.emit("paused" if before == "paused" else "resumed")
                status.journal.state(state=before, message=None)
            return result

    def _report_full(self, what: str, error: Exception) -> None:
        message = f"The disk is full: {what} cannot be written ({error})."
        remedy = (
            f"Free some space on the disk of {self.status.run.path}: the run goes on by itself. "
            "Or stop it: older checkpoints are intact."
        )
        self.status.warn(message, remedy)
        self.status.emit("paused", reason="disk full")
        self.status.journal.state(state="paused", message=f"{message} {remedy}")

    def _wait(self) -> None:
        until = time.monotonic() + ROOM_POLL_S
        while time.monotonic() < until:
            if self.interrupt.is_requested:
                raise Leave(
                    PREEMPTED, f"{self.interrupt.name} while the disk was full; {self.status.how_to_continue()}."
                )
            self.status.heartbeat.mark()
            for command in self.status.run.take_commands():
                if command.name in ("stop", "stop-and-save"):
                    last = self.status.saved
                    raise Leave(DONE, f"stopped as asked while the disk was full; last checkpoint: {last}.")
                self.status.warn(
                    f"The command {command.name} was dropped: the disk is full.", "Send it again when there is room."
                )
            time.sleep(min(POLL_S, ROOM_POLL_S))
