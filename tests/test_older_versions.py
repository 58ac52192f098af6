"""What version 0.1 wrote opens today. The fixtures were made by its code (0ec868b); nothing here writes them anew."""

import shutil
from pathlib import Path

import gradio as gr
import pytest
from rollout_studio import __version__
from rollout_studio.app.drift.tab import DriftTab
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.runs.report import write_run_report
from rollout_studio.app.runs.tab import RunsTab
from rollout_studio.core.adapters.loading import load_lora
from rollout_studio.core.config import config_from_flat, load_preset, read_preset
from rollout_studio.core.config.own_presets import own_presets
from rollout_studio.core.families import load_model
from rollout_studio.core.look.drift.files import read_report
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from rollout_studio.nodes.graph.validate import train_configs
from rollout_studio.nodes.reading import load
from tiny_run import without_drift  # noqa: F401 - a fixture

OLD = Path(__file__).parent / "fixtures" / "version-0.1"


@pytest.fixture
def store(tmp_path) -> RunStore:
    """A copy of the old runs folder."""
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    return RunStore(tmp_path / "runs")


def test_an_interrupted_run_is_listed_and_trains_on_as_its_own_version_would_have(store, without_drift):  # noqa: F811
    rows = {row.name: (row.state, row.step, row.total_steps) for row in store.list()}
    assert rows == {"interrupted": ("stopped", 8, 12), "finished": ("done", 3, 3)}
    row = store.summary("interrupted")
    run = RunDir(row.path)
    assert train(run, resume=True) == 0
    ours = {event["step"]: event["loss"] for event in run.events()[0] if event["event"] == "step"}
    # Steps 9 to 12 of the same run, resumed by version 0.1's code (0ec868b) with the demo weights of today in its folder; with its own
    # weights it went on with .22773, .28524, .25905, .26500.
    theirs = [0.22539911, 0.28237024, 0.25757387, 0.26319355]
    assert [ours[step] for step in range(9, 13)] == pytest.approx(theirs, rel=1e-4)


def test_a_finished_run_is_shown_with_its_samples_and_its_drift_and_can_be_shared_and_copied(store):
    """Its checkpoint, its LoRA and the pictures of before training were taken out of the fixture, which must be small, and its filmstrip was reduced."""
    log = follow(store.get("finished"))
    assert sorted(log.samples) == sorted(log.drifts) == [0, 3] and len(log.series) == 3 and log.exported is not None
    report = read_report(store.get("finished").drift_path / "step-000003")
    assert {curve.weights for curve in report.curves} == {"base", "tuned"}
    watch = Watch(store.root)
    with gr.Blocks():
        runs, drift = RunsTab(watch), DriftTab(watch)
    shown = runs.view("finished", {})
    assert "step 3 of 3" in shown[runs.head] and "gone" in shown[runs.samples] and "<img" in shown[runs.samples]
    assert "Drift over the training" in shown[runs.over_training]
    measured = drift.view("finished", 3, None, None, 0, {})
    assert (
        "Drift at step 3" in measured[drift.picture]
        and "<img" in measured[drift.picture]
        and "<svg" in measured[drift.curves]
    )
    page = write_run_report(store.get("finished"), store.summary("finished")).read_text(encoding="utf-8")
    assert "a red zwx shape" in page
    watch.close()
    copy = store.clone("finished", "copy")
    assert copy.read_config()["_version"] == __version__
    assert config_from_flat(copy.read_config()) == config_from_flat(store.get("finished").read_config())


def test_an_own_preset_is_a_card_and_a_config(store):
    [mine], broken = own_presets(store.root)
    assert not broken and mine.title == "Mine"
    assert (
        config_from_flat(read_preset(mine.key).changes).model.pretrained_model_name_or_path
        == "stabilityai/stable-diffusion-3.5-medium"
    )


@pytest.mark.parametrize("name", ["compare-two-rollouts.json", "compare-two-rollouts.comfyui.json"])
def test_a_workflow_has_the_trainings_that_it_had(name):
    configs = train_configs(load(OLD / "workflows" / name))
    assert sorted(config.rollout.max_step_offset for config in configs.values()) == [0, 2]


def test_a_lora_lands_in_its_model_whole():
    model = load_model(load_preset("demo").model)
    fit = load_lora(model, OLD / "lora.safetensors", "old")
    assert fit.used == fit.total > 0
