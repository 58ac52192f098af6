"""Workflows inside files: text chunks of a PNG, the header of a LoRA. Written by nodes, read when such a file is dropped.

`prompt` holds the API format, `workflow` our own with the layout; both are data, checked like any other file. No torch.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ...core import platform_calls
from ...core.adapters.header import CONFIG_KEY, ExportError, read_header
from ...core.findings import printable
from .values import NodeError

KEYS = ("workflow", "prompt")
"""Where a workflow stands, the better one first."""


def copy_with_metadata(source: Path, target: Path, extra: Mapping[str, str]) -> None:
    """A safetensors file with more text in its header; the tensors are copied as they are. Whole or not at all."""
    header = read_header(source)
    header["__metadata__"] = {**header.get("__metadata__", {}), **extra}
    text = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format requires
    target.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(target) as part, source.open("rb") as old, part.open("wb") as new:
        old.seek(8 + int.from_bytes(old.read(8), "little"))
        new.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old, new)


def texts_of(path: Path) -> dict[str, str]:
    """The workflow texts in a PNG or a .safetensors file, and the config that a LoRA carries, by their keys.

    Raises: NodeError for a file that is neither.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            found = read_header(path).get("__metadata__", {})
        except ExportError as error:
            raise NodeError(str(error)) from None
        if not isinstance(found, dict):
            found = {}
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path, formats=["PNG"]) as image:
                image.load()  # chunks may stand after the pixels
                found = dict(image.text)
        except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
            raise NodeError(
                f"{printable(path.name)} is no PNG ({error}).", "Drop a PNG or a .safetensors file."
            ) from None
    return {key: found[key] for key in (*KEYS, CONFIG_KEY) if isinstance(found.get(key), str)}
