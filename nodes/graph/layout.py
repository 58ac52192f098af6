"""Where the nodes of a graph that a program makes stand in the editor: in columns, without touching each other."""

from collections.abc import Mapping

from .declaration import NODES
from .graph import Node

COLUMN, ROW, GAP = 400, 180, 36  # pixels of the editor at its natural size
_HEAD, _SOCKET, _FIELD, _LINES, _RESULT = 52, 24, 35, 95, 230


def places(nodes: Mapping[str, Node], cells: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, int]]:
    """The layout's `nodes` for nodes in cells (column, row): each at its row's height, or lower where the node above needs the room."""
    found: dict[str, dict[str, int]] = {}
    free: dict[float, int] = {}  # column -> where the next node may begin
    for id, (column, row) in sorted(cells.items(), key=lambda item: item[1][1]):
        y = max(round(row * ROW), free.get(column, 0))
        found[id] = {"x": round(column * COLUMN), "y": y}
        free[column] = y + height(nodes[id]) + GAP
    return {id: found[id] for id in cells}


def height(node: Node) -> int:
    """About how high the editor draws a node, with the pictures that it will have."""
    declared = NODES[node.kind]
    seen = [widget for widget in declared.widgets if widget.option.level == "simple" or widget.name in node.inputs]
    fields = sum(_LINES if widget.multiline or widget.name == "text" else _FIELD for widget in seen)
    more = _SOCKET if len(seen) < len(declared.widgets) else 0
    return (
        _HEAD
        + _SOCKET * max(len(declared.sockets), len(declared.outputs))
        + fields
        + more
        + (_RESULT if declared.shows else 0)
    )
