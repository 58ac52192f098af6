"""Signals that request the end of a training: handled at the next step boundary; the second one ends it at once."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

# Windows has no SIGHUP; its console's close and break arrive as SIGBREAK
_NAMES = (
    "SIGTERM",
    "SIGINT",
    "SIGHUP",
    "SIGBREAK",
)


class StopNow(BaseException):
    """A second signal arrived: leave without another step. Not an Exception, so that no handler of errors catches
    it.
    """


class Interrupt:
    """Context that turns the first signal into `is_requested = True` and the second into `StopNow`; restores the handlers
    afterwards. Once `is_over` is set, as the second signal does too, further ones are ignored: the end is being written down.

    Outside the main thread nothing is installed, because only the main thread may: `is_requested` then stays false.

    Args:
        leave: ends this process with an exit code, where it is there for the one run alone (`os._exit`): see `leaving`. None = it is
            somebody else's, and ends only as its own work does.
    """

    def __init__(self, leave: Callable[[int], object] | None = None) -> None:
        self.is_requested = self.is_over = False
        self.name: str | None = None
        self.leave = leave
        self._before: dict[int, object] = {}
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._bell_before = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                # An ignored signal stays ignored: so a shell's nohup is respected.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
            self._bell = socket.socketpair()
            for end in self._bell:
                end.setblocking(False)
            self._bell_before = signal.set_wakeup_fd(self._bell[1].fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self._bell is not None:
            signal.set_wakeup_fd(self._bell_before)
            for end in self._bell:
                end.close()
            self._bell = None

    def has_come(self) -> bool:
        """Whether a signal has come, also one that is not handled yet: Python handles them in the main thread, between two of its own
        instructions, and native code may take minutes. For another thread."""
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                rung = [number for number in self._bell[0].recv(4096) if number in self._before]
                if rung and self.name is None:
                    self.name = signal.Signals(rung[0]).name
        return self.is_requested or self.name is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_over:
            return
        if self.is_requested:
            self.is_over = True
            raise StopNow(f"second signal ({signal.Signals(number).name})")
        self.is_requested, self.name = True, signal.Signals(number).name
