"""Stable Diffusion 1.x and 2.x: a UNet on a variance-preserving path, predicting epsilon, v or x0; CLIP text.

Source: diffusers' `StableDiffusionPipeline`. The network takes fractional timesteps: its embedding is sinusoidal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..maths.noise import PredictionType
from .base import Conditioning, Model
from .source import ModelError


class StableDiffusion(Model):
    """What SD 1.x and 2.x share: everything but how their files are named."""

    pipeline_class = "StableDiffusionPipeline"
    component = "unet"
    predictions: ClassVar[tuple[PredictionType, ...]] = ("epsilon", "v_prediction", "sample")
    unused = ("safety_checker", "feature_extractor", "image_encoder")

    @classmethod
    def loading_options(cls) -> dict[str, Any]:
        return {"requires_safety_checker": False}

    def checkpoint_prediction(self) -> PredictionType:
        if not hasattr(self.pipe.scheduler, "alphas_cumprod"):
            raise ModelError(
                f"'{self.source.name}' has a {type(self.pipe.scheduler).__name__}: not a variance-preserving schedule.",
                f"{self.name} models need a DDPM-like scheduler (PNDM, DDIM, Euler, DPM-Solver ...) in their folder.",
            )
        return self.pipe.scheduler.config.get("prediction_type", "epsilon")

    def _check(self) -> None:
        channels, latents = self.denoiser.config.in_channels, self.latent_channels
        if channels != latents:
            raise ModelError(
                f"The UNet of '{self.source.name}' takes {channels} channels, the VAE gives {latents}: a model for "
                "inpainting or editing.",
                "Choose a text-to-image checkpoint.",
            )
        if self.denoiser.config.get("time_cond_proj_dim") is not None:
            raise ModelError(
                f"'{self.source.name}' is distilled for guidance (time_cond_proj_dim is set).",
                "Choose its undistilled base.",
            )
        scheduler = self.pipe.scheduler
        if self.prediction_type != self.checkpoint_prediction():
            # The pipeline must sample what we train, so its scheduler is told too.
            self.pipe.scheduler = scheduler = type(scheduler).from_config(
                scheduler.config, prediction_type=self.prediction_type
            )
        if self.prediction_type == "sample" and type(scheduler).__name__ == "PNDMScheduler":
            raise ModelError(
                f"prediction_type = sample, but the PNDM scheduler of '{self.source.name}' cannot step x0 predictions.",
                "Save the checkpoint with a DDIM scheduler, or take epsilon or v_prediction.",
            )

    @property
    def size_multiple(self) -> int:
        # The stock pipeline demands sides divisible by 8; the UNet pads what its down-sampling does not divide.
        return max(8, self.latent_scale)

    def encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, _ = self.pipe.encode_prompt([prompt], self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0]}

    def network(self, x: Tensor, timestep: Tensor, cond: Conditioning) -> Tensor:
        return self.denoiser(x, timestep, encoder_hidden_states=cond["prompt_embeds"], return_dict=False)[0]

    def pipeline_inputs(self, conditionings: Sequence[Conditioning], negative: Conditioning | None) -> dict[str, Any]:
        inputs = {"prompt_embeds": self.collate(conditionings)["prompt_embeds"]}
        if negative is not None:
            inputs["negative_prompt_embeds"] = self.collate([negative] * len(conditionings))["prompt_embeds"]
        return inputs


class StableDiffusion1(StableDiffusion):
    """SD 1.x: 1x1 convolutions around the attention blocks."""

    name = "sd1x"
    metadata: ClassVar[Mapping[str, str]] = {"ss_base_model_version": "sd_v1", "architecture": "stable-diffusion-v1"}


class StableDiffusion2(StableDiffusion):
    """SD 2.x: linear layers around the attention blocks; often v-prediction."""

    name = "sd2x"
    metadata: ClassVar[Mapping[str, str]] = {"ss_base_model_version": "sd_v2", "architecture": "stable-diffusion-v2"}
