"""Which family a choice of model means, as far as this machine can determine without a network. Needs no torch."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ..demo import resolve
from .checkpoint_file import ModelError, recognise
from .facts import FamilyFacts
from .index_files import cached_index, index_file
from .registry import FAMILIES, family_of

_PARTS = ("unet", "transformer", "vae")


class Choice(Protocol):
    """What a config says of the model."""

    model_family: str
    pretrained_model_name_or_path: str
    revision: str | None


def known_family(model: Choice) -> FamilyFacts | None:
    """The family that is named, or that the checkpoint's small files show; None where neither does.

    Cost: a few small files of the model or a single file's header, read again only when they changed. Never asks a network.
    """
    if model.model_family != "auto":
        return FAMILIES[model.model_family]
    path = Path(resolve(model.pretrained_model_name_or_path)).expanduser()
    if path.is_file():
        return _of_file(path, _stamp(path))
    folder = _folder(model.pretrained_model_name_or_path, model.revision)
    if folder is None:
        return None
    files = {part: folder / part / "config.json" for part in _PARTS}
    configs = {part: _read(file, _stamp(file)) for part, file in files.items()}
    index = index_file(folder)
    return family_of(_read(index, _stamp(index)), configs)


def _folder(name: str, revision: str | None) -> Path | None:
    """Where the small files of a model lie: its own folder, or its place in the hub's cache."""
    folder = Path(resolve(name)).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or ".." in name:
        return None
    from huggingface_hub import errors  # only for hub ids

    try:
        cached = cached_index(name, revision)
    except errors.HFValidationError:
        return None
    return None if cached is None else cached.parent


@lru_cache(maxsize=16)
def _of_file(path: Path, stamp: int) -> FamilyFacts | None:
    """The family of a checkpoint in one file; None for one that is refused."""
    try:
        return recognise(path).facts
    except (ModelError, OSError):
        return None


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    """A small JSON file; empty where it is absent or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
