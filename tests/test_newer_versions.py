"""What a newer version wrote is refused whole, with the sentence that says so, and nothing is changed by that."""

import json
import shutil
from pathlib import Path

import pytest
from rollout_studio import __version__
from rollout_studio.core import formats
from rollout_studio.core.adapters.header import ExportError, config_of_header, lora_metadata, read_metadata
from rollout_studio.core.adapters.lora_file import LoraError, read_lora_header
from rollout_studio.core.config import RunConfig, config_from_flat, config_to_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.config.own_presets import own_presets, save_preset
from rollout_studio.core.foreign.importing import import_file, import_run
from rollout_studio.core.look.drift.files import read_report
from rollout_studio.core.look.drift.report import ReportError
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.errors import RunError
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.study.begun import begin
from rollout_studio.core.study.plan import StudyError, study_of
from rollout_studio.core.train.loop import train
from rollout_studio.nodes.graph.graph import GraphError, to_data
from rollout_studio.nodes.reading import read, read_file

OLD = Path(__file__).parent / "fixtures" / "version-0.1"
NEWER = "was written by a newer version 9.1 of Rollout Studio"
SOME_NEWER = "was written by a newer version of Rollout Studio"
REMEDY = f"this is {__version__}. Update Rollout Studio to open it."


@pytest.fixture
def store(tmp_path) -> RunStore:
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    return RunStore(tmp_path / "runs")


def rewritten(path, **fields):
    """A JSON file with some fields as a newer version would have them."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("state.json", {"format": formats.FORMATS["run"] + 1, "version": "9.1"}),
        ("config.json", {"_format": formats.FORMATS["settings"] + 1, "_version": "9.1"}),
    ],
)
def test_a_run_is_listed_with_the_sentence_and_neither_resumed_nor_imported_nor_copied(store, file, fields):
    run = store.get("interrupted")
    rewritten(run.path / file, **fields)
    before = files_of(run.path)
    row = next(row for row in store.list() if row.name == "interrupted")
    assert row.state == "failed" and NEWER in row.message and row.message.endswith(REMEDY) and not row.resumable
    for refused in (store.retry, lambda name: store.clone(name, "copy")):
        with pytest.raises(RunError, match=NEWER):
            refused("interrupted")
    if file == "config.json":
        with pytest.raises(RunError, match=NEWER):
            import_run(run)
        with pytest.raises(ConfigError, match=NEWER):
            import_file(run.config_path)
    else:
        with pytest.raises(RunError, match=NEWER):
            train(run, resume=True)
    assert files_of(run.path) == before


def test_a_checkpoint_is_refused_and_no_older_one_is_taken_in_its_place(store, monkeypatch):
    run = store.get("interrupted")
    newest = run.checkpoints_path / "step-000009"
    shutil.copytree(run.checkpoints_path / "step-000008", newest)
    rewritten(newest / "manifest.json", format=checkpoint.DIVIDED_FORMAT + 1, version="9.1", files={"unknown": {}})
    with pytest.raises(checkpoint.NewerCheckpoint, match=NEWER):
        checkpoint.load_latest(run.checkpoints_path)
    assert train(run, resume=True) == 78
    assert NEWER in run.read_state()["message"] and len(checkpoint.checkpoints(run.checkpoints_path)) == 2
    assert max(event["step"] for event in run.events()[0] if event["event"] == "step") == 8  # nothing is forgotten


def test_settings_of_a_newer_version_with_an_option_that_is_not_known_here_are_refused_for_that(store):
    """Also where the format is the same: an option alone raises no number."""
    rewritten(store.get("interrupted").config_path, _version="9.1", better_than_rollout=3)
    with pytest.raises(ConfigError, match=f"{NEWER}.*the options better_than_rollout"):
        config_from_flat(store.get("interrupted").read_config())
    with pytest.raises(ConfigError, match="Unknown option 'better_than_rollout'"):
        config_from_flat({"_version": __version__, "better_than_rollout": 3})


def test_an_own_preset_is_listed_as_broken_with_the_sentence(tmp_path):
    kept = save_preset(tmp_path, "mine", "Mine", config_from_flat({"seed": 7}))
    assert own_presets(tmp_path)[0] == [kept]
    rewritten(kept.file, _format=formats.FORMATS["settings"] + 1, _version="9.1")
    found, broken = own_presets(tmp_path)
    assert not found and NEWER in broken[kept.file]


def lora_of(path, **notes):
    """A LoRA file with our header. Its one layer is nobody's."""
    import torch
    from safetensors.torch import save_file

    base = {"ss_base_model_version": "sd3", "architecture": "x"}
    metadata = lora_metadata(RunConfig(), base, title="x", step=1) | notes
    save_file({"a.lora_A.weight": torch.zeros(2, 3), "a.lora_B.weight": torch.zeros(3, 2)}, path, metadata)
    return path


def test_a_lora_is_neither_opened_nor_imported(tmp_path):
    read_lora_header(lora_of(tmp_path / "ours.safetensors"))
    number = str(formats.FORMATS["LoRA"] + 1)
    newer = lora_of(tmp_path / "newer.safetensors", rollout_studio_format=number, rollout_studio_version="9.1")
    for refused, error in ((read_lora_header, LoraError), (read_metadata, ExportError), (import_file, ConfigError)):
        with pytest.raises(error, match=NEWER):
            refused(newer)
    carried = {"__metadata__": {"rollout_studio_format": "one"}}
    with pytest.raises(ExportError, match="'one' is no number of a format"):
        config_of_header(carried, "odd.safetensors")


def test_the_settings_that_a_lora_carries_are_refused_by_their_own_number(tmp_path):
    flat = {**config_to_flat(RunConfig()), "_format": formats.FORMATS["settings"] + 1, "_version": "9.1"}
    path = lora_of(tmp_path / "lora.safetensors", rollout_studio_config=json.dumps(flat))
    with pytest.raises(ConfigError, match=NEWER):
        import_file(path)
    with pytest.raises(GraphError, match=NEWER):
        read_file(path)


def test_a_workflow_is_refused():
    data = to_data(read_file(OLD / "workflows" / "compare-two-rollouts.json")[0])
    assert read(data)[1] == []
    with pytest.raises(GraphError, match=SOME_NEWER):
        read({**data, "version": formats.FORMATS["workflow"] + 1})
    for damaged in (True, "1", 0, -1, 1.5, None):
        with pytest.raises(GraphError, match="no number of a format"):
            read({**data, "version": damaged})


def test_a_study_is_refused_and_one_that_the_page_begins_says_its_format(tmp_path, monkeypatch):
    written = {"study": "s", "preset": "demo", "grid": {"seed": [1, 2]}, "seeds": [1]}
    written["grid"] = {"learning_rate": [0.001, 0.002]}
    with pytest.raises(StudyError, match=SOME_NEWER):
        study_of({**written, "format": formats.FORMATS["study"] + 1}, "s.yaml", tmp_path, tmp_path)
    store = RunStore(tmp_path / "runs")
    monkeypatch.setattr("rollout_studio.core.study.begun.go_on", lambda name, store: None)
    begin(written, store)
    kept = json.loads((store.root / ".studies" / "s" / "study-file.json").read_text(encoding="utf-8"))
    assert kept["format"] == formats.FORMATS["study"]


def test_a_drift_report_is_refused(store):
    path = store.get("interrupted").drift_path / "step-000000" / "report.json"
    read_report(path)
    rewritten(path, version=formats.FORMATS["drift report"] + 1)
    with pytest.raises(ReportError, match=SOME_NEWER):
        read_report(path)


def test_everything_that_is_written_says_its_format_and_its_version(tmp_path):
    store = RunStore(tmp_path / "runs")
    run = store.create(RunConfig(), "mine")
    config, state = run.read_config(), run.read_state()
    assert (config["_format"], config["_version"]) == (formats.FORMATS["settings"], __version__)
    assert (state["format"], state["version"]) == (formats.FORMATS["run"], __version__)
    saved = checkpoint.save(run.checkpoints_path, 1, {"trainable": {}}, {})
    manifest = json.loads((saved.path / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["format"], manifest["version"]) == (checkpoint.FORMAT, __version__)
    notes = lora_metadata(RunConfig(), {"ss_base_model_version": "sd3", "architecture": "x"}, title="x", step=1)
    assert notes["rollout_studio_format"] == str(formats.FORMATS["LoRA"])
    assert json.loads(notes["rollout_studio_config"])["_format"] == formats.FORMATS["settings"]
    kept = save_preset(tmp_path, "mine", "Mine", config_from_flat({"seed": 7}))
    assert json.loads(kept.file.read_text(encoding="utf-8"))["_format"] == formats.FORMATS["settings"]


@pytest.mark.parametrize("version", [None, "", "x", 3, ["9"], "9" * 50])
def test_a_version_that_is_none_stands_in_no_sentence(version):
    words = str(formats.refusal("run", 99, version))
    assert words.startswith(SOME_NEWER) and words.endswith(REMEDY)
    assert formats.refusal_of_version(version, "x") is None
    assert formats.refusal_of_version("0.1.9", "x") is None and formats.refusal_of_version(__version__, "x") is None
    assert formats.refusal("run", None) is None and formats.refusal("run", formats.FORMATS["run"]) is None
