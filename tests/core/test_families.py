"""Each family against its stock diffusers pipeline, and what every family promises the rest of the core."""

import gc
import inspect
import json
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from recipes import RECIPES
from rollout_studio.core import families
from rollout_studio.core.before.cost import guidance_of, rollout_cost
from rollout_studio.core.before.effects import longest_rollout
from rollout_studio.core.before.model_files import model_findings
from rollout_studio.core.before.preflight import preflight
from rollout_studio.core.config import (
    ModelConfig,
    config_from_flat,
    idle_remarks,
    preset_names,
    read_preset,
    with_changes,
)
from rollout_studio.core.families import FAMILIES, ModelError, base, load_model, locate, sampling
from rollout_studio.core.families.codec import DeepVae
from rollout_studio.core.families.conditioning import Conditioning, Frame
from rollout_studio.core.families.guidance import ClassifierFree
from rollout_studio.core.families.known import known_family
from rollout_studio.core.families.loading import Loader
from rollout_studio.core.families.registry import PIPELINES
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.noise import target_output
from rollout_studio.core.maths.rollout import plan_offsets, rollout
from rollout_studio.core.maths.solvers import make_solver
from rollout_studio.core.train.loop import train
from stock import NEGATIVE, STEPS, Recorded, as_asked, differences, open_model, over_white, rows_asked, stock_pipeline
from tiny import BUILDERS, FAMILY_OF, ONE_PER_FAMILY, PROMPTS, predictions
from tiny_run import events, losses

VARIANTS = tuple(BUILDERS)
FLOWS = tuple(name for name in ONE_PER_FAMILY if FAMILIES[FAMILY_OF[name]].is_flow)


@pytest.fixture(scope="module")
def model_of(tiny_folder):
    """One loaded model per variant, shared: tests that change one open their own."""
    loaded = {}

    def model(name):
        if name not in loaded:
            loaded[name] = open_model(tiny_folder(name))
        return loaded[name]

    return model


@pytest.fixture(scope="module")
def recorded(tiny_folder):
    calls = {}

    def record(name, guidance=3.0):
        if (name, guidance) not in calls:
            calls[name, guidance] = Recorded(tiny_folder(name), guidance)
        return calls[name, guidance]

    return record


def random_state(model, rows, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(rows, model.latent_channels, 8, 8, generator=draws)


def times(model, rows):
    """Different in every row, and not a node of any schedule."""
    spread = torch.linspace(0.83, 0.13, rows)
    return spread if model.is_flow else spread * 999


# The standing test ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", VARIANTS)
def test_denoise_and_guidance_give_what_the_stock_pipeline_hands_to_its_scheduler(name, guidance, model_of, recorded):
    for ours, output in differences(model_of(name), recorded(name, guidance), guidance):
        assert output.abs().max() > 1e-3
        torch.testing.assert_close(ours, output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "name", [name if name in ONE_PER_FAMILY else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_with_one_prompt_a_call_and_its_padding_they_are_the_stock_pipelines_bits(
    name, guidance, model_of, tiny_folder
):
    """What is left above: the stock pipeline encodes two prompts together and we one by one; Lumina's padding is cut off here."""
    stock = Recorded(tiny_folder(name), guidance, prompts=PROMPTS[:1])
    assert all(torch.equal(*pair) for pair in differences(model_of(name), stock, guidance, padded=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_inference_times_are_the_pipelines_own_schedule(name, model_of, recorded):
    model, pipe = model_of(name), recorded(name).pipe
    ours = model.inference_times(STEPS, (4, 8, 8))
    if model.is_flow:
        assert torch.equal(ours, pipe.scheduler.sigmas)
    else:
        assert ours.tolist() == [*dict.fromkeys(pipe.scheduler.timesteps.tolist()), 0.0]
    assert (ours.diff() < 0).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_decoding_gives_the_stock_pipelines_pixels(name, model_of, recorded):
    stock = recorded(name)
    expected = over_white(stock.call(output_type="pt"))
    torch.testing.assert_close(model_of(name).decode(stock.latents), expected, atol=1e-5, rtol=0)


def flat(picture):
    """Without its alpha, where it has one."""
    return (
        picture
        if picture.mode == "RGB"
        else Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_sample_draws_what_a_plain_pipeline_call_draws(name, model_of, recorded):
    import numpy as np

    ours = model_of(name).sample(
        PROMPTS, steps=STEPS, guidance=3.0, negative_prompt=NEGATIVE, seed=5, height=32, width=32
    )
    stock = recorded(name).call(output_type="pil")
    for one, other in zip(ours, map(flat, stock), strict=True):
        assert one.size == (32, 32)
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def rolled(model, offsets, rows=(0, 1, 2), guidance=3.0):
    """Some of three rows, each with a picture, noise, time, prompt and offset of its own, by Euler steps on the stock schedule."""
    rows = list(rows)
    x0, noise = random_state(model, 3)[rows], random_state(model, 3, seed=1)[rows]
    grid = Grid(model.inference_times(STEPS, x0.shape[1:]).numpy())
    t = torch.linspace(0.11, 0.37, 3)[rows] * (1 if model.is_flow else 999)
    plan = plan_offsets(t, torch.tensor(offsets)[rows], model.noise_path, grid)
    cond = model.collate(model.encode_prompts([("a", *PROMPTS)[row] for row in rows]))
    predict = model.predict(cond, guidance, model.encode_prompts([NEGATIVE], negative=True)[0])
    return plan, rollout(predict, x0, noise, plan, grid, model.noise_path, make_solver("euler"))


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_rows_of_different_offsets_in_one_rollout_equal_single_rows(name, model_of):
    model = model_of(name)
    (plan, together), (_, plain) = rolled(model, [2, 0, 1]), rolled(model, [0, 0, 0])
    assert plan.k.tolist() == [2, 0, 1] and torch.equal(together.x[1], plain.x[1])
    assert all((together.x[row] - plain.x[row]).abs().max() > 1e-3 for row in (0, 2))
    for row in range(3):
        _, alone = rolled(model, [2, 0, 1], rows=[row])
        torch.testing.assert_close(together.x[row], alone.x[0], atol=1e-5, rtol=1e-5)


# Conventions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_with_their_own_time_and_prompt_equal_single_calls(name, model_of):
    model = model_of(name)
    conditionings = model.encode_prompts(["a", *PROMPTS])
    x, t = random_state(model, 3), times(model, 3)
    with torch.no_grad():
        together = model.denoise(x, t, model.collate(conditionings))
        alone = [model.denoise(x[i : i + 1], t[i : i + 1], model.collate([conditionings[i]])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("name", VARIANTS)
def test_predict_picks_conditioning_by_row(name, guidance, model_of):
    model = model_of(name)
    conditionings = model.encode_prompts(["a", *PROMPTS])
    predict = model.predict(model.collate(conditionings), guidance, model.encode_prompts([NEGATIVE], negative=True)[0])
    x, rows = random_state(model, 2), torch.tensor([2, 0])
    level = model.noise_path.at(times(model, 2))
    alone = model.predict(
        model.collate([conditionings[2], conditionings[0]]),
        guidance,
        model.encode_prompts([NEGATIVE], negative=True)[0],
    )
    with torch.no_grad():
        one, other = predict(x, level, rows), alone(x, level, torch.arange(2))
    torch.testing.assert_close(one.x0_hat, other.x0_hat, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.noise_hat, other.noise_hat, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prediction_and_its_output_agree(name, model_of):
    """x0_hat and noise_hat, put together again, are the network's output."""
    model = model_of(name)
    cond = model.collate(model.encode_prompts(PROMPTS))
    x, t = random_state(model, 2), times(model, 2)
    level = model.noise_path.at(t)
    with torch.no_grad():
        prediction = model.predict(cond)(x, level, torch.arange(2))
        output = model.denoise(x, t, cond)
    torch.testing.assert_close(
        target_output(prediction.x0_hat, prediction.noise_hat, level, model.prediction_type),
        output,
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", ["sd1", "sd2_v", "sdxl"])
def test_fractional_timesteps_reach_the_network(name, model_of):
    model = model_of(name)
    cond, x = model.collate(model.encode_prompts(PROMPTS[:1])), random_state(model, 1)
    with torch.no_grad():
        low, middle, high = (model.denoise(x, torch.tensor([t]), cond) for t in (300.0, 300.5, 301.0))
    step = (high - low).abs().max()
    assert 0.1 * step < (middle - low).abs().max() < 0.9 * step
    assert 0.1 * step < (high - middle).abs().max() < 0.9 * step


@pytest.mark.parametrize("name", ["sd1", "lumina2", "sd3", "sdxl"])
def test_the_time_reaches_a_16_bit_network_in_float32(name, tiny_folder):
    model = open_model(tiny_folder(name), base_model_precision="bfloat16")
    seen = {}
    model.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(time=kwargs.get("timestep", args[1] if len(args) > 1 else None)),
        with_kwargs=True,
    )
    t = times(model, 1)
    with torch.no_grad():
        output = model.denoise(random_state(model, 1), t, model.collate(model.encode_prompts(PROMPTS[:1])))
    assert seen["time"].dtype == torch.float32 and output.dtype == torch.float32
    assert (
        next(model.denoiser.parameters()).dtype == torch.bfloat16
        and next(model.vae.parameters()).dtype == torch.float32
    )
    assert model.sample(PROMPTS[:1], steps=1, height=32, width=32)[0].size == (32, 32)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_gradients_flow_through_denoise(name, model_of):
    model = model_of(name)
    x = random_state(model, 1).requires_grad_()
    model.denoise(x, times(model, 1), model.collate(model.encode_prompts(PROMPTS[:1]))).square().sum().backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_gradient_checkpointing_changes_no_output(name, tiny_folder):
    model = open_model(tiny_folder(name))
    model.denoiser.train()
    x = random_state(model, 2).requires_grad_()
    cond = model.collate(model.encode_prompts(PROMPTS))
    plain = model.denoise(x, times(model, 2), cond)
    model.denoiser.enable_gradient_checkpointing()
    checkpointed = model.denoise(x, times(model, 2), cond)
    torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-6)
    one, other = (torch.autograd.grad(output.square().sum(), x)[0] for output in (plain, checkpointed))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_latents_scale_and_unscale(name, model_of):
    model = model_of(name)
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = model.encode_images(pixels)
    assert latents.shape == (2, model.latent_channels, 8, 12) and latents.dtype == torch.float32
    torch.testing.assert_close(model.codec.scale(model.codec.unscale(latents)), latents)
    drawn = [model.encode_images(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == isinstance(model.codec, DeepVae)


def test_a_picture_of_odd_size_is_refused(model_of):
    with pytest.raises(ValueError, match="multiples of 4"):
        model_of("sd1").encode_images(torch.zeros(1, 3, 30, 32))
    with pytest.raises(ValueError, match="multiples of 8"):
        model_of("lumina2").sample(["a"], steps=1, height=36, width=32)


def test_guidance_below_one_is_refused(model_of):
    model = model_of("sd1")
    with pytest.raises(ValueError, match="at least 1.0"):
        model.predict(model.collate(model.encode_prompts(["a"])), guidance=0.5)


# Times ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "lumina2"])
def test_the_training_table_is_the_checkpoints_with_its_shift_once(name, model_of):
    scheduler = type(model_of(name).pipe.scheduler).from_config(model_of(name).pipe.scheduler.config)
    torch.testing.assert_close(model_of(name).training_times(), scheduler.sigmas, atol=1e-6, rtol=0)
    assert model_of(name).training_shift() == scheduler.config.shift


def test_a_given_shift_bends_training_times_and_not_the_users_schedule(tiny_folder, model_of):
    model = open_model(tiny_folder("lumina2"), flow_shift=2.0)
    assert model.training_shift() == 2.0
    assert float(model.training_times()[499]) == pytest.approx(2 * 0.501 / 1.501, abs=1e-6)
    assert torch.equal(model.inference_times(5, (4, 8, 8)), model_of("lumina2").inference_times(5, (4, 8, 8)))


def test_a_shift_that_depends_on_the_size_uses_the_size(model_of):
    model = model_of("sd3_dynamic")
    assert model.training_shift((4, 8, 8)) < model.training_shift((4, 16, 16))
    with pytest.raises(ValueError, match="latent_shape"):
        model.training_shift()


def test_variance_preserving_training_times_are_all_timesteps(model_of):
    assert model_of("sd1").training_times().tolist() == list(range(999, -1, -1))
    assert model_of("sd1").training_shift() == 1.0


# Text -----------------------------------------------------------------------------------------------------------------


def test_trimming_lumina_prompts_is_exact(model_of):
    """The network gets the pipeline's own 256 padded tokens, or only the true ones."""
    model = model_of("lumina2")
    embeds, mask, _, _ = model.pipe.encode_prompt(list(PROMPTS), False, device=model.device)
    trimmed = model.collate(model.encode_prompts(PROMPTS))
    assert embeds.shape[1] == 256 and trimmed["prompt_embeds"].shape[1] == int(mask.sum(1).max()) < 256
    x, t = random_state(model, 2), times(model, 2)
    with torch.no_grad():
        padded = model.denoise(x, t, {"prompt_embeds": embeds, "prompt_mask": mask})
        torch.testing.assert_close(model.denoise(x, t, trimmed), padded, atol=1e-6, rtol=1e-6)


def test_lumina_puts_its_system_prompt_before_prompts_only(model_of):
    plain, negative = (
        model_of("lumina2").encode_prompts(["a"], negative=negative)[0]["prompt_embeds"] for negative in (False, True)
    )
    assert len(negative) < 10 < len(plain)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prompts_encoding_does_not_depend_on_its_neighbours(name, model_of):
    model = model_of(name)
    together, alone = model.encode_prompts(PROMPTS), [model.encode_prompts([prompt])[0] for prompt in PROMPTS]
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) and one[key].device.type == "cpu" for key in one)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_freed_text_encoders_and_vae_change_nothing(name, tiny_folder, model_of):
    model = open_model(tiny_folder(name))
    expected = model_of(name).encode_prompts(["a new prompt"])[0]
    model.free_text_encoders()
    model.free_vae()
    assert all(getattr(model.pipe, part) is None for part in model.facts.text_encoders)
    again = model.encode_prompts(["a new prompt"])[0]
    assert all(torch.equal(again[key], expected[key]) for key in expected)
    assert all(getattr(model.pipe, part) is None for part in model.facts.text_encoders)
    one = model.sample(["a"], steps=2, seed=1, height=32, width=32)[0]
    assert one.tobytes() == model_of(name).sample(["a"], steps=2, seed=1, height=32, width=32)[0].tobytes()


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_the_network_gets_as_many_rows_as_guidance_promises_and_the_counter_says(name, guidance, model_of):
    """What the network got (a hook), what a run's log counts (`Network`), and what the cost was estimated from."""
    model = model_of(name)
    config = config_from_flat({"model_family": model.name, "scheduled_sampling_guidance": guidance})
    promised = guidance_of(config).evaluations(guidance)
    assert rows_asked(model, guidance) == (3 * promised, 3 * promised)
    assert promised == (2 if guidance > 1 and model.guidance.takes_negative else 1)


def test_the_cost_of_guidance_is_the_familys_own():
    """With guidance as an input an evaluation is one forward; where the family is not known, the dearer case is counted."""
    asked = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_guidance": 3.0, "scheduled_sampling_probability": 1.0,
             "scheduled_sampling_reflexflow": False, "pretrained_model_name_or_path": "an-owner/a-model"}  # fmt: skip
    costs = {
        family: rollout_cost(config_from_flat(asked | {"model_family": family})) for family in ("flux", "sd3", "auto")
    }
    assert [cost.most_forwards for cost in costs.values()] == [2, 4, 4]
    assert longest_rollout(config_from_flat(asked | {"model_family": "flux"})).total == 2


def test_the_family_is_known_from_the_small_files_of_a_folder_and_never_guessed(tiny_folder, tmp_path):
    def known(place, family="auto"):
        facts = known_family(ModelConfig(pretrained_model_name_or_path=str(place), model_family=family))
        return None if facts is None else facts.name

    assert {name: known(tiny_folder(name)) for name in VARIANTS} == FAMILY_OF
    assert known("demo-flow") == "lumina2" and known("demo-epsilon") == "sd1x"
    assert known("an-owner/not-here") is None and known(tmp_path) is None and known("../else where") is None
    assert known("an-owner/not-here", "flux") == "flux"


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_guidance_anchored_at_the_conditional_is_the_same_line_counted_one_less(scale):
    u, c = (
        torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1)
    )
    plain, anchored = ClassifierFree(), ClassifierFree(anchor="conditional")
    torch.testing.assert_close(anchored.combine(c, u, scale), plain.combine(c, u, scale))
    assert torch.equal(anchored.combine(c, u, scale), c + (scale - 1) * (c - u))
    assert anchored.stock_scale(scale) == scale - 1 and anchored.from_stock(anchored.stock_scale(scale)) == scale
    assert plain.stock_scale(scale) == scale


def test_rescaled_guidance_has_the_conditional_outputs_norm_in_each_token():
    u, c = (torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for side in (1, 2):
        guidance = ClassifierFree(rescale="tokens", cells_per_token=side)
        rescaled, mixed = guidance.combine(c, u, 4.0), ClassifierFree().combine(c, u, 4.0)
        for row in range(0, 4, side):
            for column in range(0, 6, side):
                token = (slice(None), slice(None), slice(row, row + side), slice(column, column + side))
                norms = [x[token].flatten(1).norm(dim=1) for x in (rescaled, c)]
                torch.testing.assert_close(norms[0], norms[1])
                torch.testing.assert_close(
                    torch.nn.functional.cosine_similarity(rescaled[token].flatten(1), mixed[token].flatten(1)),
                    torch.ones(2),
                )
        assert not torch.allclose(rescaled, mixed, atol=0.1)


def test_guidance_with_a_limited_norm_shortens_tokens_and_lengthens_none():
    """LongCat-Image's: where the guided output of a token is longer than the conditional one."""
    u, c = (torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    u[1, :, :2, :2] = 2 * c[1, :, :2, :2]
    limited, mixed = FAMILIES["longcat"].guidance.combine(c, u, 2.0), ClassifierFree().combine(c, u, 2.0)
    token = (1, slice(None), slice(2), slice(2))  # 2 c + 2 (c - 2 c) = 0: shorter than c
    torch.testing.assert_close(limited[token], mixed[token])
    norms = [float(x[1, :, 2:, 4:].norm()) for x in (limited, c, mixed)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and norms[2] > 1.1 * norms[1]


def test_one_step_is_refused_where_the_schedule_is_stretched_to_its_end(model_of):
    """The stock scheduler divides 0 by 0 there, and the pictures are of no numbers."""
    with pytest.raises(ModelError, match="at least 2 steps"):
        model_of("qwen").sample(["a"], steps=1, height=32, width=32)


@pytest.mark.parametrize("name", ["qwen", "krea2"])
def test_padding_behind_a_prompt_changes_nothing(name, model_of):
    """Prompts of different lengths in one batch, and more padding than any of them needs."""
    model = model_of(name)
    short, long = model.encode_prompts(["a", PROMPTS[1]])
    x, t = random_state(model, 1), times(model, 1)
    padded_cond = model.collate([short, long]).select(torch.tensor([0]))
    assert "prompt_mask" not in model.collate([short]) and int(padded_cond["prompt_mask"].sum()) < len(
        long["prompt_embeds"]
    )
    with torch.no_grad():
        plain, padded = (model.denoise(x, t, cond) for cond in (model.collate([short]), padded_cond))
        unmasked = model.denoise(x, t, {"prompt_embeds": padded_cond["prompt_embeds"]})
    torch.testing.assert_close(padded, plain, atol=1e-6, rtol=1e-6)
    assert (unmasked - plain).abs().max() > 1e-3


BEHIND = {
    "pixart": 0.0,
    "sana": 0.0,
    "lumina2": 0.0,
    "ernie": 0.0,
    "wan": 1e-4,
    "chroma": 1e-4,
    "auraflow": 1e-4,
    "flux": 1e-4,
    "sd3": 1e-4,
    "sd1": 1e-4,
    "longcat": 1e-4,
    "anima": 1e-4,
    "kolors": 1e-4,
}
"""Families that pad prompts to one length -> the least that another filling changes: nothing behind a mask, something where there is
none, or where it only weakens (Chroma)."""


@pytest.mark.parametrize("name", BEHIND)
def test_the_padding_of_a_prompt_is_the_pipelines_and_counts_as_it_does_there(name, model_of):
    """Where a filling takes part in the attention, its length belongs to the encoding: a short prompt has as many tokens as a long one."""
    model = model_of(name)
    short, long = model.encode_prompts(["a", PROMPTS[1]])
    cond = model.collate([short, long])
    if name not in ("lumina2", "ernie"):
        assert short["prompt_embeds"].shape == long["prompt_embeds"].shape
    key = next((key for key in cond if "mask" in key), None)
    place = torch.arange(cond["prompt_embeds"].shape[1])
    own = cond[key][0] > 0 if key else place < cond["prompt_length"][0] if "prompt_length" in cond else place < 6
    other = cond["prompt_embeds"].clone()
    other[0, ~own] += 1
    assert (~own).any()
    x, t = random_state(model, 2), times(model, 2)
    with torch.no_grad():
        change = (model.denoise(x, t, cond.with_rows(prompt_embeds=other)) - model.denoise(x, t, cond)).abs()
    assert change[1].max() < 1e-5
    assert change[0].max() < 1e-5 if BEHIND[name] == 0 else change[0].max() > BEHIND[name]


def test_captions_of_different_lengths_in_one_call_equal_single_calls_where_the_network_has_no_mask(model_of):
    """CogView 4's are filled up in front to whole sixteens, and drawn with others of their length alone."""
    model, prompts = model_of("cogview4"), (PROMPTS[0], " ".join(["a", "red", "circle"] * 8), PROMPTS[1])
    encoded = model.encode_prompts(prompts)
    assert [len(one["prompt_embeds"]) for one in encoded] == [16, 32, 16]
    x, t, cond = random_state(model, 3), times(model, 3), model.collate(encoded)
    with torch.no_grad():
        together = model.denoise(x, t, cond)
        for row in range(3):
            alone = model.denoise(x[row : row + 1], t[row : row + 1], model.collate(encoded[row : row + 1]))
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
        filled = model.denoise(x, t, cond.with_rows(prompt_length=torch.full((3,), 32)))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(model.denoise(x, t, cond), together, atol=0.1, rtol=0.1)
    assert (filled - together).flatten(1).abs().amax(1).gt(1e-3).tolist() == [True, False, True]
    drawn = model.sample(prompts, steps=2, guidance=3.0, seed=3, height=32, width=32)
    assert (
        drawn[2].tobytes() == model.sample(prompts[2:], steps=2, guidance=3.0, seed=5, height=32, width=32)[0].tobytes()
    )


def test_a_text_filled_up_moves_qwen_image_21s_picture_so_that_rows_go_by_the_length_of_their_text(
    model_of, tiny_folder
):
    """Its stock pipeline draws another picture of a short prompt beside a long one; of prompts of one length it draws them as alone. Here each
    row is what it is alone, and rows of one length share a call."""
    model, pipe = model_of("qwen21"), stock_pipeline(tiny_folder("qwen21"))
    pipe.set_progress_bar_config(disable=True)
    short, long, other = "a red circle", "sks on blue, far left", "two red cats"

    def drawn(*prompts):
        noise = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(2)).repeat(len(prompts), 1, 1)
        return pipe(
            list(prompts), latents=noise, num_inference_steps=2, height=128, width=128, output_type="latent"
        ).images

    alone, equal, beside = drawn(short)[0], drawn(short, other)[0], drawn(short, long)[0]
    torch.testing.assert_close(equal, alone, atol=1e-5, rtol=1e-5)
    assert (beside - alone).abs().max() > 1e-3  # other words of that length: 5e-3
    encoded = model.encode_prompts([short, long, other])
    x, t, calls = random_state(model, 3), times(model, 3), []
    hook = model.denoiser.register_forward_hook(lambda module, args, output: calls.append(len(output[0])))
    with torch.no_grad():
        together = model.denoise(x, t, model.collate(encoded))
        hook.remove()
        for row in range(3):
            single = model.denoise(x[row : row + 1], t[row : row + 1], model.collate(encoded[row : row + 1]))
            torch.testing.assert_close(together[row], single[0], atol=1e-5, rtol=1e-5)
    assert calls == [2, 1]


def test_a_text_reader_encodes_as_the_whole_processor_and_is_saved_as_it(model_of, tiny_folder, tmp_path, monkeypatch):
    """Prompts and negative ones, an empty one, several at once; what names a picture is refused."""
    model, pipe = model_of("qwen21"), stock_pipeline(tiny_folder("qwen21"))
    assert type(pipe.processor) is not type(model.pipe.processor) and model.pipe._drop_idx == pipe._drop_idx > 10
    prompts = [*PROMPTS, "", "Ünïcode, 'quotes' \n and <|im_end|> marks"]
    with torch.no_grad():
        for prompt in prompts:
            theirs, mask, is_picture = pipe.encode_prompt([prompt])
            assert mask is None and not is_picture.any()
            assert torch.equal(model.encode_prompts([prompt])[0]["prompt_embeds"], theirs[0])
        ours, theirs = (each.encode_prompt(prompts) for each in (model.pipe, pipe))
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *at, **how: asked.update(how, at=at) or str(tiny_folder("qwen21"))
    )
    fetched = FAMILIES["qwen21"].make("processor", "Qwen/Qwen-Image-2.1", "v9")
    assert asked == {"at": ("Qwen/Qwen-Image-2.1",), "revision": "v9", "allow_patterns": "processor/*"}
    assert fetched(text="a <|im_end|>") == model.pipe.processor(text="a <|im_end|>")
    with pytest.raises(ModelError, match="image_pad"):
        model.encode_prompts(["a <|image_pad|>"])
    model.pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["processor"] == ["transformers", "Qwen3VLProcessor"]
    files = [
        sorted((one.name, one.read_bytes()) for one in (root / "processor").iterdir())
        for root in (tiny_folder("qwen21"), tmp_path / "saved")
    ]
    assert files[0] == files[1]
    torch.testing.assert_close(predictions(open_model(tmp_path / "saved")), predictions(model), atol=0, rtol=0)


def test_a_picture_is_opaque_to_an_autoencoder_with_alpha_and_what_is_transparent_is_white(model_of):
    codec = model_of("qwen21").codec
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    config = codec.vae.config
    mean, deviation = (torch.tensor(config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    with torch.no_grad():
        for alpha, same in ((1.0, True), (-1.0, False)):
            film = torch.cat([pixels, torch.full_like(pixels[:, :1], alpha)], 1)[:, :, None]
            theirs = (codec.vae.encode(film).latent_dist.mode() - mean) / deviation
            assert torch.equal(codec.encode(pixels), theirs[:, :, 0]) == same
        decode = codec.vae.decode
        try:
            codec.vae.decode = lambda latents, return_dict: (torch.tensor([0.2, -0.4, 0.6, -1.0]).view(1, 4, 1, 1, 1),)
            assert codec.decode(torch.zeros(1, 4, 1, 1)).flatten().tolist() == [1.0, 1.0, 1.0]
            codec.vae.decode = lambda latents, return_dict: (torch.tensor([0.2, -0.4, 0.6, 0.0]).view(1, 4, 1, 1, 1),)
            assert codec.decode(torch.zeros(1, 4, 1, 1)).flatten().tolist() == pytest.approx([0.8, 0.65, 0.9])
        finally:
            codec.vae.decode = decode


def test_the_networks_time_is_the_levels_place_in_the_table_before_the_size_bends_it(model_of):
    model, x = model_of("cogview4"), torch.zeros(2, 4, 8, 8)
    for cells in ((8, 8), (8, 16), (24, 16)):
        scheduler = model.pipe.scheduler
        shift = 0.25 + 0.75 * (cells[0] * cells[1] / 4 / 8) ** 0.5
        raw = torch.tensor([1000.0, 251.0, 3.0])
        sigma = scheduler.time_shift(shift, 1.0, raw / 1000)
        assert model.table_number(sigma, torch.zeros(3, 4, *cells)).tolist() == raw.tolist()
        assert model.training_shift((4, *cells)) == pytest.approx(shift)
    assert model.table_number(torch.tensor([0.6, 0.0]), x).tolist() == [
        534.0,
        0.0,
    ]  # 0.6 / (1.311 - 0.311 * 0.6), whole


def test_what_is_behind_an_ovis_caption_is_zeros_which_count(model_of):
    """As many for a short caption as for the longest one: the network has no mask."""
    model = model_of("ovis")
    short, long = model.encode_prompts(["a", PROMPTS[1]])
    own = [one["prompt_embeds"].abs().amax(1).gt(0) for one in (short, long)]
    assert len(own[0]) == len(own[1]) == 256 and own[1].sum() - own[0].sum() == len(PROMPTS[1]) - 1
    assert not own[0][int(own[0].sum()) :].any()
    x, t, cond = random_state(model, 1), times(model, 1), model.collate([short])
    with torch.no_grad():
        cut = model.denoise(x, t, cond.with_rows(prompt_embeds=cond["prompt_embeds"][:, own[0]]))
        assert (cut - model.denoise(x, t, cond)).abs().max() > 1e-3


def test_an_empty_caption_of_anima_is_what_its_pipeline_makes_of_one(model_of, tiny_folder):
    """Qwen's tokenizer makes no token of it; the conditioner then reads a single one that is masked."""
    model, pipe = model_of("anima"), diffusers.ModularPipeline.from_pretrained(str(tiny_folder("anima")))
    pipe.load_components()
    drawn = pipe(prompt=[PROMPTS[0]], num_inference_steps=1, height=32, width=32, output_type="pt",
                 output=["prompt_embeds", "negative_prompt_embeds"])  # fmt: skip
    assert torch.equal(model.encode_prompts(PROMPTS[:1])[0]["prompt_embeds"], drawn["prompt_embeds"][0])
    empty = model.unconditional()["prompt_embeds"]
    assert torch.equal(empty, drawn["negative_prompt_embeds"][0]) and empty.any() and empty.isfinite().all()


def test_packing_is_the_pipelines_own_and_is_undone(model_of):
    x = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    pipe, layout = model_of("flux").pipe, model_of("flux").layout
    given = layout.to_network(x)
    assert torch.equal(given["hidden_states"], pipe._pack_latents(x, 2, 4, 6, 10))
    assert torch.equal(given["img_ids"], pipe._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32))
    assert torch.equal(layout.from_network(given["hidden_states"], 6, 10), x)
    shapes = model_of("qwen").layout.to_network(x)
    assert torch.equal(shapes["hidden_states"], given["hidden_states"]) and shapes["img_shapes"] == [[(1, 3, 5)]] * 2


# Size and crop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl", "cogview4", "kolors"])
def test_size_and_crop_of_each_row_reach_the_network_as_the_stock_pipeline_reports_them(name, tiny_folder, model_of):
    """Two rows with pictures of their own in one call, each against a pipeline call with its numbers."""
    model, frames = model_of(name), [Frame((64, 48), (4, 8), (32, 32)), Frame((32, 96), (0, 31), (32, 32))]
    reported = []
    for prompt, frame in zip(PROMPTS, frames, strict=True):
        stock = Recorded(tiny_folder(name), 1.0, call=False)  # the size of the result is the one that is drawn
        stock.pipe(prompt, num_inference_steps=1, guidance_scale=1.0, height=32, width=32, original_size=frame.original,
                   crops_coords_top_left=frame.corner, generator=torch.Generator().manual_seed(5))  # fmt: skip
        reported.append(stock.steps[0])
    cond = model.framed(model.collate(model.encode_prompts(PROMPTS)), frames)
    x, t = torch.cat([x for _, _, x in reported]), reported[0][1].float().expand(2) / (1000 if model.is_flow else 1)
    with torch.no_grad():
        ours, swapped = model.denoise(x, t, cond), model.denoise(x, t, model.framed(cond, frames[::-1]))
    expected = torch.cat([output for output, _, _ in reported])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (swapped - expected).abs().max() > 1e-3


def test_guidance_of_a_framed_batch_reports_both_sides_the_same_frames(model_of):
    model, frames = model_of("sdxl"), [Frame((64, 48), (4, 8), (32, 32)), Frame((32, 96), (0, 31), (32, 32))]
    cond = model.framed(model.collate(model.encode_prompts(PROMPTS)), frames)
    negative = model.encode_prompts([NEGATIVE], negative=True)[0]
    x, rows = random_state(model, 3), torch.tensor([1, 0, 1])
    level = model.noise_path.at(times(model, 3))
    with torch.no_grad():
        ours = model.predict(cond, 2.5, negative)(x, level, rows)
        against = model.framed(model.collate([negative] * 3), [frames[row] for row in rows])
        expected = model.guidance.combine(
            model.denoise(x, level.t, cond.select(rows)), model.denoise(x, level.t, against), 2.5
        )
    torch.testing.assert_close(ours.noise_hat, expected, atol=1e-5, rtol=1e-5)


def test_without_a_negative_prompt_guidance_goes_away_from_what_a_bare_call_goes_away_from(tiny_folder, model_of):
    import numpy as np

    stock = Recorded(tiny_folder("sdxl"), 3.0, call=False).pipe(
        PROMPTS[0],
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
    )
    ours = model_of("sdxl").sample(PROMPTS[:1], steps=2, guidance=3.0, height=32, width=32)
    assert np.abs(np.asarray(ours[0], int) - np.asarray(stock.images[0], int)).max() <= 1


def test_conditioning_picks_repeats_and_refuses():
    cond = Conditioning({"words": torch.arange(6.0).reshape(3, 2), "mask": torch.tensor([True, False, True])})
    assert cond.count == 3 and cond.select(torch.tensor([2, 0, 2]))["words"].tolist() == [[4, 5], [0, 1], [4, 5]]
    assert (
        cond.to(dtype=torch.bfloat16)["mask"].dtype == torch.bool
        and cond.to(dtype=torch.bfloat16)["words"].dtype == torch.bfloat16
    )
    one = cond.select(torch.tensor([1]))
    assert one.repeat(2)["words"].tolist() == [[2, 3], [2, 3]]
    longer = Conditioning({"words": torch.ones(1, 3), "mask": torch.tensor([True])}).before(cond)
    assert longer["words"].tolist() == [[1, 1, 1], [0, 1, 0], [2, 3, 0], [4, 5, 0]]
    assert longer["mask"].tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="only a single one"):
        cond.repeat(2)
    with pytest.raises(ValueError, match="same number"):
        cond.with_rows(sizes=torch.zeros(2, 6))


# Sampling leaves no trace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_sampling_restores_modes_scheduler_and_random_state(name, tiny_folder):
    model = open_model(tiny_folder(name))
    model.denoiser.train()
    next(model.denoiser.children()).eval()
    modes = [module.training for module in model.denoiser.modules()]
    scheduler = model.pipe.scheduler
    state = {key: str(value) for key, value in vars(scheduler).items()}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    pictures = [model.sample(PROMPTS, steps=2, seed=3, height=32, width=32)[1].tobytes() for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert [module.training for module in model.denoiser.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert model.pipe.scheduler is scheduler and {key: str(value) for key, value in vars(scheduler).items()} == state


def test_a_parked_vae_stays_with_the_pipeline_until_the_last_picture(tiny_folder, monkeypatch):
    """The stock pipeline runs on the device of its first component, and in Lumina's that is the VAE."""
    model, places = open_model(tiny_folder("lumina2")), []
    model.free_vae()
    move = model.vae.to
    monkeypatch.setattr(model.vae, "to", lambda place: places.append(str(place)) or move(place))
    call = type(model.pipe).__call__
    monkeypatch.setattr(type(model.pipe), "__call__", lambda *a, **k: places.append("pipeline") or call(*a, **k))
    model.codec.device = torch.device("cpu", 0)  # to tell "brought back" from "parked"
    model.sample(["a", "b"], steps=1, height=32, width=32, batch_size=1, guidance=1.0)
    assert places[0] == "cpu:0" and places[-1] == "cpu" and places.count("cpu") == 1 and places.count("pipeline") == 2


def test_prompts_that_cannot_share_a_call_are_drawn_in_calls_of_their_own():
    prompts = [{"words": torch.zeros(length, 2)} for length in (3, 3, 3, 5, 5, 3)]
    parts = list(sampling.calls(prompts, 2, lambda prompt: len(prompt["words"])))
    assert [len(part) for part in parts] == [2, 1, 2, 1]
    assert [id(one) for part in parts for one in part] == [id(one) for one in prompts]
    assert [len(part) for part in sampling.calls(prompts, 4, lambda prompt: None)] == [4, 2]


def test_the_steps_of_a_pipeline_that_reports_none_are_heard_at_its_scheduler(model_of, monkeypatch):
    model, ways = model_of("lumina2"), []
    plain = model.sample(PROMPTS, steps=2, height=32, width=32, batch_size=1)
    for listening in (sampling._listening, lambda *_: {}):
        monkeypatch.setattr(sampling, "_listening", listening)
        heard = []
        drawn = model.sample(
            PROMPTS, steps=2, height=32, width=32, batch_size=1, on_step=lambda *at, h=heard: h.append(at)
        )
        ways.append(heard)
        assert [one.tobytes() for one in drawn] == [one.tobytes() for one in plain]
    assert ways[0] == ways[1] == [(1, 2), (2, 2)] * 2
    assert "step" not in vars(model.pipe.scheduler)
    heard = []
    model_of("longcat").sample(PROMPTS[:1], steps=3, height=32, width=32, on_step=lambda *at: heard.append(at))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(model_of):
    import numpy as np

    model = model_of("lumina2")
    together = model.sample(PROMPTS, steps=2, seed=3, height=32, width=32, batch_size=2)
    alone = model.sample(PROMPTS, steps=2, seed=3, height=32, width=32, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    other_seed = model.sample(PROMPTS, steps=2, seed=4, height=32, width=32)
    assert other_seed[0].tobytes() != together[0].tobytes()


def test_defaults_are_those_of_a_bare_call(model_of):
    assert (model_of("lumina2").default_steps, model_of("lumina2").default_guidance) == (30, 4.0)
    assert model_of("flux").default_guidance == 3.5
    assert (model_of("sd1").default_steps, model_of("sd1").default_guidance) == (50, 7.5)


class Sized(Exception):
    """Thrown where a pipeline draws its first latents, with the height and width that it asks for."""


# Sana's pipeline has 1024 px written into its signature, whatever its network is made for
@pytest.mark.parametrize("name", [name for name in ONE_PER_FAMILY if name != "sana"])
def test_the_default_size_is_that_of_a_bare_call(name, model_of, recorded, monkeypatch):
    if hasattr(recorded(name).pipe, "default_height"):  # a pipeline of blocks says it
        assert model_of(name).default_size == (recorded(name).pipe.default_height, recorded(name).pipe.default_width)
        return
    taken = inspect.signature(type(recorded(name).pipe).__call__).parameters
    written = tuple(taken[side].default for side in ("height", "width"))
    if None not in written:
        assert model_of(name).default_size == written
        return
    takes = inspect.signature(recorded(name).pipe.prepare_latents)

    def prepare(*positional, **named):
        given = takes.bind(*positional, **named).arguments
        raise Sized(given["height"], given["width"])

    pipe = recorded(name).pipe
    monkeypatch.setattr(pipe, "prepare_latents", prepare)
    with pytest.raises(Sized) as asked:
        pipe(prompt="a", **as_asked(pipe))
    factor = model_of(name).latent_scale / model_of(name).codec.patch / pipe.vae_scale_factor
    assert model_of(name).default_size == tuple(side * factor for side in asked.value.args)


# What has no effect -----------------------------------------------------------------------------------------------------


def test_a_negative_prompt_is_remarked_on_where_the_family_has_none(tiny_folder, pictures, tmp_path):
    """By the rule table where the config names the family, by the preflight where only the checkpoint does; told once."""
    asked = {"validation_negative_prompt": "blurry", "instance_data_dir": str(pictures), "resolution": 32}
    sentence = (
        "validation_negative_prompt is not used: FLUX.1 has no classifier-free guidance, and so no negative prompt."
    )
    named = config_from_flat(
        asked | {"model_family": "flux", "pretrained_model_name_or_path": str(tiny_folder("flux"))}
    )
    read = with_changes(named, {"model_family": "auto"})
    assert sentence in idle_remarks(named) and sentence not in idle_remarks(read)
    for config in (named, read):
        reported = [finding for finding in preflight(config, tmp_path / "runs" / "new") if finding.message == sentence]
        assert [finding.level for finding in reported] == ["note"]
    silent = with_changes(read, {"validation_negative_prompt": ""})
    other = with_changes(read, {"pretrained_model_name_or_path": str(tiny_folder("sd3"))})
    for config in (silent, other):
        assert not any("negative prompt" in finding.message for finding in preflight(config, tmp_path / "runs" / "new"))
    assert not any("negative prompt" in remark for remark in idle_remarks(with_changes(other, {"model_family": "sd3"})))


def test_the_generated_page_has_a_row_for_every_family_in_each_table():
    """Of the scripts' losses for those with a script of diffusers' own, of refusals for each kind of checkpoint that is refused."""
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    *plain, _cards, scripts, refused, _left_out = page.split("\n## ")[1:]
    assert len(plain) == 5
    with_script = {FAMILY_OF[name] for name in RECIPES}
    for facts in FAMILIES.values():
        rows = [table.count(f"\n| {facts.label} |") for table in (*plain, scripts, refused)]
        assert rows == [1] * 5 + [int(facts.name in with_script), len(facts.unsuitable)], facts.name
        assert all(f"| {kind.what} | {kind.why} |" in refused for kind in facts.unsuitable)
        (parts,) = (
            row for row in plain[3].splitlines() if row.startswith(f"| {facts.label} | `{facts.pipelines[0]}` |")
        )
        assert ("| a b c d e |" in parts) == (facts.name in with_script)
        tiers = {tier.gb for preset in map(read_preset, preset_names()) if preset.changes.get("model_family") == facts.name
                 for tier in preset.tiers}  # fmt: skip
        assert tiers <= {int(number) for number in re.findall(r"\d+", parts.split(" | ")[8])}


# In stages -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """What was opened, in order: "text" for the text encoders, and for the network how many of them were still in memory (weak
    references)."""
    encoders, order = [], []
    first, network, text = Loader.before_network, Loader.network, Loader.text_encoders

    def recorded_first(self):
        pipe = first(self)
        assert all(weight.is_meta for weight in getattr(pipe, self.facts.component).parameters())
        assert not any(getattr(pipe, part) for part in self.facts.text_encoders)
        return pipe

    def recorded_text(self):
        order.append("text")
        found = text(self)
        encoders[:] = map(weakref.ref, found.values())
        return found

    def recorded_network(self):
        gc.collect()
        order.append((sum(one() is not None for one in encoders), len(encoders)))
        return network(self)

    monkeypatch.setattr(Loader, "before_network", recorded_first)
    monkeypatch.setattr(Loader, "network", recorded_network)
    monkeypatch.setattr(Loader, "text_encoders", recorded_text)
    return order


PICTURES = {"validation_prompts": ["a", "b"], "validation_step_interval": 2, "validation_negative_prompt": "blurry",
            "with_prior_preservation": True, "class_prompt": "a thing", "num_class_images": 2, "class_sample_steps": 2,
            "caption_dropout_probability": 0.5}  # fmt: skip


STAGED = ("qwen",)
"""A family whose prompts are lists; the staging itself is no family's, so the others take their time among the slow tests."""


@pytest.mark.parametrize(
    "name", [name if name in STAGED else pytest.param(name, marks=pytest.mark.slow) for name in ONE_PER_FAMILY]
)
def test_a_training_opens_its_network_when_the_text_encoders_are_gone(
    name, tiny_run, opened, without_drift, monkeypatch
):
    """Class pictures, samples and dropped captions need no encoder afterwards, and nothing is drawn or learnt otherwise."""
    beside = tiny_run(name, "beside", **PICTURES)
    assert train(beside) == 0
    text, (alive, number) = opened
    assert text == "text" and alive == number == len(model_parts(name)) and len(events(beside, "sample")) == 3
    opened.clear()
    monkeypatch.setattr(base, "ENCODERS_BESIDE_NETWORK", 0)
    staged = tiny_run(name, "staged", **PICTURES, data_cache_dir=str(beside.path.parent / "another"))
    assert train(staged) == 0
    assert opened == ["text", (0, number)]
    opened.clear()
    again = tiny_run(name, "again", **PICTURES, data_cache_dir=str(beside.path.parent / "another"))
    assert train(again) == 0
    assert len(opened) == 1, "a second run on the same pictures opens no text encoder"
    for run in (staged, again):
        assert losses(run) == losses(beside)
        for one, other in zip(*(sorted(each.samples_path.rglob("*.png")) for each in (beside, run)), strict=True):
            assert one.read_bytes() == other.read_bytes()


def model_parts(name):
    """The text encoders of a family's usual model."""
    return FAMILIES[FAMILY_OF[name]].text_encoders


def test_a_prompt_that_is_new_after_the_encoders_went_brings_them_back_for_its_call(tiny_folder, opened):
    model = load_model(ModelConfig(pretrained_model_name_or_path=str(tiny_folder("flux")), device="cpu"))
    model.remember(["a"])
    model.free_text_encoders()
    model.sample(["a"], steps=1, height=32, width=32)
    assert opened == ["text", (0, 2)]
    model.sample(["new"], steps=1, height=32, width=32)
    assert opened == ["text", (0, 2), "text"] and model.pipe.text_encoder is model.pipe.text_encoder_2 is None


def test_all_files_of_a_hub_model_are_fetched_before_anything_is_prepared(tiny_folder, monkeypatch):
    """The network is opened late; that it cannot be fetched must be known at once."""
    source, asked = locate(str(tiny_folder("sd3"))), []
    remote = replace(source, location="owner/model")
    kind = diffusers.StableDiffusion3Pipeline

    def download(cls, name, **options):
        asked.append((name, options["revision"], options["use_safetensors"]))
        raise OSError("no file named model.safetensors")

    monkeypatch.setattr(kind, "download", classmethod(download))
    with pytest.raises(ModelError, match="lacks weights in safetensors"):
        Loader(FAMILIES["sd3"], remote, torch.float32).before_network()
    assert asked == [("owner/model", None, True)]


# Opening --------------------------------------------------------------------------------------------------------------


def test_every_family_is_detected_from_its_folder(tiny_folder):
    families = {name: locate(str(tiny_folder(name))).family for name in VARIANTS}
    assert families == FAMILY_OF
    assert set(families.values()) == set(FAMILIES)


def test_the_prediction_type_is_the_checkpoints(model_of):
    assert {name: model_of(name).prediction_type for name in ("sd1", "sd1_sample", "sd2_v", "sd3", "lumina2")} == {
        "sd1": "epsilon",
        "sd1_sample": "sample",
        "sd2_v": "v_prediction",
        "sd3": "flow_matching",
        "lumina2": "flow_matching",
    }


def test_a_given_prediction_type_reaches_the_scheduler_that_samples(tiny_folder):
    model = open_model(tiny_folder("sd1"), prediction_type="v_prediction")
    assert model.prediction_type == model.pipe.scheduler.config.prediction_type == "v_prediction"


def test_everything_is_frozen_and_text_encoders_have_no_dropout(tiny_folder):
    model = load_model(ModelConfig(pretrained_model_name_or_path=str(tiny_folder("sd3")), device="cpu"))
    model.text.opened()
    assert model.denoiser.training and not model.pipe.text_encoder_3.training and not model.vae.training
    assert not any(
        parameter.requires_grad
        for part in (model.denoiser, model.vae, model.pipe.text_encoder)
        for parameter in part.parameters()
    )


@pytest.mark.parametrize(("options", "words"), [
    ({"model_family": "sd3"}, ["model_family = sd3", "is sd1x", "Set model_family to sd1x or auto"]),
    ({"revision": "main"}, ["only a model on the hub has revisions"]),
    ({"prediction_type": "sample"}, ["PNDM", "DDIM"]),
    ({"prediction_type": "flow_matching"}, ["sd1x models predict epsilon or v_prediction or sample"]),
    ({"variant": "fp16"}, ["variant", "fp16", "Leave variant out"]),
])  # fmt: skip
def test_what_contradicts_the_checkpoint_is_refused_with_the_remedy(options, words, tiny_folder):
    with pytest.raises(ModelError) as error:
        open_model(tiny_folder("sd1"), **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_shift_is_refused_where_there_is_none(tiny_folder):
    with pytest.raises(ModelError, match="no flow model"):
        open_model(tiny_folder("sd1"), flow_shift=2.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="no cuda device"):
        load_model(ModelConfig(pretrained_model_name_or_path=str(tiny_folder("sd1")), device="cuda"))


def test_a_variant_is_opened(tiny_folder, tmp_path):
    DiffusionPipeline.from_pretrained(tiny_folder("sd2_v")).save_pretrained(tmp_path / "model", variant="fp16")
    model = open_model(tmp_path / "model", variant="fp16")
    assert model.name == "sd2x"
    with pytest.raises(ModelError):
        open_model(tmp_path / "model")


def test_pickled_weights_are_refused(tiny_folder, tmp_path):
    DiffusionPipeline.from_pretrained(tiny_folder("sd1")).save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="can run code") as error:
        open_model(tmp_path / "model")
    assert "diffusion_pytorch_model.bin" in str(error.value) and "save_pretrained" in error.value.remedy


@pytest.mark.parametrize(("name", "words"), [
    ("missing/folder/deep", ["there is no such folder", "owner/model"]),
    ("./not-here", ["there is no such folder"]),
    ("some-owner/no-such-model", ["cache", "hf download some-owner/no-such-model"]),
    ("not-here", ["there is no such folder"]),
])  # fmt: skip
def test_a_model_that_is_not_there_is_reported_with_the_remedy(name, words, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as error:
        locate(name)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_gated_model_and_a_wrong_revision_are_distinguished(monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    response = httpx.Response(403, request=httpx.Request("GET", "https://example.org"))
    for kind, words in ((GatedRepoError, "hf auth login"), (RevisionNotFoundError, "no revision 'v9'")):

        def refuse(*args, kind=kind, **kwargs):
            raise kind("no", response=response)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        with pytest.raises(ModelError, match=words):
            locate("owner/model", revision="v9")


@pytest.mark.parametrize(("content", "words"), [
    (None, "has no model_index.json"), ("{", "is not valid JSON"), ("[]", "holds no JSON object"),
    (json.dumps({"_class_name": "LTXPipeline"}), "no family here covers"),
])  # fmt: skip
def test_a_folder_that_is_no_known_pipeline_is_refused(content, words, tmp_path):
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ModelError, match=words):
        assert locate(str(tmp_path)).family


def test_a_damaged_model_is_reported(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder("sd1"), tmp_path / "model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(ModelError, match="again"):
        open_model(tmp_path / "model")


def test_where_a_package_lacks_that_reads_its_words_a_checkpoint_is_refused_before_and_at_the_opening(
    tiny_folder, monkeypatch
):
    chosen = ModelConfig(pretrained_model_name_or_path=str(tiny_folder("kolors")), device="cpu")
    assert model_findings(chosen)[1] == []
    monkeypatch.setattr(
        "rollout_studio.core.families.kolors.find_spec", lambda name: None if name == "sentencepiece" else name
    )
    _, (finding,) = model_findings(chosen)
    assert finding.level == "error" and "sentencepiece, which is not installed" in finding.message
    assert "pip install sentencepiece" in finding.remedy
    monkeypatch.setattr(Loader, "pipeline", lambda *_, **__: pytest.fail("it is opened"))
    with pytest.raises(ModelError, match="needs sentencepiece"):
        load_model(chosen)


def test_a_checkpoint_with_the_schedule_of_a_distilled_one_is_refused_before_and_at_the_opening(tiny_folder, tmp_path):
    """Z-Image-Turbo differs from the base model in nothing but its scheduler's shift."""
    shutil.copytree(tiny_folder("zimage"), tmp_path / "model")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shift": 3.0}))
    _, (finding,) = model_findings(ModelConfig(pretrained_model_name_or_path=str(tmp_path / "model")))
    assert finding.level == "error" and "Z-Image-Turbo" in finding.message and "Tongyi-MAI/Z-Image" in finding.remedy
    with pytest.raises(ModelError, match="distilled to a few steps"):
        open_model(tmp_path / "model")
    assert model_findings(ModelConfig(pretrained_model_name_or_path=str(tiny_folder("zimage"))))[1] == []


@pytest.mark.parametrize(("name", "file", "setting", "why", "remedy"), [
    ("flux", "transformer/config.json", {"guidance_embeds": False}, "as FLUX.1 schnell", "FLUX.1-dev"),
    ("flux2_klein", "model_index.json", {"is_distilled": True}, "distilled to a few steps", "klein-base-4B"),
    ("krea2", "model_index.json", {"is_distilled": True}, "distilled to a few steps", "krea/Krea-2-Raw"),
    ("flux2_dev", "transformer/config.json", {"guidance_embeds": False}, "no guidance as an input", "FLUX.2-dev"),
    ("sana", "transformer/config.json", {"guidance_embeds": True}, "distilled to a few steps", "Sana_1600M"),
    ("sd1", "unet/config.json", {"time_cond_proj_dim": 8}, "distilled to a few steps", "undistilled base"),
    ("wan", "model_index.json", {"boundary_ratio": 0.875}, "two networks", "Wan2.1-T2V-14B"),
    ("wan", "model_index.json", {"expand_timesteps": True}, "time for each position", "Wan2.1-T2V-1.3B"),
    ("qwen", "transformer/config.json", {"zero_cond_t": True}, "editing or layers", "text-to-image"),
    ("qwen21", "model_index.json", {"sample_sigmas": [1.0, 0.5]}, "distilled to a few steps", "Qwen/Qwen-Image-2.1"),
    ("pixart", "transformer/config.json", {"use_additional_conditions": True}, "PixArt-alpha", "PixArt-Sigma"),
])  # fmt: skip
def test_a_model_that_cannot_be_trained_is_refused_before_and_at_the_opening(
    name, file, setting, why, remedy, tiny_folder, tmp_path
):
    shutil.copytree(tiny_folder(name), tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    chosen = ModelConfig(pretrained_model_name_or_path=str(tmp_path / "model"), device="cpu")
    _, (finding,) = model_findings(chosen)
    assert finding.level == "error" and why in finding.message and remedy in finding.remedy
    with pytest.raises(ModelError, match=why) as error:
        load_model(chosen)
    assert error.value.remedy == finding.remedy
    assert model_findings(ModelConfig(pretrained_model_name_or_path=str(tiny_folder(name))))[1] == []


DISTILLED = {
    "sd1": "Lykon/dreamshaper-8-lcm", "sd2_v": "stabilityai/sd-turbo", "sdxl": "stabilityai/sdxl-turbo",
    "sd3": "stabilityai/stable-diffusion-3.5-large-turbo", "flux": "black-forest-labs/FLUX.1-schnell",
    "zimage": "Tongyi-MAI/Z-Image-Turbo", "chroma": "lodestones/Chroma1-Flash", "flux2_klein": "black-forest-labs/FLUX.2-klein-4B",
    "krea2": "krea/Krea-2-Turbo", "ernie": "baidu/ERNIE-Image-Turbo", "longcat": "byliutao/Longcat-Image-Turbo", "anima": "vladmandic/Anima-1.0-Turbo",
    "qwen21": "Qwen/Qwen-Image-2.1-Turbo",
}  # fmt: skip


@pytest.mark.parametrize(("name", "hub"), DISTILLED.items())
def test_what_was_distilled_is_refused_by_its_name_where_its_configs_look_like_its_bases(name, hub, tiny_folder):
    """As a hub id, as a folder of that name in any letters, and as what a folder was saved from; a base's name is not like it."""
    facts, read = FAMILIES[FAMILY_OF[name]], locate(str(tiny_folder(name))).configs
    configs = {part: read[part] for part in ("pipeline", facts.component, "vae", "scheduler")}
    called = hub.rpartition("/")[2]
    saved = {**configs, "pipeline": {**configs["pipeline"], "_name_or_path": hub}}
    for refusal in (
        facts.refuse(configs, hub),
        facts.refuse(configs, f"C:\\models\\{called.upper()}\\"),
        facts.refuse(configs, f"/models/{called}"),
        facts.refuse(saved),
    ):
        assert "distilled to a few steps" in refusal.why and called.lower() in refusal.why
        assert "another model after all" in refusal.remedy
    assert not any(facts.refuse(configs, other) for other in (*facts.examples, f"{hub}-mine", "/models/plain"))


def test_a_distilled_model_is_refused_by_its_name_before_and_at_the_opening(tiny_folder, tmp_path):
    folder = tmp_path / "stable-diffusion-3.5-large-turbo"
    shutil.copytree(tiny_folder("sd3_without_t5"), folder)
    chosen = ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu")
    _, (finding,) = model_findings(chosen)
    assert finding.level == "error" and "distilled to a few steps" in finding.message
    assert "stable-diffusion-3.5-large or -medium" in finding.remedy
    with pytest.raises(ModelError, match="distilled to a few steps") as error:
        load_model(chosen)
    assert error.value.remedy == finding.remedy


def test_a_distilled_model_on_the_hub_is_refused_before_it_is_downloaded(tiny_folder, monkeypatch):
    """By the preflight from its name, without a network; at the opening from its small files."""
    chosen = ModelConfig(pretrained_model_name_or_path="stabilityai/sdxl-turbo", device="cpu")
    _, (finding,) = model_findings(chosen)
    assert finding.level == "error" and "distilled to a few steps" in finding.message and "xl-base" in finding.remedy
    small = locate(str(tiny_folder("sdxl")))
    monkeypatch.setattr(families, "locate", lambda *_: replace(small, name=chosen.pretrained_model_name_or_path))
    monkeypatch.setattr(Loader, "before_network", lambda self: pytest.fail("it is opened"))
    with pytest.raises(ModelError, match="distilled to a few steps"):
        load_model(chosen)


@pytest.mark.parametrize(("pipeline", "words"), [
    ("SanaSprintPipeline", ["distilled to a few steps", "Sana_1600M"]),
    ("LatentConsistencyModelPipeline", ["distilled to a few steps", "undistilled base"]),
    ("FluxKontextPipeline", ["editing", "text-to-image"]),
    ("StableDiffusionXLImg2ImgPipeline", ["refines", "text-to-image"]),
    ("LongCatImageEditPipeline", ["editing", "text-to-image"]),
])  # fmt: skip
def test_a_class_that_is_never_trained_here_is_refused_with_its_own_reason(pipeline, words, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with pytest.raises(ModelError, match=f"it is a {pipeline}") as error:
        assert locate(str(tmp_path)).family
    assert all(word in str(error.value) for word in words), str(error.value)


def test_every_refusal_has_a_way_to_be_told_and_refuses_no_example_of_its_family():
    """Its classes exist in diffusers and open nothing, what it shows is found, and its own names are told apart from released models."""
    for facts in FAMILIES.values():
        for kind in facts.unsuitable:
            assert (kind.shown or kind.hub or kind.pipelines) and kind.remedy.endswith((".", "torchvision"))
            assert all(hasattr(diffusers, name) and name not in PIPELINES for name in kind.pipelines)
        assert not any(facts.refuse({}, example) for example in facts.examples)


def test_an_inpainting_unet_is_refused(tiny_folder, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(tiny_folder("sd1"))
    pipe.unet = diffusers.UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9)
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="takes 9 channels"):
        open_model(tmp_path / "model")


@pytest.mark.parametrize(("name", "family"), [("demo-flow", "lumina2"), ("demo-epsilon", "sd1x")])
def test_the_demo_models_open_by_name(name, family):
    model = load_model(ModelConfig(pretrained_model_name_or_path=name, device="cpu"))
    assert (model.name, model.latent_scale, model.default_size) == (family, 4, (64, 64))
    assert model.sample(["a small red circle on a white background, on the left"], steps=2)[0].size == (64, 64)
