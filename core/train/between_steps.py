"""Between two steps: whatever came from outside is handled, and the next step is taken when this returns."""

from typing import NoReturn

from ..runs.commands import Command
from ..runs.folder import require
from .disk_room import DiskRoom
from .keeping import Keeper
from .listening import Listener
from .looking import Viewer
from .outcome import DONE, PREEMPTED, Leave
from .status import Status


class BetweenSteps:
    """Handles signals and commands with the run's keeper and viewer."""

    def __init__(self, status: Status, listener: Listener, room: DiskRoom, keeper: Keeper, viewer: Viewer) -> None:
        self.status, self.listener, self.room, self.keeper, self.viewer = status, listener, room, keeper, viewer

    def handle_all(self) -> None:
        """Signals, a full disk and commands, in this order. Raises: Leave where the run must end."""
        if self.status.ranks.is_main:
            require(self.status.run)
        interrupt = self.listener.interrupt
        self._end_if_requested(self.status.ranks.any(interrupt.is_requested))
        if self.status.journal.blocked:
            self.room.write("events.jsonl", self.status.journal.flush)
        self.listener.take_commands()
        while self.listener.inbox:
            self._handle(self.listener.inbox.popleft())
            self._end_if_requested(interrupt.is_requested)

    def _end_if_requested(self, by_signal: bool) -> None:
        """End the run where a signal came, or a stop in the middle of something."""
        if by_signal:
            self.keeper.save()
            name = self.listener.interrupt.name or "a signal to another rank"
            raise Leave(PREEMPTED, f"{name}: saved at step {self.status.step}; resume goes on from here.")
        if self.listener.stop is not None:
            self._stop(self.listener.stop)

    def _handle(self, command: Command) -> None:
        self.listener.report(command)
        match command.name:
            case "stop" | "stop-and-save":
                self._stop(command)
            case "save":
                self.keeper.save_on_command()
            case "sample" | "drift":
                self.viewer.view_on_command(command)
            case "pause" if not self.listener.is_paused:
                self._pause()
            case "resume":
                self.listener.is_paused = False

    def _stop(self, command: Command) -> NoReturn:
        step = self.status.step
        if command.name == "stop":
            raise Leave(DONE, f"stopped at step {step} as asked, without saving; {self.status.how_to_continue()}.")
        self.status.journal.state(state="stopping")
        self.keeper.save()
        self.keeper.export()
        raise Leave(DONE, f"stopped at step {step} as asked; saved, and exported as it is.")

    def _pause(self) -> None:
        """Wait for `resume`; handle what else comes meanwhile."""
        self.listener.is_paused = True
        self.status.set_paused(True)
        while self.listener.is_paused:
            self._end_if_requested(self.listener.interrupt.is_requested)
            self.listener.take_commands()
            if self.listener.inbox:
                self._handle(self.listener.inbox.popleft())
            else:
                self.listener.wait()
        self.status.set_paused(False)
