"""Before anything starts: each thing that would go wrong is reported, with what to do about it, all at once, and nothing is touched."""

import ast
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rollout_studio.core import platform_calls
from rollout_studio.core.before import checks, installation, model_files
from rollout_studio.core.before.checks import computing, folders
from rollout_studio.core.before.checks import model as model_checks
from rollout_studio.core.before.checks.folders import too_long
from rollout_studio.core.before.disk import DiskEstimate, disk_estimate
from rollout_studio.core.before.model_check import ModelReport
from rollout_studio.core.before.model_files import safetensors_shapes
from rollout_studio.core.before.preflight import CHECKS, preflight
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data import scan
from rollout_studio.core.families import quantised
from rollout_studio.core.findings import Finding, by_severity, format_findings, has_errors, printable
from safetensors.numpy import save_file


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """What the small files of a Stable Diffusion 1 checkpoint say; weights of a few numbers."""
    folder = tmp_path / "model"
    write_json(folder / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "scheduler": ["diffusers", "PNDMScheduler"], "safety_checker": [None, None],
    })  # fmt: skip
    write_json(folder / "unet/config.json", {"sample_size": 8})
    write_json(folder / "vae/config.json", {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4})
    write_json(folder / "text_encoder/config.json", {"hidden_size": 16, "architectures": ["CLIPTextModel"]})
    write_json(folder / "scheduler/scheduler_config.json", {})
    save_file({"a.to_q.weight": np.zeros((20, 30), np.float32), "a.to_q.bias": np.zeros(20, np.float32), "b.conv.weight": np.zeros((4, 2, 3, 3),
              np.float32)}, folder / "unet/diffusion_pytorch_model.safetensors")  # fmt: skip
    save_file({"a": np.zeros(3, np.float32)}, folder / "vae/diffusion_pytorch_model.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, folder / "text_encoder/model.safetensors")
    return folder


@pytest.fixture
def picture_folder(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def check(tmp_path, model_folder, picture_folder, monkeypatch):
    """Flat changes of a sound config -> findings."""
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cpu")

    def make(run_dir: Path | None = tmp_path / "runs" / "new", **changes) -> list[Finding]:
        flat = {"pretrained_model_name_or_path": str(model_folder), "instance_data_dir": str(picture_folder), "instance_prompt": "a dog",
                "resolution": 64, "drift_holdout_images": 0}  # fmt: skip
        return preflight(config_from_flat(flat | changes), run_dir=run_dir)

    return make


def one(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    assert found.message and (found.remedy or found.level == "note")
    return found


def test_a_sound_set_up_has_no_errors_or_warnings_and_nothing_is_touched(check, tmp_path):
    findings = check()
    assert {finding.level for finding in findings} <= {"note"}, format_findings(findings)
    assert not (tmp_path / "runs").exists()


def test_every_check_that_is_written_is_in_the_list():
    """A file of `checks/` that the list does not know, or a function in it, would never run."""
    written = {
        f"{file.stem}.{node.name}"
        for file in Path(checks.__file__).parent.glob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and [ast.unparse(each.annotation) for each in node.args.args] == ["Situation"]
    }
    listed = {f"{check.__module__.rpartition('.')[2]}.{check.__name__}" for check in CHECKS}
    assert written and written <= listed


def test_a_start_too_far_is_a_warning_not_a_note(check):
    findings = check(scheduled_sampling_max_step_offset=12, scheduled_sampling_probability=1.0)
    found = one(findings, "rollout-far")
    assert found.level == "warning"
    assert sum(found.message in finding.message for finding in findings) == 1


def test_everything_wrong_is_reported_at_once_worst_first(check, picture_folder, tmp_path):
    (picture_folder / "0.png").write_bytes(b"")
    (picture_folder / "orphan.txt").write_text("x")
    findings = check(
        pretrained_model_name_or_path=str(tmp_path / "nowhere"), optimizer="adamw_8bit", mixed_precision="fp16", report_to="wandb",
        drift_data_dir=str(tmp_path / "no probe"), device="mps",
    )  # fmt: skip
    levels = [finding.level for finding in findings]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    codes = {finding.code for finding in findings}
    assert {
        "picture-bad",
        "caption-orphan",
        "model-missing",
        "package-missing",
        "device-missing",
        "folder-missing",
    } <= codes
    text = format_findings(findings)
    assert (
        str(tmp_path / "nowhere") in text
        and "drift_data_dir" in text
        and text.splitlines()[-1].startswith("6 errors, 2 warnings")
    )


# Pictures ----------------------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_an_error(check, tmp_path):
    (tmp_path / "empty").mkdir()
    assert one(check(instance_data_dir=str(tmp_path / "empty")), "folder-empty").level == "error"


def test_a_batch_larger_than_the_set_and_a_lonely_shape_are_reported(check, picture_folder):
    assert "only 4 pictures" in one(check(train_batch_size=8), "batch-large").message
    assert not [finding for finding in check(train_batch_size=8, repeats=2) if finding.code == "batch-large"]
    Image.new("RGB", (160, 64)).save(picture_folder / "wide.png")
    assert "shown 4 times as often" in one(check(train_batch_size=4), "bucket-small").message


def test_held_out_and_overlapping_drift_pictures_are_reported(check, picture_folder, tmp_path):
    assert "kept out of the training" in one(check(drift_holdout_images=1), "drift-held-out").message
    (tmp_path / "probe").mkdir()
    shutil.copy(picture_folder / "1.png", tmp_path / "probe")
    assert one(check(drift_data_dir=str(tmp_path / "probe")), "drift-overlap").level == "warning"
    for name in ("2.png", "3.png"):
        (picture_folder / name).unlink()
    assert one(check(drift_holdout_images=1), "drift-not-held-out").level == "note"


def test_class_pictures_that_will_be_generated_are_announced(check, tmp_path):
    prior = {"with_prior_preservation": True, "class_prompt": "a dog", "num_class_images": 7}
    assert "up to 7 pictures" in one(check(**prior), "class-generated").message
    file = tmp_path / "file"
    file.write_text("x")
    assert one(check(**prior, class_data_dir=str(file)), "folder-missing").level == "error"
    assert one(check(**prior, class_data_dir=str(file / "inside")), "not-writable").level == "error"


def test_a_class_prompt_that_names_the_thing_itself_is_warned_about(check):
    kept = {"trigger_word": "SKS", "output_preservation_weight": 1.0}
    for named in ("a photo of sks dog", "a photo of a dog, sks."):
        assert one(check(**kept, class_prompt=named), "class-prompt-trigger").where == "class_prompt"
    for fine in (
        {**kept, "class_prompt": "a photo of a sksish dog"},
        {"trigger_word": "sks", "class_prompt": "a sks dog"},
    ):
        assert not [each for each in check(**fine) if each.code == "class-prompt-trigger"]


# The model ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("demo-flw", "Did you mean 'demo-flow'?"),
        ("../../no where", "neither an existing folder"),
        ("a/b/c", "neither an existing folder"),
        ("C:\\models\\x", "neither an existing folder"),
    ],
)
def test_a_model_that_is_nowhere_is_an_error(check, name, says):
    assert says in one(check(pretrained_model_name_or_path=name), "model-missing").message


def test_a_hub_id_that_is_not_cached_needs_a_network(check, monkeypatch, tmp_path):
    assert (
        "HF_HUB_OFFLINE forbids"
        in one(check(pretrained_model_name_or_path="someone/something"), "model-offline").message
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked = []
    hubs = ModelReport("", "hub", findings=(Finding("error", "", "it is gated", "Log in.", "model-gated"),))
    monkeypatch.setattr(model_checks, "check_model", lambda model: asked.append(model) or hubs)
    finding = one(check(pretrained_model_name_or_path="someone/something"), "model-gated")
    assert finding.level == "error" and [model.pretrained_model_name_or_path for model in asked] == [
        "someone/something"
    ]


def test_a_cached_hub_model_is_checked_like_a_folder(check, model_folder, monkeypatch):
    import huggingface_hub

    cached = str(model_folder / "model_index.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: cached)
    assert not has_errors(check(pretrained_model_name_or_path="someone/something"))
    (model_folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    assert (
        "only partly in the local cache"
        in one(check(pretrained_model_name_or_path="someone/something"), "model-offline").message
    )


def replaced(path: str, change):
    def damage(folder: Path) -> None:
        file = folder / path
        data = change(file.read_bytes())
        file.unlink()
        if data is not None:
            file.write_bytes(data)

    return damage


def pickled(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")


def only_fp16(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    )


def shard_missing(folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    write_json(folder / "unet/diffusion_pytorch_model.safetensors.index.json", index)


def other_pipeline(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | {"_class_name": "AudioPipeline"})


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(replaced("model_index.json", lambda data: None), "no model_index.json", id="no index"),
        pytest.param(replaced("model_index.json", lambda data: data[:-5]), "cannot be read", id="cut index"),
        pytest.param(lambda folder: shutil.rmtree(folder / "vae"), "part vae/ is missing", id="no vae"),
        pytest.param(replaced(WEIGHTS, lambda data: None), "has no weights", id="no weights"),
        pytest.param(replaced(WEIGHTS, lambda data: data[:-10]), "cut off or damaged", id="cut weights"),
        pytest.param(replaced(WEIGHTS, lambda data: b""), "cut off", id="empty weights"),
        pytest.param(
            replaced(WEIGHTS, lambda data: b"version https://git-lfs.github.com/spec/v1"), "git lfs pull", id="git-lfs"
        ),
        pytest.param(
            replaced(WEIGHTS, lambda data: (1 << 60).to_bytes(8, "little") + data[8:]), "cut off", id="header of 2^60"
        ),
        pytest.param(
            replaced(WEIGHTS, lambda data: data[:8] + b"x" + data[9:]), "header is damaged", id="broken header"
        ),
        pytest.param(pickled, "only as pickles", id="pickles"),
        pytest.param(only_fp16, "no plain weights, only fp16", id="only fp16"),
        pytest.param(shard_missing, "lacks model-00002-of-00002.safetensors", id="a shard missing"),
        pytest.param(other_pipeline, "no family here covers", id="another kind of pipeline"),
    ],
)
def test_a_broken_model_folder_is_reported_before_it_is_loaded(check, model_folder, damage, says):
    damage(model_folder)
    finding = one(check(), "model-broken")
    assert says in finding.message and finding.level == "error"


def test_a_variant_is_looked_for_and_a_wrong_one_named(check, model_folder):
    only_fp16(model_folder)
    assert not has_errors(check(variant="fp16"))
    assert "no weights of the variant int8, only fp16" in one(check(variant="int8"), "model-broken").message


def test_a_family_that_contradicts_the_checkpoint_is_reported(check):
    assert "holds a sd1x model" in one(check(model_family="sd3"), "model-broken").message


def test_a_resolution_far_from_the_models_own_is_reported(check):
    assert "made for about 64 px" in one(check(resolution=512), "resolution-far").message
    assert one(check(resolution=72), "resolution").level == "error"


@pytest.mark.parametrize("name", ["demo-flow", "demo-epsilon"])
def test_the_built_in_models_are_whole(check, name):
    assert not [finding for finding in check(pretrained_model_name_or_path=name) if finding.level != "note"]


def test_shapes_are_read_from_the_header(model_folder):
    assert safetensors_shapes(model_folder / WEIGHTS)["a.to_q.weight"] == (20, 30)


# This machine ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "build", "likely", "code", "level"),
    [
        ({"device": "cuda"}, (True, False), "cpu", "device-missing", "error"),
        ({"device": "cuda"}, (True, True), "cpu", "device-missing", "warning"),
        ({"device": "cuda"}, (True, True), "cuda", None, None),
        ({"device": "mps"}, (True, False), "cpu", "device-missing", "error"),
        ({"device": "mps"}, (True, False), "mps", None, None),
        ({"device": "auto"}, (True, False), "cuda", "device-unused", "warning"),
        ({"device": "auto"}, (False, False), "cpu", "no-torch", "error"),
        ({"mixed_precision": "fp16"}, (True, False), "cpu", "precision", "error"),
        ({"mixed_precision": "fp16"}, (True, True), "cuda", None, None),
        ({"mixed_precision": "bf16"}, (True, False), "cpu", None, None),
        ({"base_model_precision": "float16"}, (True, False), "cpu", "precision", "warning"),
    ],
)
def test_devices_and_precisions_that_do_not_go_together_are_reported(
    check, monkeypatch, changes, build, likely, code, level
):
    monkeypatch.setattr(installation, "torch_build", lambda: build)
    monkeypatch.setattr(platform_calls, "likely_device", lambda: likely)
    found = {(finding.code, finding.level) for finding in check(**changes) if finding.level != "note"}
    assert found == (set() if code is None else {(code, level)})


def test_several_processes_are_told_what_they_wait_for_and_hold(check, monkeypatch):
    found = {finding.code: finding for finding in check(num_processes=2, train_batch_size=3, model_type="full")}
    assert "divide 3 rows unevenly" in found["uneven-rows"].message
    assert "holds the whole model" in found["processes-memory"].message
    divided = check(num_processes=2, train_batch_size=2, model_type="full", shard_weights=True)
    assert "processes-memory" not in {finding.code for finding in divided}
    assert not {"uneven-rows", "processes-memory"} & {each.code for each in check(num_processes=2, train_batch_size=4)}
    monkeypatch.setattr(installation, "torch_build", lambda: (True, True))
    for device, gpus, wrong in (("mps", 0, "a Mac has one"), ("cuda", 1, "CUDA shows one GPU")):
        monkeypatch.setattr(platform_calls, "likely_device", lambda device=device: device)
        monkeypatch.setattr(platform_calls, "gpu_count", lambda gpus=gpus: gpus)
        errors = [
            finding for finding in check(num_processes=2, train_batch_size=2, device=device) if finding.level == "error"
        ]
        assert len(errors) == 1 and wrong in errors[0].message and errors[0].where == "num_processes"


def test_the_build_of_torch_is_read_without_importing_it():
    import torch

    assert installation.torch_build() == (True, torch.version.cuda is not None or torch.version.hip is not None)


@pytest.mark.parametrize(
    ("changes", "package"),
    [({"report_to": each}, each) for each in ("tensorboard", "wandb", "trackio")]
    + [({"optimizer": "adamw_8bit"}, "bitsandbytes"), ({"optimizer": "prodigy", "learning_rate": 1.0}, "prodigyopt")]
    + [({"optimizer": each, "learning_rate": 1e-5}, "pytorch-optimizer") for each in ("lion", "came")],
)
def test_a_package_that_is_not_installed_is_named_with_its_command(check, monkeypatch, changes, package):
    monkeypatch.setattr(installation, "torch_build", lambda: (True, True))
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cuda")
    monkeypatch.setattr(installation, "installed", lambda name: False)
    finding = one(check(**changes), "package-missing")
    assert finding.level == "error" and f"pip install {package}" in finding.remedy
    monkeypatch.setattr(installation, "installed", lambda name: True)
    assert not has_errors(check(**changes))


def test_eight_bit_adamw_needs_a_cuda_device(check, monkeypatch):
    monkeypatch.setattr(installation, "installed", lambda name: True)
    assert "CUDA GPUs only; this run is on cpu" in one(check(optimizer="adamw_8bit"), "device-missing").message


@pytest.mark.parametrize(("kind", "device", "package"), [("nf4", "cuda", "bitsandbytes"), ("int8", "cpu", "torchao")])
def test_quantised_weights_need_their_package_and_device(check, monkeypatch, kind, device, package):
    monkeypatch.setattr(installation, "torch_build", lambda: (True, True))
    monkeypatch.setattr(platform_calls, "likely_device", lambda: device)
    changes = {
        "base_model_quantization": kind,
        "gradient_checkpointing": True,
        "base_model_precision": "bfloat16",
        "device": "auto",
    }
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    finding = one(check(**changes), "package-missing")
    assert finding.level == "error" and f"pip install {package}" in finding.remedy
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    monkeypatch.setattr(quantised.metadata, "version", lambda name: "0.50.2")
    assert not has_errors(check(**changes))
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "mps")
    if kind == "nf4":
        assert "works on cuda; this is mps" in one(check(**changes), "device-missing").message


def test_a_quantised_network_that_computes_in_float32_and_streaming_without_a_card_are_warned_of(check, monkeypatch):
    monkeypatch.setattr(installation, "torch_build", lambda: (True, True))
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cuda")
    monkeypatch.setattr(computing, "why_not", lambda kind, device: None)
    changes = {"gradient_checkpointing": True, "device": "auto"}
    assert one(check(**changes, base_model_quantization="int8"), "precision").level == "warning"
    assert not [each for each in check(**changes, streamed_blocks=2) if each.where == "streamed_blocks"]
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cpu")
    assert "main memory anyway" in one(check(**changes, streamed_blocks=2), "idle").message


# The output --------------------------------------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten(check, tmp_path):
    run = tmp_path / "runs" / "new"
    run.mkdir(parents=True)
    assert not has_errors(check()), "an empty folder is no run"
    (run / "config.json").write_text("{}")
    finding = one(check(), "output-exists")
    assert finding.level == "error" and "--resume new" in finding.remedy
    assert not has_errors(check(run_dir=None))
    assert (run / "config.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["-rf", "con", "a b", "x" * 65, "$(x)"])
def test_a_name_that_cannot_be_a_folder_everywhere_is_refused(check, tmp_path, name):
    assert one(check(run_dir=tmp_path / "runs" / name), "run-name").level == "error"


def test_a_runs_folder_that_takes_no_files_is_reported(check, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in one(check(run_dir=file / "run"), "not-writable").message

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", refuse)
    assert "takes no new files (Permission denied)" in one(check(), "not-writable").message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_found_by_trying(check, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert one(check(run_dir=locked / "run"), "not-writable").level == "error"


def test_no_space_on_the_disk_is_an_error_before_anything_is_written(check, monkeypatch, tmp_path):
    monkeypatch.setattr(platform_calls, "free_bytes", lambda path: 8 * 2**20)
    finding = one(check(), "no-space")
    assert finding.level == "error" and "8.0 MiB free" in finding.message
    assert not (tmp_path / "runs").exists()


def test_little_space_is_a_warning(check, monkeypatch):
    monkeypatch.setattr(folders, "disk_estimate", lambda *a: DiskEstimate(cache=0, run=2**30))
    monkeypatch.setattr(platform_calls, "free_bytes", lambda path: int(1.5 * 2**30))
    assert one(check(), "little-space").level == "warning"


def test_the_disk_estimate_counts_latents_checkpoints_and_pictures(model_folder, picture_folder):
    def estimate(**changes):
        flat = {"pretrained_model_name_or_path": str(model_folder), "instance_data_dir": str(picture_folder), "instance_prompt": "a dog",
                "resolution": 64, "lora_rank": 2, "checkpoint_step_interval": 0, "validation_step_interval": 0}  # fmt: skip
        config = config_from_flat(flat | changes)
        facts, faults = model_files._read_model(model_folder, None)
        assert not faults
        return disk_estimate(config, scan(config.data), facts)

    latents, text, adapter = 4 * 4 * 4 * 8 * 8, 4 * 77 * 16, 2 * (20 + 30)
    assert estimate() == DiskEstimate(latents + 2 * text, 4 * adapter * (3 + 1))
    assert estimate(random_flip=True).cache == 2 * latents + 2 * text
    assert estimate(use_ema=True).run == 4 * adapter * (4 + 1)
    assert estimate(checkpoint_step_interval=100, checkpoints_total_limit=2).run == 4 * adapter * (3 * 3 + 1)
    assert estimate(model_type="full").run == 4 * (600 + 20 + 72) * (3 + 1)
    assert estimate(lora_targets=["conv"]).run == 4 * 2 * (4 + 18) * (3 + 1)
    assert estimate(validation_prompts=["a", "b"]).run - estimate().run == 2 * 2 * 2 * 64**2
    prior = {"with_prior_preservation": True, "class_prompt": "a dog", "num_class_images": 6}
    assert estimate(**prior).cache == latents * 10 // 4 + 3 * text + 6 * 2 * 64**2


@pytest.mark.parametrize(
    ("length", "windows", "expected"), [(100, True, False), (200, True, True), (200, False, False)]
)
def test_a_path_too_long_for_windows_is_reported_there(length, windows, expected):
    assert too_long(Path("/" + "x" * (length - 1)), windows) == expected


def test_settings_without_effect_are_notes(check):
    assert one(check(huber_delta=0.5), "remark").level == "note"


# How findings read -------------------------------------------------------------------------------------------------------


def test_findings_read_worst_first_by_kind_and_counted():
    findings = [
        Finding("note", "", "by the way"),
        Finding("warning", "b.png", "small", "Enlarge it.", "small"),
        Finding("error", "a.png", "broken", "Mend it.", "broken"),
        Finding("warning", "c.png", "small", "Enlarge it.", "small"),
    ]
    assert has_errors(findings) and not has_errors(findings[:2])
    assert [finding.where for finding in by_severity(findings)] == ["a.png", "b.png", "c.png", ""]
    assert format_findings(findings).splitlines() == [
        "error    a.png: broken",
        "         -> Mend it.",
        "warning  b.png: small",
        "warning  c.png: small",
        "         -> Enlarge it.",
        "note     by the way",
        "1 error, 2 warnings, 1 note.",
    ]
    assert format_findings([]) == "No problems found."


def test_names_and_captions_cannot_steer_the_terminal():
    assert printable("a\x1b[31m\nb\u202ec\ud800") == "a\\u001b[31m\\u000ab\\u202ec\\ud800"
    assert len(printable("x" * 10**6)) < 1100


def test_every_finding_names_an_option_that_exists_or_a_file(check, tmp_path):
    from rollout_studio.core.config import OPTIONS

    for finding in check(
        pretrained_model_name_or_path="x", optimizer="adamw_8bit", mixed_precision="fp16", resolution=512
    ):
        assert (
            not finding.where
            or finding.where in OPTIONS
            or finding.where in ("runs folder", "run name")
            or Path(finding.where).exists()
        )


def test_no_torch_was_needed():
    import subprocess

    code = (
        "import sys; from rollout_studio.core.before.preflight import preflight; from rollout_studio.core.config import load_preset;"
        "preflight(load_preset('demo')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
