"""Tensors on disk, keyed by everything that determines them, so that an entry is either right or absent, never stale.

Entries are safetensors files that carry a checksum of their content: the format itself notices a cut file, but neither
a flipped byte nor nonsense. They are written beside their place under a name of their own and then moved there, so two
runs may share a folder: both write the same content, and readers see a whole file or none. They are not forced to the
disk (fsync): after a power cut a torn one is noticed by its checksum and made again.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .. import platform_calls
from ..errors import Trouble
from ..findings import Finding

VERSION = 1
"""Part of every key: raise it when pixels or embeddings of the same content come out differently."""


class DatasetError(Trouble):
    """The pictures cannot be prepared or read. `message`: what is the case; `remedy`: what to do."""


class CorruptEntry(ValueError):
    """A file of the cache is damaged; the text is the reason."""


def key_of(**parts: Any) -> str:
    """sha256 of JSON-able parts, and of the cache's version."""
    text = json.dumps({"version": VERSION, **parts}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(module: nn.Module) -> str:
    """A fingerprint of a network: its class, config, and of every tensor name, shape, format and up to 256 of its
    values.

    Reads a few values of each tensor instead of gigabytes; another training of the same network changes practically all
    of them.
    """
    digest = hashlib.sha256(type(module).__name__.encode())
    config = getattr(module, "config", None)
    if config is not None:
        settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        # names of folders and versions do not identify the content
        settings = {
            key: value for key, value in settings.items() if not key.startswith("_") and key != "transformers_version"
        }
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().reshape(-1)
        digest.update(_raw(values[:: max(1, len(values) // 256)][:256]))
    return digest.hexdigest()


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, formats and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(_raw(tensor))
    return digest.hexdigest()


class TensorCache:
    """One kind of entries ("latents", "text") in a folder. An entry is a dict of tensors under a sha256 key."""

    def __init__(self, folder: Path, kind: str):
        self.folder = Path(folder) / kind

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The entry, checked; None when there is none.

        Raises:
            CorruptEntry: the file is cut, damaged, misnamed, or holds values that are not finite.
        """
        try:
            data = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = safetensors.torch.load(data)
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        except Exception as error:  # noqa: BLE001 - parsers raise anything on damaged bytes
            raise CorruptEntry(f"it cannot be read ({type(error).__name__}: {error})") from None
        if metadata.get("key") != key:
            raise CorruptEntry("it belongs to another key")
        if metadata.get("sha256") != checksum(tensors):
            raise CorruptEntry("its content does not match its checksum")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values() if tensor.is_floating_point()):
            raise CorruptEntry("it holds values that are not finite")
        self._mark_used(key)
        return tensors

    def _mark_used(self, key: str) -> None:
        """An entry's time of change is that of its last use: what is removed first where the cache is bounded (`tidying`)."""
        with contextlib.suppress(OSError):  # removed this moment, or a cache that may only be read
            os.utime(self.path(key))

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store an entry; an existing one is replaced. Raises DatasetError when the disk is full or refuses."""
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        data = safetensors.torch.save(tensors, metadata={"key": key, "sha256": checksum(tensors)})
        write_whole(self.path(key), data)

    def remove_leftovers(self, older_than_s: float = 24 * 3600) -> None:
        """Delete unfinished files that a killed process left behind; younger ones may be another run's at this
        moment."""
        remove_partials(self.folder.glob("*/.*.partial"), older_than_s)


def remove_partials(partials: Iterable[Path], older_than_s: float = 24 * 3600) -> None:
    """Delete those of the unfinished files of `write_whole` that are older than so many seconds."""
    for partial in partials:
        try:
            if time.time() - partial.stat().st_mtime > older_than_s:
                partial.unlink()
        except FileNotFoundError:
            continue  # another run was faster


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then move into place; see the module's docstring. Raises DatasetError with the remedy."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            platform_calls.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DatasetError(
                f"The disk of {path.parent} is full.",
                "Free some space, or choose another data_cache_dir; what is prepared is kept.",
            ) from error
        raise DatasetError(
            f"{path.parent} takes no files ({error.strerror}).", "Choose a data_cache_dir that you may write to."
        ) from error


def sound(
    cache: TensorCache, key: str, fits: Callable[[dict[str, Tensor]], Any]
) -> tuple[dict[str, Tensor] | None, Finding | None]:
    """(the entry or None, what was wrong with the file there). `fits`: whether it holds what it should."""
    try:
        tensors = cache.read(key)
        if tensors is not None and not fits(tensors):
            raise CorruptEntry("it holds something else")
    except CorruptEntry as error:
        finding = Finding(
            "warning",
            str(cache.path(key)),
            f"a damaged file of the cache: {error}.",
            "It is made again.",
            "cache-damaged",
        )
        return None, finding
    return tensors, None


class Store:
    """Entries for training: from memory while they fit into `budget_bytes`, else from the disk, checked each time."""

    def __init__(self, cache: TensorCache, budget_bytes: int):
        self.cache, self._left = cache, budget_bytes
        self.overflows = False
        """Has an entry been left on the disk?"""
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._coming: dict[str, Future[dict[str, Tensor] | None]] = {}
        self._reader: ThreadPoolExecutor | None = None

    def keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Remember an entry if there is room."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if key in self._kept:
            return
        if size > self._left:
            self.overflows = True
            return
        self._kept[key] = tensors
        self._left -= size

    def read_ahead(self, keys: Iterable[str]) -> None:
        """Begin to read what of these is not in memory, on a thread of its own; `get` takes it from there. Of an earlier call only what is
        wanted again is kept."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._kept]
        if wanted and self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        before = self._coming
        self._coming = {
            key: before[key] if key in before else self._reader.submit(self.cache.read, key) for key in wanted
        }

    def get(self, key: str) -> dict[str, Tensor]:
        """The entry. Raises DatasetError when it has vanished from the disk or was damaged since it was prepared."""
        if key in self._kept:
            return self._kept[key]
        try:
            coming = self._coming.get(key)
            tensors = self.cache.read(key) if coming is None else coming.result()
        except CorruptEntry as error:
            raise _lost(self.cache.path(key), str(error)) from error
        if tensors is None:
            raise _lost(self.cache.path(key), "it is gone")
        self.keep(key, tensors)
        return tensors


def _lost(path: Path, why: str) -> DatasetError:
    return DatasetError(
        f"{path} was prepared for this run, but {why}.", "Resume the run: what is missing is made again."
    )
