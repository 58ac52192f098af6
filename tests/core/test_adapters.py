"""LoRA and full fine-tune: what trains, how it starts, and that exported files do in a stock pipeline what the
trainer's model does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from rollout_studio.core import adapters
from rollout_studio.core.adapters import ExportError
from rollout_studio.core.adapters.header import published_config
from rollout_studio.core.adapters.trainable import matching_layers
from rollout_studio.core.config import config_from_flat, config_to_flat
from rollout_studio.core.families import ModelError, load_model, locate
from rollout_studio.core.formats import remarks
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import ONE_PER_FAMILY, PROMPTS, predictions

FAMILIES = ONE_PER_FAMILY


@pytest.fixture
def trained(tiny_folder):
    """(model, config) with every trainable tensor moved away from its start, as training would."""

    def make(name, *, precision="float32", size=0.5, **options):
        flat = {
            "pretrained_model_name_or_path": str(tiny_folder(name)),
            "device": "cpu",
            "lora_rank": 4,
            "trigger_word": "sks",
            "base_model_precision": precision,
            "resolution": 64,
        } | options
        config = config_from_flat(flat)
        model = load_model(config.model)
        adapters.attach(model, config)
        draws = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for parameter in adapters.trainable_parameters(model):
                parameter += size * parameter.std().clamp(min=0.1) * torch.randn(parameter.shape, generator=draws)
        return model, config

    return make


def fresh_lora(model_folder, seed=1, **options):
    config = config_from_flat(
        {"pretrained_model_name_or_path": str(model_folder), "device": "cpu", "lora_rank": 4, "seed": seed} | options
    )
    model = load_model(config.model)
    adapters.attach(model, config)
    return model


# What trains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_adapter_trains_and_it_starts_without_effect(name, tiny_folder):
    model = fresh_lora(tiny_folder(name))
    names = adapters.trainable_names(model)
    assert names and all(".lora_A." in one or ".lora_B." in one for one in names)
    with_adapter = predictions(model)
    with model.adapters_disabled():
        assert torch.equal(predictions(model), with_adapter)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_matrix_of_the_adapter_gets_a_gradient(name, trained):
    model, _ = trained(name)
    x = torch.randn(2, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.7, 0.3]) * (1 if model.is_flow else 999)
    model.denoise(x, t, model.collate(model.encode_prompts(PROMPTS))).square().mean().backward()
    without = {
        layer
        for layer, parameter in model.denoiser.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or parameter.grad.abs().max() == 0)
    }
    read = {layer for layer in without if not any(unread in layer for unread in UNREAD.get(name, ()))}
    assert not read


UNREAD = {"qwen": ("transformer_blocks.1.attn.add_q_proj", "transformer_blocks.1.attn.to_add_out")}
"""Layers of tiny pipelines without any effect: nothing reads the text after the last block of these networks."""


def test_adapter_weights_are_float32_on_a_16_bit_base(trained):
    model, _ = trained("lumina2", precision="bfloat16")
    assert all(parameter.dtype == torch.float32 for parameter in adapters.trainable_parameters(model))
    assert model.denoiser.x_embedder.weight.dtype == torch.bfloat16


def test_the_start_depends_on_the_seed_alone(tiny_folder):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = adapters.adapter_state(fresh_lora(tiny_folder("lumina2")))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    second, other = (adapters.adapter_state(fresh_lora(tiny_folder("lumina2"), seed)) for seed in (1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(first[key], other[key]) == (".lora_B." in key) for key in first)


def test_the_start_of_a_layer_does_not_depend_on_the_other_layers(tiny_folder):
    one = adapters.adapter_state(fresh_lora(tiny_folder("lumina2"), lora_targets=["to_q"]))
    all_of_them = adapters.adapter_state(fresh_lora(tiny_folder("lumina2")))
    assert 0 < len(one) < len(all_of_them)
    assert all(torch.equal(one[key], all_of_them[key]) for key in one)


def test_an_unknown_target_is_refused_and_the_known_ones_are_listed(tiny_folder):
    with pytest.raises(ModelError) as error:
        fresh_lora(tiny_folder("lumina2"), lora_targets=["to_q", "to_qq"])
    text = str(error.value)
    assert "'to_qq'" in text and "'to_q'" not in text
    assert all(word in text for word in ("to_q (4)", "to_out.0 (4)", "linear_1", "Leave lora_targets empty"))


def test_a_target_means_whole_parts_of_a_name(tiny_folder):
    denoiser = load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "device": "cpu"}).model
    ).denoiser
    assert matching_layers(denoiser, ["layers.0.attn.to_q"], "lumina2") == ["layers.0.attn.to_q"]
    with pytest.raises(ModelError):
        matching_layers(denoiser, ["o_q"], "lumina2")


def test_a_second_adapter_is_refused(trained):
    model, config = trained("lumina2")
    with pytest.raises(ModelError, match="already"):
        adapters.attach(model, config)


def test_alpha_scales_the_adapter(tiny_folder):
    half, full = (
        fresh_lora(tiny_folder("lumina2"), lora_alpha=alpha, lora_targets=["linear_2"]) for alpha in (2.0, 4.0)
    )
    with torch.no_grad():
        for model, factor in ((half, 2.0), (full, 1.0)):
            for key, parameter in zip(
                adapters.trainable_names(model), adapters.trainable_parameters(model), strict=True
            ):
                if ".lora_B." in key:
                    parameter.fill_(0.1 * factor)
    torch.testing.assert_close(predictions(half), predictions(full))


# The base model inside ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_without_adapters_the_model_is_its_base_and_afterwards_it_trains_as_before(name, trained, tiny_folder):
    model, config = trained(name)
    tuned, base = predictions(model), predictions(load_model(config.model))
    adapters.trainable_parameters(model)[0].requires_grad_(False)
    names = adapters.trainable_names(model)
    with model.adapters_disabled():
        assert torch.equal(predictions(model), base)
    assert torch.equal(predictions(model), tuned) and not torch.allclose(tuned, base, atol=1e-3)
    assert adapters.trainable_names(model) == names


def test_there_is_no_base_to_switch_to_without_an_adapter(trained):
    model, _ = trained("lumina2", model_type="full")
    with pytest.raises(RuntimeError, match="no adapter"), model.adapters_disabled():
        pass


# State ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["lora", "full"])
def test_a_state_goes_out_and_in_without_loss_and_in_place(model_type, trained, tiny_folder):
    model, _ = trained("sd1", model_type=model_type)
    state, expected = adapters.adapter_state(model), predictions(model)
    parameters = adapters.trainable_parameters(model)
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    assert not torch.equal(predictions(model), expected), "the state is a copy"
    adapters.load_adapter_state(model, state)
    assert torch.equal(predictions(model), expected)
    assert all(one is other for one, other in zip(parameters, adapters.trainable_parameters(model), strict=True))
    assert [*state] == adapters.trainable_names(model)


def test_a_state_of_another_adapter_is_refused(trained):
    model, _ = trained("lumina2")
    state = adapters.adapter_state(model)
    first = next(iter(state))
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        adapters.load_adapter_state(model, {key: value for key, value in state.items() if key != first})
    with pytest.raises(ModelError, match="another shape"):
        adapters.load_adapter_state(model, state | {first: torch.zeros(3, 5)})


def test_a_full_fine_tune_trains_in_float32(trained):
    model, _ = trained("sd3", model_type="full")
    assert all(
        parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.denoiser.parameters()
    )
    assert model.dtype == torch.float32 and not any(parameter.requires_grad for parameter in model.vae.parameters())


# Export and load check ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alpha"),
    # without an alpha it is the rank: one model says it for all, the others take their time among the slow tests
    [
        pytest.param(name, alpha, marks=[] if alpha or name == FAMILIES[0] else pytest.mark.slow)
        for name in FAMILIES
        for alpha in (None, 10.0)
    ],
)
def test_an_exported_lora_does_in_a_stock_pipeline_what_the_trainer_does(name, alpha, trained, tmp_path):
    model, config = trained(name, lora_alpha=alpha)
    path = adapters.export_lora(model, tmp_path / "lora" / "thing.safetensors", config, step=7)
    for check in (adapters.check_export(path, config, model), adapters.check_export(path, config)):
        assert check.passed and check.missing == check.unexpected == ()
        assert check.used == check.total == len(adapters.trainable_names(model))
        assert check.max_difference < 1e-3 * check.effect and check.effect > 1e-3
    assert sorted(file.name for file in path.parent.iterdir()) == ["thing.safetensors"], "nothing is left beside it"


@pytest.mark.parametrize("name", ["sd1", "sd3", "lumina2"])
def test_pictures_of_a_plain_pipeline_with_the_file_are_the_trainers(name, trained, tmp_path):
    """What a user does, without a line of ours."""
    import numpy as np

    model, config = trained(name, lora_alpha=8.0)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    pipe = DiffusionPipeline.from_pretrained(config.model.pretrained_model_name_or_path)
    side = 32 // model.latent_scale * pipe.vae_scale_factor
    draw = {"num_inference_steps": 3, "height": side, "width": side, "output_type": "np"}
    base = pipe(PROMPTS[0], generator=torch.Generator().manual_seed(2), **draw).images[0]
    pipe.load_lora_weights(str(path))
    tuned = pipe(PROMPTS[0], generator=torch.Generator().manual_seed(2), **draw).images[0]
    ours = np.asarray(model.sample(PROMPTS[:1], steps=3, seed=2, height=32, width=32)[0]) / 255
    assert np.abs(ours - tuned).max() < 0.01 < np.abs(base - tuned).max()


def test_layers_other_than_attention_are_exported_too(trained, tmp_path):
    """Convolutions, time embeddings and feed-forward layers of a UNet."""
    model, config = trained(
        "sd1", lora_targets=["conv1", "proj_in", "ff.net.0.proj", "linear_1", "time_emb_proj"], lora_alpha=2.0
    )
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    assert adapters.check_export(path, config, model).passed and adapters.check_export(path, config).passed


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_16_bit_file_is_rounded_but_not_otherwise_changed(precision, trained, tmp_path):
    model, config = trained("lumina2", save_precision=precision, lora_alpha=7.0)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    check = adapters.check_export(path, config, model)
    assert check.passed and 0 < check.max_difference < 0.05 * check.effect
    assert all(tensor.dtype == getattr(torch, precision) for tensor in load_file(path).values())


def test_a_16_bit_base_passes_its_check(trained, tmp_path):
    model, config = trained("lumina2", precision="bfloat16")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    assert adapters.check_export(path, config, model).passed


def test_a_given_state_is_exported_and_checked_instead_of_the_weights(trained, tmp_path):
    model, config = trained("lumina2", lora_alpha=2.0)
    average = {key: 0.5 * value for key, value in adapters.adapter_state(model).items()}
    before = predictions(model)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, state=average)
    assert adapters.check_export(path, config, model, average).max_difference < 1e-4
    assert torch.equal(predictions(model), before)
    with pytest.raises(ExportError):
        adapters.check_export(path, config, model)


@pytest.mark.parametrize(
    "damage", ["twice the alpha", "a layer lost", "one matrix lost", "another prefix", "one matrix too many", "zeros"]
)
def test_a_wrong_file_fails_the_check(damage, trained, tmp_path):
    model, config = trained("lumina2")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    tensors = load_file(path)
    layer = "transformer.layers.0.attn.to_q"
    match damage:
        case "twice the alpha":
            tensors = {key: value * (2 if ".lora_B." in key else 1) for key, value in tensors.items()}
        case "a layer lost":
            tensors = {key: value for key, value in tensors.items() if not key.startswith(layer)}
        case "one matrix lost":
            del tensors[f"{layer}.lora_B.weight"]
        case "another prefix":
            tensors = {key.replace("transformer.", "unet."): value for key, value in tensors.items()}
        case "one matrix too many":
            tensors["transformer.layers.9.attn.to_q.lora_A.weight"] = torch.ones(4, 32)
        case "zeros":
            tensors = {key: torch.zeros_like(value) for key, value in tensors.items()}
    save_file(tensors, path)
    with pytest.raises(ExportError, match="failed"):
        adapters.check_export(path, config, model)


def test_the_check_leaves_the_model_and_the_random_state_alone(trained, tmp_path):
    model, config = trained("lumina2", lora_dropout=0.5)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    model.denoiser.train()
    state, weights = torch.get_rng_state(), adapters.adapter_state(model)
    check = adapters.check_export(path, config, model)
    assert check.passed and model.denoiser.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[key], value) for key, value in adapters.adapter_state(model).items())
    assert json.loads(json.dumps(check.as_dict()))["passed"] is True


def test_an_untrained_adapter_passes(tiny_folder, tmp_path):
    """No effect is right when nothing was trained (a run stopped at step 0)."""
    model = fresh_lora(tiny_folder("sd1"))
    config = config_from_flat(
        {"pretrained_model_name_or_path": str(tiny_folder("sd1")), "device": "cpu", "lora_rank": 4}
    )
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    check = adapters.check_export(path, config, model)
    assert check.passed and check.effect == 0


def test_a_failed_write_keeps_the_file_that_was_there(trained, tmp_path, monkeypatch):
    model, config = trained("lumina2")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        adapters.export_lora(model, path, config)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["thing.safetensors"]


def test_paths_and_models_that_cannot_be_exported_are_refused(trained, tmp_path):
    model, config = trained("lumina2")
    with pytest.raises(ExportError, match="must end in .safetensors"):
        adapters.export_lora(model, tmp_path / "thing", config)
    with pytest.raises(ExportError, match="has an adapter"):
        adapters.export_full(model, tmp_path / "folder", config)
    whole, config = trained("lumina2", model_type="full")
    with pytest.raises(ExportError, match="no adapter"):
        adapters.export_lora(whole, tmp_path / "thing.safetensors", config)


# Header ---------------------------------------------------------------------------------------------------------------


def test_the_header_restores_the_config_and_reports_other_tools_what_this_is(trained, tmp_path):
    model, config = trained("sd2_v", lora_alpha=2.0)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, step=250)
    folder = {"pretrained_model_name_or_path": Path(config.model.pretrained_model_name_or_path).name}
    carried = adapters.read_lora_config(path)
    assert carried == json.loads(json.dumps(remarks("settings") | config_to_flat(config) | folder))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    expected = {
        "ss_v2": "True",
        "ss_base_model_version": "sd_v2",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_args": "{}",
        "ss_steps": "250",
        "ss_output_name": "thing",
        "modelspec.trigger_phrase": "sks",
        "modelspec.architecture": "stable-diffusion-v2/lora",
        "modelspec.resolution": "64x64",
        "rollout_studio_alpha": "2.0",
        "ss_network_alpha": "4.0",
    }
    assert {key: metadata[key] for key in expected} == expected
    assert not {"ss_dataset_dirs", "ss_tag_frequency"} & metadata.keys()


@pytest.mark.parametrize(
    ("typed", "published"),
    [
        ("/home/ada/pictures/dog", "dog"),
        ("C:\\Users\\Ada\\dog", "dog"),
        ("~/pictures/dog", "dog"),
        ("pictures/dog", "pictures/dog"),
        ("demo-dreambooth", "demo-dreambooth"),
    ],
)
def test_a_file_for_others_does_not_name_the_folders_of_its_maker(typed, published):
    config = config_from_flat({"instance_data_dir": typed, "pretrained_model_name_or_path": typed})
    flat = published_config(config)
    assert flat["instance_data_dir"] == flat["pretrained_model_name_or_path"] == published
    assert flat["class_data_dir"] is None


def test_a_config_is_read_without_torch(trained, tmp_path):
    model, config = trained("lumina2")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    script = (
        "import sys\n"
        "from rollout_studio.core.adapters import read_lora_config\n"
        "from rollout_studio.core.families import locate\n"
        f"print(read_lora_config({str(path)!r})['lora_rank'])\n"
        f"print(locate({config.model.pretrained_model_name_or_path!r}).family, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "lumina2", "False"]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 not tensors", (1 << 60).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
)
def test_a_file_that_is_no_safetensors_is_reported(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ExportError, match="not a safetensors file"):
        adapters.read_lora_config(tmp_path / "x.safetensors")


def test_a_foreign_file_carries_no_config(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert adapters.read_lora_config(tmp_path / "x.safetensors") is None


# Full fine-tune -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["sd1", "sd3_without_t5", "lumina2"])
def test_a_full_fine_tune_is_a_folder_that_opens_and_predicts_the_same(name, precision, trained, tmp_path):
    model, config = trained(name, model_type="full", save_precision=precision, size=0.05)
    path = adapters.export(model, tmp_path / "whole", config, step=3)
    check = adapters.check_export(path, config, model)
    assert check.passed and check.used == check.total == len(model.denoiser.state_dict())
    if precision == "float32":
        assert check.max_difference < 1e-3 * check.effect and check.effect > 1e-2
    folder = {"pretrained_model_name_or_path": Path(config.model.pretrained_model_name_or_path).name}
    assert config_from_flat(adapters.read_lora_config(path)) == config_from_flat(config_to_flat(config) | folder)
    assert locate(str(path)).family == model.name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["whole"]


def test_a_full_fine_tune_with_other_weights_fails_the_check(trained, tmp_path):
    model, config = trained("sd1", model_type="full", size=0.05)
    average = {key: value * 0.9 for key, value in adapters.adapter_state(model).items()}
    path = adapters.export_full(model, tmp_path / "whole", config, state=average)
    assert adapters.check_export(path, config, model, average).passed
    with pytest.raises(ExportError):
        adapters.check_export(path, config, model)


def test_a_full_export_replaces_its_folder(trained, tmp_path):
    model, config = trained("sd1", model_type="full", prediction_type="v_prediction")
    for _ in range(2):
        path = adapters.export_full(model, tmp_path / "whole", config)
    assert json.loads((path / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]
