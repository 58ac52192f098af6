"""The folder under which runs lie, and which of them are there."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .. import names
from .errors import RunError, StorageError
from .folder import RunDir, check_name

DEFAULT_ROOT = "runs"
ROOT_VARIABLE = "ROLLOUT_STUDIO_RUNS"
ANOTHER_FOLDER = f"Name a folder that you may write to with --runs-dir, or in the variable {ROOT_VARIABLE}."
"""What to do about a folder that cannot be used."""


class RunsRoot:
    """A folder of runs, made when absent. Raises StorageError when it cannot be.

    Args:
        path: the folder; None = the variable ROLLOUT_STUDIO_RUNS, else `runs` in the working directory.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        if path is None:
            path = os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            why = error.strerror if isinstance(error, OSError) else error
            raise StorageError(
                f"The runs folder {str(self.path)!r:.300} cannot be made ({why}). {ANOTHER_FOLDER}"
            ) from error
        self._dirs: dict[str, RunDir] = {}  # kept because making one costs as much as looking whether it has changed

    def path_of(self, name: str) -> Path:
        """Where the run `name` lies; refuses names that are not slugs, and links that lead elsewhere."""
        path = self.path / check_name(name)
        if path.is_symlink() or not path.resolve().is_relative_to(self.path.resolve()):
            raise RunError(f"{path} is a link. A run is a real folder inside {self.path}.")
        return path

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with the first number behind it that no run has: "mine", "mine-2", "mine-3"."""
        check_name(wanted)
        return next(free for free in numbered(wanted) if not (self.path / free).exists())

    def runs(self) -> list[RunDir]:
        """Every run's folder; also one that may not be entered, so that it is not hidden."""
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if (
                        names.NAME.fullmatch(entry.name)
                        and entry.is_dir(follow_symlinks=False)
                        and _holds_a_run(entry.path)
                    ):
                        run = self._dirs.get(entry.name)
                        if run is None:
                            run = self._dirs[entry.name] = RunDir(entry.path)
                        found.append(run)
        except OSError as error:
            raise StorageError(
                f"The runs folder {self.path} cannot be read ({error.strerror}). Make it again, or start again with another one."
            ) from error
        return found

    def litter(self) -> list[Path]:
        """Half-made and half-deleted runs that no process still works on."""
        old = []
        for path in (*self.path.glob(".new-*"), *self.path.glob(".deleted-*")):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if time.time() - path.stat().st_mtime > 600:
                    old.append(path)
        return old


def _holds_a_run(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(os.path.join(path, "config.json")).st_mode)
    except PermissionError:
        return True  # it may not be entered; `summary` reports it
    except OSError:
        return False


def numbered(stem: str) -> Iterator[str]:
    """`stem`, then `stem-2`, `stem-3`, ...: names that are never longer than a run's may be."""
    yield stem
    number = 2
    while True:
        yield f"{stem[: 63 - len(str(number))]}-{number}"
        number += 1
