"""Deleted runs: whole in `<runs>/.trash`, from where they come back or are removed for good."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import names, platform_calls
from .errors import RunError
from .folder import RunDir, check_name
from .root import RunsRoot, numbered

FOLDER = ".trash"


@dataclass(frozen=True)
class Thrown:
    """A run in the trash. `name`: what it is called there; `when`: when it was put there, in seconds since 1970."""

    name: str
    path: Path
    when: float

    def size_bytes(self) -> int:
        """What its files take. Some milliseconds for a run of hundreds of files."""
        return RunDir(self.path).size_bytes()


class Trash:
    """The trash of a folder of runs. The caller holds the folder's lock (`Queue.exclusive`)."""

    def __init__(self, root: RunsRoot) -> None:
        self._root, self.path = root, root.path / FOLDER

    def entries(self) -> list[Thrown]:
        """What is in it, the newest first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                if names.NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    found.append(Thrown(entry.name, Path(entry.path), entry.stat(follow_symlinks=False).st_mtime))
        return sorted(found, key=lambda thrown: (thrown.when, thrown.name), reverse=True)

    def put(self, run: RunDir) -> str:
        """Move a run here; returns its name in the trash. It happens at once, or not at all."""
        self.path.mkdir(exist_ok=True)
        name = next(free for free in numbered(run.name) if not (self.path / free).exists())
        platform_calls.replace(run.path, self.path / name)
        os.utime(self.path / name)
        return name

    def restore(self, name: str) -> str:
        """Move a run back; returns its name, which has a number behind it where another run took the old one."""
        thrown = self._get(name)
        wanted = self._root.free_name(name)
        platform_calls.replace(thrown.path, self._root.path / wanted)
        return wanted

    def take_out(self, which: Iterable[str] | None = None) -> list[Path]:
        """Take runs out of the trash for good (None: all of them): renames them and returns the folders, which the caller removes."""
        return [self.discard(each.path) for each in (self.entries() if which is None else [*map(self._get, which)])]

    def discard(self, folder: Path) -> Path:
        """Rename a run's folder to what no one lists; returns where it is, to be removed by the caller.

        The rename is what deletes: whatever interrupts the removal of the files, the rest is litter that `RunStore.reconcile` removes.
        """
        gone = self._root.path / f".deleted-{uuid.uuid4().hex[:8]}"
        platform_calls.replace(folder, gone)
        return gone

    def _get(self, name: str) -> Thrown:
        check_name(name)
        thrown = next((each for each in self.entries() if each.name == name), None)
        if thrown is None:
            there = ", ".join(each.name for each in self.entries()[:8]) or "nothing"
            raise RunError(f"There is no run {name!r} in the trash. In it: {there}.")
        return thrown


def remove(folders: Iterable[Path]) -> None:
    """Remove what was taken out."""
    for folder in folders:
        shutil.rmtree(folder)
