"""Workflows as ComfyUI's page saves them (version 0.4, and 1.0's link objects): read and written.

Only plain nodes of ours and the page's own Note, MarkdownNote and Reroute are understood; subgraphs and nodes of other packs are refused
with the way out, never dropped silently.
"""

from collections.abc import Mapping
from typing import Any

from ..graph.declaration import NODES, PREFIX, Declaration, Socket, Widget, accepts, wire_type
from ..graph.graph import Graph, GraphError, Link, Node, Problem
from .canvas import arranged

MUTED, BYPASSED = 2, 4
VIRTUAL = {"Note", "MarkdownNote", "Reroute"}
_SEED_WORDS = {"fixed", "increment", "decrement", "randomize"}


def _wrong(message: str, node: str | None = None) -> Problem:
    return Problem("invalid_prompt", message, node)


def from_ui(data: Mapping[str, Any]) -> tuple[Graph, list[Problem]]:
    """The graph in a page's workflow, and what is wrong with its form. Raises GraphError where it has subgraphs."""
    if data.get("definitions", {}) and data["definitions"].get("subgraphs"):
        raise GraphError(
            [_wrong("This workflow has subgraphs; unpack them in ComfyUI, or export it in the API format.")]
        )
    problems: list[Problem] = []
    links = _links(data["links"], problems)
    records: dict[str, Mapping[str, Any]] = {}
    for record in data["nodes"]:
        if (
            not isinstance(record, Mapping)
            or not isinstance(record.get("type"), str)
            or not isinstance(record.get("id"), int | str)
        ):
            problems.append(_wrong("A node has no id or no type."))
        else:
            records[str(record["id"])] = record
    nodes, places = {}, {}
    for id, record in records.items():
        if record["type"] in VIRTUAL or _left_out(record):
            continue
        declared = NODES.get(record["type"])
        node = Node(record["type"]) if declared is None else _node(id, record, declared, records, links, problems)
        nodes[id] = node
        position = record.get("pos")
        if isinstance(position, Mapping):
            position = [position.get("0"), position.get("1")]
        if (
            isinstance(position, list)
            and len(position) >= 2
            and all(isinstance(each, int | float) for each in position[:2])
        ):
            places[id] = {"x": position[0], "y": position[1]}
    return Graph(nodes, {"nodes": places}), problems


def _links(given: list, problems: list[Problem]) -> dict[Any, tuple[str, int]]:
    """Link id -> (node that gives it, slot)."""
    found = {}
    for link in given:
        if isinstance(link, Mapping):
            link = [link.get(key) for key in ("id", "origin_id", "origin_slot")]
        if (
            not isinstance(link, list)
            or len(link) < 3
            or not isinstance(link[0], int | str)
            or not isinstance(link[2], int)
        ):
            problems.append(_wrong("A link has not the form [id, source, slot, target, slot, type]."))
            continue
        found[link[0]] = (str(link[1]), link[2])
    return found


def _node(id, record, declared: Declaration, records, links, problems: list[Problem]) -> Node:
    inputs: dict[str, Any] = _widget_values(id, record, declared, problems)
    sockets = record.get("inputs")
    for socket in sockets if isinstance(sockets, list) else []:
        if not isinstance(socket, Mapping) or socket.get("link") is None:
            continue
        name = socket.get("name")
        source = _source(socket["link"], declared.input(name), records, links)
        if source is not None:
            inputs[str(name)] = source
        else:
            inputs.pop(str(name), None)
    title = record.get("title")
    title = title if isinstance(title, str) and title != declared.title else None
    return Node(record["type"], inputs, title, record.get("mode") == MUTED, record.get("mode") == BYPASSED)


def _left_out(record: Mapping[str, Any]) -> bool:
    """A bypassed node of another pack: nothing of it is needed."""
    return record.get("mode") == BYPASSED and record["type"] not in NODES


def _source(link_id, wanted: Socket | Widget | None, records, links) -> Link | None:
    """What a link leads to, through reroutes and bypassed nodes of other packs; None where it leads to nothing."""
    for _ in range(len(records) + 1):
        if link_id not in links:
            return None
        origin, slot = links[link_id]
        record = records.get(origin)
        if record is None:
            return Link(origin, slot)  # reported by the validation
        if record["type"] != "Reroute" and not _left_out(record):
            return Link(origin, slot)
        inputs = [
            each for each in record.get("inputs", []) if isinstance(each, Mapping) and each.get("link") is not None
        ]
        if record["type"] != "Reroute" and wanted is not None:
            inputs = [each for each in inputs if accepts(wire_type(wanted), str(each.get("type")))]
        if not inputs:
            return None
        link_id = inputs[0]["link"]
    return None  # reroutes in a circle


def _widget_values(id: str, record, declared: Declaration, problems: list[Problem]) -> dict[str, Any]:
    """Named values where the file has them, else by position; a count that does not fit is refused, because values would shift."""
    named = record.get("widgets_values_named")
    given = record.get("widgets_values", [])
    if isinstance(given, Mapping):
        named = given
    if isinstance(named, Mapping):
        values = {name: value for name, value in named.items() if declared.input(name) is not None}
    else:
        given = list(given) if isinstance(given, list) else []
        if len(given) > len(declared.widgets):  # the page adds a word after a seed that it controls
            given = [each for each in given if each not in _SEED_WORDS or not isinstance(each, str)]
        if len(given) > len(declared.widgets):
            problems.append(_wrong(f"has {len(given)} field values, {declared.title} has {len(declared.widgets)} fields; "
                                   "export the workflow in the API format, which names them.", id))  # fmt: skip
            return {}
        values = {widget.name: value for widget, value in zip(declared.widgets, given, strict=False)}
    return {name: value for name, value in values.items() if value is not None}


def to_ui(graph: Graph) -> dict[str, Any]:
    """A workflow that ComfyUI's page opens: every widget with its value, links with their types, in columns of that page's sizes."""
    numbers = {id: number for number, id in enumerate(graph.nodes, 1)}
    boxes = arranged(graph)
    links, nodes = [], []
    ins: dict[str, list[dict[str, Any]]] = {}
    outs = {id: [[] for _ in NODES[node.kind].outputs] for id, node in graph.nodes.items()}
    for id, node in graph.nodes.items():
        declared = NODES[node.kind]
        ins[id] = []
        for given in (*declared.sockets, *(widget for widget in declared.widgets if widget.name in node.links())):
            record = {"name": given.name, "type": wire_type(given), "link": None}
            if isinstance(given, Widget):
                record["widget"] = {"name": given.name}
            elif given.optional:
                record["shape"] = 7  # the page draws an optional socket hollow
            link = node.links().get(given.name)
            if link is not None:
                record["link"] = len(links) + 1
                links.append(
                    [len(links) + 1, numbers[link.node], link.slot, numbers[id], len(ins[id]), wire_type(given)]
                )
                outs[link.node][link.slot].append(len(links))
            ins[id].append(record)
    for order, (id, node) in enumerate(graph.nodes.items()):
        declared = NODES[node.kind]
        values = {
            widget.name: widget.in_field(widget.read(value if not isinstance(value := node.inputs.get(widget.name, widget.default), Link)
                                                     else widget.default))
            for widget in declared.widgets
        }  # fmt: skip
        box = boxes[id]
        record = {
            "id": numbers[id], "type": node.kind, "pos": [box.x, box.y], "size": [box.width, box.height],
            "flags": {}, "order": order, "mode": MUTED if node.muted else BYPASSED if node.bypassed else 0, "inputs": ins[id],
            "outputs": [{"name": output.name, "type": output.type, "links": outs[id][slot] or None, "slot_index": slot}
                        for slot, output in enumerate(declared.outputs)],
            "properties": {"Node name for S&R": node.kind}, "widgets_values": list(values.values()), "widgets_values_named": values,
        }  # fmt: skip
        if node.title is not None:
            record["title"] = node.title
        nodes.append(record)
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [], "config": {},
        "extra": {"made_with": PREFIX}, "version": 0.4,
    }  # fmt: skip
