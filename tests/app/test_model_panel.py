"""The model on the page: preset cards, and a model checked before anything is trained. The hub is played at its library's own calls."""

import importlib
import json
import os
import re
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from rollout_studio.app.train.model_card import model_card
from rollout_studio.app.train.model_panel import about, preset_choices, start_note
from rollout_studio.app.train.own_words import fitting_resolution
from rollout_studio.core.before import model_check
from rollout_studio.core.before.model_check import check_model, chosen_weights, downloaded_models, prediction_of
from rollout_studio.core.config import ModelConfig, load_preset, with_changes
from safetensors.numpy import save_file

HOSTILE = "<script>alert(1)</script>${alert(2)}"
FILES = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
                         "scheduler": ["diffusers", "PNDMScheduler"], "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]},
    "unet/config.json": {"sample_size": 64},
    "vae/config.json": {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4},
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
}  # fmt: skip
WEIGHTS = {
    "unet/diffusion_pytorch_model.safetensors": 3_000_000_000, "unet/diffusion_pytorch_model.fp16.safetensors": 1_500_000_000,
    "vae/diffusion_pytorch_model.safetensors": 300_000_000, "safety_checker/model.safetensors": 900_000_000,
    "v1-5-pruned.safetensors": 7_000_000_000, "unet/diffusion_pytorch_model.bin": 3_000_000_000,
}  # fmt: skip


client = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])  # what the hub's library asks with


def response(status):
    return client.Response(status, request=client.Request("GET", "https://hub.invalid/api/models/x/y"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one model. A test may change its `files` and `weights`, and what it refuses with: `asks` (its page), `access` (its files)."""
    state = SimpleNamespace(gated=False, files=dict(FILES), weights=dict(WEIGHTS), asks=None, access=None, asked=[])

    class Api:
        def model_info(self, name, *, revision=None, files_metadata=False, timeout=None):
            state.asked.append(("info", name, revision))
            assert files_metadata and timeout <= 15
            if state.asks is not None:
                raise state.asks
            siblings = [
                SimpleNamespace(rfilename=path, size=size)
                for path, size in {**dict.fromkeys(state.files, 100), **state.weights}.items()
            ]
            return SimpleNamespace(gated=state.gated, siblings=siblings)

        def auth_check(self, name):
            if state.access is not None:
                raise state.access

    def download(name, path, revision=None):
        if path not in state.files:
            raise errors.RemoteEntryNotFoundError(f"404 {path}", response=response(404))
        file = tmp_path / "cache" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(state.files[path]))
        return str(file)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr(model_check.platform_calls, "free_bytes", lambda path: 10**13)
    return state


def checked(name="owner/model", **changes):
    return check_model(ModelConfig(pretrained_model_name_or_path=name, **changes))


def codes(report):
    return [finding.code for finding in report.findings]


# -- what needs no network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "predicts"), [("demo-flow", "lumina2", "flow_matching"), ("demo-epsilon", "sd1x", "epsilon")]
)
def test_a_built_in_model_is_reported_completely(name, family, predicts):
    report = checked(name)
    assert (report.place, report.family, report.prediction_type, report.resolution, report.usable) == (
        "built-in",
        family,
        predicts,
        64,
        True,
    )
    assert report.bytes_ > 10**6 and "works offline" in model_card(report)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    for path, content in FILES.items():
        if "safety" not in path:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(json.dumps(content))
    for part in ("unet", "vae"):
        save_file({"a": np.zeros(1000, np.float32)}, place / part / "diffusion_pytorch_model.safetensors")
    return place


def test_a_folder_is_reported_like_a_built_in_model(folder):
    report = checked(str(folder))
    assert (report.place, report.family, report.prediction_type, report.resolution) == (
        "folder",
        "sd1x",
        "v_prediction",
        512,
    )
    assert report.usable and 8000 < report.bytes_ < 9000 and "a folder on this computer" in model_card(report)


def test_a_broken_folder_and_a_wrong_family_say_what_to_do(folder):
    wrong = checked(str(folder), model_family="sd3")
    assert not wrong.usable and "Set model_family = sd1x" in model_card(wrong)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"version https://git-lfs")
    assert "git lfs pull" in model_card(checked(str(folder)))
    (folder / "model_index.json").unlink()
    assert "model_index.json" in model_card(checked(str(folder)))


@pytest.mark.parametrize(
    "name", ["demo-flw", "nowhere/at/all", "../x", "owner/model/extra", HOSTILE, "a\nb", "~nobody/x"]
)
def test_a_name_that_is_no_model_is_refused_in_words_and_inertly(name):
    report = checked(name)
    card = model_card(report)
    assert report.place is None and "cannot be used" in card
    assert "<script" not in card and "${" not in card


def test_offline_it_says_so_and_what_works_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(model_check, "_cache_setting", lambda: tmp_path)
    for name in ("models--some--other", "models--alone", "datasets--x--y"):
        (tmp_path / name / "snapshots" / "abc").mkdir(parents=True)
        (tmp_path / name / "snapshots" / "abc" / "model_index.json").write_text("{}")
    (tmp_path / "models--empty--one").mkdir()
    assert downloaded_models() == ["alone", "some/other"]
    card = model_card(checked())
    assert "cannot be checked without a network" in card and "HF_HUB_OFFLINE" in card
    assert "demo-flow" in card and "any folder" in card and "some/other" in card


# -- the hub ------------------------------------------------------------------------------------------------------------------------


def test_a_hub_id_is_reported_from_its_small_files_and_its_size_from_what_would_be_loaded(hub):
    report = checked()
    assert (report.place, report.family, report.prediction_type, report.resolution) == (
        "hub",
        "sd1x",
        "v_prediction",
        512,
    )
    assert report.bytes_ == 3_300_000_000 and report.downloaded is False and report.gated is False and report.usable
    card = model_card(report)
    assert "3.1 GiB to download" in card and "not on this computer yet" in card and "open to everybody" in card
    assert checked(variant="fp16").bytes_ == 1_800_000_000
    assert checked(revision="main").usable and hub.asked[-1] == ("info", "owner/model", "main")


def test_a_gated_model_is_explained_in_steps_and_never_as_an_error_message(hub):
    hub.gated, hub.access = (
        "manual",
        errors.GatedRepoError("403 Client Error. Cannot access gated repo", response=response(403)),
    )
    report = checked()
    card = model_card(report)
    assert codes(report) == ["model-gated"] and report.gated
    steps = re.findall(r"<li>(.*?)</li>", card)
    assert (
        len(steps) == 4
        and "owner/model" in steps[0]
        and "token" in steps[1]
        and "auth login" in steps[2]
        and "again" in steps[3]
    )
    assert "403" not in card and "Error" not in card and 'rel="noopener noreferrer"' in card
    hub.asks = hub.access  # a private and gated model does not even tell its files
    assert codes(checked()) == ["model-gated"]


def test_a_gated_model_with_access_is_usable_and_says_so(hub):
    hub.gated = "auto"
    report = checked()
    assert report.usable and report.gated and "this computer has access" in model_card(report)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.RepositoryNotFoundError("401", response=response(401)), "has no model"),
        (errors.RevisionNotFoundError("404", response=response(404)), "no revision"),
        (errors.HfHubHTTPError("503 Server Error", response=response(503)), "could not be fetched"),
    ],
)
def test_what_the_hub_answers_is_reported_in_words(hub, error, says):
    hub.asks = error
    report = checked()
    assert codes(report) == ["model-missing"] and says in model_card(report) and report.findings[0].remedy


@pytest.mark.parametrize(
    "error", [client.ConnectError("no route"), client.ReadTimeout("slow"), errors.OfflineModeIsEnabled("offline")]
)
def test_no_network_is_reported_with_what_works_without(hub, error):
    hub.asks = error
    report = checked()
    assert codes(report) == ["model-offline"] and "demo-flow" in model_card(report)


def test_a_repository_that_cannot_be_trained_on_says_why(hub):
    hub.files = {key: value for key, value in FILES.items() if key != "model_index.json"}
    assert "-diffusers" in model_card(checked())
    hub.files = {**FILES, "model_index.json": {**FILES["model_index.json"], "_class_name": "LTXPipeline"}}
    assert "no family here covers" in model_card(checked())
    hub.files, hub.weights = dict(FILES), {"unet/diffusion_pytorch_model.bin": 5}
    assert "pickles" in model_card(checked())
    hub.weights = {"unet/diffusion_pytorch_model.fp16.safetensors": 5}
    assert "set variant" in model_card(checked())
    hub.weights = dict(WEIGHTS)
    assert "is a sd1x model" in model_card(checked(model_family="sd3"))


def test_a_model_that_does_not_fit_on_the_disk_is_reported_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(model_check.platform_calls, "free_bytes", lambda path: 10**9)
    assert "no-space" in codes(checked())


def test_a_downloaded_model_is_reported_without_asking_the_hub(hub, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(folder / "model_index.json"))
    report = checked()
    assert report.place == "hub" and report.downloaded and report.usable and not hub.asked
    assert "downloaded already" in model_card(report)


def test_weights_are_chosen_as_they_are_loaded():
    shards = [f"unet/m.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert chosen_weights([*shards, "unet/m.safetensors", "vae/m.safetensors"], "fp16") == [
        *shards,
        "vae/m.safetensors",
    ]
    assert chosen_weights([*shards, "unet/m.safetensors", "top.safetensors"], None) == ["unet/m.safetensors"]
    assert prediction_of("sd3", {}) == "flow_matching" and prediction_of("sd1x", {}) == "epsilon"


# -- a single file ----------------------------------------------------------------------------------------------------------------


def file_of(path, *starts, dtype=np.float16):
    """A checkpoint of A1111's in small: only what it is recognised by."""
    network = {"input_blocks.0.0.weight": (2, 4, 3, 3), "time_embed.0.weight": (4, 2), "label_emb.0.0.weight": (4, 2),
               "input_blocks.1.1.proj_in.weight": (2, 2), "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (2, 2048)}  # fmt: skip
    names = {f"model.diffusion_model.{name}": shape for name, shape in network.items()}
    names |= {f"{start}x.weight": (5, 5) for start in starts}
    save_file({name: np.zeros(shape, dtype) for name, shape in names.items()}, path)
    return path


PARTS = ("first_stage_model.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")


def test_a_single_file_is_reported_with_what_was_recognised(tmp_path):
    """As the model field's button does it: family, prediction, precision, parts."""
    report = checked(str(file_of(tmp_path / "my model.safetensors", *PARTS)))
    assert (report.place, report.family, report.prediction_type, report.resolution) == ("file", "sdxl", "epsilon", 1024)
    assert report.usable and report.precision == "float16" and report.findings == ()
    assert report.bytes_ == 2 * (2 * 4 * 9 + 8 + 8 + 4 + 2 * 2048 + 3 * 25)
    card = model_card(report)
    assert "Stable Diffusion XL" in card and "unet, vae, text_encoder, text_encoder_2" in card and "float16" in card
    assert "a file on this computer: works offline" in card and "this program (configs and tokenizers)" in card


def test_the_lender_of_a_files_missing_parts_is_asked_for_at_the_hub(hub, tmp_path):
    file = file_of(tmp_path / "x.safetensors", *PARTS[1:])
    index = {**FILES["model_index.json"], "_class_name": "StableDiffusionXLPipeline"}
    hub.files["model_index.json"] = index
    report = checked(str(file))
    assert report.usable and ("info", "stabilityai/stable-diffusion-xl-base-1.0", None) in hub.asked
    assert report.to_download == 300_000_000  # the VAE; not the network, which is in the file
    assert "has no vae" in model_card(report) and "286 MiB from stabilityai/stable-diffusion-xl-base-1.0" in model_card(
        report
    )
    assert ("info", "my/own", None) in (checked(str(file), pretrained_components="my/own") and hub.asked)
    hub.asks = errors.GatedRepoError("403", response=response(403))
    report = checked(str(file))
    assert codes(report)[0] == "model-gated" and not report.usable
    hub.asks, hub.files = None, dict(FILES)
    assert "is a sd1x model" in model_card(checked(str(file)))


def test_a_pickled_file_is_refused_on_the_page_with_the_way_to_convert(tmp_path):
    (tmp_path / "old.ckpt").write_bytes(b"PK\x03\x04")
    card = model_card(checked(str(tmp_path / "old.ckpt")))
    assert "cannot be used" in card and "run code" in card and "save_file" in card


def test_the_model_field_takes_a_file(tmp_path):
    """The card below the presets and the resolution for own pictures follow the file."""
    file = str(file_of(tmp_path / "mine.safetensors", *PARTS))
    assert "With another model: mine.safetensors" in dict(map(reversed, preset_choices(None, "demo", file)))["demo"]
    assert "No download" in about("demo", file)
    assert fitting_resolution(ModelConfig(pretrained_model_name_or_path=file), load_preset("demo")) == 1024


def test_a_variant_that_the_hub_does_not_have_is_named_with_those_that_it_has(hub):
    report = checked(variant="bf16")
    assert "no weights of the variant bf16" in report.findings[0].message and "fp16" in report.findings[0].remedy
    assert checked(variant="fp16").usable


def test_without_a_token_and_without_access_are_told_apart(hub, monkeypatch):
    hub.asks = errors.GatedRepoError("403", response=response(403))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "not logged in" in checked().findings[0].message
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    assert "no access yet" in checked().findings[0].message


# -- the preset cards -------------------------------------------------------------------------------------------------------------


def test_each_preset_card_says_what_it_needs():
    cards = {name: label for label, name in preset_choices()}
    assert cards["demo"].splitlines()[0] == "Demo" and cards["demo"].endswith("Needs nothing")
    assert "Needs an NVIDIA card from 8 GB" in cards["sd15"]
    assert all("\nNeeds " in label for label in cards.values())


def test_the_chosen_card_and_the_words_below_it_are_about_the_model_that_the_form_names(tmp_path):
    (tmp_path / "my flow").mkdir()
    for model, card, needs in (
        (
            "stabilityai/stable-diffusion-3.5-medium",
            "With another model: stabilityai/stable-diffusion-3.5-medium",
            "an NVIDIA card with 24 GB",
        ),
        (
            "somebody/a-model",
            "With another model: somebody/a-model",
            "a download, unless the model is on this computer already",
        ),
        (str(tmp_path / "my flow"), "With another model: my flow", "no download"),
        ("demo-epsilon", "With another model: demo-epsilon", "nothing for the model"),
    ):
        cards = {name: label for label, name in preset_choices(None, "demo", model)}
        assert card in cards["demo"] and needs in cards["demo"] and "Needs nothing\n" not in f"{cards['demo']}\n"
        assert {name for name, label in cards.items() if "another model" in label} == {"demo"}, (
            "only the chosen card is about the form"
        )
        assert needs.lower() in about("demo", model).lower()
    for same in ("demo-flow", " demo-flow ", "", None, 3):
        assert preset_choices(None, "demo", same) == preset_choices() and about("demo", same) == about("demo")
    assert "<b" not in preset_choices(None, "demo", "a/<b>\n")[0][0].replace("a/<b>", "") and "<i>" not in about(
        "demo", "a/<i>"
    )


def test_below_start_stands_what_the_models_download_and_hardware_are_not_the_cards():
    demo = load_preset("demo")
    assert "a few minutes on a laptop" in start_note(demo, "demo")
    assert "a few minutes" not in start_note(
        with_changes(demo, {"max_train_steps": 90_000}), "demo"
    ) and "No download" in start_note(with_changes(demo, {"seed": 1}), "demo")
    assert "No download" not in start_note(with_changes(demo, {"pretrained_model_name_or_path": "a/b"}), "demo")


def test_checking_a_model_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys; from rollout_studio.core.before.model_check import check_model; from rollout_studio.core.config import ModelConfig;"
        "check_model(ModelConfig()); check_model(ModelConfig(pretrained_model_name_or_path='a/b')); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, timeout=60, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        ).returncode
        == 0
    )
