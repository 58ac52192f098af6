"""Checkpoints that are whole or invisible: written aside, flushed, hashed, renamed, and verified before anything older
goes.

    step-000250/
      trainable.safetensors   what trains (adapter, or the whole denoiser)     optimizer.safetensors   its moments
      ema.safetensors         the average, where there is one                  resume.json             everything that
      is not a tensor manifest.json           sha256 and size of every file above

Where the weights are divided among N processes, each writes its rows into a file of its own, `trainable-00001-of-0000N.safetensors` and so
on; whoever reads joins them, or takes the rows that it needs. The first process writes the record and the manifest, last, as ever.

A save writes `.partial-<pid>-<step>/`, flushes every file, writes and flushes the manifest, flushes the folder, renames
it to its name and flushes the parent. A process killed at any moment therefore leaves either a complete checkpoint or a
leftover that starts with a dot, which `remove_leftovers` clears at the next start. Nothing is pickled: tensors are
safetensors, the rest is JSON.

Exact resume stores no random state: every draw of a run is a function of (seed, step, stream), see `randomness`.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_of
from safetensors.torch import save_file
from torch import Tensor

from .. import platform_calls
from ..errors import Trouble
from ..formats import FORMATS, VERSION, refusal
from ..sizes import size

FORMAT, DIVIDED_FORMAT = 1, FORMATS["checkpoint"]
"""Of a checkpoint with one file for each group of tensors, which version 0.2 reads too, and of one with several."""
MANIFEST, RECORD = "manifest.json", "resume.json"
SPACE_FACTOR = 1.2  # of the size about to be written: file systems have overheads, and other programs write too
_NAME = re.compile(r"step-(\d{6,})")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
_LEFTOVER = re.compile(r"\.(partial|replaced|pruned)-(\d+)-(\d+)")


Files = dict[str, dict[str, Any]]
"""Name -> sha256 and bytes, as the manifest has them."""


class CheckpointError(Trouble, RuntimeError):
    """A checkpoint that cannot be trusted; the message names the file and what is wrong with it."""


class NewerCheckpoint(CheckpointError):
    """One that a newer version wrote: no older one is taken in its place, because what came after that would be lost."""


class DiskFull(OSError):
    """No room for a checkpoint. Older checkpoints are untouched."""


@dataclass(frozen=True)
class Share:
    """Which rows of every tensor one of several processes has: `torch.chunk` along the first axis. A tensor without axes belongs to all."""

    rank: int = 0
    of: int = 1

    def rows(self, count: int) -> slice:
        """Of so many rows; may be none."""
        size = -(-count // self.of)
        return slice(min(self.rank * size, count), min((self.rank + 1) * size, count))

    def file(self, stem: str) -> str:
        """The name of this process's file of a group of tensors."""
        return f"{stem}.safetensors" if self.of == 1 else f"{stem}-{self.rank + 1:05d}-of-{self.of:05d}.safetensors"


WHOLE = Share()


@dataclass(frozen=True)
class Saved:
    """Where a checkpoint lies and how many bytes it takes."""

    path: Path
    bytes: int


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `tensors[group][name]` on the CPU, or the rows of them that were asked for; `record` the content of resume.json."""

    path: Path
    step: int
    record: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


# --------------------------------------------------------------------------------------------------------------- saving


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    record: Mapping[str, Any],
    *,
    keep: int | None = None,
    share: Share = WHOLE,
    beside: Callable[[Path], Callable[[], Files]] | None = None,
) -> Saved:
    """Write checkpoint `step` into `folder` so that it is complete or invisible, then prune to the newest `keep` (None:
    all).

    Args:
        tensors: group -> name -> tensor; an empty group is written too, so that loading needs no special case.
        record: JSON-able; `step` and `format` are added.
        share: whose rows the tensors are. beside: has the other processes write theirs into the folder that it is given (`write_tensors`);
            what it returns waits for them, and gives their files.
    Raises:
        DiskFull: too little room, before or while writing; the partial folder is gone, older checkpoints are as they
        were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:06d}"
    partial = folder / f".partial-{os.getpid()}-{step}"
    try:
        _require_space(folder, tensors, share.of)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        waiting = None if beside is None else beside(partial)
        try:
            files = write_tensors(partial, tensors, share)
        finally:
            others = {} if waiting is None else waiting()
        layout = FORMAT if share.of == 1 else DIVIDED_FORMAT
        _write_json(partial / RECORD, {**record, "step": step, "format": layout})
        files |= {**others, RECORD: _described(partial / RECORD)}
        _write_json(partial / MANIFEST, {"format": layout, "version": VERSION, "step": step, "files": files})
        platform_calls.sync_folder(partial)
        _put_in_place(partial, final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if is_disk_full(error) and not isinstance(error, DiskFull):
            raise DiskFull(
                28,
                f"no room for checkpoint step {step} in {folder}: {error}. Free some space on that disk; "
                "the older checkpoints are intact.",
            ) from error
        raise
    # Only a checkpoint that reads back right may cost an older one its life.
    problems = verify(final)
    if problems:
        raise CheckpointError(
            f"checkpoint {final} does not read back as written: {'; '.join(problems)}. Check the disk; "
            "no older checkpoint was removed."
        )
    if keep is not None:
        prune(folder, keep)
    return Saved(final, sum(entry["bytes"] for entry in files.values()))


def write_tensors(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], share: Share = WHOLE) -> Files:
    """Write and flush a process's files of a checkpoint into the folder in which it is made; what the manifest says of them. A tensor without
    axes, which belongs to all, is in the files of the first."""
    files = {}
    for stem, group in tensors.items():
        path = folder / share.file(stem)
        mine = {name: tensor for name, tensor in group.items() if share.rank == 0 or tensor.ndim}
        save_file({name: _storable(tensor) for name, tensor in mine.items()}, path)
        _flush_file(path)
        files[path.name] = _described(path)
    return files


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename the finished folder to its name. One already there (the same step, trained again) is set aside first,
    removed last.
    """
    aside = None
    if final.exists():
        aside = final.with_name(f".replaced-{os.getpid()}-{int(final.name.removeprefix('step-'))}")
        platform_calls.replace(final, aside)
    platform_calls.replace(partial, final)
    platform_calls.sync_folder(final.parent)
    if aside is not None:
        shutil.rmtree(aside)


def _require_space(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], processes: int) -> None:
    """For all processes: the first, whose tensors these are, has as many rows as any."""
    needed = sum(tensor.numel() * tensor.element_size() for group in tensors.values() for tensor in group.values())
    needed = int(needed * processes * SPACE_FACTOR) + 2**20
    free = platform_calls.free_bytes(folder)
    if free < needed:
        raise DiskFull(
            28,
            f"{size(free)} are free at {folder}; a checkpoint needs {size(needed)}. "
            "Free some space on that disk; the older checkpoints are intact.",
        )


def _storable(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()  # a copy: safetensors refuses tensors that share memory


def _flush_file(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _write_json(path: Path, value: Any) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, is one of the faces of a full disk (or quota).

    OSError 28 (122: quota; 112 on Windows); safetensors' "os error 28"; torch.save's "inline_container ... unexpected
    pos"; sqlite's "disk is full".
    """
    while error is not None:
        if platform_calls.no_room(error):
            return True
        text = str(error)
        if isinstance(error, SafetensorError) and re.search(r"os error (28|122|112)\b|No space left", text):
            return True
        if isinstance(error, RuntimeError) and "inline_container" in text and "unexpected pos" in text:
            return True
        error = error.__cause__ if error.__cause__ is not None else error.__context__
    return False


# -------------------------------------------------------------------------------------------------- reading and keeping


def checkpoints(folder: Path) -> list[Path]:
    """The visible checkpoints, oldest first; a visible one may be damaged, see `verify`."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """250 for `.../step-000250`."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name}: a checkpoint's folder is named step-<number>, as step-000250.")
    return int(match[1])


def verify(path: Path) -> list[str]:
    """Everything wrong with a checkpoint's files against its manifest; empty means whole. Reads every byte."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read ({error})"]
    problems = []
    for name, (sha256, expected) in files.items():
        file = path / name
        if Path(name).name != name:
            problems.append(f"{name} is not a plain file name")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != expected:
            problems.append(f"{name} has {file.stat().st_size} bytes instead of {expected}")
        elif _sha256(file) != sha256:
            problems.append(f"{name} has been changed: its sha256 differs from the manifest")
    if RECORD not in files:
        problems.append(f"{RECORD} is not in the manifest")
    return problems


def load(path: Path, share: Share = WHOLE) -> Checkpoint:
    """Read and check one checkpoint: hashes, and finite numbers in what is read. However many processes wrote it, its tensors are joined.

    Args:
        share: whose rows of every tensor to read.
    Raises: CheckpointError with every problem, NewerCheckpoint for a newer version's.
    Cost: every byte is read for its hash; in memory are the tensors that are returned, and one more.
    """
    _refuse_newer(path)
    problems = verify(path)
    if problems:
        raise CheckpointError(f"{path}: {'; '.join(problems)}.")
    record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    tensors = {stem: _read(files, share) for stem, files in _groups(path).items()}
    for stem, group in tensors.items():
        bad = [
            name for name, tensor in group.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()
        ]
        if bad:
            raise CheckpointError(f"{path / stem}.safetensors: not finite: {', '.join(bad[:5])}.")
    return Checkpoint(path, int(record["step"]), record, tensors)


def _refuse_newer(path: Path) -> None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        newer = refusal("checkpoint", manifest.get("format"), manifest.get("version"))
    except (OSError, ValueError, AttributeError):
        return  # `verify` says what is wrong with it
    if newer is not None:
        raise NewerCheckpoint(f"{path} {newer.what}", newer.remedy)


def _groups(path: Path) -> dict[str, list[Path]]:
    """Group -> its files, in the order of the processes that wrote them. Raises: CheckpointError where one of several is missing."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.safetensors")):
        part = _PART.fullmatch(file.stem)
        groups.setdefault(file.stem if part is None else part[1], []).append(file)
    for stem, files in groups.items():
        part = _PART.fullmatch(files[0].stem)
        if part is not None and len(files) != int(part[3]):
            raise CheckpointError(f"{path}: of the {int(part[3])} files of {stem} there are {len(files)}.")
    return groups


def _read(files: list[Path], share: Share) -> dict[str, Tensor]:
    """The tensors of a group, or a share of their rows."""
    if len(files) == 1 and share == WHOLE:
        # Read, not mapped into memory: Windows would refuse to prune a checkpoint that is mapped.
        return tensors_of(files[0].read_bytes())
    with ExitStack() as opened:
        parts = [opened.enter_context(safe_open(file, framework="pt")) for file in files]
        return {name: _joined(parts, name, share) for name in parts[0].keys()}  # noqa: SIM118 - no mapping


def _joined(parts: list[Any], name: str, share: Share) -> Tensor:
    """A share of the rows that the files have between them, in a memory of its own."""
    slices = [part.get_slice(name) for part in parts if name in part.keys()]  # noqa: SIM118
    if not slices[0].get_shape():
        return parts[0].get_tensor(name).clone()
    counts = [each.get_shape()[0] for each in slices]
    wanted, pieces, first = share.rows(sum(counts)), [], 0
    for each, count in zip(slices, counts, strict=True):
        begin, end = max(wanted.start - first, 0), min(wanted.stop - first, count)
        pieces.append(each[min(begin, count) : max(end, min(begin, count))])
        first += count
    return torch.cat(pieces)


def load_latest(folder: Path, share: Share = WHOLE) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and for each newer one that does not, why it was passed over. Raises NewerCheckpoint."""
    skipped: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return load(path, share), skipped
        except NewerCheckpoint:
            raise
        except (CheckpointError, OSError, SafetensorError) as error:
            skipped.append(str(error))
    return None, skipped


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints: renamed out of sight first, then deleted."""
    if keep < 1:
        raise ValueError(f"checkpoints_total_limit = {keep}: must be at least 1 checkpoint.")
    gone = checkpoints(folder)[:-keep]
    for path in gone:
        _discard(path)
    return gone


def remove_after(folder: Path, step: int) -> list[Path]:
    """Remove all checkpoints later than `step`, the latest first: renamed out of sight, then deleted."""
    gone = [path for path in reversed(checkpoints(folder)) if step_of(path) > step]
    for path in gone:
        _discard(path)
    return gone


def _discard(path: Path) -> None:
    aside = path.with_name(f".pruned-{os.getpid()}-{step_of(path)}")
    platform_calls.replace(path, aside)
    shutil.rmtree(aside)


def remove_leftovers(folder: Path) -> list[Path]:
    """Clear what a killed process left: partial and pruned folders go; a replaced one comes back if its successor never
    came.
    """
    done = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _LEFTOVER.fullmatch(path.name)
        if match is None or (int(match[2]) != os.getpid() and psutil.pid_exists(int(match[2]))):
            continue
        final = folder / f"step-{int(match[3]):06d}"
        if match[1] == "replaced" and not final.exists():
            platform_calls.replace(path, final)
        else:
            shutil.rmtree(path)
        done.append(path)
    return done


# ------------------------------------------------------------------------------------ trees of tensors and plain values


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dicts and lists (an optimizer's state) into JSON-able structure and named tensors; `unflatten` joins
    them.

    Integer keys and non-finite floats survive: they are tagged. Tuples come back as lists.
    """
    tensors: dict[str, Tensor] = {}

    def described(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"$tensor": path}
        if isinstance(value, Mapping):
            return {"$map": [[key, described(item, f"{path}.{key}")] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            return [described(item, f"{path}.{index}") for index, item in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            return {"$float": repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(
            f"{path}: a {type(value).__name__} has no place in a checkpoint, only tensors, numbers, text, lists and maps."
        )

    return described(tree, "state"), tensors


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`."""
    if isinstance(tree, list):
        return [unflatten(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$float" in tree:
        return float(tree["$float"])
    return {key: unflatten(item, tensors) for key, item in tree["$map"]}


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], ignore: frozenset[str] = frozenset()
) -> Iterator[str]:
    """One line per key whose value differs: `name: before -> now`."""
    for key in sorted(before.keys() | now.keys()):
        if key not in ignore and before.get(key) != now.get(key):
            yield f"{key}: {json.dumps(before.get(key))} -> {json.dumps(now.get(key))}"
