"""The Study node: what the command does, with a node's progress and its stop."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from rollout_studio.app.cli import main as cli
from rollout_studio.core.config import OPTIONS
from rollout_studio.core.study.begun import STUDY_FILE, begun_studies
from rollout_studio.nodes.graph.compile import with_values
from rollout_studio.nodes.graph.declaration import NODES
from rollout_studio.nodes.graph.graph import Graph, Link, Node, to_json
from rollout_studio.nodes.graph.validate import faults
from rollout_studio.nodes.graph.values import NodeError, Variants, from_json, settings
from rollout_studio.nodes.graph.values import to_json as value_to_json
from rollout_studio.nodes.library import study as nodes
from rollout_studio.nodes.reading import read

P = "RolloutStudio"


@pytest.fixture
def graph(workflow):
    """Two variants of the shipped comparison's plain training: another rank, and SOAR's node on a link."""
    shipped = with_values(workflow("compare-two-rollouts"), {"settings.max_train_steps": "3"})
    kept = {
        id: node for id, node in shipped.nodes.items() if node.kind not in (P + "ScheduledSampling", P + "ReflexFlow")
    }
    links = {
        name: value for name, value in kept["train_a"].inputs.items() if isinstance(value, Link) and name != "rollout"
    }
    links["rollout"] = Link("off", 0)
    added = {
        "off": Node(P + "ScheduledSampling", {"max_step_offset": 0}),
        "soar": Node(P + "SOAR", {"rollout": Link("off", 0), "states": 1}),
        "rank": Node(P + "StudyVariant", {"name": "rank 3", "changes": ["lora_rank = 3"]}),
        "both": Node(P + "StudyVariant", {"variants": Link("rank", 0), "name": "with SOAR", "rollout": Link("soar", 0)}),
        "study": Node(P + "Study", {**links, "variants": Link("both", 0), "name": "mine", "seeds": [1], "controls": False}),
    }  # fmt: skip
    needed = {id: node for id, node in kept.items() if node.kind in _SETTERS}
    return Graph({**needed, **added})


_SETTERS = {P + each for each in ("DemoModel", "ImageFolder", "DreamBoothDataset", "ClassImages", "LoRA", "Optimizer",
            "TrainingSettings", "ValidationPrompts", "DriftProbe")}  # fmt: skip


def test_a_study_trains_its_variants_with_every_seed_once_and_gives_the_table(run, graph, store, events):
    outcome = run(graph)
    assert outcome.ok, outcome.failures
    table, path = outcome.outputs["study"]
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    assert [each["name"] for each in record["variants"]] == ["plain", "rank 3", "with SOAR"]
    assert record["variants"][1]["changes"] == {"lora_rank": 3} and record["variants"][2]["changes"]["soar_states"] == 1
    assert "rank 3 less plain" in table and "seconds of the training steps" in table
    told = [event for event in events if event["event"] == "progress" and event["node"] == "study"]
    assert told[-1]["done"] == told[-1]["total"] == 3

    [listed] = begun_studies(store, store.list())
    assert listed.name.startswith("mine-") and (listed.ended, listed.total, listed.alive) == (3, 3, False)
    there = {each.name: each.events_mark for each in map(_marked, store.list())}
    assert run(graph).outputs["study"] == (table, path)
    assert {each.name: each.events_mark for each in map(_marked, store.list())} == there
    # The command takes the same study up, as the Runs tab does: it trains nothing and writes the report.
    assert cli.main(["study", str(listed.path / STUDY_FILE), "--runs-dir", str(store.root)]) == 0
    assert (listed.path / "report.html").is_file() and json.loads(Path(path).read_text("utf-8")) == record
    assert {each.name: each.events_mark for each in map(_marked, store.list())} == there
    assert run(with_values(graph, {"study.seeds": "1,2"})).ok and len(store.list()) == 6
    assert {each.name: each.events_mark for each in map(_marked, store.list())}.items() >= there.items()


def _marked(summary):
    """A run with what changes when it trains."""
    return SimpleNamespace(name=summary.name, events_mark=(summary.path / "events.jsonl").stat().st_size)


def test_a_stop_saves_and_the_next_run_goes_on_from_there(run, graph, store, events):
    slow = with_values(graph, {"optimizer.learning_rate": "0.5", "settings.max_train_steps": "8"})
    seen = threading.Event()

    def stop():
        if any("step" in str(event.get("what")) for event in events if event["event"] == "progress"):
            seen.set()
        return seen.is_set()

    outcome = run(slow, stop=stop)
    assert outcome.interrupted and outcome.states["study"] == "interrupted"
    saved = [each for each in store.list() if each.state == "stopped"]
    assert len(saved) == 1 and not any(each.alive or each.state == "queued" for each in store.list())
    assert run(slow).ok
    starts = [event for event in store.get(saved[0].name).events()[0] if event["event"] == "start"]
    assert [event["resumed_from"] for event in starts] == [None, saved[0].last_checkpoint]


def test_a_variant_that_changes_under_its_old_name_is_refused_with_what_differs(run, graph):
    assert run(graph).ok
    changed = graph.with_node("rank", Node(P + "StudyVariant", {"name": "rank 3", "changes": ["lora_rank = 4"]}))
    failure = run(changed).failures["study"]
    assert "lora_rank: 3 there, 4 in the study" in failure.message and "name" in failure.remedy


def test_a_study_of_which_nothing_trains_says_why(run, graph):
    failure = run(with_values(graph, {"optimizer.learning_rate": "9"})).failures["study"]
    assert "No run of the study was done" in failure.message and "not a number" in failure.message


# -- the nodes by themselves ----------------------------------------------------------------------------------------------


def variant(before=None, name="a", level=None, changes=(), **parts):
    given = {part: parts.get(part) for part in nodes.CHANGED}
    return nodes.study_variant(None, before, name, level, changes, **given)[0]


def test_variants_are_chained_and_come_back_from_json():
    both = variant(variant(name="first", level="gentle"), " second ", changes=("lora_rank=8", "--learning_rate = 2e-4"))
    assert both.items == (
        ("first", settings({"level": "gentle"})),
        ("second", settings({"lora_rank": 8, "learning_rate": 2e-4})),
    )
    assert from_json(json.loads(json.dumps(value_to_json(both)))) == both


def test_of_one_option_the_written_line_wins_over_the_node():
    assert variant(optimizer=settings({"learning_rate": 1.0}), changes=("learning_rate = 2",)).items[0][1].flat == {
        "learning_rate": 2.0
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [("lora_rnk = 8", "Did you mean 'lora_rank'"), ("lora_rank", "is no line"), ("lora_rank = 0", "at least")],
)
def test_a_line_that_is_no_option_is_reported_at_its_field(graph, line, said):
    node = Node(P + "StudyVariant", {"name": "a", "changes": [line]})
    found = [each for each in faults(graph.with_node("rank", node)) if each.node == "rank"]
    assert [each.input for each in found] == ["changes"] and said in found[0].message


def test_what_makes_no_config_is_reported_before_anything_runs(graph):
    assert faults(graph) == []
    wrong = graph.with_node("settings", Node(P + "TrainingSettings", {"max_train_steps": 0}))
    assert [each.node for each in faults(wrong)] == ["settings"]
    both = graph.with_node("off", Node(P + "ScheduledSampling", {"max_step_offset": 2, "probability": 0.5}))
    study = Node(both.nodes["study"].kind, {**both.nodes["study"].inputs, "rollout": Link("soar", 0)})
    assert [(each.node, "soar" in each.message) for each in faults(both.with_node("study", study))] == [("study", True)]


def test_two_variants_of_one_name_are_refused():
    with pytest.raises(NodeError, match="Two variants are called a"):
        nodes.study(None, variant(variant()), "s", (1,), True, False, False, (), **dict.fromkeys(nodes.PART_SOCKETS))
    assert isinstance(variant(), Variants)


def test_a_graph_with_a_study_comes_back_from_its_file(graph):
    again, problems = read(to_json(graph))
    assert problems == [] and again.nodes == graph.nodes
    declared = NODES[P + "Study"]
    assert declared.lane == "run" and {each.name for each in declared.sockets} >= {"model", "dataset", "variants"}
    assert set(OPTIONS) >= {"lora_rank"}
