"""Class pictures: drawn by the untrained model of every family, resumable after a kill, and never mixed with another model's unseen."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import read_config, with_changes
from rollout_studio.core.data import DatasetError, prepare, progress, scan
from rollout_studio.core.data.class_record import RECORD, BadRecord, read_record, record_findings, settings_of
from rollout_studio.core.families import load_model
from rollout_studio.core.findings import has_errors
from rollout_studio.core.train.loop import train
from tiny import ONE_PER_FAMILY
from tiny_run import ROLLOUT, events

PRIOR = {"with_prior_preservation": True, "class_prompt": "a circle", "class_sample_steps": 2, "num_class_images": 5}
FAMILIES = [name if name == "lumina2" else pytest.param(name, marks=pytest.mark.slow) for name in ONE_PER_FAMILY]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def drawn(tiny_run, tmp_path):
    """A config's changes -> its class pictures, by name, made in a folder of the test's own."""

    number = count()

    def make(folder: str, progress=None, **changes):
        run = tiny_run("lumina2", f"run-{next(number)}", **PRIOR | {"class_data_dir": str(tmp_path / folder)} | changes)
        config = read_config(run.config_path)
        model = load_model(config.model, for_training=False)
        prepared = prepare(model, config, scan(config.data), tmp_path / "cache", progress)
        return files(tmp_path / folder), prepared

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_on_class_pictures_that_its_untrained_model_drew(name, tiny_run, without_drift):
    run = tiny_run(name, **PRIOR | {"num_class_images": 3}, **ROLLOUT, max_train_steps=2)
    assert train(run) == 0
    [folder] = (run.path.parent / ".cache" / "class").iterdir()
    model = load_model(read_config(run.config_path).model, for_training=False)
    untrained = model.sample(["a circle"] * 4, steps=2, seed=42, height=32, width=32)
    from PIL import Image

    for number in range(3):
        with Image.open(folder / f"class-{number:06d}.png") as picture:
            assert picture.tobytes() == untrained[number].tobytes()
    assert not (folder / "class-000003.png").exists()
    for event in events(run, "step"):
        assert event["rows"] == 4 and event["loss_parts"]["prior"] > 0
    progress = [(event["done"], event["total"]) for event in events(run, "phase") if event["name"] == "class pictures"]
    assert progress[-1] == (3, 3)


class Killed(BaseException):
    pass


def test_after_an_end_in_the_middle_only_what_lacks_is_drawn_and_the_set_is_the_undisturbed_one(
    drawn, tmp_path, monkeypatch
):
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.0)  # every group is reported, however fast it comes
    whole, _ = drawn("whole", num_class_images=9)
    assert len(set(whole.values())) == 10, "nine different pictures and their record"

    def end_in_the_second_group(what, done, total):
        if what == "class pictures" and done == 4:
            raise Killed

    with pytest.raises(Killed):
        drawn("parts", end_in_the_second_group, num_class_images=9)
    there = files(tmp_path / "parts")
    assert sorted(there) == [*(f"class-00000{number}.png" for number in range(4)), RECORD]
    times = {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in there if name != RECORD}
    again, prepared = drawn("parts", num_class_images=9)
    assert again == whole and prepared.counts.generated == 5
    assert times == {name: (tmp_path / "parts" / name).stat().st_mtime_ns for name in times}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no such signal")
def test_a_killed_process_leaves_whole_pictures_that_the_next_start_goes_on_from(tiny_run, tmp_path, without_drift):
    setting = PRIOR | {"num_class_images": 40, "class_sample_steps": 20, "max_train_steps": 1}
    whole, parts = (
        tiny_run("lumina2", name, **setting, class_data_dir=str(tmp_path / name)) for name in ("whole", "parts")
    )
    assert train(whole) == 0
    command = [sys.executable, "-m", "rollout_studio.core.train.worker", str(parts.path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    until = time.monotonic() + 120
    while not (tmp_path / "parts" / "class-000005.png").exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {name: data for name, data in files(tmp_path / "parts").items() if name.endswith(".png") and name[0] != "."}
    assert 6 <= len(left) < 40, "killed in the middle"
    undisturbed = files(tmp_path / "whole")
    assert all(undisturbed[name] == data for name, data in left.items())
    assert train(parts) == 0
    after = files(tmp_path / "parts")
    assert {name: data for name, data in after.items() if name[0] != "."} == undisturbed
    assert events(parts, "prepared")[-1]["class_pictures"] == 40 - len(left)


def test_where_memory_runs_out_fewer_are_drawn_together(drawn, monkeypatch):
    from rollout_studio.core.families.base import Model

    sample, asked = Model.sample, []

    def small(self, prompts, *, batch_size, **how):
        asked.append(batch_size)
        if batch_size > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return sample(self, prompts, batch_size=batch_size, **how)

    monkeypatch.setattr(Model, "sample", small)
    pictures, prepared = drawn("small")
    assert asked == [4, 2, 1, 1] and len(pictures) == 6, "it is learnt once"
    [remark] = [each for each in prepared.problems if each.code == "class-pictures-fewer-together"]
    assert "more than 1 class picture at a time" in remark.message
    monkeypatch.setattr(Model, "sample", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        drawn("none")


def test_how_pictures_were_made_is_written_beside_them(drawn, tmp_path):
    drawn("made")
    [(settings, names)] = read_record(tmp_path / "made")
    assert names == [f"class-00000{number}.png" for number in range(5)]
    assert settings["class_prompt"] == "a circle" and settings["seed"] == 42 and settings["class_sample_steps"] == 2
    (tmp_path / "made" / names[0]).unlink()
    assert read_record(tmp_path / "made")[0][1] == names[1:], "what is gone is claimed no longer"
    assert read_record(tmp_path / "nowhere") == []


def test_another_model_or_prompt_in_the_same_folder_is_refused_and_not_mixed(drawn, tmp_path, tiny_run):
    before, _ = drawn("made")
    with pytest.raises(DatasetError, match='class_prompt was "a circle", is "a square"') as refused:
        drawn("made", class_prompt="a square", num_class_images=8)
    assert "3 more would be mixed" in refused.value.message and files(tmp_path / "made") == before
    run = tiny_run("lumina2", **PRIOR | {"num_class_images": 8}, class_data_dir=str(tmp_path / "made"))
    config = read_config(run.config_path)
    assert not [each for each in preflight(config) if each.code.startswith("class-pictures-")], "the same settings"
    for change in ({"class_prompt": "a square"}, {"revision": "another"}):
        [found] = [each for each in preflight(with_changes(config, change)) if each.code == "class-pictures-of-another"]
        assert (found.level, found.where) == ("error", "class_data_dir") and RECORD in found.remedy
    few = with_changes(config, {"class_prompt": "a square", "num_class_images": 5})
    [found] = record_findings(tmp_path / "made", few, 0)
    assert found.level == "warning" and "trained on as they are" in found.message


def test_pictures_drawn_more_finely_beside_others_are_told_and_recorded(drawn, tmp_path):
    drawn("made", num_class_images=4)
    _, prepared = drawn("made", class_sample_steps=3, num_class_images=6)
    [found] = [each for each in prepared.problems if each.code == "class-pictures-mixed"]
    assert found.level == "warning" and "class_sample_steps was 2, is 3" in found.message
    assert [(settings["class_sample_steps"], len(names)) for settings, names in read_record(tmp_path / "made")] == [
        (2, 4),
        (3, 2),
    ]
    _, prepared = drawn("made", class_sample_steps=3, num_class_images=6)
    assert not [each for each in prepared.problems if each.code == "class-pictures-mixed"], "nothing is added"


@pytest.mark.parametrize("text", ["{", "[]", '{"made": [{"settings": 3}]}', '{"made": 5}'])
def test_a_damaged_record_is_told_and_pictures_without_one_are_anybodys(tmp_path, text, tiny_run):
    config = read_config(tiny_run("lumina2", **PRIOR).config_path)
    assert record_findings(tmp_path, config, 5) == []
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(BadRecord):
        read_record(tmp_path)
    [found] = record_findings(tmp_path, config, 5)
    assert found.code == "class-record-damaged" and not has_errors([found])


def test_what_is_recorded_is_what_the_pictures_depend_on(tiny_run):
    config = read_config(tiny_run("lumina2", **PRIOR).config_path)
    assert json.loads(json.dumps(settings_of(config))) == settings_of(config)
    for change in (
        {"class_prompt": "x"},
        {"seed": 7},
        {"resolution": 64},
        {"class_sample_guidance": 2.0},
        {"revision": "main"},
    ):
        assert settings_of(with_changes(config, change)) != settings_of(config)
    assert settings_of(with_changes(config, {"learning_rate": 0.5})) == settings_of(config)
