"""What the page remembers of each viewer, bounded: a viewer who never comes back must not stay in memory."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key, Value = TypeVar("Key", bound=Hashable), TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A thread-safe mapping that keeps the entries set last, at most `most` of them."""

    def __init__(self, most: int = 256) -> None:
        self._most, self._lock = most, threading.Lock()
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return key in self._entries

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """The value, or None where there is none (any more)."""
        with self._lock:
            return self._entries.get(key)

    def discard(self, key: Key) -> None:
        """Forget a key, if it is there."""
        with self._lock:
            self._entries.pop(key, None)
