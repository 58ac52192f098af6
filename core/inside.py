"""Opening a file that must lie in a certain folder, whatever happens to the names between the check and the opening.

A path that comes from a run's events or from a folder that was brought along can name a link. Checking where it leads and then opening it are
two moments: in between somebody who may write there can put a link in the place of the file. So the opening itself is bound to the folder.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

WINDOWS = os.name == "nt"


def open_inside(path: Path, inside: Path) -> BinaryIO:
    """Open an ordinary file below the folder `inside` for reading.

    Args:
        path: below `inside`, without links in its own part of the way; `inside` itself may be reached by links.

    POSIX: every folder on the way is opened from the handle of the one before, and no link is followed. Windows has no such call: there the
    opened file is asked where it really lies.

    Raises: OSError where it is no ordinary file there, or cannot be opened.
    """
    home = inside.resolve(strict=True)
    parts = _below(path, inside, home)
    handle = _open_on_windows(home.joinpath(*parts), home) if WINDOWS else _open_from_handle(home, parts)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise PermissionError(1, "not an ordinary file", str(path))
    except BaseException:
        os.close(handle)
        raise
    return open(handle, "rb")


def _below(path: Path, inside: Path, home: Path) -> tuple[str, ...]:
    for folder in (home, inside.absolute()):
        if path.absolute().is_relative_to(folder):
            parts = path.absolute().relative_to(folder).parts
            if parts and ".." not in parts:
                return parts
    raise PermissionError(1, f"not in the folder {inside}", str(path))


def _open_from_handle(home: Path, parts: tuple[str, ...]) -> int:
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # without waiting, because a pipe that took the file's place would wait for a writer
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _open_on_windows(path: Path, home: Path) -> int:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        lies = _true_path(handle)
        if not lies.is_relative_to(home):
            raise PermissionError(1, f"it is a link that leads out of {home}", str(path))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _true_path(handle: int) -> Path:  # pragma: no cover - Windows only; tests put the system's own answer in its place
    """Where an open file lies, all links resolved."""
    import ctypes
    import msvcrt

    ask = ctypes.WinDLL("kernel32", use_last_error=True).GetFinalPathNameByHandleW
    ask.argtypes = (ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_uint32, ctypes.c_uint32)
    text = ctypes.create_unicode_buffer(32_768)
    if not 0 < ask(msvcrt.get_osfhandle(handle), text, len(text), 0) < len(text):
        raise ctypes.WinError(ctypes.get_last_error())
    name = text.value
    return Path("\\\\" + name[8:] if name.startswith("\\\\?\\UNC\\") else name.removeprefix("\\\\?\\"))
