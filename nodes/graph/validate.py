"""Everything wrong with a graph, reported at once, with node and input, before anything runs.

Fails closed: an unknown kind of node, an unknown input, a slot that is not there, a value out of bounds, a cycle, settings that make
no config together; each is a `Problem` under the name that ComfyUI gives to its kind. Nothing is opened and nothing is run: only
nodes that merely put options on a wire are evaluated, so that rules between options are checked too. With `disk`, what a node names
and is not there is reported too, at that node; a graph that is only read, or put into the form, may come from another machine.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ...core.config import RunConfig
from ...core.config.options import ConfigError, Option, did_you_mean, shown
from ...core.names import is_elsewhere
from .bypass import passed_through
from .declaration import IN_COMFYUI, NODES, PREFIX, Declaration, Socket, Widget, accepts, wire_type
from .graph import Graph, GraphError, Link, Node, Problem
from .parts import PARTS, config_from_parts
from .values import Settings

TRAIN, STUDY = PREFIX + "Train", PREFIX + "Study"
UNKNOWN = object()
"""What a node gives that cannot be known before it has run."""


def check(graph: Graph, wanted: Iterable[str] | None = None, *, disk: bool = False) -> None:
    """Raises GraphError with everything that is wrong with a graph."""
    problems = faults(graph, wanted, disk=disk)
    if problems:
        raise GraphError(problems)


def faults(graph: Graph, wanted: Iterable[str] | None = None, *, disk: bool = False) -> list[Problem]:
    """Everything that is wrong with a graph; empty = it may run.

    Args:
        wanted: ids of the nodes to run for; None = every node that has something to look at.
        disk: also look whether the folders and files are there that nodes name. Cost: one look at each.
    """
    graph, problems = passed_through(graph), []
    for id, node in graph.nodes.items():
        problems += _node_faults(graph, id, node)
    order, cyclic = ordered(graph)
    problems += [
        Problem("dependency_cycle", "its inputs lead back to itself; remove a link of the circle.", id)
        for id in cyclic[:100]
    ]
    if wanted is not None:
        problems += [
            Problem("prompt_no_outputs", f"There is no node {shown(id)}.{did_you_mean(id, graph.nodes)}")
            for id in wanted if id not in graph.nodes
        ]  # fmt: skip
    elif not roots(graph):
        problems.append(
            Problem(
                "prompt_no_outputs", "Nothing in this graph has a result to look at; add a Train or a picture node."
            )
        )
    if not cyclic:
        bad = {problem.node for problem in problems}
        problems += _setting_faults(graph, order, bad)
    if disk:
        bad = {problem.node for problem in problems}
        for id, node in graph.nodes.items():
            problems += [] if id in bad else _absent(graph, id, node)
    return problems


def roots(graph: Graph) -> list[str]:
    """The nodes that a graph is run for: those with something to look at that are neither muted nor bypassed."""
    there = {id: node for id, node in graph.nodes.items() if not (node.muted or node.bypassed)}
    return [id for id, node in there.items() if node.kind in NODES and NODES[node.kind].shows]


def ordered(graph: Graph) -> tuple[list[str], list[str]]:
    """(ids, each after everything that it needs; ids on a circle or behind one). Links to nowhere are passed over."""
    waits = {
        id: {link.node for link in node.links().values() if link.node in graph.nodes}
        for id, node in graph.nodes.items()
    }
    feeds: dict[str, list[str]] = {id: [] for id in graph.nodes}
    for id, sources in waits.items():
        for source in sources:
            feeds[source].append(id)
    ready = deque(id for id, sources in waits.items() if not sources)
    left = {id: len(sources) for id, sources in waits.items()}
    order = []
    while ready:
        id = ready.popleft()
        order.append(id)
        for follower in feeds[id]:
            left[follower] -= 1
            if left[follower] == 0:
                ready.append(follower)
    done = set(order)
    return order, [id for id in graph.nodes if id not in done]


# ---- one node


def _node_faults(graph: Graph, id: str, node: Node) -> Iterable[Problem]:
    declared = NODES.get(node.kind)
    if declared is None:
        why = f"There is no node {shown(node.kind)[:100]}.{did_you_mean(node.kind[:100], NODES)}"
        if node.kind.startswith(IN_COMFYUI):
            why = f"{node.kind[:100]} uses models that ComfyUI has loaded: run this workflow inside ComfyUI, or leave the node out."
        yield Problem("missing_node_type", why, id)
        return
    known = {each.name: each for each in declared.inputs}
    for name, value in node.inputs.items():
        given = known.get(name)
        if given is None:
            yield Problem(
                "custom_validation_failed",
                f"{declared.title} has no such input.{did_you_mean(name[:100], known)}",
                id,
                name,
            )
        elif isinstance(value, Link):
            yield from _link_faults(graph, id, given, value)
        elif isinstance(given, Socket):
            yield Problem("invalid_input_type", f"takes a link from {given.type}, not a value.", id, name)
        else:
            yield from value_faults(given, value, id)
    for socket in declared.sockets:
        if not socket.optional and socket.name not in node.inputs:
            yield Problem("required_input_missing", f"needs a link from {socket.type}: {socket.help}", id, socket.name)
    if declared.check is not None:
        values = read_widgets(declared, node)
        if values is not None:
            linked = frozenset(node.links())
            for name, message in declared.check(values, linked):
                yield Problem("custom_validation_failed", message, id, name)


def _absent(graph: Graph, id: str, node: Node) -> Iterable[Problem]:
    """What a node names on the disk and is not there, where another node needs it."""
    declared = NODES[node.kind]
    known_later = any(widget.names_path and widget.name in node.links() for widget in declared.widgets)
    if declared.absent is None or known_later or not any(_needs(other, id) for other in graph.nodes.values()):
        return
    for name, message in declared.absent(read_widgets(declared, node)):
        yield Problem("custom_validation_failed", message, id, name)


def _needs(node: Node, id: str) -> bool:
    """Does a node use what another one names, instead of making it?"""
    if node.muted or node.kind not in NODES:
        return False
    return any(
        link.node == id and not getattr(NODES[node.kind].input(name), "makes", False)
        for name, link in node.links().items()
    )


def _link_faults(graph: Graph, id: str, given: Socket | Widget, link: Link) -> Iterable[Problem]:
    origin = graph.nodes.get(link.node)
    if origin is None:
        yield Problem(
            "bad_linked_input", f"is linked to node {shown(link.node)[:80]}, which is not there.", id, given.name
        )
        return
    declared = NODES.get(origin.kind)
    if declared is None:
        return  # reported at that node
    if not 0 <= link.slot < len(declared.outputs):
        number = len(declared.outputs)
        slots = f"{number} output{'' if number == 1 else 's'}" + (f", 0 to {number - 1}" if number else "")
        yield Problem(
            "bad_linked_input",
            f"is linked to output {link.slot} of {declared.title}, which has {slots}.",
            id,
            given.name,
        )
        return
    output = declared.outputs[link.slot]
    if not accepts(wire_type(given), output.type):
        yield Problem(
            "return_type_mismatch", f"{declared.title}.{output.name} gives {output.type}, {given.name} takes {wire_type(given)}.",
            id, given.name,
        )  # fmt: skip


def value_faults(widget: Widget, value: Any, id: str | None = None) -> list[Problem]:
    """What is wrong with a widget's value: nothing, or one problem that names value, rule and remedy."""
    try:
        read = widget.read(value)
    except ConfigError as error:
        return [Problem(_kind_of_fault(widget.option, value), error.faults[0].message, id, widget.name)]
    except RecursionError:
        return [Problem("invalid_input_type", "is nested too deeply.", id, widget.name)]
    for text in read if isinstance(read, tuple) else (read,):
        if isinstance(text, str) and is_elsewhere(text):
            message = (
                f"{widget.name} = {shown(text)[:100]}: names another machine or is a URL; copy the files here first."
            )
            return [Problem("custom_validation_failed", message, id, widget.name)]
    wrong = None if widget.rule is None else widget.rule(read)
    return (
        []
        if wrong is None
        else [Problem("custom_validation_failed", f"{widget.name} = {shown(value)[:100]}: {wrong}", id, widget.name)]
    )


def _kind_of_fault(option: Option, value: Any) -> str:
    if option.choices is not None:
        return "value_not_in_list"
    if isinstance(value, str) and option.type.startswith("list"):
        value = [part.strip() for part in value.split(option.split)]
    numbers = value if isinstance(value, list | tuple) else [value]
    for number in numbers:
        if isinstance(number, str):
            try:
                number = float(number)
            except ValueError:
                return "invalid_input_type"
        if isinstance(number, bool) or not isinstance(number, int | float):
            return "invalid_input_type"
        if option.minimum is not None and number < option.minimum:
            return "value_smaller_than_min"
        if option.maximum is not None and number > option.maximum:
            return "value_bigger_than_max"
    return "invalid_input_type"


def read_widgets(declared: Declaration, node: Node) -> dict[str, Any] | None:
    """Every widget's checked value, defaults where the file has none, None where it is linked; None as a whole when one is wrong."""
    values = {}
    for widget in declared.widgets:
        value = node.inputs.get(widget.name, widget.default)
        if isinstance(value, Link):
            values[widget.name] = None
            continue
        try:
            values[widget.name] = widget.read(value)
        except (ConfigError, RecursionError):
            return None
    return values


# ---- what nodes that only set options give


def known_values(graph: Graph, order: Iterable[str], without: Iterable[str] = ()) -> dict[str, tuple]:
    """What is known without running: the outputs of nodes that only compute settings; UNKNOWN for everything else."""
    without, found = set(without), {}
    for id in order:
        node = graph.nodes[id]
        declared = NODES.get(node.kind)
        if declared is None:
            continue
        unknown = (UNKNOWN,) * len(declared.outputs)
        inputs = None if id in without or declared.lane != "instant" else known_inputs(declared, node, found)
        found[id] = unknown if inputs is None else declared.function(None, **inputs)
    return found


def known_inputs(declared: Declaration, node: Node, found: Mapping[str, tuple]) -> dict[str, Any] | None:
    """A node's inputs as far as they are known; None when one is not."""
    inputs = read_widgets(declared, node)
    if inputs is None:
        return None
    inputs |= {socket.name: None for socket in declared.sockets}
    for name, link in node.links().items():
        values = found.get(link.node, ())
        value = values[link.slot] if 0 <= link.slot < len(values) else UNKNOWN
        if value is UNKNOWN:
            return None
        inputs[name] = value
    return inputs


def parts_of(graph: Graph, id: str, found: Mapping[str, tuple]) -> dict[str, Settings] | None:
    """The settings that reach a Train or Study node; None when one of them is only known after something has run."""
    inputs = known_inputs(NODES[graph.nodes[id].kind], graph.nodes[id], found)
    return None if inputs is None else {name: inputs[name] for name in PARTS}


def train_configs(graph: Graph) -> dict[str, RunConfig]:
    """The config of every Train node whose settings are known without running. Raises ConfigError where one is none."""
    found = known_values(graph, ordered(graph)[0])
    configs = {}
    for id, node in graph.nodes.items():
        if node.kind == TRAIN and (parts := parts_of(graph, id, found)) is not None:
            configs[id] = config_from_parts(parts)
    return configs


def _setting_faults(graph: Graph, order: list[str], bad: set[str | None]) -> Iterable[Problem]:
    found = known_values(graph, order, without=[id for id in bad if id is not None])
    for id, node in graph.nodes.items():
        if node.kind not in (TRAIN, STUDY) or id in bad:
            continue
        parts = parts_of(graph, id, found)
        if parts is None:
            continue
        try:
            config_from_parts(parts)
        except ConfigError as error:
            for fault in error.faults:
                yield Problem("custom_validation_failed", fault.message, id)


def as_comfy(problems: Iterable[Problem]) -> dict[str, Any]:
    """Problems as ComfyUI's server answers: one error for the whole, and the errors of each node."""
    problems = list(problems)
    by_node: dict[str, Any] = {}
    for problem in problems:
        if problem.node is not None:
            entry = by_node.setdefault(problem.node, {"errors": [], "dependent_outputs": []})
            entry["errors"].append({
                "type": problem.type, "message": problem.type.replace("_", " "), "details": problem.message,
                "extra_info": {} if problem.input is None else {"input_name": problem.input},
            })  # fmt: skip
    whole = next((problem for problem in problems if problem.node is None), None)
    kind = "prompt_outputs_failed_validation" if whole is None else whole.type
    return {
        "error": {"type": kind, "message": "This workflow cannot run.", "details": "" if whole is None else whole.message, "extra_info": {}},
        "node_errors": by_node,
    }  # fmt: skip
