"""Bypassed nodes: as ComfyUI has it, such a node is not there, and what it was given goes on to those that took its results."""

from dataclasses import replace

from .declaration import NODES, accepts, wire_type
from .graph import Graph, Link


def passed_through(graph: Graph) -> Graph:
    """The graph without its bypassed nodes; a graph without any is given back as it is.

    A link from a bypassed node comes from the first linked input of that node which has the type of the link; where none has it, the
    link is gone, and what cannot do without it is reported by the validation.
    """
    if not any(node.bypassed for node in graph.nodes.values()):
        return graph
    nodes = {}
    for id, node in graph.nodes.items():
        if not node.bypassed:
            sources = {name: _source(graph, link) for name, link in node.links().items()}
            inputs = {name: sources.get(name, value) for name, value in node.inputs.items()}
            nodes[id] = replace(node, inputs={name: value for name, value in inputs.items() if value is not None})
    return replace(graph, nodes=nodes)


def _source(graph: Graph, link: Link) -> Link | None:
    """Where a link comes from once bypassed nodes are gone; None where from nowhere."""
    for _ in range(len(graph.nodes) + 1):
        node = graph.nodes.get(link.node)
        declared = None if node is None else NODES.get(node.kind)
        if node is None or not node.bypassed:
            return link
        if declared is None or link.slot not in range(len(declared.outputs)):
            return None
        given, links = declared.outputs[link.slot].type, node.links()
        fitting = [each.name for each in declared.inputs if each.name in links and accepts(wire_type(each), given)]
        if not fitting:
            return None
        link = links[fitting[0]]
    return None  # bypassed nodes in a circle
