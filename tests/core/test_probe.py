"""The memory of a step measured before a run, what it corrects, and how far the estimate was off afterwards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rollout_studio.app.cli import main as cli
from rollout_studio.app.runs.head import head
from rollout_studio.core.before import probes
from rollout_studio.core.before.estimate import estimate, expected_memory, known_facts, memory_estimate
from rollout_studio.core.before.probes import Probe, ProbeError, keep_probe, memory_key, read_probe, run_probe
from rollout_studio.core.config import load_preset, rollout_level, with_changes
from rollout_studio.core.data import Scan, scan
from rollout_studio.core.runs.run_log import end_memory_words, follow, memory_words
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.sizes import off_by
from rollout_studio.core.train import probe as probe_module
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.probe import largest, probe, probed_config
from tiny_run import ROLLOUT, draw_pictures, events

DEMO = with_changes(load_preset("demo"), {"device": "cpu", "max_train_steps": 300, **rollout_level("gentle", 300)})
MEASURED = Probe(700.0, 750.0, 500.0, "cpu", 2, 1, 630.0)


@pytest.fixture
def tiny_config(tiny_folder, pictures):
    """A config on the tiny SD 3, with what differs from it."""

    def make(**changes):
        return with_changes(DEMO, {
            "pretrained_model_name_or_path": str(tiny_folder("sd3")), "instance_data_dir": str(pictures), "resolution": 32,
            "with_prior_preservation": False, "lora_targets": [], "scheduled_sampling_max_step_offset": 0, **changes,
        })  # fmt: skip

    return make


# What is measured ------------------------------------------------------------------------------------------------------


def test_a_probe_takes_steps_of_the_real_config_and_leaves_nothing_but_the_cache(tiny_config, tmp_path):
    found = probe(tiny_config(), tmp_path)
    assert found.device == "cpu" and (found.steps, found.rolled) == (2, 0)
    assert 100 < found.mib <= found.peak_mib and found.opening_mib > 100 and found.estimated_mib > 0
    assert {path.name for path in tmp_path.iterdir()} == {".cache"}


def test_a_config_with_a_rollout_is_measured_in_a_step_that_rolls_out(tiny_config, tmp_path):
    found = probe(
        tiny_config(**ROLLOUT | {"scheduled_sampling_probability": 0.01, "scheduled_sampling_start_step": 50}), tmp_path
    )
    assert found.rolled >= 1 and 2 <= found.steps <= 8


def test_the_process_answers_with_what_it_measured_and_it_is_kept(tiny_config, tmp_path):
    config = tiny_config()
    assert read_probe(config, tmp_path) is None
    found = run_probe(config, tmp_path)
    assert found == read_probe(config, tmp_path) and found.steps == 2


@pytest.fixture
def answer(monkeypatch, tmp_path, capsys):
    """What the process prints for a config, without a process."""
    monkeypatch.setattr("rollout_studio.core.platform_calls.use_all_cores", lambda: 1)

    def make(config):
        path = tmp_path / "config.json"
        path.write_text(config.to_json(), encoding="utf-8")
        assert probe_module.main([str(path), str(tmp_path)]) == 0
        return json.loads(capsys.readouterr().out)

    return make


def test_what_stops_the_steps_is_reported_with_its_remedy(tiny_config, tmp_path, answer, monkeypatch):
    (tmp_path / "empty").mkdir()
    found = answer(tiny_config(instance_data_dir=str(tmp_path / "empty")))
    assert "pictures cannot be used" in found["message"] and found["remedy"]

    def full(config, runs_dir):
        raise MemoryError

    monkeypatch.setattr(probe_module, "probe", full)
    found = answer(tiny_config(train_batch_size=4))
    assert "memory is full" in found["message"] and "train_batch_size 1 instead of 4" in found["remedy"]


def test_a_process_that_dies_without_an_answer_is_reported_with_its_last_words(tiny_config, tmp_path, monkeypatch):
    crash = "import sys; sys.stderr.write('killed by the system'); sys.exit(9)"
    monkeypatch.setattr(probes, "COMMAND", (probes.sys.executable, "-c", crash))
    with pytest.raises(ProbeError, match=r"exit code 9\). Its log ends: killed by the system"):
        run_probe(tiny_config(), tmp_path)


def test_the_largest_shape_and_the_longest_caption_are_chosen(tmp_path):
    found = scan(
        with_changes(DEMO, {"instance_data_dir": str(draw_pictures(tmp_path / "set", 4)), "aspect_buckets": False}).data
    )
    wide = replace(found.items[1], bucket=(96, 64), caption="a caption that is longer than any other one is")
    chosen = largest(
        Scan((replace(found.items[0], bucket=(64, 64)), wide, replace(found.items[2], bucket=(96, 64)))), 5
    )
    assert [item.name for item in chosen.items] == [wide.name, found.items[2].name]
    assert {item.caption for item in chosen.items} == {wide.caption}
    assert len(largest(found, 2).items) == 2


def test_class_pictures_are_rows_like_others_and_the_rollout_is_certain(tmp_path):
    config = with_changes(DEMO, {"gradient_accumulation_steps": 4})
    like = probed_config(config, tmp_path)
    assert (like.training.train_batch_size, like.data.with_prior_preservation) == (8, False)
    assert (like.rollout.probability, like.rollout.ramp_steps, like.training.gradient_accumulation_steps) == (1.0, 0, 2)
    assert Path(like.data.data_cache_dir) == tmp_path / ".cache" and like.validation.prompts == ()
    assert memory_key(probed_config(like, tmp_path)) == memory_key(like)


# What it corrects ------------------------------------------------------------------------------------------------------


def test_a_measured_config_is_estimated_by_its_measurement(tmp_path):
    keep_probe(DEMO, tmp_path, MEASURED)
    found = estimate(DEMO, tmp_path).memory
    assert found.total.likely == 700 * 2**20 and found.total.high == pytest.approx(1.1 * 700 * 2**20)
    assert found.total.low < found.total.likely
    for words in ("measured by a probe on this computer", "was 10 % too low", "500 MiB at most"):
        assert words in found.explanation
    keep_probe(DEMO, tmp_path, replace(MEASURED, peak_mib=900.0))
    assert estimate(DEMO, tmp_path).memory.total.high == 900 * 2**20


@pytest.mark.parametrize(("changes", "same"), [
    ({"learning_rate": 1e-6, "max_train_steps": 9, "seed": 3, "validation_prompts": []}, True), ({"scheduled_sampling_prob_end": 0.5}, True),
    ({"instance_data_dir": "elsewhere", "drift_step_interval": 0}, True),
    ({"train_batch_size": 2}, False), ({"resolution": 128}, False), ({"lora_rank": 4}, False), ({"optimizer": "adafactor"}, False),
    ({"with_prior_preservation": False}, False), ({"use_ema": False}, False), ({"gradient_checkpointing": True}, False),
    ({"scheduled_sampling_guidance": 3.0}, False), ({"scheduled_sampling_max_step_offset": 0}, False), ({"device": "cuda"}, False),
])  # fmt: skip
def test_a_measurement_counts_for_configs_whose_steps_take_the_same(tmp_path, changes, same):
    keep_probe(DEMO, tmp_path, MEASURED)
    assert (read_probe(with_changes(DEMO, changes), tmp_path) is not None) == same


def test_without_a_rollout_its_numbers_do_not_count(tmp_path):
    off = with_changes(DEMO, {"scheduled_sampling_max_step_offset": 0})
    keep_probe(off, tmp_path, MEASURED)
    assert read_probe(with_changes(off, {"scheduled_sampling_sampler": "rk4"}), tmp_path) == MEASURED


def test_a_measurement_of_another_device_or_a_broken_file_counts_for_nothing(tmp_path):
    facts = known_facts(DEMO.model)
    keep_probe(DEMO, tmp_path, replace(MEASURED, device="cuda:0"))
    assert expected_memory(DEMO, facts, tmp_path) == memory_estimate(DEMO, facts)
    (path,) = (tmp_path / ".probes").iterdir()
    for broken in ("{", "[]", '{"mib": 1}'):
        path.write_text(broken)
        assert read_probe(DEMO, tmp_path) is None


# How far it was off ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimated", "found", "words"), [(100, 100.4, "right"), (110, 100, "10 % too high"), (70, 100, "30 % too low")]
)
def test_the_error_of_an_estimate_in_words(estimated, found, words):
    assert off_by(estimated, found) == words


def test_the_words_name_range_peak_and_error():
    words = memory_words((500.0, 600.0, 800.0), 750.0)
    assert "500 MiB to 800 MiB of memory, most likely 600 MiB" in words and "took 750 MiB at most" in words
    assert "20 % too low, within the range" in words and "outside the range" in memory_words(
        (500.0, 600.0, 700.0), 750.0
    )
    assert memory_words(None, 750.0) == memory_words((500.0, 600.0, 800.0), float("nan")) == ""


def test_a_run_says_afterwards_how_far_the_estimate_was_off(tiny_run, without_drift, capsys):
    run = tiny_run("sd3")
    assert train(run) == 0
    (start,), (end,) = events(run, "start"), events(run, "end")
    steps = [event["memory_mib"] for event in events(run, "step")]
    assert end["memory_mib"] == max(steps) and end["expected_mib"] == start["expected_mib"]
    low, likely, high = start["expected_mib"]
    assert 0 < low <= likely <= high
    log = follow(run)
    assert log.expected_mib == (low, likely, high) and log.peak_mib == max(steps)
    words = end_memory_words(end)
    assert off_by(likely, max(steps)) in words
    store = RunStore(run.path.parent)
    assert words.split(". A step")[0] in head(store.summary(run), log, None)


def test_the_log_and_the_terminal_say_it(capsys):
    import io

    from rollout_studio.app.cli.progress import Progress
    from rollout_studio.core.train.worker import _log

    end = {
        "event": "end",
        "state": "done",
        "step": 3,
        "message": None,
        "memory_mib": 750.0,
        "expected_mib": [500.0, 600.0, 800.0],
    }
    _log(end)
    assert "20 % too low" in capsys.readouterr().out
    stream = io.StringIO()
    Progress(stream)(end)
    assert "Done at step 3. Before the start" in stream.getvalue()
    prepared = {
        "event": "prepared",
        "seconds": 0.2,
        "reused": 9,
        "made": 0,
        "rebuilt": 0,
        "encoders_opened": False,
        "removed_bytes": 0,
    }
    _log(prepared)
    Progress(stream)(prepared)
    for said in (capsys.readouterr().out, stream.getvalue()):
        assert "9 from the cache, 0 made; the text encoders were not opened." in said


def test_the_command_measures_and_trains_nothing(tiny_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probes, "run_probe", lambda config, runs_dir: MEASURED)
    path = tmp_path / "config.json"
    path.write_text(tiny_config().to_json(), encoding="utf-8")
    assert cli.main(["train", "--config", str(path), "--runs-dir", str(tmp_path / "runs"), "--probe"]) == 0
    said = capsys.readouterr().err
    assert (
        "A step takes 700 MiB (750 MiB at the peak; 2 steps on cpu, 1 with a rollout)" in said
        and "10 % too low" in said
    )
    assert not list((tmp_path / "runs").glob("*/config.json"))
    assert json.loads(path.read_text(encoding="utf-8"))["seed"] == 42
