"""Write the included workflows: `presets/workflows/*.json` and `example_workflows/*.json` (for ComfyUI).

    python tools/make_workflows.py

One workflow per preset is generated from the preset. A test compares them, so run this after changing a preset.
"""

import json
from pathlib import Path

from rollout_studio.core.config import RunConfig, load_preset, preset_names, rollout_level, with_changes
from rollout_studio.nodes.comfy.files import to_ui
from rollout_studio.nodes.graph.compile import graph_of
from rollout_studio.nodes.graph.declaration import PREFIX
from rollout_studio.nodes.graph.graph import Graph, Link, Node, to_json
from rollout_studio.nodes.graph.layout import COLUMN, ROW, places
from rollout_studio.nodes.graph.validate import check

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS, EXAMPLES = ROOT / "presets" / "workflows", ROOT / "example_workflows"
Built = dict[str, tuple[Node, tuple[int, int]]]


def preset_graph(name: str) -> Graph:
    """A preset's training."""
    return graph_of(load_preset(name), name)


def with_more(graph: Graph, more: Built) -> Graph:
    """A graph with nodes added at (column, row)."""
    nodes = {**graph.nodes, **{id: node for id, (node, _) in more.items()}}
    cells = {id: (place["x"] / COLUMN, place["y"] / ROW) for id, place in graph.layout["nodes"].items()}
    cells |= {id: cell for id, (_, cell) in more.items()}
    return Graph(nodes, {**graph.layout, "nodes": places(nodes, cells)})


def made(kind: str, title: str | None = None, **inputs) -> Node:
    return Node(PREFIX + kind, inputs, title)


STEPS = 300


def rolled() -> RunConfig:
    """The demo's preset with a gentle rollout: these graphs are there to show one."""
    return with_changes(load_preset("demo"), {"max_train_steps": STEPS, **rollout_level("gentle", STEPS)})


def demo() -> Graph:
    """The demo's training with a rollout, what it is trained on, and what it draws before and after."""
    prompts = list(load_preset("demo").validation.prompts)
    drawn = {"prompts": prompts, "num_inference_steps": 30, "seed": 42}
    return with_more(graph_of(with_changes(rolled(), {"validation_step_interval": 0}), "demo"), {
        "preview": (made("DatasetPreview", dataset=Link("dataset", 0)), (2, 2)),
        "before": (made("SampleImages", "Before", model=Link("model", 0), side=64, **drawn), (3, 0)),
        "after": (made("SampleImages", "After", checkpoint=Link("train", 1), **drawn), (4, 0)),
        "grid": (made("SampleGrid", "Before and after", images_a=Link("before", 0), images_b=Link("after", 0),
                      labels=["before", "after"]), (5, 0)),
        "report": (made("DriftReport", checkpoint=Link("train", 1)), (4, 2)),
    })  # fmt: skip


def compare() -> Graph:
    """One dataset and model into two trainings, plain and with rollout + ReflexFlow; their drift and samples compared."""
    plain = with_changes(rolled(), {
        "max_train_steps": 150, "validation_step_interval": 0, "scheduled_sampling_max_step_offset": 0,
        "scheduled_sampling_prob_end": 0.5, "scheduled_sampling_ramp_steps": 0, "scheduled_sampling_reflexflow_beta1": 10.0,
    })  # fmt: skip
    graph = graph_of(plain, "plain")
    nodes = dict(graph.nodes)
    shared = {name: value for name, value in nodes.pop("train").inputs.items() if name not in ("name", "rollout")}
    del nodes["rollout"]
    graph = Graph(nodes, {"nodes": {id: place for id, place in graph.layout["nodes"].items() if id in nodes}})
    return with_more(graph, {
        "note": (made("Note", text="One dataset and one model, two trainings. Change a field of branch B and run again: only B trains."), (0, 5)),
        "rollout_b": (made("ScheduledSampling", "B: rollout", max_step_offset=2, prob_end=0.25, ramp_steps=30), (0, 2)),
        "reflexflow_b": (made("ReflexFlow", "B: ReflexFlow", rollout=Link("rollout_b", 0), reflexflow="true", reflexflow_beta1=1.0), (1, 2)),
        "train_a": (made("Train", "A: plain", name="plain", **shared), (3, 0)),
        "train_b": (made("Train", "B: rollout + ReflexFlow", name="rollout", rollout=Link("reflexflow_b", 0), **shared), (3, 2)),
        "report_a": (made("DriftReport", "A: drift", checkpoint=Link("train_a", 1)), (4, 0)),
        "report_b": (made("DriftReport", "B: drift", checkpoint=Link("train_b", 1)), (4, 2)),
        "compare": (made("CompareDrift", "A against B", report_a=Link("report_a", 0), report_b=Link("report_b", 0),
                         label_a="plain", label_b="rollout + ReflexFlow"), (5, 1)),
        "samples": (made("SampleGrid", "Samples", images_a=Link("train_a", 4), images_b=Link("train_b", 4),
                         labels=["plain", "rollout + ReflexFlow"]), (5, 3)),
        "export": (made("ExportLoRA", "The better one", checkpoint=Link("compare", 1), name="better"), (6, 1)),
    })  # fmt: skip


def preview() -> Graph:
    """What rollout means, without a training: the demo model's own path against the true one, and the ramp."""
    graph = graph_of(with_changes(rolled(), {"max_train_steps": 200}), "demo")
    keep = {id: node for id, node in graph.nodes.items() if id in ("model", "folder", "dataset", "rollout", "settings")}
    kept = Graph(keep, {"nodes": {id: place for id, place in graph.layout["nodes"].items() if id in keep}})
    return with_more(kept, {
        "strip": (made("RolloutPreview", model=Link("model", 0), dataset=Link("dataset", 0), rollout=Link("rollout", 0)), (3, 0)),
        "ramp": (made("ProbabilityRampPlot", rollout=Link("rollout", 0), settings=Link("settings", 0)), (3, 2)),
        "save": (made("SaveImage", images=Link("strip", 0), name="rollout"), (4, 0)),
    })  # fmt: skip


def main() -> None:
    own = {"demo-training": demo(), "compare-two-rollouts": compare(), "rollout-preview": preview()}
    files = {WORKFLOWS / f"{name}.json": to_json(graph) for name, graph in own.items()}
    files |= {WORKFLOWS / f"preset-{name}.json": to_json(preset_graph(name)) for name in preset_names()}
    files |= {
        EXAMPLES / f"{name}.json": json.dumps(to_ui(graph), ensure_ascii=False, indent=1) + "\n"
        for name, graph in own.items()
    }
    for graph in own.values():
        check(graph)
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
