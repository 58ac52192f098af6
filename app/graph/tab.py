"""The Graph tab: the node editor, and its requests to this process.

The editor is plain JavaScript over React Flow (`editor/`), in one gr.HTML whose template never changes. Its requests go through server
functions, which answer with data; what changes other tabs goes through events; what is running comes by the page's timer. It shows text
as text only, so nothing here is escaped. Every request is checked again: it can be made by hand.
"""

import base64
import binascii
import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import OPTIONS
from ...core.config.options import ConfigError
from ...core.sizes import size
from ...nodes.comfy.files import to_ui
from ...nodes.graph import validate
from ...nodes.graph.compile import config_of, graph_of
from ...nodes.graph.declaration import NODES, described
from ...nodes.graph.graph import Graph, GraphError, Problem, to_data, to_json
from ...nodes.graph.values import COLOURS
from ...nodes.reading import read, read_file
from ..parts import notices
from ..parts.forms import label
from ..parts.panel import QUICK
from ..parts.watch import Watch
from .runs import Busy, GraphRuns, problems_as_data

SOURCE = Path(__file__).parents[1] / "editor"
WORKFLOWS = Path(__file__).resolve().parents[2] / "presets" / "workflows"
LARGEST_PICTURE = 32 * 2**20
ABOUT = {
    "compare-two-rollouts": (
        "Compare two rollouts",
        "One model and one dataset, trained plainly and with rollout and ReflexFlow; their drift side by side, the better one exported.",
    ),
    "demo-training": (
        "Train the demo",
        "One training on the built-in model and pictures, with samples before and after and its drift report.",
    ),
    "rollout-preview": (
        "See what a rollout is",
        "No training: a rollout of the model on its own output, as a filmstrip, and how often training will do it. About a minute.",
    ),
}
"""Shipped workflow -> its title and what it shows; the others are presets as graphs."""

_TEMPLATE = '<div class="rsg" data-testid="graph-editor"><p class="rsg-wait">The editor is loading.</p></div>'
_LOAD = """
const home = element.querySelector('.rsg');
const base = new URL(ADDRESS, window.gradio_config?.root ? `${window.gradio_config.root}/` : document.baseURI);
home.dataset.address = base.href;
import(base.href).then(
  ({ mount }) => mount(home, {
    props, watch, server,
    fromForm: (data) => trigger('from_form', data),
    toForm: (data) => trigger('to_form', data),
  }),
).catch((error) => {
  console.error(error);
  home.textContent = 'The editor could not be loaded. Reload the page; if that does not help, install Rollout Studio again.';
});
"""


class GraphTab:
    """Builds the tab in the current layout; `wire` connects it with the Train tab."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.runs = GraphRuns(watch.store, watch.previews)
        address = watch.previews.publish(SOURCE, "editor") + "/mount.js"
        self.editor = gr.HTML(
            html_template=_TEMPLATE, js_on_load=_LOAD.replace("ADDRESS", json.dumps(address)), apply_default_css=False, elem_id="graph",
            server_functions=self._functions(), run=None, opened=None, message=None,
        )  # fmt: skip
        self.outputs = [self.editor]

    def wire(self, train: Any, tabs: gr.Tabs) -> None:
        """Connect with the Train tab's form, both ways. `train`: its `FormPage`."""

        def from_form(given: Mapping[Any, Any]) -> dict[Any, Any]:
            try:
                graph = graph_of(train.form.read(given))
            except ConfigError as error:
                return {self.editor: _message(f"The form cannot be used yet. {error}")}
            return {self.editor: _opened(graph, "From the Train form")}

        def to_form(given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            try:
                graph, node = _graph_in(event._data), event._data.get("train")
                config = config_of(graph, node if isinstance(node, str) else None)
            except (GraphError, ConfigError) as error:
                return {self.editor: _message(f"This training cannot go into the form. {error}")}
            notices.inform("The form now holds this graph's training.")
            return {**train.filled(given, config), tabs: gr.Tabs(selected="train")}

        self.editor.from_form(from_form, train.inputs, [self.editor], **QUICK)
        self.editor.to_form(to_form, train.inputs, [*train.outputs, self.editor, tabs], **QUICK)

    def view(self, last: dict[str, str]) -> dict[Any, Any]:
        """Updates of the editor for what is running; empty when nothing changed since `last`, which is updated."""
        status = self.runs.status()
        sign = json.dumps(status)
        if last.get("graph") == sign:
            return {}
        last["graph"] = sign
        return {self.editor: gr.HTML(run=status)}

    @property
    def running(self) -> bool:
        """Whether a graph is on its way."""
        status = self.runs.status()
        return status is not None and status["state"] in ("waiting", "running", "stopping")

    # -- the editor's requests

    def _functions(self) -> list[Any]:
        def graph_menu(_: Any) -> dict[str, Any]:
            """What the editor needs to begin: node kinds, colours, shipped workflows, and what is running."""
            return {
                "nodes": with_labels(described()),
                "colours": COLOURS,
                "workflows": workflows(),
                "run": self.runs.status(),
            }

        def graph_shipped(name: Any) -> dict[str, Any]:
            """A shipped workflow by its name."""
            if name not in [each["name"] for each in workflows()]:
                return {"fault": "There is no such workflow."}
            return _answer(*read_file(WORKFLOWS / f"{name}.json"))

        def graph_read(file: Any) -> dict[str, Any]:
            """The graph in a file that was dropped: {name, text}, or {name, bytes} in base 64 for a PNG or the head of a LoRA."""
            try:
                return _answer(*read_dropped(file))
            except GraphError as error:
                return {"fault": "\n".join(map(str, error.problems[:5]))}

        def graph_run(sent: Any) -> dict[str, Any]:
            """Start a graph: {graph, only} -> {run}, or {problems}, or {fault}."""
            only = sent.get("only") if isinstance(sent, Mapping) else None
            try:
                self.runs.start(_graph_in(sent), None if only is None else [str(only)])
            except GraphError as error:
                return {"problems": problems_as_data(error)}
            except Busy as error:
                return {"fault": str(error), "run": self.runs.status()}
            except OSError as error:
                return {"fault": f"The graph could not be started: {error}."}
            return {"run": self.runs.status()}

        def graph_stop(name: Any) -> dict[str, Any]:
            """Ask a run to stop."""
            self.runs.stop(name)
            return {"run": self.runs.status()}

        def graph_of_run(name: Any) -> dict[str, Any]:
            """The graph that a run runs."""
            graph = self.runs.graph_of(name)
            return {"fault": "This run is no longer there."} if graph is None else _answer(graph, [])

        return [graph_menu, graph_shipped, graph_read, *_answers(), graph_run, graph_stop, graph_of_run]


def _answers() -> list[Any]:
    """The requests that look at nothing but the graph that is sent."""

    def graph_check(sent: Any) -> dict[str, Any]:
        """Everything that is wrong with a graph: {graph: its JSON text} -> {problems}."""
        try:
            graph, problems = read(_part(sent, "graph"))
            return {"problems": problems_as_data(GraphError([*problems, *validate.faults(graph, disk=True)]))}
        except GraphError as error:
            return {"problems": problems_as_data(error)}

    def graph_comfy(sent: Any) -> dict[str, Any]:
        """A graph as ComfyUI's page opens it: {graph} -> {text}, or {problems} where some of it could not be written down there."""
        try:
            return {"text": json.dumps(for_comfy(_graph_in(sent)), ensure_ascii=False, indent=1) + "\n"}
        except GraphError as error:
            return {"problems": problems_as_data(error)}

    return [graph_check, graph_comfy]


def for_comfy(graph: Graph) -> dict[str, Any]:
    """`to_ui` of a graph that may be unfinished. Raises GraphError where something in it is wrong rather than missing."""
    whole = Graph({id: replace(node, bypassed=False) for id, node in graph.nodes.items()})
    wrong = [
        each for each in validate.faults(whole) if each.type not in ("required_input_missing", "prompt_no_outputs")
    ]
    if wrong:
        raise GraphError(wrong)
    return to_ui(graph)


def with_labels(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The declarations with a `label` at every field: the form's words where the field is an option of the form."""
    options = {(option.section, option.field): option for option in OPTIONS.values()}
    for node in nodes:
        for given in node["inputs"]:
            if given["socket"]:
                continue
            own = NODES[node["key"]].input(given["name"]).option
            option = options.get((own.section, own.field))
            words = given["name"].replace("_", " ") if option is None else label(option).removeprefix("ReflexFlow: ")
            unit = f" ({own.unit})" if option is None and own.unit else ""
            given["label"] = words[0].upper() + words[1:] + unit
    return nodes


def workflows() -> list[dict[str, str]]:
    """The shipped workflows, experiments first: {name, title, about}."""
    there = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
    listed = [
        {"name": name, "title": title, "about": about, "kind": "experiment"}
        for name, (title, about) in ABOUT.items()
        if name in there
    ]
    return listed + [
        {"name": name, "title": f"Preset {name.removeprefix('preset-')}", "about": "The preset as a graph.", "kind": "preset"}
        for name in there if name.startswith("preset-")
    ]  # fmt: skip


def read_dropped(file: Any) -> tuple[Graph, list[Problem]]:
    """The graph in a dropped file, and what is wrong with its form. Raises GraphError where there is none in it."""
    name, text, data = _part(file, "name"), file.get("text"), file.get("bytes")
    if isinstance(text, str):
        return read(text)
    ending = Path(str(name)).suffix.lower()
    if not isinstance(data, str) or ending not in (".png", ".safetensors"):
        raise GraphError(
            [Problem("invalid_prompt", "Drop a workflow (JSON), a PNG or a LoRA (.safetensors) that was made here.")]
        )
    if len(data) > LARGEST_PICTURE * 4 // 3:
        raise GraphError(
            [Problem("invalid_prompt", f"The file is too large; at most {size(LARGEST_PICTURE)} are read.")]
        )
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise GraphError(
            [Problem("invalid_prompt", f"The file did not arrive whole ({error}); drop it again.")]
        ) from None
    handle, path = tempfile.mkstemp(suffix=ending, prefix="dropped-")
    try:
        with os.fdopen(handle, "wb") as copy:
            copy.write(content)
        return read_file(path)
    finally:
        os.unlink(path)


def _part(sent: Any, name: str) -> Any:
    if not isinstance(sent, Mapping) or name not in sent:
        raise GraphError([Problem("invalid_prompt", f"The request has no {name}.")])
    return sent[name]


def _graph_in(sent: Any) -> Graph:
    """The graph of a request. Raises GraphError with what is wrong with its form."""
    graph, problems = read(_part(sent, "graph"))
    if problems:
        raise GraphError(problems)
    return graph


def _answer(graph: Graph, problems: list[Problem]) -> dict[str, Any]:
    return {"graph": to_data(graph), "problems": problems_as_data(GraphError(problems))}


def _opened(graph: Graph, name: str) -> Any:
    """The update with which the editor opens a graph; the id makes it new although the same graph may have been opened before.

    As text, in both directions: Gradio takes an object with a `path` in it, such as an Image Folder's fields, for an uploaded file.
    """
    return gr.HTML(opened={"id": uuid.uuid4().hex, "name": name, "graph": to_json(graph)})


def _message(text: str) -> Any:
    return gr.HTML(message={"id": uuid.uuid4().hex, "text": text})
