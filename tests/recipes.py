"""The losses of diffusers' own DreamBooth LoRA scripts, written from their formulas with nothing but the stock pipeline's parts.

Source: huggingface/diffusers, `examples/dreambooth/train_dreambooth_lora*.py` and `examples/text_to_image/train_text_to_image_lora.py`
(for SD 2, whose v-prediction it has, and for Min-SNR). Read and written anew; none of their code is here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3, compute_snr
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import locate
from rollout_studio.core.families.conditioning import Frame
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.rollout import plan_offsets
from rollout_studio.core.remedies import Batch, Ground, Plain, remedy_for
from rollout_studio.core.train.losses import batch_loss
from stock import open_model
from tiny import PROMPTS
from torch import Tensor

FRAMES = (((64, 48), (4, 8), (32, 32)), ((32, 96), (0, 31), (32, 32)))
"""Of two pictures: size before the cut, corner of the cut, size of the result."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One script.

    Attributes:
        script: its name, without `train_dreambooth_lora` and `.py`; whole where it is another one's.
        latents: (pipeline, pixels, generator of the posterior's draws) -> what noise is added to.
        answer: (pipeline, noisy latents, the table's times, prompts) -> the network's output in the shape of the latents.
        towards_data: the script mixes with `1 - sigma` and learns the velocity towards the picture.
        shift: `flow_schedule_shift` with which our table of noise levels is the script's; None = as the checkpoint has it.
    """

    script: str
    latents: Callable[..., Tensor]
    answer: Callable[..., Tensor]
    towards_data: bool = False
    shift: float | None = None

    @property
    def file(self) -> str:
        return self.script if self.script.startswith("train") else f"train_dreambooth_lora{self.script}"


# Latents ---------------------------------------------------------------------------------------------------------------


def scaled(pipe, pixels, generator):
    config = pipe.vae.config
    shift = 0.0 if config.shift_factor is None else config.shift_factor
    return (pipe.vae.encode(pixels).latent_dist.sample(generator) - shift) * config.scaling_factor


def points(pipe, pixels, generator):
    """Sana's autoencoder has no posterior."""
    return pipe.vae.encode(pixels).latent * pipe.vae.config.scaling_factor


def films(pipe, pixels, generator):
    """One frame of a film: (B, C, 1, h, w)."""
    vae = pipe.vae
    mean, deviation = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (vae.encode(pixels[:, :, None]).latent_dist.sample(generator) - mean) / deviation


def squares(pipe, pixels, generator):
    """The script takes the posterior's mode; here a draw, as everywhere else, so that ours can be given the same."""
    patches = pipe._patchify_latents(pipe.vae.encode(pixels).latent_dist.sample(generator))
    mean, variance = (value.view(1, -1, 1, 1) for value in (pipe.vae.bn.running_mean, pipe.vae.bn.running_var))
    return (patches - mean) / torch.sqrt(variance + pipe.vae.config.batch_norm_eps)


# Networks --------------------------------------------------------------------------------------------------------------


def clip(pipe, x, times, prompts):
    text, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    return pipe.unet(x, times, text, return_dict=False)[0]


def two_clips(pipe, x, times, prompts):
    text, _, pooled, _ = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    ids = torch.tensor([[*original, *corner, *size] for original, corner, size in FRAMES], dtype=torch.float32)
    return pipe.unet(x, times, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}, return_dict=False)[0]


def sd3(pipe, x, times, prompts):
    # The script cuts T5 texts to 77 tokens unless told otherwise; told to take 256 it sees what the pipeline draws with.
    text, _, pooled, _ = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=256)  # fmt: skip
    return pipe.transformer(x, text, pooled, times, return_dict=False)[0]


def flux(pipe, x, times, prompts):
    rows, channels, height, width = x.shape
    text, pooled, text_ids = pipe.encode_prompt(prompts, None, max_sequence_length=512)
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(x, rows, channels, height, width),
        timestep=times / 1000,
        guidance=torch.ones(rows),  # the script's default is 3.5
        pooled_projections=pooled,
        encoder_hidden_states=text,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(rows, height // 2, width // 2, "cpu", x.dtype),
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return pipe._unpack_latents(output, height * scale, width * scale, scale)


def flux2(pipe, x, times, prompts):
    ids, (text, text_ids) = pipe._prepare_latent_ids(x), pipe.encode_prompt(prompts, max_sequence_length=512)
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(x),
        timestep=times / 1000,
        guidance=torch.ones(len(x)) if pipe.transformer.config.guidance_embeds else None,  # as for FLUX.1
        encoder_hidden_states=text,
        txt_ids=text_ids,
        img_ids=ids,
        return_dict=False,
    )[0]
    return pipe._unpack_latents_with_ids(output, ids)


def lumina2(pipe, x, times, prompts):
    text, mask, _, _ = pipe.encode_prompt(prompts, False, max_sequence_length=256)
    return pipe.transformer(x, times / 1000, text, mask, return_dict=False)[0]


def qwen(pipe, x, times, prompts):
    rows, channels, _, height, width = x.shape
    text, mask = pipe.encode_prompt(prompts, max_sequence_length=512)
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(x.transpose(1, 2), rows, channels, height, width),
        timestep=times / 1000,
        encoder_hidden_states=text,
        encoder_hidden_states_mask=mask,
        img_shapes=[(1, height // 2, width // 2)] * rows,
        return_dict=False,
    )[0]
    scale = pipe.vae_scale_factor
    return pipe._unpack_latents(output, height * scale, width * scale, scale)


def krea2(pipe, x, times, prompts):
    rows, channels, _, height, width = x.shape
    text, mask = pipe.encode_prompt(prompts, max_sequence_length=512)
    tokens = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    output = pipe.transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        timestep=times / 1000,
        position_ids=pipe.prepare_position_ids(text.shape[1], height // 2, width // 2, "cpu"),
        encoder_attention_mask=mask,
        return_dict=False,
    )[0]
    return output.view(rows, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def sana(pipe, x, times, prompts):
    # The script puts no instruction before prompts unless told to; here the one that a bare `pipe(prompt)` does.
    import inspect

    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    text, mask, _, _ = pipe.encode_prompt(prompts, False, complex_human_instruction=instruction)
    # The script hands over the table's time, and so forgets the factor that the pipeline multiplies it with: 1 in released models.
    times = times * pipe.transformer.config.timestep_scale
    return pipe.transformer(x, text, times, encoder_attention_mask=mask, return_dict=False)[0]


def zimage(pipe, x, times, prompts):
    texts, _ = pipe.encode_prompt(list(prompts), max_sequence_length=512)
    output = pipe.transformer(list(x.unsqueeze(2).unbind()), (1000 - times) / 1000, texts, return_dict=False)[0]
    return -torch.stack(output).squeeze(2)


RECIPES = {
    "sd1": Recipe(script="", latents=scaled, answer=clip),
    "sd2_v": Recipe(script="train_text_to_image_lora", latents=scaled, answer=clip),
    "sdxl": Recipe(script="_sdxl", latents=scaled, answer=two_clips),
    "sd3": Recipe(script="_sd3", latents=scaled, answer=sd3),
    "flux": Recipe(script="_flux", latents=scaled, answer=flux, shift=1.0),
    "flux2_klein": Recipe(script="_flux2_klein", latents=squares, answer=flux2, shift=1.0),
    "flux2_dev": Recipe(script="_flux2", latents=squares, answer=flux2, shift=1.0),
    "lumina2": Recipe(script="_lumina2", latents=scaled, answer=lumina2, towards_data=True, shift=1 / 6),
    "qwen": Recipe(script="_qwen_image", latents=films, answer=qwen, shift=1.0),
    "krea2": Recipe(script="_krea2", latents=films, answer=krea2, shift=1.0),
    "sana": Recipe(script="_sana", latents=points, answer=sana, shift=1.0),
    "zimage": Recipe(script="_z_image", latents=scaled, answer=zimage),
}
"""By the pipeline's name in `tiny.BUILDERS`."""


# Losses ----------------------------------------------------------------------------------------------------------------


def table(pipe):
    """The scheduler that the flow scripts make of the checkpoint's config: Euler, its shift applied only where it is static."""
    return FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)


def flow_loss(recipe, pipe, latents, noise, index, prompts, *, weighting="none", precondition=False):
    """(noise level, loss) of each row, both (B,), at places `index` of the script's table.

    `noise`: (B, C, h, w). `weighting`, `precondition`: the script's `weighting_scheme` and `precondition_outputs`.
    """
    scheduler, noise = table(pipe), noise.view_as(latents)
    sigma, times = scheduler.sigmas[index], scheduler.timesteps[index]
    sigmas = sigma.view(-1, *(1 for _ in latents.shape[1:]))
    start, end = (noise, latents) if recipe.towards_data else (latents, noise)
    noisy, target = (1 - sigmas) * start + sigmas * end, end - start
    found = recipe.answer(pipe, noisy, times, prompts)
    if precondition:
        found, target = noisy - sigmas * found, latents
    weight = compute_loss_weighting_for_sd3(weighting, sigmas)
    level = 1 - sigma if recipe.towards_data else sigma
    return level, (weight * (found - target).square()).flatten(1).mean(1)


def variance_preserving_loss(recipe, pipe, latents, noise, times, prompts, *, snr_gamma=None):
    """The loss of each row, (B,), at whole timesteps. `snr_gamma`: Min-SNR as the text-to-image scripts have it."""
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    found = recipe.answer(pipe, scheduler.add_noise(latents, noise, times), times, prompts)
    is_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, times) if is_v else noise
    losses = (found - target).square().flatten(1).mean(1)
    if snr_gamma is None:
        return losses
    snr = compute_snr(scheduler, times)
    return losses * snr.clamp(max=snr_gamma) / (snr + 1 if is_v else snr)


# Both, side by side ----------------------------------------------------------------------------------------------------

INDEX = torch.tensor([130, 770])
"""Places in the table of 1000 noise levels, of two rows; for a variance-preserving model the timesteps."""
ROLLOUT = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_grid_steps": 6}


def stock_pipeline(folder):
    """The pipeline of a saved model, frozen, as diffusers opens it."""
    pipe = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(locate(str(folder)).absent))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    return pipe


def drawn(model, seed=3):
    """Two pictures that are no squares, and noise for their latents."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, 3, 32, 48, generator=draws) * 2 - 1
    return pixels, torch.randn(2, model.latent_channels, 8, 12, generator=draws)


def posterior():
    return torch.Generator().manual_seed(7)


def our_losses(model, pixels, noise, t, *, is_class=None, **options):
    """(B,) of the trainer's own loss with a rollout switched on that leads no row anywhere; plain training gives the same bits."""
    config = config_from_flat({"pretrained_model_name_or_path": "a-model", **ROLLOUT, **options})
    x0 = model.encode_images(pixels, posterior())
    cond = model.framed(model.collate(model.encode_prompts(PROMPTS)), [Frame(*frame) for frame in FRAMES])
    grid = Grid(model.inference_times(6, x0.shape[1:]).numpy())
    ground = Ground(model.noise_path, model.prediction_type, grid)
    plan = plan_offsets(t, torch.zeros(2, dtype=torch.int64), model.noise_path, grid)
    plain, batch = Plain(config, ground), Batch(x0, noise, cond, is_class)
    with torch.no_grad():
        rolled = batch_loss(model, config, remedy_for(config, ground), batch, plan).parts.total
        alone = batch_loss(model, config, plain, batch, plain.plan(t, step=0, seed=0)).parts.total
    assert torch.equal(rolled, alone) and len(rolled) == 2
    return rolled


def both(name, model, pipe, *, weighting="none", precondition=False, snr_gamma=None):
    """(our losses, the script's), each (B,), of one of RECIPES. Options as the scripts name them."""
    recipe, (pixels, noise) = RECIPES[name], drawn(model)
    with torch.no_grad():
        latents = recipe.latents(pipe, pixels, posterior())
        if model.is_flow:
            t, theirs = flow_loss(recipe, pipe, latents, noise, INDEX, list(PROMPTS), weighting=weighting, precondition=precondition)  # fmt: skip
        else:
            t, theirs = INDEX, variance_preserving_loss(recipe, pipe, latents, noise, INDEX, list(PROMPTS), snr_gamma=snr_gamma)  # fmt: skip
    options = {"loss_weighting": weighting, "precondition_outputs": precondition, "snr_gamma": snr_gamma}
    return our_losses(model, pixels, noise, t.double(), **options), theirs


def script_difference(name, folder):
    """(names of the weightings compared, the largest relative difference of a row's loss)."""
    model, pipe = open_model(folder), stock_pipeline(folder)
    if model.is_flow:
        asked = {scheme: {"weighting": scheme} for scheme in ("none", "cosmap")}
    else:
        asked = {"none": {}, "Min-SNR 5": {"snr_gamma": 5.0}}
    pairs = [both(name, model, pipe, **options) for options in asked.values()]
    return list(asked), max(float(((ours - theirs) / theirs).abs().max()) for ours, theirs in pairs)
