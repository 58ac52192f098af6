"""A model that ComfyUI has loaded, as the core's `Model`: the rollout and drift code runs on the host's network, text encoders and
autoencoder, in the host's process and with everything that is patched on them.

Nothing of the host is imported: its modules are looked up where they are loaded (`comfy.samplers`, `comfy.sampler_helpers`), its objects
are called by the methods that its own sampler calls. Written against ComfyUI 0.3.64: `comfy/samplers.py`, `comfy/model_base.py`,
`comfy/model_sampling.py`, `comfy/sd.py`.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...core import families
from ...core.families.base import Model
from ...core.families.codec import LatentCodec
from ...core.families.conditioning import Conditioning, Prompt
from ...core.families.facts import Geometry
from ...core.families.prompts import PromptEncoder
from ...core.families.registry import FAMILIES
from ...core.families.source import ModelError, Source
from ...core.families.times import Times
from ...core.maths.grid import falling
from ...core.maths.noise import NoisePath, PredictionType, RectifiedFlow, VariancePreserving

KINDS = {kind: facts.name for facts in FAMILIES.values() for kind in facts.comfyui}
"""The host's class of a model's facts (`comfy.supported_models`) -> our family."""
PARAMETRISATIONS: dict[str, PredictionType] = {
    "EPS": "epsilon",
    "V_PREDICTION": "v_prediction",
    "X0": "sample",
    "CONST": "flow_matching",
}
"""The host's class of what a network's answer means (`comfy.model_sampling`) -> ours."""
TABLES = {"ModelSamplingDiscrete": "variance preserving", "ModelSamplingDiscreteFlow": "flow"}
"""The host's classes of noise levels that are understood -> path."""
PIPELINE = "pipeline"
SCHEDULES = (PIPELINE, "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal")
"""Whose noise levels an inference grid has: the stock diffusers pipeline's, as in our own nodes, or one of ComfyUI's schedulers."""
INSTEAD = (
    "Measure it with this pack's own nodes: name its folder, its .safetensors file or its hub id in a Model node, and link that to "
    "Rollout Preview, or to Train and Drift Report."
)
LABELS = ", ".join(FAMILIES[name].label for name in dict.fromkeys(KINDS.values()))
GUIDANCE_PATCHES = ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function")


def family_in(patcher: Any) -> str:
    """Our family's name of a MODEL. Raises ModelError, naming the node to use instead, for what cannot be measured here."""
    kind = type(getattr(getattr(patcher, "model", None), "model_config", None)).__name__
    if kind not in KINDS:
        raise ModelError(
            f"ComfyUI's model is of its kind {kind}: inside ComfyUI only {LABELS} can be measured.", INSTEAD
        )
    network, latents = patcher.model.model_config.unet_config, patcher.model.latent_format.latent_channels
    if network.get("in_channels", latents) != latents:
        raise ModelError(
            f"ComfyUI's model takes {network['in_channels']} channels where latents have {latents}: it is for inpainting or editing.",
            "Link a text-to-image model.",
        )
    return KINDS[kind]


def parametrisation(patcher: Any) -> tuple[Any, PredictionType]:
    """(the noise levels that the model is patched with, what its output means). Raises ModelError for levels that are not understood."""
    sampling = patcher.get_model_object("model_sampling")
    # the class is put together of a table and a meaning; some versions put one of their own before both
    names = [kind.__name__ for kind in type(sampling).__mro__[1:] if kind.__name__ not in ("Module", "object")]
    table = next((name for name in names if name.startswith("ModelSampling")), "")
    meaning = next((name for name in names if not name.startswith("ModelSampling")), "")
    flow = meaning == "CONST"
    if meaning not in PARAMETRISATIONS or TABLES.get(table) != ("flow" if flow else "variance preserving"):
        raise ModelError(
            f"ComfyUI's model samples by {table or 'unknown levels'} with {meaning or 'an unknown output'}, which has no counterpart here.",
            "Take the ModelSampling node (LCM, EDM, continuous ...) out of the model's way, or a model that is not distilled.",
        )
    return sampling, PARAMETRISATIONS[meaning]


class HostModel(Model):
    """A MODEL, a CLIP and a VAE of ComfyUI as one model of ours, frozen.

    `denoise` goes through the host's `calc_cond_batch`, as its samplers do, so that LoRAs, other weight patches, attention patches and
    wrappers act. The host rounds times to whole training timesteps; here a table is laid over the model that does not, because the core
    asks for levels between them (at whole ones both agree).

    Args:
        patcher, clip, vae: the host's MODEL, CLIP and VAE; the model and the text encoder with their patches. None of them is changed.
        schedule: one of `SCHEDULES`.
    Raises: ModelError for a model, a VAE or noise levels that are not understood.
    """

    def __init__(self, patcher: Any, clip: Any, vae: Any, *, schedule: str = PIPELINE) -> None:
        family = family_in(patcher)
        self.facts = FAMILIES[family]  # type: ignore[misc]
        self._latents = patcher.model.latent_format
        if getattr(vae, "latent_channels", None) != self._latents.latent_channels:
            raise ModelError(
                f"The VAE has {getattr(vae, 'latent_channels', 'no')} latent channels, the model {self._latents.latent_channels}.",
                "Link the VAE of the same checkpoint.",
            )
        sampling, self.prediction_type = parametrisation(patcher)
        self.noise_path = _path_of(sampling, self.is_flow)
        self.clip, self.schedule, self._sampling = clip, schedule, sampling
        self.patcher = patcher.clone()
        if not self.is_flow:
            self.patcher.add_object_patch("model_sampling", unrounded(sampling, self.noise_path))
        self.device, self.dtype = torch.device(patcher.load_device), torch.float32
        self.guidance = self.facts.guidance
        self.codec = HostCodec(vae, patcher.model, self.device)
        self.pipe = SimpleNamespace(
            scheduler=_scheduler(family, self.prediction_type, sampling), components={}, clip=clip.cond_stage_model
        )
        self.text = PromptEncoder(
            self.pipe, ("clip",), self.encode_prompt, lambda: {"clip": self.clip.cond_stage_model}
        )
        self._times = Times(
            self.pipe, self.facts.schedule, self.geometry, is_flow=self.is_flow,
            flow_shift=float(sampling.shift) if self.is_flow else None,
        )  # fmt: skip
        patched = len(patcher.patches)
        name = f"{type(patcher.model.model_config).__name__} of ComfyUI" + (
            f", {patched} weights patched" if patched else ""
        )
        self.source = Source(name, name, None, None, {})

    @cached_property
    def geometry(self) -> Geometry:
        return Geometry(
            self._latents.latent_channels,
            int(self.codec.host.downscale_ratio),
            self.facts.geometry({}).cells_per_token,
            None,
        )

    @property
    def size_multiple(self) -> int:
        return max(8, super().size_multiple)

    @property
    def denoiser(self) -> nn.Module:
        return self.patcher.model.diffusion_model

    @property
    def has_adapter(self) -> bool:
        return False  # what the host patches on is part of the model that is measured

    @property
    def unheeded(self) -> tuple[str, ...]:
        """Patches of the host's guidance, which a measurement leaves out: it has guidance of its own, off unless asked for."""
        return tuple(name for name in GUIDANCE_PATCHES if self.patcher.model_options.get(name))

    def inference_times(self, steps: int, latent_shape: Sequence[int]) -> Tensor:
        if self.schedule == PIPELINE:
            return super().inference_times(steps, latent_shape)
        sigmas = _host("comfy.samplers").calculate_sigmas(self._sampling, self.schedule, steps).double().cpu()
        times = sigmas if self.is_flow else self.noise_path.at_ratio(sigmas).t
        return torch.from_numpy(falling(times.to(torch.float32).numpy()))

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        found = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))
        if len(found) > 1:
            raise ModelError(
                "The text encoder changes over the steps (scheduled hooks): a measurement has one text.",
                "Link a CLIP without a schedule.",
            )
        embeds, more = found[0]
        pooled = more.get("pooled_output")
        encoded = {"prompt_embeds": embeds[0].float()} | ({} if pooled is None else {"pooled": pooled[0].float()})
        wanted = self.patcher.model.model_config.unet_config.get("context_dim", embeds.shape[-1])
        if embeds.shape[-1] != wanted:
            raise ModelError(
                f"The CLIP gives texts of width {embeds.shape[-1]}, the model takes {wanted}.",
                "Link the CLIP of the same checkpoint.",
            )
        return encoded

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Texts of several windows beside shorter ones: repeated to one length, which attention does not notice, as the host does."""
        length = math.lcm(*(len(prompt["prompt_embeds"]) for prompt in prompts))
        texts = [prompt["prompt_embeds"].repeat(length // len(prompt["prompt_embeds"]), 1) for prompt in prompts]
        rows = {"prompt_embeds": torch.stack(texts)}
        if all("pooled" in prompt for prompt in prompts):
            rows["pooled"] = torch.stack([prompt["pooled"] for prompt in prompts])
        return Conditioning(rows).to(self.device)

    def denoise(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """See `Model.denoise`. The host's states are `x0 + ratio * noise` on a variance-preserving path; its answer is the clean image."""
        samplers, helpers = _host("comfy.samplers"), _host("comfy.sampler_helpers")
        level = self.noise_path.at(t.detach().cpu().double()).expand(x.ndim)
        alpha, sigma = (value.to(torch.float32).to(x.device) for value in (level.alpha, level.sigma))
        state, ratio = (x.float(), sigma) if self.is_flow else (x.float() / alpha, sigma / alpha)
        helpers.prepare_sampling(
            self.patcher, x.shape, {}, self.patcher.model_options
        )  # on the device, patched; at once if it is
        options = _host("comfy.model_patcher").create_model_options_clone(self.patcher.model_options)
        helpers.prepare_model_patcher(self.patcher, {}, options)
        self.patcher.pre_run()
        try:
            pooled = {"pooled_output": cond["pooled"]} if "pooled" in cond else {}
            rows = helpers.convert_cond([[cond["prompt_embeds"], pooled]])
            rows = samplers.encode_model_conds(self.patcher.model.extra_conds, rows, state, x.device, "positive")
            clean = samplers.calc_cond_batch(self.patcher.model, [rows], state, ratio.reshape(-1), options)[0].float()
        finally:
            self.patcher.cleanup()
        return _output(self.prediction_type, clean, x.float(), alpha, sigma)

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError("The host calls its network: see `denoise`.")


def _output(kind: PredictionType, clean: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The network's own output from the clean image that the host made of it. Divides by sigma, which no level of a table has as 0."""
    match kind:
        case "sample":
            return clean
        case "epsilon":
            return (x - alpha * clean) / sigma
        case "v_prediction":
            return (alpha * x - clean) / sigma
    return (x - clean) / sigma


class HostCodec(LatentCodec):
    """A VAE of the host: its own `encode` and `decode`, which take care of devices and of memory that does not suffice."""

    def __init__(self, vae: Any, model: Any, device: torch.device) -> None:
        super().__init__(vae.first_stage_model, device)
        self.host, self.model = vae, model

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is not None:
            raise ValueError("ComfyUI's VAE takes the posterior's mode; it draws nothing.")
        latents = self.host.encode((pixels.float() / 2 + 0.5).movedim(1, -1))
        return self.scale(latents.to(self.device, torch.float32))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels = self.host.decode(self.unscale(latents.float())).movedim(-1, 1)
        return pixels.to(self.device, torch.float32).clamp(0, 1)

    def scale(self, latents: Tensor) -> Tensor:
        return self.model.process_latent_in(latents)

    def unscale(self, latents: Tensor) -> Tensor:
        return self.model.process_latent_out(latents)

    def park(self) -> None:
        """The host decides where its VAE lies."""


def unrounded(sampling: Any, path: NoisePath) -> Any:
    """A copy of the host's noise levels whose timesteps are fractions, as `VariancePreserving` counts them: the angle is linear between
    two entries of the table."""

    def timestep(self: Any, sigma: Tensor) -> Tensor:
        times = path.at_ratio(sigma.detach().cpu().double().reshape(-1)).t
        return times.to(torch.float32).to(sigma.device).reshape(sigma.shape)

    own = copy(sampling)
    own.__class__ = type("Unrounded", (type(sampling),), {"timestep": timestep})
    return own


def _path_of(sampling: Any, is_flow: bool) -> NoisePath:
    if is_flow:
        return RectifiedFlow()
    return VariancePreserving(1 / (1 + sampling.sigmas.detach().cpu().double() ** 2))


def _scheduler(family: str, prediction: PredictionType, sampling: Any) -> Any:
    """The scheduler of the family's stock pipeline, as its single files get it; with the host's shift, or its table's zero signal."""
    import diffusers

    folder = Path(families.__file__).parent / family / "single_file" / "scheduler"
    config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
    if prediction == "flow_matching":
        config["shift"] = float(sampling.shift)
    else:
        config["prediction_type"] = prediction
        config["num_train_timesteps"] = len(sampling.sigmas)
        if getattr(sampling, "zsnr", False):
            config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    kind = getattr(diffusers, config["_class_name"])
    return kind.from_config(config)


def _host(name: str) -> Any:
    """A module of ComfyUI that it has loaded."""
    if name not in sys.modules:
        raise ModelError(f"There is no {name} in this process.", "Run this node inside ComfyUI.")
    return sys.modules[name]
