"""How long work reports how far it is."""

import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""
REPORT_EVERY_S = 0.1


def throttled(progress: Progress | None) -> Progress:
    """`progress`, called at most every `REPORT_EVERY_S` seconds except for the end of each kind of work. The result may be
    called for every item."""
    last: tuple[str, float] = ("", float("-inf"))

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if progress is not None and (done == total or what != last[0] or now - last[1] >= REPORT_EVERY_S):
            last = what, now
            progress(what, done, total)

    return report
