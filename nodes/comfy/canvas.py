"""Where the nodes of a workflow stand on ComfyUI's canvas: in columns, so that no node covers another one or a link.

A node stands in the column before the first one that uses it, so nearly all links lead from one column to the next, and the gap between
two columns is as wide as the bend of the steepest link between them. Sizes and the bend are the page's (frontends 1.27 and 1.58,
measured): a node's box has its title above `y`, a link is a cubic whose handles are as long as a quarter of its length.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import hypot

from ..graph.declaration import NODES
from ..graph.graph import Graph, Node
from ..graph.validate import ordered

TITLE, SLOT, FIELD, LINES = 30, 20, 24, 30  # LINES: what a field of several lines needs more
PICTURE, WORDS = 300, 66  # px for what a node will show, which the page takes below its fields
WIDTH, WIDE = 320, 400
GAP, GUTTER = 50, 80  # between the nodes of a column, between columns at least


@dataclass(frozen=True)
class Box:
    """A node's place: its upper left corner below the title, and its size."""

    x: float
    y: float
    width: float
    height: float

    def covers(self, x: float, y: float) -> bool:
        """Is a point on the node or its title?"""
        return self.x < x < self.x + self.width and self.y - TITLE < y < self.y + self.height

    def overlaps(self, other: "Box") -> bool:
        beside = self.x + self.width <= other.x or other.x + other.width <= self.x
        return not beside and self.y - TITLE < other.y + other.height and other.y - TITLE < self.y + self.height


def arranged(graph: Graph) -> dict[str, Box]:
    """A box for every node."""
    column = columns(graph)
    rows = _ordered(graph, column)
    heights = [sum(height(graph.nodes[id]) + TITLE + GAP for id in ids) - GAP for ids in rows]
    boxes: dict[str, Box] = {}
    x = 0.0
    for number, ids in enumerate(rows):
        width = WIDE if any(NODES[graph.nodes[id].kind].shows for id in ids) else WIDTH
        y = (max(heights) - heights[number]) / 2 + TITLE
        for id in ids:
            boxes[id] = Box(0, round(y), width, height(graph.nodes[id]))
            y += boxes[id].height + TITLE + GAP
        if number:
            x += _gutter(graph, boxes, rows[number - 1], ids)
        for id in ids:
            boxes[id] = Box(round(x), boxes[id].y, width, boxes[id].height)
        x += width
    return {id: boxes[id] for id in graph.nodes}


def height(node: Node) -> int:
    """How high the page draws a node, with what it will show."""
    declared = NODES[node.kind]
    fields = len(declared.widgets)
    shown = {output.type for output in declared.outputs} if declared.shows else set()
    return (
        6
        + SLOT * max(len(declared.sockets), len(declared.outputs))
        + (8 + FIELD * fields if fields else 0)
        + LINES * sum(widget.multiline for widget in declared.widgets)
        + (PICTURE if "IMAGE" in shown or (declared.shows and not shown) else 0)
        + (WORDS if "STRING" in shown else 0)
    )


# ---- columns


def columns(graph: Graph) -> dict[str, int]:
    """Node -> its column: after everything that it needs, and as near as can be before what uses it."""
    uses: dict[str, list[str]] = {id: [] for id in graph.nodes}
    for id, node in graph.nodes.items():
        for link in node.links().values():
            uses[link.node].append(id)
    ends = [id for id, users in uses.items() if not users]
    earliest = _earliest(graph)
    place = {id: earliest[id] for id in ends}
    for id in ends:  # an end further right may let everything before it come nearer
        options = range(earliest[id], max(earliest.values()) + 1)
        place[id] = min(options, key=lambda column: _span(graph, _pulled(graph, uses, {**place, id: column})))
    return _pulled(graph, uses, place)


def _earliest(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    for id in ordered(graph)[0]:
        found[id] = max((found[link.node] + 1 for link in graph.nodes[id].links().values()), default=0)
    return found


def _pulled(graph: Graph, uses: Mapping[str, list[str]], ends: Mapping[str, int]) -> dict[str, int]:
    found = dict(ends)
    for id in reversed(ordered(graph)[0]):
        if uses[id]:
            found[id] = min(found[user] for user in uses[id]) - 1
    return found


def _span(graph: Graph, column: Mapping[str, int]) -> int:
    return sum(column[id] - column[link.node] for id, node in graph.nodes.items() for link in node.links().values())


def _ordered(graph: Graph, column: Mapping[str, int]) -> list[list[str]]:
    """The nodes of each column from top to bottom: in the order of the sockets that they lead to; ends last, notes first."""
    rows: list[list[str]] = [[] for _ in range(max(column.values()) + 1)]
    for id in graph.nodes:
        rows[column[id]].append(id)
    rank: dict[str, float] = {}
    for ids in reversed(rows):
        wanted = {id: [] for id in ids}
        for user, node in graph.nodes.items():
            names = [socket.name for socket in NODES[node.kind].sockets]
            for name, link in node.links().items():
                if link.node in wanted and user in rank:
                    wanted[link.node].append(rank[user] + (names.index(name) / 100 if name in names else 0))
        bare = {id for id in ids if not NODES[graph.nodes[id].kind].outputs and not graph.nodes[id].links()}
        ids.sort(
            key=lambda id: -1 if id in bare else sum(wanted[id]) / len(wanted[id]) if wanted[id] else len(graph.nodes)
        )
        rank |= {id: number for number, id in enumerate(ids)}
    return rows


# ---- links


@dataclass(frozen=True)
class Wire:
    """A link as it is drawn, from an output's place to an input's."""

    source: str
    target: str
    start: tuple[float, float]
    end: tuple[float, float]

    def points(self, number: int = 64) -> list[tuple[float, float]]:
        """Points along the curve, both ends included."""
        (x0, y0), (x3, y3) = self.start, self.end
        handle = hypot(x3 - x0, y3 - y0) / 4
        found = []
        for step in range(number + 1):
            t = step / number
            a, b, c, d = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
            found.append((a * x0 + b * (x0 + handle) + c * (x3 - handle) + d * x3, (a + b) * y0 + (c + d) * y3))
        return found


def wires(graph: Graph, boxes: Mapping[str, Box]) -> Iterator[Wire]:
    """Every link between nodes that have a box, as the page draws it."""
    for id, node in graph.nodes.items():
        names = [socket.name for socket in NODES[node.kind].sockets]
        for name, link in node.links().items():
            if id not in boxes or link.node not in boxes:
                continue
            row = names.index(name) if name in names else len(names)
            source, target = boxes[link.node], boxes[id]
            start = source.x + source.width, source.y + SLOT * (link.slot + 0.7)
            yield Wire(link.node, id, start, (target.x, target.y + SLOT * (row + 0.7)))


def covered(graph: Graph, boxes: Mapping[str, Box]) -> Iterator[tuple[Wire, str]]:
    """Links that run behind a node, with that node."""
    for wire in wires(graph, boxes):
        for id, box in boxes.items():
            if any(box.covers(x, y) for x, y in wire.points()):
                yield wire, id


def _gutter(graph: Graph, boxes: Mapping[str, Box], left: list[str], right: list[str]) -> int:
    """How far two columns must be apart so that no link between them bends over a node of either."""
    width = GUTTER
    while True:
        near = {id: replace(boxes[id], x=-boxes[id].width) for id in left} | {
            id: replace(boxes[id], x=width) for id in right
        }
        links = [wire for wire in wires(graph, {**boxes, **near}) if wire.source in left and wire.target in right]
        if all(0 <= x <= width for wire in links for x, _ in wire.points()):
            return width
        width += 10
