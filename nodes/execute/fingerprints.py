"""What nodes read from the disk, as short text that changes when the content does. Part of every cache key."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...core.config import OPTIONS
from ...core.config.concepts import concepts_of
from ...core.demo import resolve
from ..graph.values import sha256

FOLDERS = ("instance_data_dir", "class_data_dir", "drift_data_dir")
MODEL = "pretrained_model_name_or_path"


@lru_cache(maxsize=20_000)
def _digest(path: str, size: int, changed_ns: int) -> str:
    return sha256(Path(path))


def of_file(path: str | Path | None) -> str:
    """sha256 of a file; `absent` where there is none. An unchanged file is not read a second time."""
    path = None if path is None else Path(path).expanduser()
    if path is None or not path.is_file():
        return "absent"
    status = path.stat()
    return _digest(str(path.absolute()), status.st_size, status.st_mtime_ns)


def of_folder(path: str | None) -> str:
    """sha256 over the names and contents of a folder's own files (pictures and captions; sub-folders are never read)."""
    if path is None:
        return "none"
    folder = Path(resolve(path)).expanduser()
    if not folder.is_dir():
        return "absent"
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    return _of_lines(f"{name} {of_file(folder / name)}" for name in files)


def of_model(name: str) -> str:
    """Of a model in a folder or a file: names, sizes and times of its files (gigabytes are not read). Of a hub id: its name."""
    folder = Path(resolve(name)).expanduser()
    if folder.is_file():
        status = folder.stat()
        return _of_lines([f"{folder.name} {status.st_size} {status.st_mtime_ns}"])
    if not folder.is_dir():
        return name
    lines = []
    for place, below, names in os.walk(folder):
        below.sort()
        for each in sorted(names):
            status = os.stat(os.path.join(place, each))
            lines.append(f"{os.path.relpath(place, folder)}/{each} {status.st_size} {status.st_mtime_ns}")
    return _of_lines(lines)


def of_flat(flat: Mapping[str, Any]) -> str:
    """Of every folder and model that flat options name; absent options count with their defaults."""
    chosen = {name: flat.get(name, OPTIONS[name].default) for name in (*FOLDERS, MODEL)}
    lines = [f"{name} {of_folder(chosen[name])}" for name in FOLDERS if name != "class_data_dir"]
    # A class folder is filled by the first training that uses it, so its content is no input.
    lines.append(f"class_data_dir {chosen['class_data_dir']}")
    lines.append(f"model {of_model(chosen[MODEL])}")
    for number, concept in enumerate(concepts_of(flat.get("concepts"))):
        lines.append(f"concept {number} {of_folder(concept.instance_data_dir)} {concept.class_data_dir}")
    return _of_lines(lines)


def _of_lines(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
