"""Codecs and layouts of families to come, against the stock pipelines that have them: real autoencoders and schedulers at tiny size.

The network between them is a stand-in that records what it is given, because only what lies before and behind it is asked here. (The
codec and the layouts of today's families are compared in `test_families.py`.)
"""

from contextlib import contextmanager
from types import SimpleNamespace

import diffusers
import pytest
import torch
from rollout_studio.core.families.codec import DeepVae, LatentCodec, PatchifiedVae, PerChannelVae, ScaledVae
from rollout_studio.core.families.layout import AsIs, ListOfItems, Packed2x2, TokensWithIds
from tiny import autoencoder, deep_autoencoder, without_zeros
from torch import nn

CPU, SIDE, WIDTH = torch.device("cpu"), 32, 64
PIXELS = torch.rand(2, 3, SIDE, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Echo(nn.Module):
    """In a network's place: records its arguments and answers with a function of the latents."""

    def __init__(self, channels):
        super().__init__()
        self.config = SimpleNamespace(in_channels=channels, guidance_embeds=False, sample_size=8, patch_size=(1, 1, 1))
        self.in_channels, self.device, self.dtype, self.seen = channels, CPU, torch.float32, []

    @contextmanager
    def cache_context(self, name, **kwargs):
        yield

    def forward(self, *args, **kwargs):
        self.seen.append((args, kwargs))
        latents = args[0] if args else kwargs["hidden_states"]
        return ([torch.tanh(each) for each in latents] if isinstance(latents, list) else torch.tanh(latents),)


def flux2_vae():
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=SIDE,
    )  # fmt: skip


def qwen_vae():
    return diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def wan_vae():
    return diffusers.AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


CODECS: dict[str, tuple] = {  # autoencoder, codec, channels and pixels per cell of the latents that noise is added to
    "scaled": (lambda: autoencoder(0.1), ScaledVae, 4, 4),
    "qwen": (qwen_vae, PerChannelVae, 16, 8),
    "wan": (wan_vae, PerChannelVae, 16, 8),
    "deep": (deep_autoencoder, DeepVae, 4, 4),
    "flux2": (flux2_vae, PatchifiedVae, 16, 4),
}


@pytest.fixture(scope="module")
def codec_of():
    built: dict[str, LatentCodec] = {}

    def codec(name: str) -> LatentCodec:
        if name not in built:
            make, kind, _, _ = CODECS[name]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                vae = without_zeros(make()).eval().requires_grad_(False)
                if name == "flux2":  # statistics of a trained one
                    vae.bn.running_mean.normal_()
                    vae.bn.running_var.uniform_(0.5, 2)
            built[name] = kind(vae, CPU)
        return built[name]

    return codec


@pytest.mark.parametrize("name", CODECS)
def test_latents_have_the_shape_that_noise_is_added_to_and_scaling_is_undone(name, codec_of):
    _, _, channels, scale = CODECS[name]
    codec = codec_of(name)
    latents = codec.encode(PIXELS)
    assert latents.shape == (2, channels, SIDE // scale, WIDTH // scale) and latents.dtype == torch.float32
    torch.testing.assert_close(codec.scale(codec.unscale(latents)), latents)
    assert not torch.allclose(codec.unscale(latents).flatten()[:64], latents.flatten()[:64], atol=1e-3)
    pixels = codec.decode(latents)
    assert pixels.shape == PIXELS.shape and pixels.min() >= 0 and pixels.max() <= 1
    alone = torch.cat([codec.encode(each[None]) for each in PIXELS])
    torch.testing.assert_close(alone, latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CODECS)
def test_a_generator_draws_from_the_posterior_where_there_is_one(name, codec_of):
    drawn = [codec_of(name).encode(PIXELS, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (name == "deep")


def test_encoding_is_what_the_pipelines_do_with_a_picture_of_their_users(codec_of):
    flux2, qwen = codec_of("flux2"), codec_of("qwen")
    klein = diffusers.Flux2KleinPipeline
    holder = SimpleNamespace(vae=flux2.vae, _patchify_latents=klein._patchify_latents)
    assert torch.equal(flux2.encode(PIXELS), klein._encode_vae_image(holder, PIXELS, None))
    holder = SimpleNamespace(vae=qwen.vae, latent_channels=16)
    generator = torch.Generator().manual_seed(3)
    theirs = diffusers.QwenImageImg2ImgPipeline._encode_vae_image(holder, PIXELS[:, :, None], generator)
    assert torch.equal(qwen.encode(PIXELS, torch.Generator().manual_seed(3)), theirs[:, :, 0])


def called(pipe, latents, **arguments):
    """(what the scheduler's last step gave, the pictures) of a stock pipeline that starts at `latents`."""
    step, ends = pipe.scheduler.step, []

    def recording(*args, **kwargs):
        result = step(*args, **kwargs)
        ends.append(result[0].clone())
        return result

    pipe.scheduler.step = recording
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(
        latents=latents.clone(), num_inference_steps=2, height=SIDE, width=WIDTH, output_type="pt", **arguments
    )
    return ends[-1], pictures[0]


def test_flux_2_tokens_ids_and_pictures_are_the_pipelines(codec_of):
    codec, layout, network = codec_of("flux2"), TokensWithIds(), Echo(16)
    pipe = diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=codec.vae, text_encoder=None, tokenizer=None,
        transformer=network, is_distilled=True,
    )  # fmt: skip
    x = torch.randn(2, 16, SIDE // 4, WIDTH // 4, generator=torch.Generator().manual_seed(5))
    end, pictures = called(pipe, x, prompt_embeds=torch.zeros(2, 5, 8), return_dict=False)
    given, ours = network.seen[0][1], layout.to_network(x)
    assert torch.equal(ours["hidden_states"], given["hidden_states"]) and torch.equal(ours["img_ids"], given["img_ids"])
    assert torch.equal(layout.from_network(ours["hidden_states"], SIDE // 4, WIDTH // 4), x)
    assert torch.equal(codec.decode(layout.from_network(end, SIDE // 4, WIDTH // 4)), pictures)


def test_qwen_tokens_and_pictures_are_the_pipelines(codec_of):
    codec, layout, network = codec_of("qwen"), Packed2x2(), Echo(64)
    pipe = diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae=codec.vae, text_encoder=None, tokenizer=None,
        transformer=network,
    )  # fmt: skip
    x = torch.randn(2, 16, SIDE // 8, WIDTH // 8, generator=torch.Generator().manual_seed(5))
    tokens = layout.to_network(x)["hidden_states"]
    asked = {"prompt_embeds": torch.zeros(2, 5, 8), "prompt_embeds_mask": torch.ones(2, 5, dtype=torch.long)}
    end, pictures = called(pipe, tokens, **asked, true_cfg_scale=1.0, return_dict=False)
    assert torch.equal(tokens, diffusers.QwenImagePipeline._pack_latents(x, 2, 16, SIDE // 8, WIDTH // 8))
    assert torch.equal(network.seen[0][1]["hidden_states"], tokens)
    assert torch.equal(codec.decode(layout.from_network(end, SIDE // 8, WIDTH // 8)), pictures)


def test_wan_pictures_are_the_pipelines_first_frame(codec_of):
    codec, network = codec_of("wan"), Echo(16)
    network.config.out_channels = 16
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=codec.vae, scheduler=diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        transformer=network,
    )  # fmt: skip
    x = torch.randn(2, 16, SIDE // 8, WIDTH // 8, generator=torch.Generator().manual_seed(5))
    end, pictures = called(
        pipe, x[:, :, None], prompt_embeds=torch.zeros(2, 5, 8), num_frames=1, guidance_scale=1.0, return_dict=False
    )
    assert torch.equal(codec.decode(end[:, :, 0]), pictures[:, 0])


def test_sana_latents_and_pictures_are_the_pipelines(codec_of):
    codec, layout, network = codec_of("deep"), AsIs(), Echo(4)
    network.config.out_channels, network.config.timestep_scale = 4, 1.0
    pipe = diffusers.SanaPipeline(
        tokenizer=None, text_encoder=None, vae=codec.vae, transformer=network, scheduler=diffusers.FlowMatchEulerDiscreteScheduler()
    )  # fmt: skip
    x = torch.randn(2, 4, SIDE // 4, WIDTH // 4, generator=torch.Generator().manual_seed(5))
    asked = {"prompt_embeds": torch.zeros(2, 5, 8), "prompt_attention_mask": torch.ones(2, 5)}
    end, pictures = called(
        pipe, x, **asked, guidance_scale=1.0, use_resolution_binning=False, negative_prompt="", return_dict=False
    )
    (given,), _ = network.seen[0]
    assert torch.equal(layout.to_network(x)["hidden_states"], given)
    assert torch.equal(codec.decode(layout.from_network(end, SIDE // 4, WIDTH // 4)), pictures)


def test_z_images_list_of_items_is_the_pipelines(codec_of):
    codec, layout, network = codec_of("scaled"), ListOfItems(), Echo(4)
    pipe = diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=codec.vae, text_encoder=None, tokenizer=None,
        transformer=network,
    )  # fmt: skip
    x = torch.randn(2, 4, SIDE // 4, WIDTH // 4, generator=torch.Generator().manual_seed(5))
    end, pictures = called(
        pipe, x, prompt_embeds=[torch.zeros(5, 8)] * 2, guidance_scale=0.0, prompt=None, return_dict=False
    )
    (given, *_), _ = network.seen[0]
    ours = layout.to_network(x)["x"]
    assert len(ours) == len(given) == 2 and all(torch.equal(one, other) for one, other in zip(ours, given, strict=True))
    assert torch.equal(layout.from_network(ours, SIDE // 4, WIDTH // 4), x)
    assert torch.equal(codec.decode(end), pictures)
