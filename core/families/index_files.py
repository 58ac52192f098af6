"""The file in which a checkpoint says what it is put together from: `model_index.json`, or that of a modular pipeline. No torch, no network.

The index of a modular pipeline has a third entry beside library and class of a part: where whoever saved it had the part, which may be a
folder of that person's computer or a repository that has moved. It is not followed: parts are read from the model's own folder or
repository, where diffusers saves them, under their names.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLAIN, MODULAR = "model_index.json", "modular_model_index.json"
NAMES = (PLAIN, MODULAR)
"""A model that has both is opened by the first."""


def index_file(folder: Path) -> Path:
    """The index of the model in a folder; where there is none, the place of the usual one."""
    return next((folder / name for name in NAMES if os.path.isfile(folder / name)), folder / PLAIN)


def cached_index(name: str, revision: str | None) -> Path | None:
    """The index of a hub id in this computer's cache, beside which the model's other small files lie; None where it is not there.

    Raises: huggingface_hub's HFValidationError for what is no hub id.
    """
    from huggingface_hub import try_to_load_from_cache  # only for hub ids

    found = (try_to_load_from_cache(name, each, revision=revision) for each in NAMES)
    return next((Path(each) for each in found if isinstance(each, str)), None)


def plain(index: Mapping[str, Any]) -> dict[str, Any]:
    """The index with [library, class] of each part, in whichever of the two forms it was."""
    return {name: _pair(entry) if is_modular(entry) else entry for name, entry in index.items()}


def is_modular(entry: Any) -> bool:
    """Whether an entry is a part of a modular pipeline: [library, class, where it lay]."""
    return isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], dict)


def _pair(entry: list) -> list:
    """Of a part that was not loaded when the index was written, library and class stand with its place alone."""
    wanted = entry[2].get("type_hint")
    return list(wanted) if entry[0] is None and isinstance(wanted, list) and len(wanted) == 2 else entry[:2]
