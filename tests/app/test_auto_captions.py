"""Automatic captions on the page without a browser, and on the command line. The work itself: `tests/core/test_captioning.py`."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from rollout_studio.app.cli.answers import BAD_CONFIG, DONE
from rollout_studio.app.cli.main import main
from rollout_studio.app.parts.forms import to_component
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.train.pictures.auto_captions import AutoCaptions, state_card
from rollout_studio.app.train.pictures.captions import Draft, DroppedSets, Edits, Refused
from rollout_studio.app.train.pictures.editing import SetEditor
from rollout_studio.core.captioning import writing
from rollout_studio.core.captioning.folder import Skipped
from rollout_studio.core.captioning.job import JobState
from rollout_studio.core.captioning.settings import OPTIONS, CaptionSettings
from rollout_studio.core.config import load_preset, with_changes
from rollout_studio.core.demo import DREAMBOOTH

HOSTILE = "<script>alert(1)</script>${alert(2)}{{value}}\"'`"


@pytest.fixture
def model(tmp_path):
    """A tagger that is opened only by the quick worker."""
    (tmp_path / "model").mkdir()
    for name in ("model.onnx", "selected_tags.csv", "go"):
        (tmp_path / "model" / name).write_text("")
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    for number in range(3):
        Image.new("RGB", (60, 50), (80 * number,) * 3).save(place / f"{number}.png")
    return place


@pytest.fixture
def fold(tmp_path, monkeypatch):
    """The fold over an empty runs folder, with the quick worker."""
    import gradio as gr

    quick = Path(__file__).parents[1] / "quick_captions_worker.py"
    monkeypatch.setattr("rollout_studio.core.captioning.job.COMMAND", (sys.executable, str(quick)))
    watch = Watch(tmp_path / "runs")
    with gr.Blocks():
        return AutoCaptions(SetEditor(DroppedSets(watch.store.root / ".pictures"), watch.store), watch)


def given(fold, **values):
    settings = {name: to_component(option, option.default) for name, option in OPTIONS.items()} | values
    return {fold.fields[name]: value for name, value in settings.items()}


def data(folder, **changes):
    return with_changes(
        load_preset("demo"), {"instance_data_dir": str(folder), "with_prior_preservation": False, **changes}
    ).data


def test_every_setting_has_a_field_that_gives_it_back(fold, model):
    assert set(fold.fields) == set(OPTIONS)
    assert fold.fields["detail"].choices[0] == ("unset", "automatic") and len(fold.fields["detail"].choices) == 4
    assert fold.settings(given(fold)) == CaptionSettings()
    other = {
        "model": str(model),
        "threshold": "0.4",
        "existing": "back up",
        "device": "cuda:1",
        "max_tokens": "30",
        "batch_size": 2,
    }
    assert fold.settings(given(fold, **other)) == CaptionSettings(**{**other, "threshold": 0.4, "max_tokens": 30})


@pytest.mark.parametrize(
    ("place", "changes", "fields", "words"),
    [
        (DREAMBOOTH, {}, {}, "built in"),
        (None, {"caption_strategy": "filename"}, {}, "do not come from text files"),
        (None, {}, {"threshold": "7"}, "caption_threshold = \"7\": must be at most 1"),
        (None, {}, {"prompt": "a photo"}, "a tagger has no such setting"),
        (None, {}, {"model": "owner/none"}, "not on this computer.*Allow the download"),
        (None, {}, {"model": "/no/where"}, "no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_refused_and_nothing_is_written(fold, model, folder, place, changes, fields, words):
    place = folder if place is None else place
    with pytest.raises(Refused, match=words):
        fold.begin(given(fold, **{"model": str(model), **fields}), data(place, **changes), Edits(str(place)))
    assert not list(folder.glob("*.txt")) and fold.job(place) is None


def test_typed_captions_another_folder_and_a_training_on_the_device_stand_in_the_way(fold, model, folder):
    now = given(fold, model=str(model), device="cpu")
    with pytest.raises(Refused, match="Save or discard"):
        fold.begin(now, data(folder), Edits(str(folder), drafts={"0.png": Draft("a", "")}))
    with pytest.raises(Refused, match="Another folder"):
        fold.begin(now, data(folder), Edits("/elsewhere"))
    run = fold.watch.store.create({"device": "cpu"}, "busy")
    with run.lock():
        run.write_state(state="running", step=1)
        with pytest.raises(Refused, match=r"busy is training on this device \(cpu\)"):
            fold.begin(now, data(folder), Edits(str(folder)))
    assert not list(folder.glob("*.txt"))


def test_a_start_belongs_to_its_folder_and_a_second_one_joins_it(fold, model, folder):
    now, edits = given(fold, model=str(model), trigger_word="qrx"), Edits(str(folder))
    (model / "go").unlink()
    assert fold.begin(now, data(folder), edits).folder is None
    job = fold.job(folder)
    assert "being written already" in fold.begin(now, data(folder), edits).infos[0] and fold.job(folder) is job
    assert fold.shown(folder, {})[fold.timer].active and fold.job(folder.parent) is None
    (model / "go").touch()
    state = job.wait(60)
    assert (state.phase, state.written) == ("finished", 3)
    assert {path.read_text() for path in folder.glob("*.txt")} == {
        f"qrx, a picture of brightness {80 * n}\n" for n in range(3)
    }
    first = fold.shown(folder, {})
    assert first[fold.timer].active  # once more, so that what is final arrives
    last = fold.shown(folder, first[fold.seen])
    assert not last[fold.timer].active and last[fold.seen]["reread"] == first[fold.seen]["reread"] == [3, True]


def test_a_dropped_set_that_a_run_was_made_with_stays_as_it_is(fold, model, folder):
    dropped = fold.editor.sets.add(sorted(folder.glob("*.png"))).folder
    fold.watch.store.create({"instance_data_dir": str(dropped)}, "older")
    answer = fold.begin(given(fold, model=str(model)), data(dropped), Edits(str(dropped)))
    assert answer.copied and answer.folder != dropped and "copy of the set" in answer.infos[0]
    assert fold.job(answer.folder).wait(60).written == 3
    assert len(list(answer.folder.glob("*.txt"))) == 3 and not list(dropped.glob("*.txt"))


def test_the_card_says_how_it_ended_and_markup_in_names_and_captions_stays_text():
    state = JobState(
        "writing",
        device="cpu",
        total=9,
        done=4,
        written=3,
        last=f"a.png: {HOSTILE}",
        skipped=(Skipped(HOSTILE, "it is broken.", "Mend it."),) * 7,
    )
    card = state_card(state)
    assert "4 of 9 pictures, on cpu" in card and 'value="4"' in card and "And 2 more left out" in card
    assert not any(piece in card for piece in ("<script", "${", "{{", "`"))
    failed = state_card(JobState("failed", written=2, message="The memory is full.", remedy="Take fewer."))
    assert (
        "rs-bad" in failed
        and "Not finished: 2 captions written." in failed
        and "The memory is full. Take fewer." in failed
    )
    assert "Downloading model.safetensors: 1.0 MiB of 4.0 MiB" in state_card(
        JobState("downloading", last="model.safetensors", bytes_=(2**20, 2**22))
    )


# -- the command line -------------------------------------------------------------------------------------------------------


def test_the_command_line_writes_prints_and_names_what_it_left_out(folder, model, monkeypatch, capsys):
    import quick_captions_worker

    monkeypatch.setattr(writing, "open_describer", quick_captions_worker.quick)
    (folder / "1.png").write_bytes(b"none")
    (folder / "2.txt").write_text("mine")
    assert main(["caption", str(folder), "--model", str(model), "--dry-run"]) == DONE
    out = capsys.readouterr().out
    assert "2 pictures of" in out and "1 have a caption" in out and "is on this computer: a tagger" in out
    assert not (folder / "0.txt").exists()
    assert main(["caption", str(folder), "--model", str(model), "--trigger-word", "qrx", "--batch-size", "1"]) == DONE
    out, err = capsys.readouterr()
    assert out == "0.png: qrx, a picture of brightness 0\n" and "Left out: 1.png: it is not a picture" in err
    assert "1 caption written, 1 picture left out." in err
    assert (folder / "0.txt").read_text() == "qrx, a picture of brightness 0\n" and (
        folder / "2.txt"
    ).read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--threshold", "7", "--existing", "no"], ["caption_threshold = \"7\"", "caption_existing = \"no\""]),
        (["--model", "/no/where"], ["there is no such folder"]),
        (["--tresh", "7"], ["Unknown option 'tresh'"]),
    ],
)  # fmt: skip
def test_the_command_line_refuses_in_one_message_without_a_traceback(folder, capsys, flags, words):
    assert main(["caption", str(folder), *flags]) == BAD_CONFIG
    err = capsys.readouterr().err
    assert all(each in err for each in words) and "Traceback" not in err and not list(folder.glob("*.txt"))


def test_every_setting_is_a_flag_with_its_help(capsys):
    main(["caption", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name.replace('_', '-')}" in out for name in OPTIONS)
