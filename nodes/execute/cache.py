"""Results on disk, addressed by content: the same node with the same inputs, ancestors and files is not run again.

    <runs>/.graph-cache/<key>/result.json     the node's outputs, as references with digests
    <runs>/.graph-cache/<key>/<random>/       the files that it made

A key covers the node's kind and version, the program's version, every widget that changes a result, what the node reads from the
disk, and the keys of everything that it is linked to. Ids, titles, places and cosmetic widgets are not in it. A result is used
only while everything that it refers to is still there, unchanged.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...core import platform_calls
from ..graph.declaration import Declaration
from ..graph.values import from_json, holds, to_json

FOLDER = ".graph-cache"


def key_of(declared: Declaration, widgets: Mapping[str, Any], ancestors: Mapping[str, tuple[str, int]]) -> str:
    """The address of a node's result.

    Args:
        widgets: checked values by name; linked ones may be there with any value.
        ancestors: linked input -> (key of the node that gives it, slot).
    """
    own = {
        widget.name: widgets[widget.name]
        for widget in declared.widgets
        if not widget.cosmetic and widget.name not in ancestors
    }
    record = {
        "program": __version__,
        "kind": declared.key,
        "version": declared.version,
        "widgets": own,
        "reads": "" if declared.fingerprint is None else declared.fingerprint(widgets),
        "links": {name: list(ancestor) for name, ancestor in ancestors.items()},
    }
    text = json.dumps(record, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def after(key: str, outputs: tuple) -> str:
    """The key of an effect node after it has run: what it gave counts, because its inputs alone do not decide it."""
    return hashlib.sha256(f"{key} {json.dumps(to_json(outputs), sort_keys=True)}".encode()).hexdigest()


class Cache:
    """Results under one folder. Safe for several processes: a result appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> tuple | None:
        """The outputs kept under a key; None where there are none, or where what they refer to is gone or changed."""
        try:
            outputs = from_json(json.loads((self.root / key / "result.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # not there, or damaged: it is made again
        return outputs if isinstance(outputs, tuple) and holds(outputs) else None

    def folder(self, key: str) -> Path:
        """A fresh folder for the files of a result that is about to be made."""
        path = self.root / key / uuid.uuid4().hex[:12]
        path.mkdir(parents=True)
        return path

    def put(self, key: str, outputs: tuple, folder: Path) -> None:
        """Keep a result whose files lie in `folder`; what an older try left beside it goes."""
        text = json.dumps(to_json(outputs), ensure_ascii=False)
        platform_calls.write_atomically(self.root / key / "result.json", text.encode())
        for other in (self.root / key).iterdir():
            if other.is_dir() and other != folder and str(other.name) not in text:
                shutil.rmtree(other, ignore_errors=True)
