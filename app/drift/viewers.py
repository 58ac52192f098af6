"""Who asked for which drift preview: one place for each viewer of the page, and what becomes of their requests.

An edit is asked for a moment later, when no other follows (`plan`); a click at once (`ask`). The page's timer looks (`look`), which
also asks what has come due, so that a viewer needs no thread of their own. No components here.
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

PLACES_KEPT = 256


@dataclass
class Place:
    """One viewer's. Guarded by the viewers's lock, but for `memory` and `scene`, which the tab keeps for this viewer under `drawing`: their
    clicks and ticks are answered by several threads, and what is drawn last must be what was looked at last."""

    ticket: str | None = None
    asked: dict[str, Any] | None = None
    planned: tuple[dict[str, Any], float] | None = None  # (request, when it is due)
    memory: dict[str, Any] = field(default_factory=dict)
    scene: Scene = field(default_factory=Scene)
    drawing: Any = field(default_factory=threading.RLock)


@dataclass(frozen=True)
class Look:
    """How a viewer's request stands. `asked`: the request that `state` is about; `busy`: somebody should look again soon."""

    ticket: str | None
    state: PreviewState | None
    asked: dict[str, Any] | None
    busy: bool


class Viewers:
    """All viewers' requests. `client` gives the one preview client; it is made when something is first asked for."""

    def __init__(self, client: Callable[[], PreviewClient], clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._clock = client, clock
        self._lock = threading.Lock()
        self._places: OrderedDict[str, Place] = OrderedDict()

    def place(self, viewer: str) -> Place:
        """The viewer's place; the longest unused one is given up beyond `PLACES_KEPT`."""
        with self._lock:
            return self._at(viewer)

    def _at(self, viewer: str) -> Place:
        place = self._places.setdefault(viewer, Place())
        self._places.move_to_end(viewer)
        while len(self._places) > PLACES_KEPT:
            self._drop(self._places.popitem(last=False)[1])
        return place

    def ask(self, viewer: str, record: Mapping[str, Any]) -> None:
        """Ask now; what the viewer asked before and is not answered yet is cancelled."""
        with self._lock:
            self._ask(viewer, self._at(viewer), dict(record))

    def _ask(self, viewer: str, place: Place, record: dict[str, Any]) -> None:
        place.planned = None
        place.asked, place.ticket = record, self._client().request(record, viewer)

    def plan(self, viewer: str, record: Mapping[str, Any] | None, delay_s: float) -> None:
        """Ask in `delay_s`, unless a later plan takes its place; None: nothing to ask, as long as a field is wrong."""
        with self._lock:
            place = self._at(viewer)
            place.planned = None if record is None else (dict(record), self._clock() + delay_s)

    def look(self, viewer: str) -> Look:
        """How it stands; asks first what has come due. Microseconds where nothing is open."""
        with self._lock:
            place = self._places.get(viewer)
            if place is None:
                return Look(None, None, None, busy=False)
            state = None if place.ticket is None else self._client().state(place.ticket)
            if place.planned is not None and self._clock() >= place.planned[1] and not _must_wait(place, state):
                self._ask(viewer, place, place.planned[0])
                state = self._client().state(place.ticket)
            busy = place.planned is not None or (state is not None and not state.ended)
            return Look(place.ticket, state, place.asked, busy)

    def cancel(self, viewer: str) -> None:
        """Wait for nothing any more."""
        with self._lock:
            self._drop(self._at(viewer))

    def leave(self, viewer: str) -> None:
        """The viewer has closed the page."""
        with self._lock:
            place = self._places.pop(viewer, None)
            if place is not None:
                self._drop(place)

    def _drop(self, place: Place) -> None:
        place.planned = None
        if place.ticket is not None:
            self._client().cancel(place.ticket)


def _must_wait(place: Place, state: PreviewState | None) -> bool:
    """A running run cannot be told to forget a question, so an edit waits until it has answered the last one."""
    return state is not None and not state.ended and is_live(place.asked)


def is_live(record: Mapping[str, Any] | None) -> bool:
    """Whether a running run answers this request."""
    return record is not None and any(
        isinstance(each, Mapping) and each.get("live") is True for each in record.get("checkpoints", ())
    )
