"""What one viewer should see, numbered, so that an answer which comes late is known and made good.

Answers of the page may overtake each other on their way to a browser, and an older one would then stand there for good. So every
answer carries a number (a hidden component among its outputs), and the browser hands back the number that it applied last. What is
newer than that is sent again; a late answer brings its older number, and so calls for the newest. No components here.
"""

import threading
from collections.abc import Hashable, Mapping
from typing import Any


class Scene:
    """The newest of every part that was put. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[Hashable, tuple[int, Any]] = {}
        self._number = 0

    @property
    def number(self) -> int:
        """The number of the newest."""
        return self._number

    def put(self, updates: Mapping[Any, Any]) -> None:
        """These parts are so from now on."""
        if not updates:
            return
        with self._lock:
            self._number += 1
            self._parts |= {part: (self._number, update) for part, update in updates.items()}

    def news(self, applied: Any) -> tuple[int, dict[Any, Any]]:
        """(the newest number, the parts that are newer than what the browser applied last); every part where that number is none of ours."""
        with self._lock:
            known = isinstance(applied, int | float) and 0 <= applied <= self._number
            return self._number, {
                part: update for part, (number, update) in self._parts.items() if not known or number > applied
            }

    def whole(self) -> tuple[int, dict[Any, Any]]:
        """(a number of its own, every part): where the browser hands this number back, it shows the newest of everything, whatever came before."""
        with self._lock:
            self._number += 1
            return self._number, {part: update for part, (_, update) in self._parts.items()}
