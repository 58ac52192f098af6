"""What lies beside and outside a run's LoRA: its sidecar, and its copy in a folder of other programs."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import platform_calls
from .header import ExportError

if TYPE_CHECKING:
    from ..config import RunConfig

RECORD = "placed.json"
"""In a run's LoRA folder: the copy that this run put elsewhere, as it was then. A file that is still the same may be replaced by the run."""
_VERSIONS = {"sd_v1": "SD1", "sd_v2": "SD2", "sdxl_base_v1-0": "SDXL"}


def sidecar_text(config: "RunConfig", base_version: str) -> str | None:
    """The text of `<name>.json` beside a LoRA; None where there is no trigger word.

    It is the file that AUTOMATIC1111's page and Forge keep for a LoRA's card: a click on the card puts `activation text` into the prompt: of several
    things the words of all, of which the person keeps those that are wanted.
    ComfyUI itself reads no sidecar; its extensions that show trigger words read this one.
    """
    words = config.data.trigger_words
    if not words:
        return None
    captions = [thing.instance_prompt for thing in config.data.things if thing.instance_prompt is not None]
    content = {
        "description": f"Trained with Rollout Studio on {Path(config.model.pretrained_model_name_or_path).name}.",
        "sd version": _VERSIONS.get(base_version, "Unknown"),
        "activation text": ", ".join(words),
        "preferred weight": 1.0,
        "notes": f"Trained caption{'s' if len(captions) > 1 else ''}: {'; '.join(captions)}" if captions else "",
    }
    return json.dumps(content, indent=4, ensure_ascii=False)


def write_sidecar(lora: Path, config: "RunConfig", base_version: str) -> Path | None:
    """Write the sidecar of a LoRA file, whole or not at all; None where there is nothing to say."""
    text = sidecar_text(config, base_version)
    if text is None:
        return None
    path = lora.with_suffix(".json")
    platform_calls.write_atomically(path, text.encode("utf-8"))
    return path


def place(lora: Path, folder: Path, name: str, record: Path, embedding: Path | None = None) -> Path:
    """Copy a finished LoRA, its sidecar, and its embedding file into a folder of another program, whole or not at all.

    Args:
        lora: the file. folder: must exist. name: what the copy is called, without its ending.
        record: the run's folder, in which it is remembered which copy is this run's.
        embedding: the file of its new tokens; its copy lies in a folder `embeddings` beside the LoRA's.
    Returns: the copy. It is `name`.safetensors, or `name`-2 and so on where another file has that name: only a copy that this run itself put
        there, and that nobody changed since, is replaced.
    Raises: ExportError where the folder is not there or takes no file, or has another embedding file of that name.
    """
    if not folder.is_dir():
        raise ExportError(f"The LoRA was not put into {folder}: there is no such folder.")
    own, own_embedding = _own_copies(record)
    tokens = None if embedding is None else folder / embedding.parent.name / embedding.name
    if embedding is not None and tokens is not None and tokens != own_embedding and not _is_free(tokens, embedding):
        raise ExportError(f"The LoRA was not put into {folder}: {tokens} is there already, for another LoRA.")
    number = 1
    while True:
        target = folder / f"{name if number == 1 else f'{name}-{number}'}.safetensors"
        if target == own or not target.exists():
            break
        number += 1
    try:
        with platform_calls.replacing(target) as part:
            shutil.copyfile(lora, part)
        sidecar = lora.with_suffix(".json")
        if sidecar.is_file():
            platform_calls.write_atomically(target.with_suffix(".json"), sidecar.read_bytes())
        remembered = _noted(target)
        if embedding is not None and tokens is not None:
            tokens.parent.mkdir(exist_ok=True)
            platform_calls.write_atomically(tokens, embedding.read_bytes())
            remembered["embedding"] = _noted(tokens)
        platform_calls.write_atomically(record / RECORD, json.dumps(remembered).encode("utf-8"))
    except OSError as error:
        raise ExportError(
            f"The LoRA was not put into {folder} ({error.strerror}). It lies in the run's own folder; copy it from there."
        ) from error
    return target


def _is_free(target: Path, content: Path) -> bool:
    """Whether nothing, or the same, lies there already."""
    return not target.exists() or target.read_bytes() == content.read_bytes()


def _noted(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _own_copies(record: Path) -> tuple[Path | None, Path | None]:
    """The copies of the LoRA and of its embedding file that this run put elsewhere, where they are still as they were."""
    try:
        known = json.loads((record / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, None  # never placed
    return (_unchanged(known), _unchanged(known.get("embedding"))) if isinstance(known, dict) else (None, None)


def _unchanged(noted: Any) -> Path | None:
    try:
        path = Path(noted["path"])
        return path if _noted(path).items() <= noted.items() else None
    except (OSError, KeyError, TypeError, AttributeError):
        return None  # gone since
