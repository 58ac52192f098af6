"""What lies beside and outside a run's LoRA: its sidecar, and its copy in a folder of other programs."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

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


def place(lora: Path, folder: Path, name: str, record: Path) -> Path:
    """Copy a finished LoRA, and its sidecar, into a folder of another program, whole or not at all.

    Args:
        lora: the file. folder: must exist. name: what the copy is called, without its ending.
        record: the run's folder, in which it is remembered which copy is this run's.
    Returns: the copy. It is `name`.safetensors, or `name`-2 and so on where another file has that name: only a copy that this run itself put
        there, and that nobody changed since, is replaced.
    Raises: ExportError where the folder is not there or takes no file.
    """
    if not folder.is_dir():
        raise ExportError(f"The LoRA was not put into {folder}: there is no such folder.")
    own = _own_copy(record)
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
        stat = target.stat()
        remembered = {"path": str(target), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        platform_calls.write_atomically(record / RECORD, json.dumps(remembered).encode("utf-8"))
    except OSError as error:
        raise ExportError(f"The LoRA was not put into {folder} ({error.strerror}).") from error
    return target


def _own_copy(record: Path) -> Path | None:
    """The copy that this run put elsewhere, where it is still as it was."""
    try:
        known = json.loads((record / RECORD).read_text(encoding="utf-8"))
        path = Path(known["path"])
        stat = path.stat()
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never placed, or gone since
    return path if (stat.st_size, stat.st_mtime_ns) == (known["size"], known["mtime_ns"]) else None
