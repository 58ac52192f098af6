"""What a running node may use besides its inputs: a folder of its own, the run store, progress, and the request to stop."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from ...core.runs.store import RunStore
from ..graph.values import Interrupted

WORKER = (sys.executable, str(Path(__file__).with_name("start_worker.py")))
"""Starts a training by the file's path: inside ComfyUI this package has no importable name of its own."""


def open_store(root: Path | str | None = None) -> RunStore:
    """The run store that graphs train in."""
    return RunStore(root, WORKER)


def _silent(*_: Any) -> None: ...


@dataclass
class Context:
    """One node's surroundings while it runs.

    `work`: a fresh folder for its files, kept with its result. `out`: where effect nodes write. `provenance`: text chunks for
    exported files (`prompt`, `workflow`). `report(done, total, what)`, `show(picture)` and `trains(run)`, the name of the run that it follows: for the page. `stop`: called often; True = end
    everything.
    """

    store: RunStore
    work: Path
    out: Path
    provenance: Mapping[str, str] = field(default_factory=dict)
    _: KW_ONLY
    report: Callable[[int, int, str], None] = _silent
    show: Callable[[Path], None] = _silent
    trains: Callable[[str], None] = _silent
    stop: Callable[[], bool] = lambda: False

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Report how far the node is. Raises Interrupted where a stop was requested."""
        self.report(done, total, what)
        if self.stop():
            raise Interrupted

    @property
    def cache(self) -> Path:
        """Where latents and text embeddings are kept, as runs do."""
        return self.store.root / ".cache"
