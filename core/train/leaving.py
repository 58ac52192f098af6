"""Leaving before the first step, whatever native code is busy with.

Until then there is nothing to save: a checkpoint stands already, or nothing was trained. What is done there looks for signals and commands now and
then (`Listener.progress`), but torch's compiler works for minutes in native code, and a model may lie on a share that answers no more.
"""

import sys
import threading
import time
from types import TracebackType
from typing import Self

from .. import platform_calls
from .listening import POLL_S, Listener
from .outcome import report_elsewhere, report_end

GRACE_S = 5.0
"""How long the work may take to leave by itself."""
_STOPS = ("stop", "stop-and-save")


class Leaving:
    """Inside, where `Interrupt.leave` says how this process is ended: a signal or a stop that the work does not answer within `GRACE_S` ends the run
    and the process from a thread of its own, with the state and the exit code that the work would have left. What it started ends too.

    Nothing is half written by that: whatever is written before the first step is whole or absent, also where the process is killed.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener, self._over = listener, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leaving", daemon=True)

    def __enter__(self) -> Self:
        if self._listener.interrupt.leave is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        since: float | None = None
        while not self._over.wait(POLL_S):
            if not (self._listener.interrupt.has_come() or self._is_stop_pending()):
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > GRACE_S:
                self._leave()

    def _is_stop_pending(self) -> bool:
        """A stop that nobody took. Of several processes one alone receives it, and must not leave without the others."""
        status = self._listener.status
        return status.ranks.world_size == 1 and any(each.name in _STOPS for each in status.run.pending_commands())

    def _leave(self) -> None:
        listener, interrupt, status = self._listener, self._listener.interrupt, self._listener.status
        assert interrupt.leave is not None
        with listener.turn:
            if self._over.is_set():
                return
            if not interrupt.has_come():
                listener.take_commands(_STOPS)
                listener.stop = next((each for each in listener.inbox if each.name in _STOPS), None)
                if listener.stop is None:  # the work took it meanwhile
                    return
                listener.report(listener.stop)
            left = listener.left()
            try:
                code = report_end(status, None, interrupt, left)
            except OSError as why:
                code = report_elsewhere(status, left, why)
            status.heartbeat.stop()
            platform_calls.end_children()
            sys.stdout.flush()
            sys.stderr.flush()
            interrupt.leave(code)
