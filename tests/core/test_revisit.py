"""A trained run opened again: its weights, its drift."""

import pytest
import torch
from rollout_studio.core.adapters import adapter_state
from rollout_studio.core.config import config_from_flat, with_changes
from rollout_studio.core.families import load_model
from rollout_studio.core.look.drift.files import read_report
from rollout_studio.core.look.revisit import load_weights, measure_drift, open_checkpoint
from rollout_studio.core.runs.checkpoint import CheckpointError
from rollout_studio.core.train.loop import train
from tiny_run import pictures, tiny_run, without_drift  # noqa: F401 - fixtures


@pytest.fixture
def trained(tiny_run, without_drift):  # noqa: F811
    """A run of three tiny steps with checkpoints of steps 2 and 3, and a moving average."""
    run = tiny_run("lumina2", checkpoint_step_interval=2, use_ema=True, ema_decay=0.5)
    assert train(run) == 0
    return run, config_from_flat(run.read_config())


def test_the_newest_checkpoint_or_the_named_one_is_opened(trained):
    run, _ = trained
    assert open_checkpoint(run).step == 3
    assert open_checkpoint(run, 2).step == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 1; there are: 2, 3"):
        open_checkpoint(run, 1)


def test_a_run_without_checkpoints_says_so(tiny_run):  # noqa: F811
    run = tiny_run("lumina2", "fresh")
    with pytest.raises(CheckpointError, match="has no whole checkpoint yet"):
        open_checkpoint(run)
    with pytest.raises(CheckpointError, match="there are: none yet"):
        open_checkpoint(run, 5)


def test_the_weights_are_those_that_the_run_exported(trained):
    """With a moving average, that is what is exported, so that is what is opened."""
    run, config = trained
    model = load_model(config.model, for_training=False)
    found = open_checkpoint(run)
    load_weights(model, config, found)
    state = adapter_state(model)
    assert state
    assert all(torch.equal(state[name], found.tensors["ema"][name]) for name in state)
    assert any(not torch.equal(state[name], found.tensors["trainable"][name]) for name in state)


def test_drift_of_a_run_stands_beside_its_base(trained, tmp_path):
    run, config = trained
    report = measure_drift(config, tmp_path / "report", tmp_path / "cache", open_checkpoint(run))
    assert {curve.weights for curve in report.curves} == {"base", "tuned"}
    assert report.step == 3
    saved = read_report(tmp_path / "report" / "report.json")
    assert [(curve.weights, curve.role) for curve in saved.curves] == [
        (curve.weights, curve.role) for curve in report.curves
    ]
    assert {"curves.png", "report.json"} <= {path.name for path in (tmp_path / "report").iterdir()}
    tuned, base = (next(curve for curve in report.curves if curve.weights == kind) for kind in ("tuned", "base"))
    assert tuned.at(0.5) != base.at(0.5)


def test_drift_of_a_model_alone_has_only_the_base_and_makes_no_class_pictures(trained, tmp_path):
    _, config = trained
    config = with_changes(config, {"with_prior_preservation": True, "class_prompt": "a circle"})
    report = measure_drift(config, tmp_path / "report", tmp_path / "cache")
    assert {curve.weights for curve in report.curves} == {"base"}
    assert not list((tmp_path / "cache").rglob("*.png"))
