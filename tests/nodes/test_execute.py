"""Running graphs: no more than needed, each thing once, errors where they arise, an interrupt that saves."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from rollout_studio.nodes.execute import cache, following
from rollout_studio.nodes.graph.compile import config_of, with_values
from rollout_studio.nodes.graph.graph import Graph, Link, Node, to_json
from rollout_studio.nodes.reading import read_file

P = "RolloutStudio"


@pytest.fixture
def ab(workflow):
    """The shipped A/B workflow, three steps long."""
    return with_values(workflow("compare-two-rollouts"), {"settings.max_train_steps": "3", "rollout_b.ramp_steps": "1"})


def test_the_comparison_trains_twice_and_gives_one_picture(run, ab, store, events):
    outcome = run(ab)
    assert outcome.ok, outcome.failures
    assert sorted(summary.name.split("-")[0] for summary in store.list()) == ["plain", "rollout"]
    [(picture, _)] = outcome.pictures("compare")
    assert Image.open(picture).size[1] > 600  # curves, words and two filmstrips below each other
    assert "plain" in outcome.outputs["compare"][2] and "rollout + ReflexFlow" in outcome.outputs["compare"][2]


def test_a_second_run_is_served_from_the_cache(run, ab, store, events):
    run(ab)
    started = time.process_time()
    assert run(ab).ok
    assert time.process_time() - started < 3
    assert events.ran() == {"export"} and len(store.list()) == 2  # the export runs again, and finds its file


def test_one_slider_of_a_branch_retrains_that_branch_alone(run, ab, store, events):
    run(ab)
    assert run(with_values(ab, {"rollout_b.max_step_offset": "3"})).ok
    assert {"train_b", "report_b", "compare"} <= events.ran() and not {"train_a", "report_a"} & events.ran()
    assert len(store.list()) == 3


def test_ids_titles_places_and_run_names_do_not_matter(run, ab, store, events):
    run(ab)
    other = {f"x{id}": Node(node.kind, {
        name: Link(f"x{value.node}", value.slot) if isinstance(value, Link) else value for name, value in node.inputs.items()
    }, f"my {id}") for id, node in ab.nodes.items()}  # fmt: skip
    moved = with_values(Graph(other, {"nodes": {}}), {"xtrain_a.name": "another"})
    assert run(moved).ok
    assert events.ran() <= {"xexport"} and len(store.list()) == 2


def test_a_run_is_found_again_when_the_cache_is_gone(run, ab, store, events):
    run(ab)
    shutil.rmtree(store.root / cache.FOLDER)
    assert run(ab).ok
    assert len(store.list()) == 2


def test_a_changed_picture_trains_again(run, ab, store, tmp_path, events):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "1.png")
    graph = with_values(ab, {"folder.path": str(folder)})
    run(graph, wanted=["train_a"])
    run(graph, wanted=["train_a"])
    assert len(store.list()) == 1 and events.states("train_a") == ["cached"]
    Image.new("RGB", (64, 64), "blue").save(folder / "1.png")
    run(graph, wanted=["train_a"])
    assert len(store.list()) == 2


def test_a_damaged_or_lost_result_is_made_again(run, ab, events):
    outcome = run(ab, wanted=["compare"])
    [(picture, _)] = outcome.pictures("compare")
    Path(picture).write_bytes(b"cut")
    assert run(ab, wanted=["compare"]).ok
    assert events.ran() == {"compare"}


def test_only_what_a_wanted_node_needs_is_run(run, ab, store, events):
    outcome = run(ab, wanted=["report_a"])
    assert outcome.ok and "train_b" not in outcome.states and "compare" not in outcome.states
    assert len(store.list()) == 1


def test_a_muted_node_and_what_needs_it_are_left_out(run, ab, store):
    node = ab.nodes["train_b"]
    outcome = run(ab.with_node("train_b", Node(node.kind, node.inputs, node.title, muted=True)))
    assert outcome.ok and outcome.states["report_a"] == "done" and outcome.states["compare"] == "muted"
    assert len(store.list()) == 1


def test_an_error_stays_at_its_node_and_other_branches_go_on(run, ab, events):
    graph = ab.with_node("optimizer_b", Node(P + "Optimizer", {"learning_rate": 9}))
    graph = graph.with_node("train_b", graph.nodes["train_b"].with_input("optimizer", Link("optimizer_b", 0)))
    outcome = run(graph)
    assert (
        outcome.states["train_b"] == "failed" and outcome.states["compare"] == outcome.states["report_b"] == "skipped"
    )
    assert outcome.states["report_a"] == "done"
    assert outcome.failures["train_b"].remedy == "Lower learning_rate." and set(outcome.failures) == {"train_b"}


def test_an_interrupt_saves_and_the_next_run_goes_on_from_there(run, ab, store, events):
    graph = with_values(ab, {"optimizer.learning_rate": "0.5", "settings.max_train_steps": "12"})
    seen = threading.Event()

    def stop():
        if any(event["event"] == "progress" and event["node"] == "train_a" for event in events):
            seen.set()
        return seen.is_set()

    outcome = run(graph, wanted=["train_a"], stop=stop)
    [summary] = store.list()
    assert outcome.interrupted and outcome.states["train_a"] == "interrupted"
    assert summary.state == "stopped" and 0 < summary.last_checkpoint < 12
    outcome = run(with_values(graph, {}), wanted=["train_a"])
    assert outcome.ok and len(store.list()) == 1
    starts = [event for event in store.get(summary.name).events()[0] if event["event"] == "start"]
    assert [event["resumed_from"] for event in starts] == [None, summary.last_checkpoint]


@pytest.fixture
def slow(ab):
    """One of the trainings, slow enough to be stopped on its way."""
    return with_values(ab, {"optimizer.learning_rate": "0.5", "settings.max_train_steps": "12"})


def stopping_at(step, events):
    """A wish to stop from a step on."""
    return lambda: any(
        event["event"] == "progress" and event["node"] == "train_a" and event["done"] >= step for event in events
    )


def starts_of(store):
    [summary] = store.list()
    return [event["resumed_from"] for event in store.get(summary.name).events()[0] if event["event"] == "start"]


def test_run_pressed_right_after_stop_goes_on_from_the_checkpoint(run, slow, store, events):
    """The stopped run's process is still there then: it is waited for."""
    outcome = run(slow, wanted=["train_a"], stop=stopping_at(2, events))
    assert outcome.interrupted and store.list()[0].alive
    assert run(slow, wanted=["train_a"]).ok
    first, second = starts_of(store)
    assert first is None and 2 <= second < 12
    assert any(event.get("what") == "waiting for the run that is stopping" for event in events)


def test_a_run_that_is_still_saving_is_waited_for_too(run, slow, store, events):
    """Its graph is gone already, as when the page's process was ended."""
    config = config_of(slow, "train_a")
    there = store.create(config, f"mine-{following.identity(config, 0)[:10]}")
    store.enqueue(there.name)
    store.pump()
    while not [event for event in there.events()[0] if event["event"] == "step"]:
        time.sleep(0.05)
    there.send("stop-and-save")
    assert run(slow, wanted=["train_a"]).ok
    assert len(starts_of(store)) == 2 and starts_of(store)[1] > 0


def test_a_resume_replays_no_old_progress(run, slow, store, events):
    run(slow, wanted=["train_a"], stop=stopping_at(3, events))
    run(slow, wanted=["train_a"])
    saved = starts_of(store)[1]
    steps = [
        event["done"]
        for event in events
        if event["event"] == "progress" and event["what"] != "waiting for the run that is stopping"
    ]
    assert steps == sorted(steps) and steps[0] == saved >= 3


def test_joining_a_run_reports_where_it_is_not_all_it_did(run, slow, store, events):
    config = config_of(slow, "train_a")
    there = store.create(config, f"mine-{following.identity(config, 0)[:10]}")
    store.enqueue(there.name)
    store.pump()
    while not [event for event in there.events()[0] if event["event"] == "step" and event["step"] >= 5]:
        time.sleep(0.05)
    run(slow, wanted=["train_a"])
    steps = [event["done"] for event in events if event["event"] == "progress"]
    assert steps[0] >= 5 and steps[-1] == 12
    assert {(event["node"], event["run"]) for event in events if event["event"] == "trains"} == {
        ("train_a", there.name)
    }


def test_a_training_that_is_already_running_is_joined(run, ab, store):
    config = config_of(ab, "train_a")
    there = store.create(config, f"mine-{following.identity(config, 0)[:10]}")
    store.enqueue(there.name)
    outcome = run(ab, wanted=["train_a"])
    assert outcome.outputs["train_a"][0].name == there.name and len(store.list()) == 1


def test_training_again_on_purpose(run, ab, store):
    run(ab, wanted=["train_a"])
    run(with_values(ab, {"train_a.again": "1"}), wanted=["train_a"])
    assert len(store.list()) == 2


def test_resume_takes_a_copy_of_a_run_further(run, ab, store):
    graph = ab.with_node("more", Node(P + "Resume", {"run": Link("train_a", 0), "max_train_steps": 5}))
    outcome = run(graph, wanted=["more"])
    assert outcome.ok, outcome.failures
    assert outcome.outputs["more"][1].step == 5 and outcome.outputs["train_a"][1].step == 3
    assert run(graph, wanted=["more"]).ok and len(store.list()) == 2


def test_a_checkpoint_that_is_not_there_is_reported_with_those_that_are(run, ab):
    graph = ab.with_node("pick", Node(P + "CheckpointPicker", {"run": Link("train_a", 0), "step": 2}))
    graph = graph.with_node("look", Node(P + "DriftReport", {"checkpoint": Link("pick", 0)}))
    outcome = run(graph, wanted=["look"])
    assert (
        "no checkpoint of step 2" in outcome.failures["pick"].message
        and outcome.failures["pick"].remedy == "There are: 3."
    )


def test_captions_are_edited_in_a_copy(run, ab, tmp_path, root):
    graph = ab.with_node(
        "edit",
        Node(P + "CaptionEdit", {"folder": Link("folder", 0), "find": "zwx", "replace": "qqq", "suffix": ", drawn"}),
    )
    graph = graph.with_node("dataset", graph.nodes["dataset"].with_input("folder", Link("edit", 0)))
    outcome = run(graph, wanted=["edit"])
    texts = [path.read_text() for path in Path(outcome.outputs["edit"][0].path).glob("*.txt")]
    assert len(texts) == 5 and all("qqq" in text and text.endswith(", drawn") for text in texts)
    assert all("zwx" in path.read_text() for path in (root / "presets/demo/dreambooth").glob("*.txt"))


def test_a_saved_picture_and_an_exported_lora_restore_the_graph(run, ab, tmp_path):
    graph = ab.with_node("save", Node(P + "SaveImage", {"images": Link("samples", 0), "name": "grid"}))
    assert run(graph).ok
    [png], [lora] = (tmp_path / "out").glob("grid-*.png"), (tmp_path / "out").glob("*.safetensors")
    for file in (png, lora):
        assert read_file(file) == (graph, [])
    assert json.loads(to_json(graph))["format"] == "rollout_studio.graph"


def test_pictures_that_need_no_training(run, workflow):
    graph = workflow("demo-training")
    graph = graph.with_node(
        "ramp", Node(P + "ProbabilityRampPlot", {"rollout": Link("rollout", 0), "settings": Link("settings", 0)})
    )
    outcome = run(graph, wanted=["preview", "ramp"])
    assert outcome.ok, outcome.failures
    assert all(Image.open(file).width > 300 for id in ("preview", "ramp") for file, _ in outcome.pictures(id))


def test_a_rollout_preview_measures_the_untrained_model_and_reports_its_progress(run, workflow, events):
    outcome = run(workflow("rollout-preview"), wanted=["strip"])
    assert outcome.ok, outcome.failures
    [(file, _)] = outcome.pictures("strip")
    assert Image.open(file).width > 300
    reported = {event["what"] for event in events if event["event"] == "progress" and event["node"] == "strip"}
    assert "drift, base model" in reported

    corrected = with_values(workflow("rollout-preview"), {"strip.correction": "shifted_time", "strip.time_cutoff": "0"})
    [(other, caption)] = run(corrected, wanted=["strip"]).pictures("strip")
    assert caption == "base, shifted time ±0.02 above 0" and Path(other).read_bytes() != Path(file).read_bytes()
    refused = run(with_values(workflow("rollout-preview"), {"strip.correction": "epsilon_scaling"}), wanted=["strip"])
    assert "this model predicts the flow's velocity" in refused.failures["strip"].message


@pytest.mark.parametrize("publish", [True, False])
def test_an_exported_lora_carries_the_workflow_unless_the_run_publishes_no_texts(publish, store, tmp_path):
    """A workflow has prompts and folders in it."""
    from types import SimpleNamespace

    from rollout_studio.core.adapters.header import read_header
    from rollout_studio.core.config import config_from_flat
    from rollout_studio.nodes.graph.values import Checkpoint
    from rollout_studio.nodes.library.training import export_lora
    from safetensors.torch import save_file
    from torch import ones

    run = store.create(config_from_flat({"max_train_steps": 3, "publish_texts": publish}), "cat")
    run.lora_path.mkdir()
    save_file({"unet.a.lora_A.weight": ones(1, 2)}, run.lora_path / "cat.safetensors", metadata={"kept": "yes"})
    context = SimpleNamespace(out=tmp_path / "out", provenance={"workflow": "a secret prompt"})
    path, _ = export_lora(context, Checkpoint(str(run.path), "cat", 3, "0" * 64), "lora")
    notes = read_header(path)["__metadata__"]
    assert notes["kept"] == "yes" and ("workflow" in notes) == publish
