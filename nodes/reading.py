"""A graph from whatever a person may hand over: our own file, a bare API file, a workflow saved by ComfyUI's page, a PNG or a LoRA.

Stands above the wings, because it knows all forms. Reading runs nothing and opens nothing that a graph names, and fails closed: whatever is
not understood is a problem, and all problems are collected.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.adapters.header import CONFIG_KEY
from ..core.config import ConfigError, config_from_flat
from .comfy.files import from_ui
from .graph.compile import graph_of
from .graph.graph import LARGEST_FILE, Graph, GraphError, Problem, broken, from_data, parsed, too_large
from .graph.provenance import KEYS, texts_of
from .graph.validate import faults
from .graph.values import NodeError


def load(path: Path | str) -> Graph:
    """The graph in a file, checked. Raises GraphError with everything that is wrong, in its form and in its meaning."""
    graph, problems = read_file(path)
    problems = [*problems, *faults(graph)]
    if problems:
        raise GraphError(problems)
    return graph


def read_file(path: Path | str) -> tuple[Graph, list[Problem]]:
    """`read` of a file: JSON, a PNG or a LoRA that carries a workflow. Raises GraphError where there is no graph at all."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.suffix.lower() in (".png", ".safetensors"):
            return _read_carrier(path)
        if size > LARGEST_FILE:
            raise GraphError([too_large(size)])
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise GraphError([broken(f"{path}: there is no such file; check the path.")]) from None
    except UnicodeDecodeError as error:
        raise GraphError([broken(f"{path.name}: is not UTF-8 text (byte {error.start}); save it as UTF-8.")]) from None
    except OSError as error:
        raise GraphError([broken(f"{path}: cannot be read ({error.strerror}).")]) from None
    return read(text)


def read(source: str | Mapping[str, Any]) -> tuple[Graph, list[Problem]]:
    """The graph in a JSON text (or in the data that one gives), and everything wrong with its form.

    Raises: GraphError where nothing of it can be used: broken JSON, too large, another format.
    """
    data = parsed(source)
    if isinstance(data.get("nodes"), list) and isinstance(data.get("links"), list):
        return from_ui(data)
    return from_data(data)


def _read_carrier(path: Path) -> tuple[Graph, list[Problem]]:
    try:
        texts = texts_of(path)
    except NodeError as error:
        raise GraphError([broken(str(error))]) from None
    for key in KEYS:
        if key in texts:
            return read(texts[key])
    if CONFIG_KEY in texts:
        try:
            return graph_of(config_from_flat(json.loads(texts[CONFIG_KEY]))), []
        except (ConfigError, ValueError, AttributeError) as error:
            raise GraphError([broken(f"{path.name}: its settings cannot be used: {error}")]) from None
    raise GraphError([broken(f"{path.name} carries no workflow; open the workflow's JSON instead.")])
