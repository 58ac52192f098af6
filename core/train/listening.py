"""What reaches a run from outside while something long goes on: signals, and the commands that cannot wait."""

import threading
import time
from collections import deque
from collections.abc import Callable

from ..runs.commands import COMMANDS, Command
from ..runs.run_log import PHASES
from .interrupt import Interrupt
from .outcome import DONE, PREEMPTED, Leave
from .status import Status

POLL_S = 0.25  # how often commands are looked for
URGENT = ("pause", "resume", "save", "stop", "stop-and-save")
"""Commands that are handled in the middle of preparing, sampling and measuring too; the others wait for the end of a step."""


class Listener:
    """Signals and commands. `poll` handles what is urgent; everything else waits in `inbox` for `BetweenSteps`."""

    def __init__(self, status: Status, interrupt: Interrupt) -> None:
        self.status, self.interrupt = status, interrupt
        self.inbox: deque[Command] = deque()
        """Commands that were taken and not yet handled."""
        self.stop: Command | None = None
        """A stop that came in the middle of something, which the loop handles."""
        self.is_paused = False
        """By a command between two steps; a pause in the middle of something is held inside `poll`."""
        self.waited_s = 0.0
        """Seconds for which a person had the run wait in the middle of something."""
        self._save: Callable[[], None] | None = None
        self._save_requested = False
        self._next_poll = 0.0
        self.phase = "model"
        """What was last reported before training, of `run_log.PHASES`."""
        self.turn = threading.RLock()
        """Held while a phase is reported, and by `leaving` while it writes the end."""

    @property
    def must_end(self) -> bool:
        """Whether a signal or a stop has come."""
        return self.interrupt.is_requested or self.stop is not None

    def accept_saves(self, save: Callable[[], None]) -> None:
        """From now on there is something to save: `save` does it, at once where it was requested before."""
        self._save = save
        if self._save_requested:
            save()

    def take_commands(self, only: tuple[str, ...] = COMMANDS) -> None:
        """Move the commands of these names from the run's folder to the inbox; rank 0 does."""
        if self.status.ranks.is_main:
            self.inbox.extend(self.status.run.take_commands(only))

    def report(self, command: Command) -> None:
        """Write that a command was received."""
        self.status.journal.emit("command", name=command.name, id=command.id, args=command.args)

    def wait(self) -> None:
        """Sleep until commands should be looked for again."""
        self.status.heartbeat.mark()
        time.sleep(POLL_S)

    def poll(self) -> bool:
        """Handle what is urgent, in the middle of something long; cheap enough to be called at every network evaluation.

        `pause` holds the run here until `resume`; `save` saves what is trained, whatever the weights are used for.
        Returns: whether the caller must leave what it does, so that the loop can end the run.
        """
        self.status.heartbeat.mark()
        held_since: float | None = None
        while not self.must_end:
            if held_since is None and time.monotonic() < self._next_poll:
                return False
            self._next_poll = time.monotonic() + POLL_S
            self.take_commands(URGENT)
            for command in [command for command in self.inbox if command.name in URGENT]:
                self.inbox.remove(command)
                self.report(command)
                held_since = self._handle(command, held_since)
                if self.stop is not None:
                    break
            if held_since is not None:
                self.wait()
        return True

    def _handle(self, command: Command, held_since: float | None) -> float | None:
        """Returns since when the run is held in `poll`, on the monotonic clock; None: it is not."""
        match command.name:
            case "stop" | "stop-and-save":
                self.stop = command
                self.status.journal.state(state="stopping")
            case "save" if self._save is None:
                self._save_requested = True
            case "save":
                self._save()
            case "pause" if held_since is None and not self.is_paused:
                held_since = time.monotonic()  # before the report: what listens to it may take its time
                self.status.set_paused(True)
            case "resume" if held_since is not None:
                self.waited_s += time.monotonic() - held_since
                self.status.set_paused(False)
                return None
            case "resume":
                self.is_paused = False
        return held_since

    def progress(self, phase: str, done: int, total: int) -> None:
        """Report the progress of a phase before training, and poll. Raises: Leave where the run must end."""
        with self.turn:
            self.phase = phase
            self.status.journal.progress(phase, done, total)
            if self.poll():
                raise self.left()

    def left(self) -> Leave:
        """The end of a run that is left before its first step."""
        while_ = f"while {PHASES[self.phase]}; nothing was lost: {self.status.how_to_continue()}."
        if self.interrupt.has_come():
            return Leave(PREEMPTED, f"{self.interrupt.name} {while_}")
        return Leave(DONE, f"stopped as asked {while_}")
