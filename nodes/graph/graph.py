"""A graph as data: nodes, links, layout; read from and written to JSON. What it means is `validate`'s and `execute`'s.

Both ways: our own file, `{"format": "rollout_studio.graph", "version": 1, "prompt": {...}, "layout": {...}}`, where `prompt` is ComfyUI's
API format and `layout` belongs to the editor; and the bare API format. Whatever else may hold a graph is `nodes.reading`'s.

Reading runs nothing, opens nothing, and fails closed: whatever is not understood is a problem, and all problems are collected.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.config.options import shown
from ...core.findings import printable
from ...core.formats import FORMATS, refusal
from ...core.sizes import size

FORMAT, VERSION = "rollout_studio.graph", FORMATS["workflow"]
MIGRATIONS: dict[int, Callable[[dict], dict]] = {}
"""Version -> what makes the next version of such a file. Empty: version 1 is the first. Kinds of nodes are never renamed."""

LARGEST_FILE = 2 * 2**20
MOST_VALUES = 300_000
MOST_NODES = 5000
DEEPEST = 32  # nesting of values and layout
LONGEST_ID, LONGEST_TITLE, LONGEST_TEXT = 64, 200, 100_000


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a graph: where, and a sentence with value, rule and remedy. `type` is ComfyUI's name for its kind."""

    type: str
    message: str
    node: str | None = None
    input: str | None = None

    def __str__(self) -> str:
        where = (
            ""
            if self.node is None
            else f"node {printable(self.node, 80)}" + ("" if self.input is None else f", {printable(self.input, 80)}")
        )
        return f"{where}: {printable(self.message)}" if where else printable(self.message)


class GraphError(ValueError):
    """A graph cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        shown_ = [f"{problem.type}: {problem}" for problem in self.problems[:50]]
        rest = len(self.problems) - len(shown_)
        super().__init__("\n".join(shown_ + ([f"... and {rest} more."] if rest else [])))


@dataclass(frozen=True)
class Link:
    """An output of another node: its id and the position of the output."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """One node of a graph. `inputs`: name -> Link, or a value as the file has it.

    A muted node, and what needs it, is not run; a bypassed one is left out, and what it was given goes on (`bypass.py`).
    """

    kind: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None
    muted: bool = False
    bypassed: bool = False

    def links(self) -> dict[str, Link]:
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}

    def with_input(self, name: str, value: Any) -> "Node":
        return replace(self, inputs={**self.inputs, name: value})


@dataclass(frozen=True)
class Graph:
    """Nodes by id, in the order of the file, and the editor's layout (data that changes no result)."""

    nodes: Mapping[str, Node]
    layout: Mapping[str, Any] = field(default_factory=dict)

    def with_node(self, id: str, node: Node) -> "Graph":
        return replace(self, nodes={**self.nodes, id: node})


# ---- writing


def to_api(graph: Graph) -> dict[str, Any]:
    """ComfyUI's API format, as JSON-able data."""
    prompt = {}
    for id, node in graph.nodes.items():
        inputs = {
            name: [value.node, value.slot]
            if isinstance(value, Link)
            else {"__value__": value}
            if isinstance(value, list)
            else value
            for name, value in node.inputs.items()
        }
        prompt[id] = {"class_type": node.kind, "inputs": inputs}
        meta = {} if node.title is None else {"title": node.title}
        meta |= {name: True for name in ("muted", "bypassed") if getattr(node, name)}
        if meta:
            prompt[id]["_meta"] = meta
    return prompt


def to_data(graph: Graph) -> dict[str, Any]:
    """Our own file, as JSON-able data."""
    return {"format": FORMAT, "version": VERSION, "prompt": to_api(graph), "layout": dict(graph.layout)}


def to_json(graph: Graph) -> str:
    """Our own file, as text."""
    return json.dumps(to_data(graph), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


# ---- reading


def parsed(source: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of a workflow's JSON text, or data itself, once it is fit to be read. Raises GraphError where it is not."""
    data = _parsed(source) if isinstance(source, str) else source
    if not isinstance(data, Mapping):
        raise GraphError([broken("A workflow is one JSON object.")])
    fault = _unfit(data)
    if fault is not None:
        raise GraphError([broken(fault)])
    return data


def from_data(data: Mapping[str, Any]) -> tuple[Graph, list[Problem]]:
    """The graph in the data of our own file or of a bare API file (`parsed`), and everything wrong with its form.

    Raises: GraphError where nothing of it can be used: another format, too many nodes.
    """
    layout: Any = {}
    problems: list[Problem] = []
    inner = data.get("prompt")
    if "format" in data or isinstance(inner, Mapping) and "class_type" not in inner:
        data = _migrated(dict(data))
        unknown = sorted(set(data) - {"format", "version", "prompt", "layout"})
        problems += [broken(f"Unknown part {shown(name)} of the file.") for name in unknown]
        layout, data = data.get("layout", {}), data.get("prompt")
    if not isinstance(data, Mapping) or not isinstance(layout, Mapping):
        raise GraphError([broken("prompt and layout must be JSON objects.")])
    if len(data) > MOST_NODES:
        raise GraphError([broken(f"{len(data):,} nodes: a graph has at most {MOST_NODES:,}.")])
    nodes: dict[str, Node] = {}
    for id, record in data.items():
        node = _node(str(id), record, problems)
        if node is not None:
            nodes[str(id)] = node
    return Graph(nodes, layout), problems


def too_large(count: int) -> Problem:
    """The problem of a file of so many bytes, or a text of so many characters."""
    return broken(f"The workflow has {size(count)}; at most {size(LARGEST_FILE)} are read.")


def broken(message: str) -> Problem:
    """A problem of the file as a whole."""
    return Problem("invalid_prompt", message)


def _parsed(text: str) -> Any:
    if len(text) > LARGEST_FILE:
        raise GraphError([too_large(len(text))])
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice.extend(sorted({name for name in names if names.count(name) > 1}) if len(names) < 1000 else ["(many)"])
        return found

    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=no_number)
    except RecursionError:
        raise GraphError([broken("The file is nested too deeply to be a workflow.")]) from None
    except ValueError as error:  # broken JSON, NaN, a number of thousands of digits
        raise GraphError([broken(f"Broken JSON: {error}.")]) from None
    if twice:
        raise GraphError([broken(f"{shown(name)} is given twice; keep one.") for name in twice[:20]])
    return data


def _unfit(data: Any) -> str | None:
    """Why some data cannot be a workflow whatever it means: nesting, text that is no text, numbers that are none."""
    waiting: list[tuple[Any, int]] = [(data, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            return f"The file holds more than {MOST_VALUES:,} values."
        if depth > DEEPEST:
            return f"The file is nested deeper than {DEEPEST} levels."
        if isinstance(value, Mapping):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list | tuple):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                return f"A text of {len(value):,} characters: at most {LONGEST_TEXT:,} are read."
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                return "A text holds half a character (a lone surrogate)."
        elif isinstance(value, float) and not math.isfinite(value):
            return "A number is not finite."
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
            return "A number has more than 63 bits."
        elif not isinstance(value, bool | int | float) and value is not None:
            return f"{type(value).__name__} is no JSON."
    return None


def _migrated(data: dict) -> dict:
    if data.get("format") != FORMAT:
        raise GraphError([broken(f"format = {shown(data.get('format'))[:80]}: this program reads {shown(FORMAT)}.")])
    version = data.get("version")
    newer = refusal("workflow", 0 if version is None else version)
    if newer is not None:
        raise GraphError([broken(f"The workflow {newer}")])
    while version < VERSION:
        data = MIGRATIONS[version](data)
        version += 1
    return data


def _node(id: str, record: Any, problems: list[Problem]) -> Node | None:
    if not 0 < len(id) <= LONGEST_ID:
        problems.append(broken(f"A node's id has 1 to {LONGEST_ID} characters, not {len(id)}: {id[:40]!r}."))
        return None
    if not isinstance(record, Mapping):
        problems.append(Problem("invalid_prompt", "must be an object with class_type and inputs.", id))
        return None
    kind, inputs, meta = record.get("class_type"), record.get("inputs", {}), record.get("_meta", {})
    before = len(problems)
    if not isinstance(kind, str):
        problems.append(Problem("missing_node_type", "has no class_type, the name of its kind.", id))
    if not isinstance(inputs, Mapping):
        problems.append(Problem("invalid_prompt", "inputs must be an object.", id))
    if not isinstance(meta, Mapping):
        problems.append(Problem("invalid_prompt", "_meta must be an object.", id))
    unknown = sorted(set(record) - {"class_type", "inputs", "_meta", "is_changed"})
    problems += [
        Problem("invalid_prompt", f"unknown part {shown(name)}; a node has class_type, inputs and _meta.", id)
        for name in unknown
    ]
    if len(problems) > before:
        return None
    title, modes = meta.get("title"), [meta.get(name, False) for name in ("muted", "bypassed")]
    wrong_title = title is not None and (not isinstance(title, str) or len(title) > LONGEST_TITLE)
    if wrong_title or not all(isinstance(mode, bool) for mode in modes):
        problems.append(
            Problem(
                "invalid_prompt",
                f"_meta holds a title of at most {LONGEST_TITLE} characters, and muted and bypassed, true or false.",
                id,
            )
        )
        return None
    read_inputs: dict[str, Any] = {}
    for name, value in inputs.items():
        if _is_link(value):
            read_inputs[name] = Link(value[0], value[1])
        elif isinstance(value, Mapping) and set(value) == {"__value__"}:
            read_inputs[name] = value["__value__"]
        else:
            read_inputs[name] = value
    return Node(kind, read_inputs, title, *modes)


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        and isinstance(value[1], int) and not isinstance(value[1], bool)
    )  # fmt: skip
