"""How the samples of a run are compared with its training pictures: the settings, where an encoder is, and what was found. No torch.

`similarity` of a study: `true`, or `{"clip": model, "dino": model}`, each a folder, a hub id that is in the cache, or false. What it measures is drawn already: the
samples of the run's end (`validation_prompts`), whose noise is the same in every run. `comparing` does it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..captioning.models import CaptionError, class_of, read_json, weight_names
from ..errors import Trouble
from ..names import is_hub_id
from ..runs.folder import RunDir

SIMILARITY = "study-similarity.json"
"""In a run's folder: what was found, picture by picture, and how."""
CLASSES = {
    "clip": ("CLIPModel",),
    "dino": ("Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel", "ViTModel"),
}
"""Kind of encoder -> the classes of transformers that its config.json may name."""
_PREPARES = ("preprocessor_config.json", "processor_config.json")


class SimilarityError(Trouble, ValueError):
    """Pictures cannot be compared in this way: the reason, and the remedy."""


@dataclass(frozen=True)
class Similarity:
    """Encoders of pictures: a folder or a hub id; None = this similarity is not measured. `asked`: named by a person, so that one that is not here is
    refused; else it is left out with the reason."""

    clip: str | None = "openai/clip-vit-large-patch14"
    dino: str | None = "facebook/dinov2-small"
    asked: tuple[str, ...] = ()


def similarity_of(given: Any, where: str) -> Similarity | None:
    """The settings that a study's file gives; None = pictures are not compared. Raises SimilarityError, also where an encoder that is named is not here."""
    if given is None or given is False:
        return None
    given = {} if given is True else given
    kinds = tuple(CLASSES)
    if not isinstance(given, Mapping) or not set(given) <= set(kinds) or not all(map(_may_be, given.values())):
        raise SimilarityError(
            f"{where}: similarity = {given!r:.80}: cannot be read.",
            f"It is true, or says of {' and '.join(kinds)} which model (a folder or a hub id), or false.",
        )
    named = {kind: None if name is False else name for kind, name in given.items() if name is not True}
    asked = tuple(kind for kind in kinds if named.get(kind) is not None)
    found = Similarity(**named, asked=asked)
    for kind in asked:
        encoder_folder(kind, getattr(found, kind))
    return found


def _may_be(name: Any) -> bool:
    return isinstance(name, bool) or (isinstance(name, str) and bool(name.strip()))


def encoder_folder(kind: str, name: str) -> Path:
    """Where an encoder's files are on this computer. Asks nothing of the network. Raises SimilarityError with the reason where it is not here, or is none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(kind, name)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    try:
        config = read_json(name, folder / "config.json")
        written = class_of(config)
        if written not in CLASSES[kind] or "auto_map" in config:
            raise SimilarityError(
                f"{kind} = {name}: holds a {written}{' with code of its own' if 'auto_map' in config else ''}, which is none.",
                f"Name one of the classes {', '.join(CLASSES[kind])}, saved by transformers.",
            )
        weights = weight_names(name, names, lambda file: read_json(name, folder / file))
    except CaptionError as error:
        raise SimilarityError(f"{kind} = {name}: {error.message}", error.remedy) from error
    absent = [file for file in weights if file not in names]
    if absent or not names.intersection(_PREPARES):
        lacking = absent[0] if absent else " or ".join(_PREPARES)
        raise SimilarityError(
            f"{kind} = {name}: {lacking} is missing in {folder}.", "Download or save the model again."
        )
    return folder


def _cached(kind: str, name: str) -> Path:
    if is_hub_id(name):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(name, "config.json")
        if isinstance(path, str):
            return Path(path).parent
    raise SimilarityError(
        f"{kind} = {name}: is not on this computer.",
        "Download it (hf download MODEL), or name a folder that holds such a model, or false.",
    )


# What was found ----------------------------------------------------------------------------------------------------------


def similarity_record(run: RunDir) -> Mapping[str, Any] | None:
    """`how`, `values` (measure -> number), `left_out` (what -> why) and `pictures` of a run; None where there is no such file that can be read."""
    try:
        record = json.loads((run.path / SIMILARITY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(record, Mapping) and all(
        isinstance(record.get(name), Mapping) for name in ("how", "values", "left_out")
    )
    return record if whole else None


def how_compared(run: RunDir, similarity: Similarity) -> dict[str, Any]:
    """What a comparison depends on: the settings, and the step of the run's end."""
    return {"clip": similarity.clip, "dino": similarity.dino, "step": run.last_checkpoint()}


def is_compared(run: RunDir, similarity: Similarity) -> bool:
    """Whether the run's end has been compared in this way, with nothing left out that could be there now."""
    record = similarity_record(run)
    return record is not None and record["how"] == how_compared(run, similarity) and not record["left_out"]


def similarity_values(run: RunDir) -> dict[str, float]:
    """The measures of a run; nothing where its pictures were not compared."""
    record = similarity_record(run)
    return {} if record is None else {str(name): float(value) for name, value in record["values"].items()}


def left_out(run: RunDir) -> list[str]:
    """What was not measured of a run's pictures, and why, in sentences."""
    record = similarity_record(run)
    return [] if record is None else [f"{what} is not measured: {why}" for what, why in record["left_out"].items()]
