"""Refusals that no test of their subject comes to: each is said as an error of its class, with what to do."""

import json

import pytest
from huggingface_hub import errors
from rollout_studio.core import platform_calls
from rollout_studio.core.adapters.header import ExportError, config_of_header
from rollout_studio.core.captioning import models, tagger
from rollout_studio.core.captioning.models import CaptionError
from rollout_studio.core.look.drift.report import ReportError
from rollout_studio.core.runs.archive import pack
from rollout_studio.core.runs.errors import RunError, StorageError
from rollout_studio.core.runs.notes import FILE, Notes, read_notes
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.study import begun
from rollout_studio.core.study.measures import measured
from rollout_studio.core.study.plan import StudyError

STUDY = {"study": "mine", "preset": "demo", "grid": {"learning_rate": [0.001, 0.002]}, "seeds": [1]}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"tags": tuple(map(str, range(13)))}, "13 tags: a run has at most 12"),
        ({"tags": ("a,b",)}, "without a comma"),
        ({"tags": ("",)}, "1 to 32 characters"),
        ({"note": "x" * 10_001}, "at most 10000 are kept"),
    ],
)
def test_notes_that_are_too_many_or_too_long(notes, words):
    with pytest.raises(RunError, match=words):
        Notes(**notes)


def test_of_runs(store, tmp_path):
    run = store.create({}, "mine")
    (run.path / FILE).write_text(json.dumps({"tags": "one"}), encoding="utf-8")
    with pytest.raises(RunError, match="holds no notes.*Remove it"):
        read_notes(run)
    with pytest.raises(RunError, match="lies in the run itself. Name a place outside"):
        pack(run, run.path / "mine.zip")
    with pytest.raises(RunError, match="is not waiting in the queue"):
        store.move("mine", 1)
    with pytest.raises(RunError, match="state = 'asleep': must be one of"):
        run.write_state(state="asleep")
    run.write_state(state="done")
    with pytest.raises(RunError, match="is done; there is nothing to retry"):
        store.retry("mine")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be made"):
        RunStore(tmp_path / "file" / "runs")


def test_of_studies_that_were_begun(store, monkeypatch):
    monkeypatch.setattr(begun, "what_stops", lambda study, root: [])
    monkeypatch.setattr(begun.platform_calls, "start_detached", lambda *given, **how: type("Child", (), {"pid": 1}))
    monkeypatch.setattr(begun, "adopt", lambda child: None)
    begun.begin(STUDY, store)
    with pytest.raises(StudyError, match="There is a study mine already"):
        begun.begin(STUDY, store)
    monkeypatch.setattr(platform_calls, "is_alive", lambda who: True)
    with pytest.raises(StudyError, match="The study mine is running"):
        begun.go_on("mine", store)
    with pytest.raises(StudyError, match="There is no study other"):
        begun.stop("other", store)
    monkeypatch.setattr(begun, "what_stops", lambda study, root: [(study.variants[0], [])])
    with pytest.raises(StudyError, match="may not start"):
        begun.begin({**STUDY, "study": "second"}, store)


def test_of_a_drift_report_that_is_gone(store):
    run = store.create({}, "mine")
    run.emit("drift", step=3, path="drift/step-000003/report.json", summary={})
    with pytest.raises(ReportError, match="cannot be read.*Measure the run's drift again"):
        measured(run)


@pytest.mark.parametrize("carried", ["[1]", "{"])
def test_of_settings_in_a_lora_that_cannot_be_read(carried):
    with pytest.raises(ExportError, match="cannot be read.*Bring the config.json"):
        config_of_header({"__metadata__": {"rollout_studio_config": carried}}, "a.safetensors")


def test_of_models_that_write_captions(tmp_path):
    with pytest.raises(CaptionError, match="only a hub id has revisions.*Leave it unset"):
        models.find(str(tmp_path), "main")
    with pytest.raises(CaptionError, match="there is no such folder"):
        models.find(str(tmp_path / "gone"))
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CaptionError, match="holds no JSON object"):
        models.find(str(tmp_path))
    (tmp_path / "selected_tags.csv").write_text("tag,kind\nlong_hair,0\n", encoding="utf-8")
    with pytest.raises(CaptionError, match="columns must include name and category"):
        tagger.read_tags(tmp_path / "selected_tags.csv")


class _Answer:
    """What the hub's library wants of an answer."""

    headers, status_code, request = {}, 404, None


@pytest.mark.parametrize(
    ("kind", "words"),
    [(errors.GatedRepoError, "is gated.*Accept its terms"), (errors.RepositoryNotFoundError, "or it is private.*spelling"), (OSError, "could not be fetched.*Try again")],
)  # fmt: skip
def test_of_a_hub_that_does_not_give_a_model(kind, words):
    error = OSError("reset") if kind is OSError else kind("no", response=_Answer())
    with pytest.raises(CaptionError, match=words), models._refusing("owner/model", None):
        raise error
