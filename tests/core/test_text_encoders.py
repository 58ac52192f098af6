"""Text encoders that train beside the denoiser: gradients, files in stock pipelines, resuming, showing; and the plain path as it was."""

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters.convert import convert
from rollout_studio.core.adapters.lora_layers import Base, read_lora
from rollout_studio.core.adapters.matrices import difference
from rollout_studio.core.adapters.merge import merge
from rollout_studio.core.adapters.resize import resize
from rollout_studio.core.adapters.trainable import adapted_layers as adapters_layers
from rollout_studio.core.before.checks.model import text_encoders as checked
from rollout_studio.core.before.disk import trained_weights
from rollout_studio.core.before.estimate import known_facts, memory_estimate
from rollout_studio.core.before.preflight import read_situation
from rollout_studio.core.before.remarks import remarks
from rollout_studio.core.before.text_encoders import encoder_load
from rollout_studio.core.config import config_from_flat, with_changes
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families import load_model
from rollout_studio.core.families.latent_unet import LatentUNet
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.drift.files import read_report
from rollout_studio.core.look.revisit import measure_drift, open_checkpoint
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.run_log import prepared_words
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file, save_file
from tiny_run import ROLLOUT, asked_of, events, losses, quietly

ENCODERS = {"sd1": ("text_encoder",), "sd2_v": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
TEXT = {"train_text_encoder": True, "text_encoder_lora_rank": 2, "lora_alpha": 6.0}
PROMPTS = ["a circle, number 1", "something else"]


@pytest.fixture
def tuned(tiny_folder):
    """A variant -> (the live model with a LoRA of some effect on denoiser and encoders, its config)."""

    def make(variant: str, **changes):
        flat = {
            "pretrained_model_name_or_path": str(tiny_folder(variant)),
            "device": "cpu",
            "lora_rank": 3,
            **TEXT,
            **changes,
        }
        config = config_from_flat(flat)
        model = load_model(config.model)
        adapters.attach(model, config)
        with torch.no_grad():
            for parameter in adapters.trainable_parameters(model):
                parameter += 0.3 * torch.randn(parameter.shape)
        return model, config

    return make


def stock(folder, variant: str):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    kind = StableDiffusionXLPipeline if variant == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents_of(pipe, prompt: str):
    return pipe(
        prompt,
        num_inference_steps=3,
        output_type="latent",
        generator=torch.Generator().manual_seed(3),
        height=32,
        width=32,
    ).images


def ours(model, prompt: str):
    """The live model's own pipeline."""
    model.pipe.set_progress_bar_config(disable=True)
    model.denoiser.eval()
    return latents_of(model.pipe, prompt)


@pytest.mark.parametrize(("variant", "layout"), [
    ("sd1", "diffusers"), pytest.param("sd2_v", "kohya", marks=pytest.mark.slow), ("sdxl", "kohya"), pytest.param("sdxl", "diffusers", marks=pytest.mark.slow),
    pytest.param("sd1", "kohya", marks=pytest.mark.slow), pytest.param("sd2_v", "diffusers", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_fresh_stock_pipeline_with_the_file_draws_what_the_trained_model_draws(
    variant, layout, tuned, tiny_folder, tmp_path
):
    model, config = tuned(variant)
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout=layout)
    check = adapters.check_export(path, config, model)
    layers = [name for name in load_file(path) if name.startswith(("text_encoder", "lora_te"))]
    per_layer = 3 if layout == "kohya" else 2
    assert check.passed and check.used == check.total
    assert len(layers) == per_layer * 8 * len(ENCODERS[variant])  # two blocks of q, k, v, out
    if layout == "kohya":
        starts = {"lora_te1_text_model_", "lora_te2_text_model_"} if variant == "sdxl" else {"lora_te_text_model_"}
        assert {name[: name.index("encoder_layers")] for name in layers} == starts
    pipe = stock(tiny_folder(variant), variant)
    before = latents_of(pipe, PROMPTS[0])
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    expected = ours(model, PROMPTS[0])
    assert torch.allclose(latents_of(pipe, PROMPTS[0]), expected, atol=1e-5)
    assert (before - expected).abs().max() > 1e-2


@pytest.mark.slow
def test_a_lost_layer_of_an_encoder_fails_the_check(tuned, tmp_path):
    model, config = tuned("sd1")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config)
    layer = "text_encoder.text_model.encoder.layers.1.self_attn.v_proj"
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith(layer)}, path)
    with pytest.raises(adapters.ExportError, match="failed"):
        adapters.check_export(path, config, model)


def test_layouts_ranks_and_a_merged_folder_keep_the_encoders_layers(tuned, tiny_folder, tmp_path):
    model, config = tuned("sdxl")
    path = adapters.export_lora(model, tmp_path / "thing.safetensors", config, layout="kohya")
    there = convert(path, tmp_path / "there.safetensors", "diffusers", model.source)
    back = convert(there.path, tmp_path / "back.safetensors", "kohya", model.source)
    base = Base.of(model.source)
    first, again = (read_lora(each, base).layers for each in (path, back.path))
    assert first.keys() == again.keys() == set(adapters_layers(model))
    assert all(difference(first[layer], again[layer]) < 1e-6 for layer in first)
    small = resize(there.path, tmp_path / "small.safetensors", 1, model.source)
    assert "text_encoder_2.text_model.encoder.layers.1.self_attn.out_proj" in small.kept
    assert adapters.check_export(small.path, config).passed
    merge(path, model.source, tmp_path / "whole")  # which compares a prediction, too
    assert torch.allclose(latents_of(stock(tmp_path / "whole", "sdxl"), PROMPTS[1]), ours(model, PROMPTS[1]), atol=1e-4)


def test_a_run_encodes_once_a_step_trains_the_encoders_to_their_last_step_and_proves_both_files(
    tiny_run, without_drift, monkeypatch, tmp_path, pictures
):
    """A rollout of every row: it is led by the encoding that the loss has, without gradient."""
    calls = []

    def encoded(self, captions):
        calls.append((torch.is_grad_enabled(), len(captions)))
        return encode(self, captions)

    encode = LatentUNet.encode_captions
    monkeypatch.setattr(LatentUNet, "encode_captions", encoded)
    settings = {**ROLLOUT, **TEXT, "scheduled_sampling_probability": 1.0, "text_encoder_steps": 2, "checkpoint_step_interval": 1,
                "text_encoder_learning_rate": 5e-3, "lora_layout": "both", "validation_prompts": PROMPTS[:1], "lora_dropout": 0.2}  # fmt: skip
    run = tiny_run("sd1", **settings)
    assert train(run) == 0
    assert calls == [(True, 2), (True, 2), (False, 2)]
    prepared = events(run, "prepared")[0]
    assert prepared["encoders_trained"] == ["text_encoder"] and "stay loaded and train" in prepared_words(prepared)
    states = [checkpoint.load(path).tensors["trainable"] for path in checkpoint.checkpoints(run.checkpoints_path)]
    named = [name for name in states[0] if name.startswith("text_encoder.text_model.encoder.layers.")]
    assert len(named) == 2 * 8

    def moved(one, other):
        return sum(not torch.equal(states[one][name], states[other][name]) for name in named)

    assert (moved(0, 1), moved(1, 2)) == (16, 0)
    assert not torch.equal(*(next(iter(state.values())) for state in states[1:]))  # the denoiser trains on
    checks = [file["check"] for file in events(run, "exported")[0]["files"]]
    assert [check["passed"] for check in checks] == [True, True] and all(
        check["used"] == check["total"] for check in checks
    )
    _shown(run, tmp_path, pictures)


def _shown(run, tmp_path, pictures):
    """Checkpoint and file show the same, and not what the denoiser's part alone shows; the base stays the base."""
    file = run.lora_path / f"{run.name}.safetensors"
    alone = tmp_path / "alone.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name.startswith("unet.")}, alone)
    weights = [{"run": str(run.path), "step": 3}, {"lora": str(file)}, {"lora": str(alone)}, "base"]
    numbers = quietly(Bench(), asked_of(run, pictures, checkpoints=weights), tmp_path / "a")["numbers"]
    stepped, filed, bare, base = numbers.values()
    assert stepped == pytest.approx(filed, rel=1e-4, abs=1e-5)
    assert quietly(Bench(), asked_of(run, pictures), tmp_path / "b")["numbers"]["base"] == base
    assert len({each["cos_clean"] for each in (filed, bare, base)}) == 3


@pytest.mark.slow
def test_drift_while_training_and_afterwards_has_the_encoders_of_its_weights(tiny_run, tmp_path, monkeypatch):
    run = tiny_run("sd1", **TEXT, max_train_steps=2, text_encoder_learning_rate=0.1, learning_rate=1e-9)
    assert train(run) == 0
    config = config_from_flat(run.read_config())
    report = measure_drift(config, tmp_path / "report", tmp_path / "cache", open_checkpoint(run))
    base, tuned = (report.find(weights, "training") for weights in ("base", "tuned"))
    losses = [[point.measures["loss"].value for point in curve.clean_loss] for curve in (base, tuned)]
    assert losses[0] != losses[1]  # the denoiser hardly moved: it is the words
    trained = read_report(run.drift_path / "step-000002" / "report.json")
    for weights, curve in (("base", base), ("tuned", tuned)):
        there = {
            round(point.sigma, 3): point.measures["loss"].value
            for point in trained.find(weights, "training").clean_loss
        }
        again = {round(point.sigma, 3): point.measures["loss"].value for point in curve.clean_loss}
        shared = there.keys() & again.keys()
        assert shared and all(there[sigma] == pytest.approx(again[sigma], rel=1e-4) for sigma in shared)


@pytest.mark.slow
def test_a_first_step_with_encoders_that_train_has_the_loss_of_a_plain_one(tiny_run, without_drift):
    """The encoders' LoRA begins without effect, dropped captions as inference has them."""
    same = {"max_train_steps": 1, "caption_dropout_probability": 0.5, "train_batch_size": 4}
    plain, text = (tiny_run("sdxl", name, **same, **more) for name, more in (("plain", {}), ("text", TEXT)))
    assert train(plain) == train(text) == 0
    assert losses(text) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize(("flat", "words"), [
    ({"train_text_encoder": True, "model_type": "full"}, 'model_type is "full"'),
    ({"train_text_encoder": True, "model_family": "flux"}, "stay frozen in every recipe"),
    ({**TEXT, "optimizer": "prodigy", "learning_rate": 1.0, "text_encoder_learning_rate": 0.1}, "prodigy finds one rate"),
])  # fmt: skip
def test_what_cannot_be_trained_together_is_refused(flat, words):
    with pytest.raises(ConfigError, match=words):
        config_from_flat(flat)


def test_a_family_without_encoders_to_train_is_refused_before_and_at_the_start(tiny_run, tiny_folder):
    run = tiny_run("lumina2", **TEXT)
    config = config_from_flat(run.read_config())
    assert [finding.code for finding in checked(read_situation(config, None, run.path.parent, None))] == [
        "text-encoder"
    ]
    assert train(run) == 78
    assert "Lumina" in events(run, "error")[0]["message"]


def test_settings_that_wait_for_the_encoders_are_named():
    said = remarks(config_from_flat({"text_encoder_lora_rank": 4, "text_encoder_steps": 3}))
    assert any(
        "text_encoder_lora_rank, text_encoder_steps" in each and "train_text_encoder is false" in each for each in said
    )
    assert any(
        "text_encoder_steps is not used" in each
        for each in remarks(config_from_flat({"train_text_encoder": True, "text_encoder_steps": 1000}))
    )
    assert any(
        "lora_dropout holds" in each
        for each in remarks(config_from_flat({"train_text_encoder": True, "lora_dropout": 0.1}))
    )


def test_the_estimate_counts_what_trains_and_stays(tuned, tiny_folder):
    model, config = tuned("sdxl")
    facts = known_facts(config.model)
    weights = sum(each.numel() for each in adapters.trainable_parameters(model))
    assert trained_weights(config, facts) == weights
    encoders = (model.pipe.text_encoder, model.pipe.text_encoder_2)
    frozen = sum(
        each.numel()
        for encoder in encoders
        for each in encoder.parameters()
        if each.ndim > 1 and not each.requires_grad
    )
    assert encoder_load(config, facts).weights == frozen - model.pipe.text_encoder_2.text_projection.weight.numel()
    off = with_changes(config, {"train_text_encoder": False})
    assert memory_estimate(config, facts).parts["activations"] > memory_estimate(off, facts).parts["activations"]
    assert "text encoders" in memory_estimate(with_changes(config, {"device": "cuda"}), facts).parts
