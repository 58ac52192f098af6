"""A LoRA over a network whose frozen weights are quantised: what is quantised, that it trains, and that every model opened again for
the run (load check, preview, drift, resume) is the same quantised one."""

from dataclasses import replace

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters.loading import load_lora
from rollout_studio.core.config import ConfigError, config_from_flat
from rollout_studio.core.families import ModelError, load_model, quantised
from rollout_studio.core.families.blocks import kept_whole
from rollout_studio.core.families.quantised import WAYS, is_quantised, shape_of, weight_of, why_not
from rollout_studio.core.look.bench import Bench
from rollout_studio.core.look.preview.request import PreviewError, Weights
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train.loop import train
from tiny import ONE_PER_FAMILY, PROMPTS
from tiny_run import ROLLOUT, at_step, events, losses
from torch import nn

KINDS = tuple(WAYS)


@pytest.fixture
def anywhere(monkeypatch):
    """Quantised weights on the CPU, also of bitsandbytes: it computes there, and only diffusers asks for a GPU."""

    def allow(kind):
        pytest.importorskip(WAYS[kind].package)
        from diffusers.quantizers.bitsandbytes import bnb_quantizer

        monkeypatch.setitem(WAYS, kind, replace(WAYS[kind], devices=("cpu",)))
        for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
            monkeypatch.setattr(quantizer, "validate_environment", lambda self, *args, **kwargs: None)
            monkeypatch.setattr(quantizer, "update_device_map", lambda self, device_map: {"": "cpu"})
        if (
            WAYS[kind].package == "bitsandbytes"
        ):  # its own kernels for 4 bits on some processors want rows of 64 numbers
            monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)

    return allow


def options(folder, kind, **others):
    return {
        "pretrained_model_name_or_path": str(folder),
        "device": "cpu",
        "base_model_quantization": kind,
        "lora_rank": 3,
        "gradient_checkpointing": True,
    } | others


def opened(folder, kind, for_training=True, **others):
    return load_model(config_from_flat(options(folder, kind, **others)).model, for_training=for_training)


def prediction(model):
    x = torch.randn(2, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.7, 0.3]) * (1 if model.is_flow else 999)
    return model.denoise(x, t, model.collate(model.encode_prompts(PROMPTS)))


def linear_layers(model):
    return {name: layer for name, layer in model.denoiser.named_modules() if isinstance(layer, nn.Linear)}


# What is quantised ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_layers_inside_the_blocks_are_quantised_and_the_weights_stay_near(kind, tiny_folder, anywhere):
    anywhere(kind)
    whole, small = opened(tiny_folder("flux"), "none"), opened(tiny_folder("flux"), kind)
    layers = linear_layers(small)
    kept = kept_whole(list(layers))
    assert kept and len(kept) < len(layers) / 2
    assert [name for name, layer in layers.items() if not is_quantised(layer)] == kept
    for name, layer in linear_layers(whole).items():
        assert shape_of(layers[name]) == tuple(layer.weight.shape)
        error = (weight_of(layers[name]).float() - layer.weight).norm() / layer.weight.norm()
        assert error <= 1.5 * WAYS[kind].error if name not in kept else error == 0, name
    assert not any(weight.requires_grad for weight in small.denoiser.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_weights_bytes_are_those_of_the_table(kind, tiny_folder, anywhere):
    anywhere(kind)
    for layer in linear_layers(opened(tiny_folder("flux"), kind)).values():
        if is_quantised(layer):
            assert _bytes(layer) == WAYS[kind].bytes_of(*shape_of(layer))


def _bytes(layer):
    """Of everything that a quantised weight is made of."""
    weight = layer.weight
    if hasattr(weight, "quant_state"):
        state = weight.quant_state
        parts = [weight.data, state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset]
    elif hasattr(weight, "CB"):
        parts = [weight.data, weight.SCB]
    else:
        parts = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
    return sum(part.numel() * part.element_size() for part in parts)


def test_a_name_that_would_take_layers_of_a_block_along_is_not_kept_whole():
    names = ["x_embedder", "proj_out", "blocks.0.attn.to_q", "blocks.0.proj_out", "time_embed.linear_1"]
    assert kept_whole(names) == ["x_embedder", "time_embed.linear_1"]


# That it trains -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, kind) for name in ONE_PER_FAMILY for kind in ("nf4", "int8")), ("flux", "fp8"), ("flux", "int8_bnb")],
)
def test_a_quantised_network_predicts_nearly_the_same_and_its_adapter_gets_gradients(name, kind, tiny_folder, anywhere):
    anywhere(kind)
    folder = tiny_folder(name)
    whole, small = opened(folder, "none"), opened(folder, kind)
    adapters.attach(small, config_from_flat(options(folder, kind)))
    output = prediction(small)
    with torch.no_grad():
        expected = prediction(whole)
        with small.adapters_disabled():
            assert torch.allclose(prediction(small), output, atol=1e-6)
    assert (output.detach() - expected).norm() / expected.norm() < 20 * WAYS[kind].error
    output.square().mean().backward()
    gradients = [weight.grad for weight in small.denoiser.parameters() if weight.requires_grad]
    assert any(each is not None and each.any() for each in gradients)
    assert all(each is None or each.isfinite().all() for each in gradients)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision"),
    [("nf4", "bfloat16"), ("int8", "float32"), ("int8", "bfloat16"), ("int8_bnb", "bfloat16"), ("fp8", "bfloat16")],
)
def test_a_training_with_drift_pictures_and_checkpointing_is_exported_checked_and_resumed(
    kind, precision, tiny_run, anywhere
):
    """The load check opens the same quantised network; so do drift and pictures, which are made with the trainer's own. A stopped run goes
    on to the same weights."""
    anywhere(kind)
    changes = {**ROLLOUT, "base_model_quantization": kind, "base_model_precision": precision, "gradient_checkpointing": kind in ("int8", "fp8"),
               "validation_prompts": ["a"], "validation_step_interval": 2, "drift_step_interval": 2}  # fmt: skip
    if precision == "bfloat16":
        changes["mixed_precision"] = "bf16"
    whole = tiny_run("flux", "whole", **changes)
    assert train(whole) == 0
    (exported,) = events(whole, "exported")
    assert exported["check"]["passed"] and exported["check"]["effect"] > 0
    assert events(whole, "drift") and events(whole, "sample")
    parts = tiny_run("flux", "parts", **changes)
    assert train(parts, listen=at_step(1, lambda: parts.send("stop-and-save"))) == 0
    assert train(parts, resume=True) == 0
    assert losses(parts) == losses(whole)
    one, other = (checkpoint.load_latest(run.checkpoints_path)[0].tensors["trainable"] for run in (whole, parts))
    assert all(torch.equal(one[layer], other[layer]) for layer in one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_output_preservation_keeps_what_the_quantised_base_answers(kind, tiny_run, without_drift, anywhere):
    """A new LoRA changes nothing, so at first the answers with and without it are the same; a stopped run goes on to the same losses."""
    anywhere(kind)
    changes = {**ROLLOUT, "base_model_quantization": kind, "gradient_checkpointing": kind == "int8", "class_prompt": "a circle",
               "output_preservation_weight": 1.0}  # fmt: skip
    whole, parts = tiny_run("flux", "whole", **changes), tiny_run("flux", "parts", **changes)
    assert train(whole) == 0
    first, *later = (event["loss_parts"]["preservation"] for event in events(whole, "step"))
    assert first < 1e-9 < min(later), later
    assert train(parts, listen=at_step(1, lambda: parts.send("stop-and-save"))) == 0
    assert train(parts, resume=True) == 0
    assert losses(parts) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantised_blocks_stream(kind, tiny_run, without_drift, anywhere):
    anywhere(kind)
    options = {**ROLLOUT, "base_model_quantization": kind, "gradient_checkpointing": True}
    whole, streamed = tiny_run("flux", "whole", **options), tiny_run("flux", "streamed", **options, streamed_blocks=2)
    assert train(whole) == train(streamed) == 0
    assert losses(streamed) == pytest.approx(losses(whole), rel=1e-6)


# Opened again ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_of_a_quantised_base_does_the_same_in_the_preview_and_nearly_the_same_on_the_whole_base(
    kind, tiny_folder, tmp_path, anywhere
):
    anywhere(kind)
    folder = tiny_folder("flux")
    config = config_from_flat(options(folder, kind))
    model = load_model(config.model)
    adapters.attach(model, config)
    with torch.no_grad():
        for weight in adapters.trainable_parameters(model):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    path = adapters.export(model, tmp_path / "lora.safetensors", config)
    assert adapters.check_export(
        path, config
    ).passed  # without the live model: the file's matrices on the quantised layers
    with torch.no_grad(), quantised_eval(model):
        tuned = prediction(model)
        with model.adapters_disabled():
            base = prediction(model)
        bench = Bench()
        bench.open(config)
        bench.with_weights(Weights("lora", path, None, "it"))
        shown = prediction(bench.model)
        whole = opened(folder, "none", for_training=False)
        untuned = prediction(whole)
        load_lora(whole, path, "it")
        moved = prediction(whole) - untuned
    effect = (tuned - base).norm()
    assert torch.allclose(shown, tuned, atol=1e-4)
    assert (moved - (tuned - base)).norm() < 0.5 * effect  # what the whole base answers to it otherwise, layer by layer


def quantised_eval(model):
    from rollout_studio.core.families.modes import evaluating

    return evaluating(model.denoiser)


# What is refused ------------------------------------------------------------------------------------------------------


def test_a_full_fine_tune_is_refused():
    with pytest.raises(ConfigError, match=r'base_model_quantization = "nf4".*only frozen ones.*"lora"'):
        config_from_flat({"base_model_quantization": "nf4", "model_type": "full"})


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_unpacked_weights_must_not_be_kept_for_the_backward_pass(kind):
    with pytest.raises(ConfigError, match=f'base_model_quantization = "{kind}".*set gradient_checkpointing to true'):
        config_from_flat({"base_model_quantization": kind})


@pytest.mark.parametrize(("kind", "device", "words"), [
    ("nf4", "cpu", ["nf4 works on cuda; this is cpu", "bfloat16, or base_model_quantization = int8 or fp8"]),
    ("int8_bnb", "mps", ["works on cuda; this is mps", "base_model_quantization = int8."]),
    ("fp8", "mps", ["works on cuda and cpu; this is mps"]),
])  # fmt: skip
def test_a_device_that_lacks_it_is_refused_with_what_to_take_instead(kind, device, words):
    found = why_not(kind, device)
    assert found is not None and all(word in " ".join(found) for word in words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_that_is_missing_or_too_old_is_named_with_its_command(kind, monkeypatch):
    package, device = WAYS[kind].package, WAYS[kind].devices[0]
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    assert f"Run `pip install {package}`" in why_not(kind, device)[1]
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    monkeypatch.setattr(quantised.metadata, "version", lambda name: "0.50.2")
    assert why_not(kind, device) is None
    monkeypatch.setattr(quantised.metadata, "version", lambda name: "0.9.1")
    message, remedy = why_not(kind, device)
    assert "or later; installed is" in message and f"pip install --upgrade {package}" in remedy


def test_a_full_fine_tune_is_not_shown_on_a_base_that_cannot_take_its_weights(tiny_run, tiny_folder, without_drift):
    run = tiny_run("sd1", "full", model_type="full", max_train_steps=1)
    assert train(run) == 0
    bench = Bench()
    bench.open(config_from_flat(options(tiny_folder("sd1"), "none", streamed_blocks=1)))
    with pytest.raises(PreviewError, match="streamed_blocks keep a frozen base"):
        bench.with_weights(Weights("run", run.path, 1, "it"))


def test_opening_a_model_refuses_it_too(tiny_folder):
    with pytest.raises(ModelError, match="nf4 works on cuda"):
        opened(tiny_folder("flux"), "nf4")
