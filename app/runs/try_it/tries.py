"""The tries of a run: finished answers, kept in the run's folder, the newest first."""

import shutil
import threading
import time
from pathlib import Path

from .recent import Recent

FOLDER, KEPT = "tried", 12


def tries(run_path: Path) -> list[Path]:
    """The folders of a run's tries, the newest first."""
    folder = run_path / FOLDER
    found = [each for each in folder.iterdir() if each.is_dir() and each.name[0] != "."] if folder.is_dir() else []
    return sorted(found, key=lambda each: each.name, reverse=True)


class TryStore:
    """Puts finished answers into the folders of their runs, each once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: Recent[str, None] = Recent()  # names of the answers that were put into their run's folder

    def keep(self, run_path: Path, source: Path) -> None:
        """Copy the answer in `source` into the run's folder, once; the oldest beyond twelve go. Raises OSError, with nothing half copied."""
        folder = run_path / FOLDER
        with self._lock:
            if source.name in self._stored or not run_path.is_dir():
                return
            self._stored[source.name] = None
            fresh = folder / f".new-{source.name}"
            try:
                shutil.copytree(source, fresh, dirs_exist_ok=True)
                fresh.rename(folder / f"{time.time_ns():020d}-{source.name}")
                for old in tries(run_path)[KEPT:]:
                    shutil.rmtree(old, ignore_errors=True)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise

    def renew(self, run_path: Path, source: Path) -> None:
        """The same request was made again: its try is removed, so that `keep` puts it first."""
        with self._lock:
            self._stored.discard(source.name)
            for old in tries(run_path):
                if old.name.endswith(source.name):
                    shutil.rmtree(old, ignore_errors=True)
