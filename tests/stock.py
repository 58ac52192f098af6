"""A family's model beside its stock diffusers pipeline: for the standing test and for the table that is made of it (tools/family_table.py)."""

import inspect

import torch
from diffusers import DiffusionPipeline
from rollout_studio.core.config import ModelConfig
from rollout_studio.core.families import FAMILIES, load_model, locate
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.remedies.base import Network
from tiny import PROMPTS, SIDE

STEPS = 4
NEGATIVE = "blurry"


def open_model(folder, **options):
    shift = options.pop("flow_shift", None)
    return load_model(
        ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu", **options),
        flow_shift=shift,
        for_training=False,
    )


class Recorded:
    """A stock pipeline call with prompts and negative prompts: what its scheduler was asked to step, and the result."""

    def __init__(self, folder, guidance, call=True, prompts=PROMPTS, cells=(SIDE, SIDE)):
        source = locate(str(folder))
        absent, facts = dict.fromkeys(source.absent), FAMILIES[source.family]
        self.pipe, self.prompts, self.cells = DiffusionPipeline.from_pretrained(folder, **absent), list(prompts), cells
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)  # as ours: torch multiplies matrices another way where a weight could learn
        self.pipe.set_progress_bar_config(disable=True)
        step, self.steps = self.pipe.scheduler.step, []

        def recording(output, time, sample, **rest):
            scaled = (
                self.pipe.scheduler.scale_model_input(sample, time)
                if hasattr(self.pipe.scheduler, "scale_model_input")
                else sample
            )
            self.steps.append((self.spread(output).clone(), time, self.spread(scaled).clone()))
            return step(output, time, sample, **rest)

        self.pipe.scheduler.step = recording
        if not call:
            return
        height, width = self.pixels
        self.arguments = dict(  # noqa: C408 - reads as the call that it becomes
            negative_prompt=[NEGATIVE] * len(prompts),
            num_inference_steps=STEPS,
            height=height,
            width=width,
        )
        self.arguments[facts.guidance.argument] = facts.guidance.stock_scale(guidance)
        self.latents = self.spread(self.call(output_type="latent"))
        self.all_steps = self.steps[:]

    @property
    def pixels(self):
        """Height and width as the pipeline counts them."""
        return [side * self.pipe.vae_scale_factor for side in self.cells]

    def spread(self, latents):
        """As (B, C, h, w), by the pipeline's own function where it packs them into tokens; that of a VAE for films gives a single frame."""
        if latents.ndim == 4:
            return latents
        unpacked = self.pipe._unpack_latents(latents, *self.pixels, *self.factor)
        return unpacked if unpacked.ndim == 4 else unpacked[:, :, 0]

    @property
    def factor(self):
        """What `_unpack_latents` wants to know beside the size."""
        wanted = len(inspect.signature(self.pipe._unpack_latents).parameters) > 3
        return [self.pipe.vae_scale_factor] if wanted else []

    def call(self, output_type):
        generators = [torch.Generator().manual_seed(5 + i) for i in range(len(self.prompts))]
        return self.pipe(prompt=self.prompts, generator=generators, output_type=output_type, **self.arguments).images


def guided(model, x, t, cond, negative, guidance):
    return model.denoise(x, t, cond) if guidance == 1 else model.guidance(model.denoise, x, t, cond, negative, guidance)


TRIMMED = ("lumina2", "krea2")
"""Families whose pipelines pad prompts to a length that is cut off here."""


def as_padded(model, prompts):
    """(conditioning, negative conditioning) with the stock pipeline's own padding."""
    asked, against = model.pipe.encode_prompt, [NEGATIVE] * len(prompts)
    if "negative_prompt" in inspect.signature(asked).parameters:
        found = asked(prompts, True, negative_prompt=against, device=model.device)
    else:
        found = (*asked(prompts, device=model.device), *asked(against, device=model.device))
    return [Conditioning({"prompt_embeds": found[at], "prompt_mask": found[at + 1]}) for at in (0, 2)]


def differences(model, stock, guidance, *, padded=False):
    """Of each step of a recorded call: (our output, what the stock pipeline handed to its scheduler).

    `padded`: with the stock pipeline's own padding, where ours cuts it off.
    """
    prompts = stock.prompts
    if padded and model.name in TRIMMED:
        cond, negative = as_padded(model, prompts)
    else:
        cond = model.collate(model.encode_prompts(prompts))
        negative = model.collate(model.encode_prompts([NEGATIVE] * len(prompts), negative=True))
    number, pairs = model.pipe.scheduler.config.num_train_timesteps, []
    with torch.no_grad():
        for output, time, x in stock.all_steps:
            t = (time / number if model.is_flow else time).float().expand(len(prompts))
            pairs.append((guided(model, x, t, cond, negative, guidance), output))
    return pairs


def rows_asked(model, guidance):
    """(rows that the network got, rows that a run's log counts) for three rows of a rollout."""
    got = []
    hook = model.denoiser.register_forward_hook(lambda module, args, output: got.append(len(output[0])))
    try:
        with torch.no_grad():
            network = Network(model, model.collate(model.encode_prompts(PROMPTS)))
            t = torch.linspace(0.83, 0.13, 3) * (1 if model.is_flow else 999)
            x = torch.randn(3, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
            network.predict(guidance)(x, model.noise_path.at(t), torch.tensor([1, 0, 1]))
    finally:
        hook.remove()
    return sum(got), network.rows
