"""From the Train tab's rollout to the Drift tab and back."""

from types import SimpleNamespace

import pytest
from rollout_studio.app import see_rollout
from rollout_studio.app.drift.fields import FIELDS
from rollout_studio.app.parts.forms import to_component
from rollout_studio.core.config import config_from_flat, differences, load_preset, rollout_level, with_changes
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.config.rules import PREFIX

ROLLOUT = {"max_step_offset": 5, "sampler": "dpm", "order": 1, "grid_steps": 20, "guidance": 2.5, "probability": 0.5}


def config(model="demo-flow", **rollout):
    return config_from_flat(
        {"pretrained_model_name_or_path": model, **{PREFIX + name: value for name, value in rollout.items()}}
    )


def lab(store=None):
    return SimpleNamespace(watch=SimpleNamespace(runs=store.list if store is not None else list))


WITH_ROLLOUT = [
    with_changes(load_preset(name), rollout_level(level, 300))
    for name in ("demo", "demo-epsilon")
    for level in ("gentle", "strong")
]


@pytest.mark.parametrize(
    "chosen",
    [*WITH_ROLLOUT, config(**ROLLOUT), config(max_step_offset=7, probability=1, grid="training", sampler="rk4")],
)
def test_a_rollout_that_is_seen_and_taken_back_is_the_same_config(chosen):
    values, cut = see_rollout.fields_of(chosen)
    assert cut is None and see_rollout.taken(chosen, values) == chosen


def test_every_field_of_the_rollout_is_put_as_the_drift_tab_shows_it():
    values, _ = see_rollout.fields_of(config(**ROLLOUT))
    assert values == {
        "offset": 5,
        "sampler": "dpm",
        "order": 1,
        "grid": "inference",
        "grid_steps": 20,
        "guidance": 2.5,
        "start": "picture",
    }
    assert set(values) <= set(FIELDS)
    for name in see_rollout.PAIRS:  # what is valid on one side is valid on the other
        assert FIELDS[name].read(values[name]) == values[name]


def test_a_rollout_that_was_changed_there_changes_the_rollout_here_and_nothing_else():
    chosen = config(**ROLLOUT)
    raw = {**see_rollout.fields_of(chosen)[0], "sampler": "euler", "order": 3, "offset": 4}
    changed = see_rollout.taken(chosen, raw)
    assert differences(changed, chosen) == {
        PREFIX + "max_step_offset": 4,
        PREFIX + "sampler": "euler",
        PREFIX + "order": 2,
    }, "euler has no order: the default's"
    assert "Farthest start (grid steps) 5 → 4" in see_rollout.change_message(differences(changed, chosen), chosen)
    assert see_rollout.change_message({}, chosen) == "The Train tab has these settings already."


def test_the_model_that_was_looked_at_comes_along_with_the_pictures_that_were_chosen(store, write):
    """A base model with its preset, a run with its settings; the same model changes nothing."""
    run = write.run(store)  # demo-flow
    runs, mine = store.list(), with_changes(load_preset("demo"), {"instance_data_dir": "/pictures", "lora_rank": 3})
    assert see_rollout.model_of(mine, "demo", "base/demo", runs) is mine
    assert see_rollout.model_of(mine, "demo", "run/told/120", runs) is mine
    other = see_rollout.model_of(mine, "demo", "base/sd15", runs)
    assert differences(other, load_preset("sd15")) == {"instance_data_dir": "/pictures"}
    assert see_rollout.model_of(other, "sd15", "run/told/120", runs) == config_from_flat(run.read_config())
    with pytest.raises(ConfigError, match="no run 'gone'"):
        see_rollout.model_of(mine, "demo", "run/gone/1", runs)
    message = see_rollout.change_message(differences(other, mine), mine, of_model=True)
    assert (
        repr(other.model.pretrained_model_name_or_path) in message
        or other.model.pretrained_model_name_or_path in message
    )


def test_what_cannot_be_taken_is_refused_with_every_fault():
    raw = {**see_rollout.fields_of(config(**ROLLOUT))[0], "grid_steps": 1, "guidance": 99}
    with pytest.raises(ConfigError) as error:
        see_rollout.taken(config(**ROLLOUT), raw)
    assert len(error.value.faults) == 2
    paper = with_changes(
        config(), {PREFIX + "max_step_offset": 1, PREFIX + "probability": 1.0, PREFIX + "reflexflow_mode": "paper"}
    )
    with pytest.raises(ConfigError, match="single-pass"):
        see_rollout.taken(paper, {**see_rollout.fields_of(paper)[0], "sampler": "rk4"})


@pytest.mark.parametrize(
    ("rollout", "reason"),
    [({}, "No rollout is set"), ({**ROLLOUT, "probability": 0}, "No rollout is set"), ({**ROLLOUT, "control": "source_noise"}, "No row is rolled out"),
     ({"max_step_offset": 1, "probability": 1, "reflexflow_mode": "paper"}, "single-pass")],
)  # fmt: skip
def test_what_has_no_rollout_on_the_grid_is_reported_with_the_way_out(rollout, reason):
    assert reason in see_rollout.why_not(config(**rollout))
    assert see_rollout.why_not(config(**ROLLOUT)) is None


def test_a_rollout_longer_than_the_slider_there_is_cut_and_that_is_reported():
    values, cut = see_rollout.fields_of(config(max_step_offset=400, probability=1, grid="training"))
    assert values["offset"] == 100 and "400 steps" in cut and "100" in cut
    assert to_component(FIELDS["offset"], 100) == 100


def test_the_weights_are_those_of_the_model_that_is_trained(store, write):
    write.run(store)  # demo-flow
    assert see_rollout.weights_of(config(**ROLLOUT), "run/told/120", lab(store)) == (None, None), (
        "a run's weights of the same model stay"
    )
    assert see_rollout.weights_of(config("demo-epsilon", **ROLLOUT), "run/told/120", lab(store)) == (
        "base/demo-epsilon",
        None,
    )
    assert see_rollout.weights_of(config(**ROLLOUT), "run/gone/1", lab(store)) == ("base/demo", None)
    weights, missing = see_rollout.weights_of(config("/models/mine", **ROLLOUT), "base/demo", lab(store))
    assert weights is None and "/models/mine" in missing
