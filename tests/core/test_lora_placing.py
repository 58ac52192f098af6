"""Where a run's LoRA goes: its layouts, its sidecar, its copy for another program; what is refused before training; what the file publishes."""

import json

import pytest
from rollout_studio.core.adapters import ExportError
from rollout_studio.core.adapters.header import lora_metadata, published_config, read_header
from rollout_studio.core.adapters.placing import place, sidecar_text
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file
from tiny_run import events

BASE = {"ss_base_model_version": "sd_v1", "architecture": "stable-diffusion-v1"}
WRITTEN = {
    "trigger_word": "sks", "instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog", "validation_prompts": ["sks on a hill"],
    "validation_negative_prompt": "ugly cats", "instance_data_dir": "/home/ada/secret-dogs", "data_cache_dir": "/home/ada/hidden-cache",
    "lora_folder": "/home/ada/private-loras", "pretrained_model_name_or_path": "/home/ada/my-own-model",
}  # fmt: skip
TEXTS = ("sks", "a photo of a dog", "ugly cats")
FOLDERS = ("secret-dogs", "hidden-cache", "private-loras", "my-own-model")


# The run -------------------------------------------------------------------------------------------------------------------


def test_a_run_writes_both_layouts_their_sidecars_and_a_copy_for_other_tools(tiny_run, without_drift, tmp_path):
    folder = tmp_path / "loras"
    folder.mkdir()
    run = tiny_run(
        "sd1", "cat", max_train_steps=1, lora_layout="both", lora_folder=str(folder), trigger_word="sks", lora_alpha=7.0
    )
    assert train(run) == 0
    [event] = events(run, "exported")
    assert [(each["path"], each["layout"]) for each in event["files"]] == [
        ("lora/cat.safetensors", "diffusers"), ("lora/cat-kohya.safetensors", "kohya")]  # fmt: skip
    assert all(each["check"]["passed"] and each["check"]["used"] == each["check"]["total"] for each in event["files"])
    assert (event["path"], event["check"]) == (event["files"][0]["path"], event["files"][0]["check"])
    names = sorted(file.name for file in run.lora_path.iterdir())
    assert names == ["cat-kohya.json", "cat-kohya.safetensors", "cat.json", "cat.safetensors", "placed.json"]
    assert event["placed"] == str(folder / "cat.safetensors")
    assert (folder / "cat.safetensors").read_bytes() == (run.lora_path / "cat-kohya.safetensors").read_bytes()
    assert json.loads((folder / "cat.json").read_text(encoding="utf-8"))["activation text"] == "sks"
    tensors = load_file(folder / "cat.safetensors")
    assert {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")} == {7.0}
    assert read_header(folder / "cat.safetensors")["__metadata__"]["ss_output_name"] == "cat"


def test_a_folder_that_vanished_during_training_costs_the_copy_and_not_the_run(tiny_run, without_drift, tmp_path):
    run = tiny_run("sd1", "cat", max_train_steps=1, lora_folder=str(tmp_path / "gone"))
    assert train(run) == 0
    assert events(run, "exported")[0]["placed"] is None and (run.lora_path / "cat.safetensors").is_file()
    assert any("there is no such folder" in event["message"] for event in events(run, "warning"))


# The copy ------------------------------------------------------------------------------------------------------------------


def test_a_copy_never_replaces_a_file_of_others_and_always_its_own(tmp_path):
    lora, folder, record = tmp_path / "run" / "cat.safetensors", tmp_path / "loras", tmp_path / "run"
    record.mkdir()
    folder.mkdir()
    lora.write_bytes(b"first")
    (folder / "cat.safetensors").write_bytes(b"of another run")
    assert place(lora, folder, "cat", record) == folder / "cat-2.safetensors"
    lora.write_bytes(b"second")
    assert place(lora, folder, "cat", record) == folder / "cat-2.safetensors", "its own is replaced"
    assert (folder / "cat-2.safetensors").read_bytes() == b"second"
    (folder / "cat-2.safetensors").write_bytes(b"put there by somebody since")
    assert place(lora, folder, "cat", record) == folder / "cat-3.safetensors"
    assert (folder / "cat.safetensors").read_bytes() == b"of another run"
    assert (folder / "cat-2.safetensors").read_bytes() == b"put there by somebody since"


def test_new_tokens_go_along_and_never_replace_those_of_another_lora(tmp_path):
    lora, folder, record = tmp_path / "run" / "cat.safetensors", tmp_path / "loras", tmp_path / "run"
    embedding = record / "embeddings" / "qrx.safetensors"
    embedding.parent.mkdir(parents=True)
    folder.mkdir()
    for content in (b"first", b"second, of the same run"):
        lora.write_bytes(content)
        embedding.write_bytes(content)
        assert place(lora, folder, "cat", record, embedding) == folder / "cat.safetensors"
        assert (folder / "embeddings" / "qrx.safetensors").read_bytes() == content
    (tmp_path / "other").mkdir()
    embedding.write_bytes(b"third")
    with pytest.raises(ExportError, match="for another LoRA"):
        place(lora, folder, "dog", tmp_path / "other", embedding)
    assert sorted(file.name for file in folder.iterdir()) == ["cat.safetensors", "embeddings"]
    assert (folder / "embeddings" / "qrx.safetensors").read_bytes() == content


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    lora, folder = tmp_path / "cat.safetensors", tmp_path / "loras"
    folder.mkdir()
    lora.write_bytes(b"whole")

    def full(source, target):
        target.write_bytes(b"wh")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(ExportError, match="No space"):
        place(lora, folder, "cat", tmp_path)
    assert not list(folder.iterdir())


def test_without_a_trigger_word_there_is_no_sidecar():
    assert sidecar_text(config_from_flat({}), "sd_v1") is None
    said = json.loads(sidecar_text(config_from_flat({"trigger_word": "sks"}), "sdxl_base_v1-0"))
    assert (said["activation text"], said["sd version"], said["preferred weight"]) == ("sks", "SDXL", 1.0)


# Before a start ------------------------------------------------------------------------------------------------------------


def refused(run, option):
    return [finding for finding in preflight(config_from_flat(run.read_config())) if finding.where == option]


@pytest.mark.parametrize("variant", ["sd3_without_t5", "lumina2", "sana", "auraflow", "pixart", "flux", "chroma"])
def test_a_layout_that_could_not_be_proven_is_refused_with_the_reason(variant, tiny_run):
    [finding] = refused(tiny_run(variant, lora_layout="kohya"), "lora_layout")
    assert finding.level == "error" and "Set lora_layout = diffusers" in finding.remedy
    assert (
        "3072" if variant in ("flux", "chroma") else "layout" if variant != "sana" else "key map"
    ) in finding.message
    assert not refused(tiny_run(variant, "plain"), "lora_layout")


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_kind_that_no_known_tool_reads_for_this_model_is_refused(kind, tiny_run):
    """By its names: a fused layer of FLUX and a family without the layout have others, which ComfyUI reads."""
    [finding] = refused(tiny_run("sana", lora_type=kind, lora_layout="kohya"), "lora_type")
    assert finding.level == "error" and "no names for it" in finding.message and "lora or dora" in finding.remedy
    for variant in ("lumina2", "flux", "sd1"):
        run = tiny_run(variant, variant, lora_type=kind, lora_layout="kohya")
        assert not refused(run, "lora_type") and not refused(run, "lora_layout")


def test_a_rank_pattern_that_fits_no_layer_is_refused_before_a_start_with_near_names(tiny_run):
    [finding] = refused(tiny_run("sd1", lora_rank_pattern=["attn3=4", "to_q=2"]), "lora_rank_pattern")
    assert finding.level == "error" and "attn3 is in the name of none" in finding.message and "attn2" in finding.remedy
    assert not refused(
        tiny_run("sd1", "sound", lora_rank_pattern=["attn2=4", "down_blocks.*.attentions=2:1"]), "lora_rank_pattern"
    )


def test_a_layer_without_a_name_in_the_layout_is_refused(tiny_run):
    assert not refused(tiny_run("sdxl", "usual", lora_layout="both"), "lora_layout")
    [finding] = refused(tiny_run("sdxl", lora_layout="both", lora_targets=["to_q", "conv1"]), "lora_layout")
    assert finding.level == "error" and "resnets" in finding.message


@pytest.mark.parametrize(
    ("variant", "options", "words"),
    [("sd3_without_t5", {}, "no file of another layout"), ("sdxl", {"lora_targets": ["conv1"]}, "resnets")],
)
def test_a_run_whose_model_was_not_here_before_refuses_the_layout_before_it_trains(
    variant, options, words, tiny_run, without_drift
):
    """A hub id is known to nobody until it is downloaded; the process that trains asks again."""
    run = tiny_run(variant, lora_layout="kohya", validation_prompts=[], **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout_studio.core.before.preflight.CHECKS", ())
        assert train(run) == 78
    assert words in events(run, "error")[-1]["message"] and not events(run, "step")


def test_a_folder_that_is_not_there_or_takes_no_files_is_refused(tiny_run, tmp_path, monkeypatch):
    [finding] = refused(tiny_run("sd1", lora_folder=str(tmp_path / "none")), "lora_folder")
    assert finding.level == "error" and "does not exist" in finding.message
    (tmp_path / "file").write_text("")
    [finding] = refused(tiny_run("sd1", "two", lora_folder=str(tmp_path / "file")), "lora_folder")
    assert "is a file" in finding.message
    run = tiny_run("sd1", "three", lora_folder=str(tmp_path))
    assert not refused(run, "lora_folder")

    def forbidden(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    assert [finding.code for finding in refused(run, "lora_folder")] == ["not-writable"]


def test_a_name_that_is_taken_there_is_said_before_the_start(tiny_run, tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "cat.safetensors").write_bytes(b"")
    config = config_from_flat(tiny_run("sd1", "other", lora_folder=str(tmp_path / "loras")).read_config())
    found = [
        finding for finding in preflight(config, run_dir=tmp_path / "runs" / "cat") if finding.where == "lora_folder"
    ]
    assert [finding.level for finding in found] == ["note"] and "stays" in found[0].message


# What the file publishes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("folders", [True, False])
def test_folders_and_texts_are_in_the_header_as_the_options_say(folders, texts):
    config = config_from_flat({**WRITTEN, "publish_folders": folders, "publish_texts": texts})
    header = json.dumps(lora_metadata(config, BASE, title="thing", step=3))
    assert [word in header for word in TEXTS] == [texts] * len(TEXTS)
    assert [word in header for word in FOLDERS] == [folders] * len(FOLDERS)
    assert "/home/ada" not in header
    assert (
        config_from_flat(published_config(config)).lora
        == config_from_flat({"lora_folder": "private-loras" if folders else None}).lora
    )


def test_a_model_that_everybody_can_get_is_named_in_any_case():
    for name in ("demo-flow", "stabilityai/stable-diffusion-xl-base-1.0"):
        config = config_from_flat({"pretrained_model_name_or_path": name, "publish_folders": False})
        assert lora_metadata(config, BASE, title="thing", step=None)["ss_sd_model_name"] == name
