"""Memory tiers of presets and named levels, as the page and the command line offer them."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest
from rollout_studio.app.cli import main as cli
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.model_panel import about, tiers_of
from rollout_studio.app.train.tab import TrainTab
from rollout_studio.core.before import probes
from rollout_studio.core.before.probes import Probe, ProbeError, keep_probe
from rollout_studio.core.config import load_preset, read_preset, rollout_level_of, with_changes


def test_a_preset_offers_its_tiers_in_words_and_shows_the_one_that_the_form_has():
    config = load_preset("sdxl")
    offered = tiers_of("sdxl", config)
    assert offered["visible"] and offered["value"] == 12
    assert offered["choices"][0] == (read_preset("sdxl").tiers[0].words, 8)
    assert offered["choices"][0][0].startswith("fits 8 GB (estimate: ")
    assert tiers_of("sdxl", with_changes(config, {"resolution": 512}))["value"] == 8
    assert tiers_of("sdxl", with_changes(config, {"resolution": 640}))["value"] is None


def test_where_the_form_names_another_model_or_none_needs_a_card_no_tiers_are_offered():
    other = with_changes(load_preset("sdxl"), {"pretrained_model_name_or_path": "someone/else"})
    assert not tiers_of("sdxl", other)["visible"] and not tiers_of("demo", load_preset("demo"))["visible"]


def test_the_words_below_the_cards_name_licence_access_and_the_source_of_the_settings():
    words = about("flux")
    assert "<b>Licence:</b> FLUX.1 [dev] Non-Commercial" in words and "<b>Access:</b> gated" in words
    assert "<b>Settings from:</b> recipe" in words


@pytest.fixture
def train(store):
    with gr.Blocks():
        train = TrainTab(Watch(store.root))
        train.wire(gr.Tabs(), gr.Radio())
    return train


def page(train, preset, config):
    """What a handler gets: the page as it opens, with a preset and a config in the form."""
    return {**{each: each.value for each in train.inputs}, **train.form.show(config), train.model.preset: preset}


def test_choosing_a_tier_on_the_page_changes_its_settings_and_nothing_else(train):
    mine = with_changes(load_preset("sdxl"), {"learning_rate": 3e-5, "resolution": 640})
    given = page(train, "sdxl", mine)
    updates = train.model.on_tier(train, {**given, train.model.tier: 24})
    shown = {name: updates[field] for name, field in train.form.components.items() if field in updates}
    values = {name: update["value"] for name, update in shown.items() if "value" in update}
    assert values == {"resolution": 1024, "gradient_checkpointing": False}
    assert updates[train.model.tier]["value"] == 24
    refused = train.model.on_tier(train, {**given, train.model.tier: 24, train.model.preset: "gone.json"})
    assert (
        train.form.components["resolution"] not in refused
        or "value" not in refused[train.form.components["resolution"]]
    )


# The memory, measured from the page -----------------------------------------------------------------------------------


def test_the_button_measures_and_the_estimate_is_then_what_was_measured(train, store, monkeypatch):
    asked = []

    def measured(config, runs_dir):
        asked.append(config)
        keep_probe(config, runs_dir, Probe(700.0, 750.0, 500.0, "cpu", 2, 1, 630.0))

    monkeypatch.setattr(probes, "run_probe", measured)
    config = with_changes(load_preset("demo"), {"device": "cpu"})
    updates = train.on_probe(page(train, "demo", config))
    assert asked == [config]
    assert "<b>about 700 MiB</b>" in updates[train.takes]
    assert "measured by a probe on this computer" in updates[train.takes] and "700 MiB of memory" in updates[train.side]


def test_nothing_is_measured_where_a_start_is_refused_or_the_device_is_busy(train, store, monkeypatch):
    monkeypatch.setattr(probes, "run_probe", lambda config, runs_dir: pytest.fail("measured"))
    config = with_changes(load_preset("demo"), {"device": "cpu"})
    refused = train.on_probe(page(train, "demo", with_changes(config, {"instance_data_dir": "/no/such/folder"})))
    assert "/no/such/folder" in refused[train.findings]
    busy = SimpleNamespace(name="other", alive=True, device="cpu")
    monkeypatch.setattr(train.watch, "runs", lambda fresh=False: [busy])
    assert "other is training on this device" in train.on_probe(page(train, "demo", config))[train.findings]


def test_what_stopped_the_measurement_is_shown(train, monkeypatch):
    def full(config, runs_dir):
        raise ProbeError("The memory is full.", "Take train_batch_size 1.")

    monkeypatch.setattr(probes, "run_probe", full)
    updates = train.on_probe(page(train, "demo", with_changes(load_preset("demo"), {"device": "cpu"})))
    assert "The memory is full" in updates[train.findings] and "train_batch_size 1" in updates[train.findings]


# The command line ------------------------------------------------------------------------------------------------------


@pytest.fixture
def resolved(capsys, monkeypatch, tmp_path):
    """(exit code, the config that a dry run prints, messages)."""
    from rollout_studio.core.before import preflight

    monkeypatch.setattr(preflight, "preflight", lambda config, **where: [])

    def call(*arguments):
        code = cli.main(["train", *arguments, "--dry-run", "--runs-dir", str(tmp_path)])
        shown = capsys.readouterr()
        return code, json.loads(shown.out) if shown.out else None, shown.err

    return call


def test_tier_and_level_come_between_the_preset_and_the_flags(resolved):
    code, flat, _ = resolved("--preset", "sdxl", "--tier", "10", "--level", "strong")
    assert (code, flat["resolution"], flat["scheduled_sampling_max_step_offset"]) == (0, 512, 4)
    assert flat["scheduled_sampling_ramp_steps"] == 100  # a fifth of the preset's 500
    _, flat, _ = resolved(
        "--preset", "sdxl", "--tier", "10", "--level", "strong", "--resolution", "640", "--max_train_steps", "50"
    )
    assert (flat["resolution"], flat["scheduled_sampling_ramp_steps"]) == (640, 10)
    _, flat, _ = resolved("--preset", "demo", "--level", "gentle")
    assert flat["scheduled_sampling_max_step_offset"] == 2
    assert rollout_level_of(load_preset("demo")) == "off"


@pytest.mark.parametrize(("arguments", "words"), [
    (("--preset", "flux", "--tier", "8"), "no tier for 8 GB: its smallest is 12 GB"),
    (("--preset", "demo", "--tier", "12"), "has no tiers"),
    (("--tier", "12"), "--tier: needs --preset"),
    (("--resume", "mine", "--tier", "12", "--level", "off"), "tier, level cannot be given"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(resolved, arguments, words):
    code, flat, said = resolved(*arguments)
    assert code == 78 and flat is None and words in said


def test_the_list_of_presets_shows_tiers_licence_and_access(capsys):
    assert cli.main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert "--tier 8: fits 8 GB (estimate: " in shown and ", resolution 512" in shown
    assert "Licence: CreativeML Open RAIL++-M" in shown and "Access: gated: an account" in shown
