"""What travels on the wires: small immutable values. Settings, and references to folders, runs, checkpoints, pictures and reports;
never a model, a tensor or a trainer.

A reference carries the digest of what it refers to, so a value read from the cache can be checked for whether it still holds.
No torch: the page draws and checks graphs with this.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ...core.errors import Trouble

MODEL, ADAPTER, FOLDER, DATASET = "ROLLOUT_MODEL", "ROLLOUT_ADAPTER", "ROLLOUT_FOLDER", "ROLLOUT_DATASET"
ROLLOUT, OPTIMIZER, TRAINING = "ROLLOUT_SAMPLING", "ROLLOUT_OPTIMIZER", "ROLLOUT_TRAINING"
VALIDATION, DRIFT = "ROLLOUT_VALIDATION", "ROLLOUT_DRIFT_PROBE"
RUN, CHECKPOINT, REPORT = "ROLLOUT_RUN", "ROLLOUT_CHECKPOINT", "ROLLOUT_REPORT"
VARIANTS = "ROLLOUT_VARIANTS"
IMAGE, STRING, LORA_MODEL, LOSS_MAP = "IMAGE", "STRING", "LORA_MODEL", "LOSS_MAP"
ANY = "*"

COLOURS = {
    MODEL: "#8b6bd9", ADAPTER: "#b36bd9", FOLDER: "#b08d57", DATASET: "#d9a441", ROLLOUT: "#2f9e8f", OPTIMIZER: "#5b8fd9",
    TRAINING: "#4a78b5", VALIDATION: "#c76b98", DRIFT: "#5aa85a", RUN: "#d9603b", CHECKPOINT: "#c2492f", REPORT: "#3f8f4f", VARIANTS: "#7d8f3f",
    IMAGE: "#64b5f6", STRING: "#8f9aa3", LORA_MODEL: "#d98c8c", LOSS_MAP: "#a0a0d0",
}  # fmt: skip
"""Wire type -> colour of its sockets, for an editor."""


class NodeError(Trouble):
    """A node cannot do its work; `message` says why, `remedy` what to do."""


class Interrupted(Exception):
    """A stop was requested; what was worth saving has been saved."""


@dataclass(frozen=True)
class Settings:
    """Some options of a config by their flat names, read and checked. Later values of a chain replace earlier ones."""

    items: tuple[tuple[str, Any], ...] = ()

    @property
    def flat(self) -> dict[str, Any]:
        return dict(self.items)

    def with_(self, changes: "Mapping[str, Any] | Settings") -> "Settings":
        changes = changes.flat if isinstance(changes, Settings) else changes
        return settings({**self.flat, **changes})


def settings(flat: Mapping[str, Any]) -> Settings:
    """Flat options as a value; lists become tuples."""
    return Settings(tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in flat.items()))


@dataclass(frozen=True)
class Variants:
    """Of a study, in order: each variant's name, and the options that it has in place of the study's own (`level` may be among them)."""

    items: tuple[tuple[str, Settings], ...] = ()


@dataclass(frozen=True)
class Folder:
    """A folder with pictures, or a built-in name; None = none is named yet. `files`: what a node wrote into it, where one did."""

    path: str | None
    files: "tuple[File, ...]" = ()


@dataclass(frozen=True)
class File:
    """One file and the sha256 of its content."""

    path: str
    digest: str


@dataclass(frozen=True)
class Images:
    """Pictures in order; `captions` has one text for each, or is empty."""

    files: tuple[File, ...]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A finished run of the run store: its folder, last step, and the digest of its last checkpoint's manifest."""

    path: str
    name: str
    step: int
    digest: str


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a run at a step; `digest` is that of the checkpoint's manifest, which names every file's hash."""

    run: str
    name: str
    step: int
    digest: str


@dataclass(frozen=True)
class Report:
    """A drift report's folder, the sha256 of its report.json, and the weights that it is about (None: the base alone)."""

    path: str
    digest: str
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Lora:
    """The LoRA file that a run exported."""

    file: File


@dataclass(frozen=True)
class Losses:
    """The loss of every step of a run, up to a step; read from its events when the numbers are needed."""

    run: str
    step: int


KINDS = {cls.__name__: cls for cls in (Settings, Variants, Folder, File, Images, Run, Checkpoint, Report, Lora, Losses)}


def to_json(value: Any) -> Any:
    """A wire value as JSON can hold it; `from_json` is its inverse."""
    if is_dataclass(value):
        return {"is": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    return value


def from_json(value: Any) -> Any:
    """The wire value that `to_json` wrote. Raises ValueError for anything else."""
    if isinstance(value, dict):
        record = dict(value)
        kind = KINDS.get(record.pop("is", None))
        if kind is None or set(record) != {f.name for f in fields(kind)}:
            raise ValueError(f"no wire value: {str(value)[:80]}")
        return kind(**{name: from_json(each) for name, each in record.items()})
    if isinstance(value, list):
        return tuple(from_json(each) for each in value)
    return value


def sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_at(path: Path) -> File:
    """A reference to a file as it is now."""
    return File(str(path), sha256(path))


def manifest_of(run: Path, step: int) -> Path:
    """The manifest of a run's checkpoint."""
    return run / "checkpoints" / f"step-{step:06d}" / "manifest.json"


def holds(value: Any) -> bool:
    """Is everything that a value refers to still there, unchanged? Cost: reads the files (pictures, reports, a LoRA)."""
    return all(path.is_file() and sha256(path) == digest for path, digest in references(value))


def references(value: Any) -> Iterator[tuple[Path, str]]:
    """(file, sha256) of everything that a value refers to."""
    if isinstance(value, File):
        yield Path(value.path), value.digest
    elif isinstance(value, Run):
        yield manifest_of(Path(value.path), value.step), value.digest
    elif isinstance(value, Checkpoint):
        yield manifest_of(Path(value.run), value.step), value.digest
    elif isinstance(value, Report):
        yield Path(value.path) / "report.json", value.digest
        yield from references(value.checkpoint)
    elif is_dataclass(value):
        for field in fields(value):
            yield from references(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from references(each)
