"""Blocks that stream from main memory: the same training to the bit, with one block's weights on the device at a time."""

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.config import ConfigError, config_from_flat, read_config, with_changes
from rollout_studio.core.families import ModelError, load_model
from rollout_studio.core.families.blocks import blocks_of
from rollout_studio.core.families.loading import Loader
from rollout_studio.core.families.streaming import checkpoint_blocks, stream_blocks
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train.loop import train
from tiny import ONE_PER_FAMILY, PROMPTS
from tiny_run import ROLLOUT, at_step, losses

META = torch.device("meta")


def with_lora(folder, **options):
    flat = {
        "pretrained_model_name_or_path": str(folder),
        "device": "cpu",
        "lora_rank": 2,
        "gradient_checkpointing": True,
    } | options
    config = config_from_flat(flat)
    model = load_model(config.model)
    adapters.attach(model, config)
    checkpoint_blocks(model.denoiser)
    return model


def blocks(model):
    """Block -> its frozen parameters."""
    named = {name: weight for name, weight in model.denoiser.named_parameters() if not weight.requires_grad}
    return {block: [named[name] for name in names] for block, names in blocks_of(named).items()}


def call_of(model):
    """(arguments, their names) of a call of the network."""
    seen = []
    hook = model.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    x = torch.randn(2, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.7, 0.3]) * (1 if model.is_flow else 999)
    with torch.no_grad():
        model.denoise(x, t, model.collate(model.encode_prompts(PROMPTS)))
    hook.remove()
    return seen[0]


def moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(each, device) for name, each in value.items()}
    return type(value)(moved(each, device) for each in value) if isinstance(value, list | tuple) else value


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for one in value for each in tensors_in(one)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize(("variant", "count"), [("flux", 1), ("sd1", 2), ("zimage", 2)])
def test_a_streamed_training_is_bit_for_bit_the_other_one(variant, count, tiny_run, without_drift, monkeypatch):
    """With rollout, dropout in the adapter, and pictures in between. Both begin with copied weights: those in a file's pages are aligned
    otherwise, which on a CPU changes the last digit of a product of matrices."""
    network = Loader.network

    def copied(loader):
        opened = network(loader)
        for weight in opened.parameters():
            weight.data = weight.data.clone()
        return opened

    monkeypatch.setattr(Loader, "network", copied)
    options = {
        **ROLLOUT,
        "gradient_checkpointing": True,
        "lora_dropout": 0.3,
        "validation_prompts": ["a"],
        "validation_step_interval": 2,
    }
    whole = tiny_run(variant, "whole", **options)
    streamed = tiny_run(variant, "streamed", **options, streamed_blocks=count)
    assert train(whole) == train(streamed) == 0
    assert losses(whole) == losses(streamed)
    one, other = (checkpoint.load_latest(run.checkpoints_path)[0].tensors["trainable"] for run in (whole, streamed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for a, b in zip(*(sorted(run.samples_path.rglob("*.png")) for run in (whole, streamed)), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_a_run_may_go_on_with_another_number_of_streamed_blocks(tiny_run, without_drift):
    options = {**ROLLOUT, "gradient_checkpointing": True, "streamed_blocks": 2}
    whole, parts = tiny_run("sd1", "whole", **options), tiny_run("sd1", "parts", **options)
    assert train(whole) == 0
    assert train(parts, listen=at_step(1, lambda: parts.send("stop-and-save"))) == 0
    parts.config_path.write_text(
        with_changes(read_config(parts.config_path), {"streamed_blocks": 0}).to_json(), "utf-8"
    )
    assert train(parts, resume=True) == 0
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_gradients_of_the_adapter_do_not_depend_on_streaming(name, tiny_folder):
    gradients = []
    for every in (False, True):
        model = with_lora(tiny_folder(name))
        count = len(blocks(model)) if every else 0
        if every:
            model = with_lora(tiny_folder(name), streamed_blocks=count)
        args, kwargs = call_of(model)
        output = tensors_in(model.denoiser(*args, **kwargs)[0])
        sum(each.float().square().mean() for each in output).backward()
        gradients.append(
            {name: weight.grad for name, weight in model.denoiser.named_parameters() if weight.requires_grad}
        )
    plain, streamed = gradients
    assert any(gradient is not None and gradient.any() for gradient in plain.values())
    for layer, gradient in plain.items():
        assert (gradient is None) == (streamed[layer] is None), layer
        assert gradient is None or torch.equal(gradient, streamed[layer]), layer


@pytest.mark.parametrize("name", ["sd1", "sd3", "qwen", "zimage"])
def test_everything_that_a_call_and_its_gradient_need_is_on_the_device(name, tiny_folder):
    """The device is torch's "meta" one: it has no numbers, and refuses as CUDA does what lies elsewhere."""
    model = with_lora(tiny_folder(name))
    args, kwargs = moved(call_of(model), META)
    streamed = blocks(model)
    stream_blocks(model.denoiser, META, len(streamed))
    checkpoint_blocks(model.denoiser)
    output = tensors_in(model.denoiser(*args, **kwargs)[0])
    assert all(each.is_meta for each in output)
    sum(each.float().square().mean() for each in output).backward()
    trained = [weight for weight in model.denoiser.parameters() if weight.requires_grad]
    gradients = [weight.grad for weight in trained if weight.grad is not None]
    assert gradients and all(each.is_meta for each in (*trained, *gradients))
    at_home = {id(weight) for weights in streamed.values() for weight in weights}
    for layer, weight in model.denoiser.named_parameters():
        assert weight.is_meta == (id(weight) not in at_home), layer


def test_the_forward_keeps_no_copy_and_the_other_blocks_are_at_home(tiny_folder):
    model = with_lora(tiny_folder("flux"), streamed_blocks=2)
    streamed = dict(list(blocks(model).items())[-2:])
    away, kept = [], []

    def away_from_home():
        """Blocks of which copies compute."""
        return [block for block, weights in blocks(model).items() if block in streamed and any(a is not b for a, b in zip(weights, streamed[block], strict=True))]  # fmt: skip

    for block in streamed:
        first = next(module for module in model.denoiser.get_submodule(block).modules() if not list(module.children()))
        first.register_forward_pre_hook(lambda *_, block=block: away.append((block, away_from_home())))
    args, kwargs = call_of(model)
    away.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = model.denoiser(*args, **kwargs)[0]
    one, two = streamed
    assert away == [(one, [one]), (two, [two])] and away_from_home() == []
    shapes = {weight.shape for weights in streamed.values() for weight in weights if weight.ndim > 1}
    resident = {id(weight) for weight in model.denoiser.parameters()}
    assert kept and not any(tensor.shape in shapes and id(tensor) not in resident for tensor in kept)
    away.clear()
    output.square().mean().backward()
    assert away == [(two, [two]), (one, [one])] and away_from_home() == []  # each is fetched again, and goes again


def test_an_adapter_that_was_loaded_in_main_memory_comes_to_the_device_and_stays(tiny_folder):
    model = load_model(
        config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("flux")), "device": "cpu"}).model
    )
    args, kwargs = moved(call_of(model), META)
    stream_blocks(model.denoiser, META, 2)
    adapters.attach(model, config_from_flat({"lora_rank": 2, "device": "cpu", "lora_targets": ["to_q"]}))
    assert not any(weight.is_meta for name, weight in model.denoiser.named_parameters() if ".lora_" in name)
    with torch.no_grad():
        model.denoiser(*args, **kwargs)
    adapter = [weight for name, weight in model.denoiser.named_parameters() if ".lora_" in name]
    assert adapter and all(weight.is_meta for weight in adapter)


def test_more_blocks_than_there_are_is_refused(tiny_folder):
    with pytest.raises(ModelError, match=r"streamed_blocks = 9, but this network has \d blocks.*at most"):
        with_lora(tiny_folder("flux"), streamed_blocks=9)


@pytest.mark.parametrize(("options", "words"), [
    ({"model_type": "full"}, ["streamed_blocks = 2", "only frozen ones"]),
    ({}, ["streamed_blocks = 2", "set gradient_checkpointing to true"]),
    ({"base_model_quantization": "nf4"}, ['base_model_quantization = "nf4"', "would save nothing", "take int8 or fp8"]),
])  # fmt: skip
def test_what_cannot_stream_is_refused(options, words):
    with pytest.raises(ConfigError) as error:
        config_from_flat({"streamed_blocks": 2, **options})
    assert all(word in str(error.value) for word in words)


def test_a_block_is_the_innermost_one_of_its_name():
    assert blocks_of([
        "conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.1.resnets.0.conv1.weight", "noise_refiner.0.attention.to_k.weight", "layers.10.feed_forward.w1.weight", "proj_out.weight",
    ]) == {
        "down_blocks.0.attentions.1.transformer_blocks.0": ["down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight"],
        "down_blocks.1": ["down_blocks.1.resnets.0.conv1.weight"],
        "noise_refiner.0": ["noise_refiner.0.attention.to_k.weight"],
        "layers.10": ["layers.10.feed_forward.w1.weight"],
    }  # fmt: skip
