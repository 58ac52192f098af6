"""A form's config as a graph, and a graph's training as a config. Both ways are the identity.

A graph made here names only what differs from the widgets' defaults, so two equal configs make equal graphs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ...core.config import DEMO_PREDICTION_TYPES, OPTIONS, RunConfig, config_to_flat, differences
from ...core.config.options import shown
from .bypass import passed_through
from .declaration import NODES, PREFIX
from .graph import Graph, GraphError, Link, Node, Problem
from .layout import places
from .parts import (
    CLASS_OPTIONS,
    DATASET_OPTIONS,
    DRIFT_OPTIONS,
    LORA_OPTIONS,
    MODEL_OPTIONS,
    OPTIMIZER_OPTIONS,
    OTHER_REMEDIES,
    REFLEXFLOW_OPTIONS,
    SAMPLING_OPTIONS,
    TRAINING_OPTIONS,
    VALIDATION_OPTIONS,
    config_from_parts,
)
from .validate import TRAIN, check, known_values, ordered, parts_of


def graph_of(config: RunConfig, name: str = "graph") -> Graph:
    """The graph whose Train node trains this config; `name` begins the run's name."""
    flat, changed = config_to_flat(config), set(differences(config))
    nodes: dict[str, Node] = {}
    cells: dict[str, tuple[int, int]] = {}

    def add(id: str, kind: str, place: tuple[int, int], options: Iterable[str] = (), **inputs: Any) -> Link:
        declared = NODES[PREFIX + kind]
        for option in options:
            inputs[OPTIONS[option].field] = flat[option]
        nodes[id] = Node(PREFIX + kind, {
            given: value for given, value in inputs.items()
            if value is not None and (isinstance(value, Link) or _differs(declared.input(given), value))
        })  # fmt: skip
        cells[id] = place
        return Link(id, 0)

    model_name = flat["pretrained_model_name_or_path"]
    if model_name in DEMO_PREDICTION_TYPES and not changed.intersection(MODEL_OPTIONS) - {
        "pretrained_model_name_or_path",
        "device",
    }:
        parts = {"model": add("model", "DemoModel", (0, 0), ["device"], model=model_name)}
    else:
        parts = {"model": add("model", "Model", (0, 0), MODEL_OPTIONS)}
    full = flat["model_type"] == "full"
    if not full or changed.intersection(LORA_OPTIONS):
        parts["adapter"] = add("lora", "LoRA", (1, 0), LORA_OPTIONS)
    if full:
        parts["adapter"] = add("full", "FullFineTune", (2, 0), lora=parts.get("adapter"))
    folder = add("folder", "ImageFolder", (0, 1), path=flat["instance_data_dir"])
    parts["dataset"] = add("dataset", "DreamBoothDataset", (1, 1), DATASET_OPTIONS, folder=folder)
    if changed.intersection((*CLASS_OPTIONS, "class_data_dir")):
        where = flat["class_data_dir"]
        kept = None if where is None else add("class_folder", "ImageFolder", (1, 2), path=where)
        parts["dataset"] = add("class", "ClassImages", (2, 1), CLASS_OPTIONS, dataset=parts["dataset"], folder=kept)
    parts["rollout"] = add("rollout", "ScheduledSampling", (0, 2), SAMPLING_OPTIONS)
    if changed.intersection(REFLEXFLOW_OPTIONS):
        parts["rollout"] = add("reflexflow", "ReflexFlow", (1, 3), REFLEXFLOW_OPTIONS, rollout=parts["rollout"])
    for section, (kind, options) in OTHER_REMEDIES.items():
        if changed.intersection(options):
            parts["rollout"] = add(section, kind, (2, 3), options, rollout=parts["rollout"])
    parts["optimizer"] = add("optimizer", "Optimizer", (0, 3), OPTIMIZER_OPTIONS)
    parts["settings"] = add("settings", "TrainingSettings", (0, 4), TRAINING_OPTIONS)
    parts["validation"] = add("validation", "ValidationPrompts", (1, 4), VALIDATION_OPTIONS)
    probe = flat["drift_data_dir"]
    held = None if probe is None else add("drift_folder", "ImageFolder", (1, 5), path=probe)
    parts["drift"] = add("drift", "DriftProbe", (2, 4), DRIFT_OPTIONS, folder=held)
    add("train", "Train", (3, 1), name=name, **parts)
    return Graph({id: _listed(node) for id, node in nodes.items()}, {"nodes": places(nodes, cells)})


def _differs(widget: Any, value: Any) -> bool:
    return widget.read(value) != widget.read(widget.default)


def _listed(node: Node) -> Node:
    return Node(
        node.kind, {name: list(value) if isinstance(value, tuple) else value for name, value in node.inputs.items()}
    )


def config_of(graph: Graph, train: str | None = None) -> RunConfig:
    """The config that a graph's Train node trains: what "use this graph's training in the form" takes.

    Args:
        train: the node's id; needed only where there are several.

    Raises: GraphError where the graph is wrong, has no such node or several, or where a part is only known after something ran.
    """
    there = passed_through(graph)
    trains = [id for id, node in there.nodes.items() if node.kind == TRAIN]
    if train is None and len(trains) == 1:
        train = trains[0]
    if train not in trains:
        names = ", ".join(map(shown, trains)) if trains else "none"
        raise GraphError([Problem("prompt_no_outputs", f"Name one Train node of the graph; there are: {names}.")])
    check(graph)
    parts = parts_of(there, train, known_values(there, ordered(there)[0]))
    if parts is None:
        raise GraphError([
            Problem("custom_validation_failed", "a part of this training is only known after a node has run, such as Caption Edit; "
                    "name the folder that it wrote instead.", train)
        ])  # fmt: skip
    return config_from_parts(parts)


def with_values(graph: Graph, changes: Mapping[str, str]) -> Graph:
    """A graph with widgets set from text, `{"node.input": "value"}`: what `--set` gives.

    A node is named by its id, or by its title where only one has it. Raises GraphError with everything that is not understood.
    """
    from ...core.config.options import ConfigError

    problems = []
    for target, text in changes.items():
        name, _, given = target.rpartition(".")
        ids = [name] if name in graph.nodes else [id for id, node in graph.nodes.items() if name and node.title == name]
        if len(ids) != 1:
            why = "several nodes have that title" if ids else "there is no such node"
            problems.append(
                Problem("invalid_prompt", f"--set {target}: {why}; nodes: {', '.join(list(graph.nodes)[:30])}.")
            )
            continue
        node = graph.nodes[ids[0]]
        declared = NODES.get(node.kind)
        widgets = {} if declared is None else {widget.name: widget for widget in declared.widgets}
        if given not in widgets:
            problems.append(
                Problem(
                    "invalid_prompt", f"--set {target}: there is no such field; fields: {', '.join(widgets)}.", ids[0]
                )
            )
            continue
        widget = widgets[given]
        try:
            value = widget.option.read(None if widget.option.optional and text == "unset" else text, text=True)
        except ConfigError as error:
            problems.append(Problem("custom_validation_failed", error.faults[0].message, ids[0], given))
            continue
        graph = graph.with_node(ids[0], node.with_input(given, list(value) if isinstance(value, tuple) else value))
    if problems:
        raise GraphError(problems)
    return graph
