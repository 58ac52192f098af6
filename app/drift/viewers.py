"""The drift previews that the page's viewers request: one session for each viewer.

An edit is requested a moment later, when no other follows (`plan`); a click at once (`ask`). The page's timer reads the `status`, which
also sends what has come due, so that a viewer needs no thread of their own. No components here.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..parts.preview_client import PreviewClient
from ..parts.preview_jobs import PreviewState
from .scene import Scene

SESSIONS_KEPT = 256


@dataclass
class ViewerSession:
    """One viewer's state. Guarded by the lock of `Viewers`, but for `memory` and `scene`, which the tab keeps for this viewer under `drawing`:
    their clicks and ticks are answered by several threads, and the last update drawn must be of the last status read."""

    ticket: str | None = None
    request: dict[str, Any] | None = None
    planned: tuple[dict[str, Any], float] | None = None  # (request, when it is due)
    memory: dict[str, Any] = field(default_factory=dict)
    scene: Scene = field(default_factory=Scene)
    drawing: Any = field(default_factory=threading.RLock)


@dataclass(frozen=True)
class RequestStatus:
    """How far a viewer's request is. `request`: what `state` is about; `busy`: the status will change, so poll it again soon."""

    ticket: str | None
    state: PreviewState | None
    request: dict[str, Any] | None
    busy: bool


class Viewers:
    """All viewers' requests. `client` gives the one preview client; it is made at the first request."""

    def __init__(self, client: Callable[[], PreviewClient], clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, ViewerSession] = OrderedDict()

    def session(self, viewer: str) -> ViewerSession:
        """The viewer's session; the longest unused one is dropped beyond `SESSIONS_KEPT`."""
        with self._lock:
            return self._at(viewer)

    def _at(self, viewer: str) -> ViewerSession:
        session = self._sessions.setdefault(viewer, ViewerSession())
        self._sessions.move_to_end(viewer)
        while len(self._sessions) > SESSIONS_KEPT:
            self._drop(self._sessions.popitem(last=False)[1])
        return session

    def ask(self, viewer: str, record: Mapping[str, Any]) -> None:
        """Send a request now; the viewer's earlier one, if not answered yet, is cancelled."""
        with self._lock:
            self._ask(viewer, self._at(viewer), dict(record))

    def _ask(self, viewer: str, session: ViewerSession, record: dict[str, Any]) -> None:
        session.planned = None
        session.request, session.ticket = record, self._client().request(record, viewer)

    def plan(self, viewer: str, record: Mapping[str, Any] | None, delay_s: float) -> None:
        """Send a request in `delay_s`, unless a later plan replaces it; None: no request, as long as a field is wrong."""
        with self._lock:
            session = self._at(viewer)
            session.planned = None if record is None else (dict(record), self._clock() + delay_s)

    def status(self, viewer: str) -> RequestStatus:
        """The status, after sending what has come due. Microseconds where nothing is open."""
        with self._lock:
            session = self._sessions.get(viewer)
            if session is None:
                return RequestStatus(None, None, None, busy=False)
            state = None if session.ticket is None else self._client().state(session.ticket)
            if session.planned is not None and self._clock() >= session.planned[1] and not _must_wait(session, state):
                self._ask(viewer, session, session.planned[0])
                state = self._client().state(session.ticket)
            busy = session.planned is not None or (state is not None and not state.ended)
            return RequestStatus(session.ticket, state, session.request, busy)

    def cancel(self, viewer: str) -> None:
        """Cancel the viewer's requests."""
        with self._lock:
            self._drop(self._at(viewer))

    def leave(self, viewer: str) -> None:
        """The viewer has closed the page."""
        with self._lock:
            session = self._sessions.pop(viewer, None)
            if session is not None:
                self._drop(session)

    def _drop(self, session: ViewerSession) -> None:
        session.planned = None
        if session.ticket is not None:
            self._client().cancel(session.ticket)


def _must_wait(session: ViewerSession, state: PreviewState | None) -> bool:
    """A running run cannot cancel a request, so an edit waits until it has answered the last one."""
    return state is not None and not state.ended and is_live(session.request)


def is_live(record: Mapping[str, Any] | None) -> bool:
    """Whether a running run answers this request."""
    return record is not None and any(
        isinstance(each, Mapping) and each.get("live") is True for each in record.get("checkpoints", ())
    )
