"""Signals that request the end of a training: handled at the next step boundary; the second one ends it at once."""

import signal
import threading
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
    """

    def __init__(self) -> None:
        self.is_requested = self.is_over = False
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                # An ignored signal stays ignored: so a shell's nohup is respected.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_over:
            return
        if self.is_requested:
            self.is_over = True
            raise StopNow(f"second signal ({signal.Signals(number).name})")
        self.is_requested, self.name = True, signal.Signals(number).name
