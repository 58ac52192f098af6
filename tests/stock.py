"""A family's model beside its stock diffusers pipeline: for the standing test and for the table that is made of it (tools/family_table.py)."""

from inspect import signature
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, ModularPipeline
from rollout_studio.core.config import ModelConfig
from rollout_studio.core.families import FAMILIES, load_model, locate
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.remedies.base import Network
from tiny import PROMPTS, whole_reader
from transformers import AutoTokenizer

STEPS = 4
NEGATIVE = "blurry"
ONE_LENGTH = ("qwen21",)
"""Families whose pipeline, given prompts of several lengths at once, moves the pictures of the shorter ones in the network's sequence: it is
called with each alone."""


def open_model(folder, **options):
    shift = options.pop("flow_shift", None)
    return load_model(
        ModelConfig(pretrained_model_name_or_path=str(folder), device="cpu", **options),
        flow_shift=shift,
        for_training=False,
    )


def as_asked(pipe):
    """Arguments with which a pipeline draws in the size and with the words that it is asked for: its bins are the released models' sizes, and
    what a language model makes of a prompt are other words."""
    taken = signature(pipe.__call__).parameters
    return {name: False for name in ("use_resolution_binning", "enable_prompt_rewrite") if name in taken}


class Called:
    """A modular pipeline, with its own blocks from prompts to pictures, under the arguments of the others."""

    def __call__(self, prompt, negative_prompt=None, guidance_scale=4.0, num_inference_steps=50, height=None, width=None,
                 generator=None, output_type="pil", return_dict=True):  # fmt: skip
        self.guider = self.guider.new(guidance_scale=guidance_scale)
        latents = output_type == "latent"
        found = super().__call__(
            prompt=prompt, negative_prompt=negative_prompt, num_inference_steps=num_inference_steps, height=height, width=width,
            generator=generator, output_type="pt" if latents else output_type, output="latents" if latents else "images",
        )  # fmt: skip
        return (found,)

    def set_progress_bar_config(self, **config):
        pass


def stock_pipeline(folder, **parts):
    """What diffusers opens of a folder; where it would open a processor by torchvision, with a stand-in for texts."""
    place = Path(folder) / "processor"
    if place.is_dir():
        parts["processor"] = whole_reader(AutoTokenizer.from_pretrained(place))
    if not (Path(folder) / "modular_model_index.json").exists():
        return DiffusionPipeline.from_pretrained(folder, **parts)
    pipe = ModularPipeline.from_pretrained(str(folder))
    pipe.load_components()
    pipe.__class__ = type(type(pipe).__name__, (Called, type(pipe)), {})
    return pipe


def over_white(pictures):
    """Pixels (B, C, H, W) in 0..1 without their alpha, where they have one."""
    return pictures if pictures.shape[1] == 3 else 1 - pictures[:, 3:] * (1 - pictures[:, :3])


class Recorded:
    """A stock pipeline call with prompts and negative prompts: what its scheduler was asked to step, and the result."""

    def __init__(self, folder, guidance, call=True, prompts=PROMPTS, *, prepare=None, steps=STEPS, cells=(8, 8)):
        """`prepare`: changes the pipeline before its call. `cells`: height and width of the latents."""
        source = locate(str(folder))
        absent, facts = dict.fromkeys(source.absent), FAMILIES[source.family]
        self.patch = facts.model_class().codec_class.patch
        self.pipe, self.prompts, self.cells = stock_pipeline(folder, **absent), list(prompts), cells
        self.apart = facts.name in ONE_LENGTH
        for part in self.pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)  # as ours: torch multiplies matrices another way where a weight could learn
        self.pipe.set_progress_bar_config(disable=True)
        if prepare is not None:
            prepare(self.pipe)
        step, self.steps = self.pipe.scheduler.step, []

        def recording(output, given, sample, **rest):
            time = given
            scaled = (
                self.pipe.scheduler.scale_model_input(sample, given)
                if hasattr(self.pipe.scheduler, "scale_model_input")
                else sample
            )
            if facts.schedule.sigmas == "whole":  # its time says nothing of the noise
                number = self.pipe.scheduler.config.num_train_timesteps
                time = number * self.pipe.scheduler.sigmas[len(self.steps) % steps]
            self.steps.append((self.spread(output).clone(), time, self.spread(scaled).clone()))
            result = step(output, given, sample, **rest)
            self.end = result[0]
            return result

        self.pipe.scheduler.step = recording
        if not call:
            return
        height, width = self.pixels
        self.arguments = dict(  # noqa: C408 - reads as the call that it becomes
            num_inference_steps=steps,
            height=height,
            width=width,
        )
        self.arguments[facts.guidance.argument] = facts.guidance.stock_scale(guidance)
        if "num_frames" in signature(self.pipe.__call__).parameters:
            self.arguments["num_frames"] = 1
        self.arguments |= as_asked(self.pipe)
        self.call(output_type="latent")
        self.latents, self.all_steps = self.spread(self.end), self.steps[:]
        if self.apart:
            rows = [self.steps[first : first + steps] for first in range(0, len(self.steps), steps)]
            self.all_steps = [
                (torch.cat([output for output, _, _ in row]), row[0][1], torch.cat([x for *_, x in row]))
                for row in zip(*rows, strict=True)
            ]

    @property
    def pixels(self):
        """Height and width as the pipeline counts them."""
        return [side * self.patch * self.scale for side in self.cells]

    @property
    def scale(self):
        """Pixels of a cell's side as the pipeline counts them; those of films have a name of their own."""
        films = hasattr(self.pipe, "vae_scale_factor_spatial")
        return self.pipe.vae_scale_factor_spatial if films else self.pipe.vae_scale_factor

    def spread(self, latents):
        """As (B, C, h, w), by the pipeline's own function where it packs them into tokens."""
        if latents.ndim == 4:
            return latents
        if latents.ndim == 5:
            return latents[:, :, 0]  # a film of a single frame
        if hasattr(self.pipe, "_unpack_latents_with_ids"):
            ids = self.pipe._prepare_latent_ids(latents.new_zeros(len(latents), 1, *self.cells))
            return self.pipe._unpack_latents_with_ids(latents, ids)
        wanted = len(signature(self.pipe._unpack_latents).parameters) > 3
        unpacked = self.pipe._unpack_latents(latents, *self.pixels, *([self.pipe.vae_scale_factor] if wanted else []))
        return unpacked if unpacked.ndim == 4 else unpacked[:, :, 0]  # a VAE for films gives a single frame

    def nodes(self, is_flow):
        """The times that the scheduler visited, in core's coordinate; one that it visited twice (PNDM) once."""
        scheduler = self.pipe.scheduler
        return list(dict.fromkeys((scheduler.sigmas[:-1] if is_flow else scheduler.timesteps).tolist()))

    def call(self, output_type):
        generators = [torch.Generator().manual_seed(5 + i) for i in range(len(self.prompts))]
        prompts = {"prompt": list(self.prompts), **self.negative}
        if self.apart:
            return self.one_by_one(prompts, generators, output_type)
        (found, *_) = self.pipe(
            **prompts, generator=generators, output_type=output_type, return_dict=False, **self.arguments
        )
        if "num_frames" not in self.arguments or output_type == "latent":
            return found
        return [film[0] for film in found] if output_type == "pil" else found[:, 0]

    def one_by_one(self, prompts, generators, output_type):
        """As `call`, a call for each prompt."""
        found, ends = [], []
        for row, generator in enumerate(generators):
            own = {name: texts[row] for name, texts in prompts.items()}
            found += self.pipe(**own, generator=generator, output_type=output_type, return_dict=False, **self.arguments)
            ends.append(self.end)
        self.end = torch.cat(ends)
        return [one for pictures in found for one in pictures] if output_type == "pil" else torch.cat(found)

    @property
    def negative(self):
        """The negative prompts in the form that the pipeline takes them in: as text, encoded, or not at all."""
        # Lists of their own, because some pipelines write into them.
        texts, taken = [NEGATIVE] * len(self.prompts), signature(self.pipe.__call__).parameters
        if "negative_prompt" in taken:
            return {"negative_prompt": texts}
        if "negative_prompt_embeds" in taken:
            return {"negative_prompt_embeds": self.pipe.encode_prompt(texts)[0]}
        return {}


def guided(model, x, t, cond, negative, guidance):
    return model.denoise(x, t, cond) if guidance == 1 else model.guidance(model.denoise, x, t, cond, negative, guidance)


TRIMMED = ("lumina2", "krea2")
"""Families whose pipelines pad prompts to a length that is cut off here."""


def as_padded(model, prompts):
    """(conditioning, negative conditioning) with the stock pipeline's own padding."""
    asked, against = model.pipe.encode_prompt, [NEGATIVE] * len(prompts)
    if "negative_prompt" in signature(asked).parameters:
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
