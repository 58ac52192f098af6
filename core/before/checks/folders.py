"""Whether the run's folder, the cache and their disks take what the run writes."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ... import platform_calls
from ...findings import Finding, has_errors
from ...runs.errors import RunError
from ...runs.folder import check_name
from ...sizes import size
from ..disk import DiskEstimate, disk_estimate
from .situation import Situation

_RESERVE_BYTES = 64 * 2**20
_LONGEST_INSIDE = 120
"""Characters of the longest path inside a run: a checkpoint's temporary folder, or an exported file named after the
run."""
_WINDOWS_PATH = 259


def folders(situation: Situation) -> Iterable[Finding]:
    """Whether the run's folder, the cache and their disks take what the run writes."""
    output = list(_output(situation.run_dir, situation.runs_dir))
    yield from output
    if situation.config.data.data_cache_dir is not None:
        yield from writable(situation.cache_dir, "data_cache_dir")
    if not has_errors(output):
        need = disk_estimate(situation.config, situation.scan, situation.model)
        yield from _disk(need, situation.cache_dir, situation.runs_dir)


def _output(run_dir: Path | None, runs_dir: Path) -> Iterable[Finding]:
    if run_dir is not None:
        try:
            check_name(run_dir.name)
        except RunError as error:
            yield Finding("error", "run name", str(error), "Choose another name.", "run-name")
            return
        if run_dir.is_symlink() or (run_dir.exists() and not run_dir.is_dir()):
            yield Finding(
                "error", "run name", f"{run_dir} exists and is not a folder.", "Choose another name.", "output-exists"
            )
            return
        if run_dir.exists() and any(run_dir.iterdir()):
            yield Finding(
                "error",
                "run name",
                f"{run_dir} exists already; nothing in it is overwritten.",
                f"Choose another name, go on with it (train --resume {run_dir.name}), or delete that run first.",
                "output-exists",
            )
        if too_long(run_dir):
            yield Finding(
                "warning",
                "runs folder",
                f"{run_dir} is so long that files in it pass Windows' {_WINDOWS_PATH + 1} characters.",
                "Take a shorter folder or run name, or enable long paths in Windows.",
                "path-long",
            )
    yield from writable(runs_dir, "runs folder")


def too_long(run_dir: Path, windows: bool = platform_calls.WINDOWS) -> bool:
    """Whether files inside a run at `run_dir` would pass Windows' classic limit."""
    return windows and len(str(run_dir)) + _LONGEST_INSIDE > _WINDOWS_PATH


def writable(folder: Path, option: str) -> Iterable[Finding]:
    """An error when files cannot be made in `folder`, or in its nearest parent that exists. `option` names the folder in
    the message. A file is made for it and removed, because permissions alone do not show it on every system."""
    existing = _existing(folder)
    if not existing.is_dir():
        yield Finding(
            "error", option, f"{folder} cannot be made: {existing} is a file.", "Choose another folder.", "not-writable"
        )
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        full = error.errno == 28
        yield Finding(
            "error",
            option,
            f"{existing} takes no new files ({error.strerror}).",
            "Free some space there." if full else "Choose a folder that you may write to.",
            "no-space" if full else "not-writable",
        )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not os.path.exists(path) and path != path.parent:  # Path.exists raises for a name that is too long
        path = path.parent
    return path


def _disk(need: DiskEstimate, cache_dir: Path, runs_dir: Path) -> Iterable[Finding]:
    places = [("data_cache_dir", _existing(cache_dir), need.cache), ("runs folder", _existing(runs_dir), need.run)]
    if places[0][1].stat().st_dev == places[1][1].stat().st_dev:
        places = [("runs folder", places[1][1], need.cache + need.run)]
    for option, folder, wanted in places:
        free = platform_calls.free_bytes(folder)
        if free < 1.2 * wanted + _RESERVE_BYTES:
            yield Finding(
                "error",
                option,
                f"no space: the disk of {folder} has {size(free)} free, and the run needs about {size(1.2 * wanted + _RESERVE_BYTES)}.",
                "Free some space, choose a folder on another disk, or lower checkpoints_total_limit.",
                "no-space",
            )
        elif free < 2 * wanted + _RESERVE_BYTES:
            yield Finding(
                "warning",
                option,
                f"the disk of {folder} has {size(free)} free, and the run needs about {size(wanted)}.",
                "Free some space, or lower checkpoints_total_limit.",
                "little-space",
            )
