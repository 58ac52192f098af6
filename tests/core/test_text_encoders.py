"""Text encoders that train beside the denoiser: gradients, files in stock pipelines, resuming, showing; and the plain path as it was."""

import pytest
import torch
from rollout_studio.core import adapters
from rollout_studio.core.adapters import encoder_files, text_encoders
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families import ModelError, load_model
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file
from tiny_run import ROLLOUT, events, losses

ENCODERS = {"sd1": ("text_encoder",), "sd2_v": ("text_encoder",), "sdxl": ("text_encoder", "text_encoder_2")}
TEXT = {"train_text_encoder": True, "text_encoder_lora_rank": 2, "lora_alpha": 6.0}
PROMPTS = ["a circle, number 1", "something else"]


@pytest.fixture
def tuned(tiny_folder):
    """A variant -> (the live model with a LoRA of some effect on denoiser and encoders, its config)."""

    def make(variant: str, **changes):
        flat = {"pretrained_model_name_or_path": str(tiny_folder(variant)), "device": "cpu", "lora_rank": 3, **TEXT, **changes}
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
    return pipe(prompt, num_inference_steps=3, output_type="latent", generator=torch.Generator().manual_seed(3), height=32, width=32).images


def ours(model, prompt: str):
    """The live model's own pipeline."""
    model.pipe.set_progress_bar_config(disable=True)
    model.denoiser.eval()
    return latents_of(model.pipe, prompt)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("variant", ENCODERS)
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
