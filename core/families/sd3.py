"""Stable Diffusion 3 and 3.5: a transformer on a rectified flow; two CLIP encoders and, where it was saved with it, T5.

Source: diffusers' `StableDiffusion3Pipeline`. The network's time is 1000 sigma and its output already the noise-ward
velocity. Without T5 the pipeline stands zeros in the place of its 256 tokens; they take part in the attention, so they
belong to the conditioning.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..maths.noise import PredictionType
from .base import Conditioning, Model
from .schedule import resolution_mu


class StableDiffusion3(Model):
    """SD 3 medium, SD 3.5 medium and large; the distilled turbo opens too, but is not meant to be trained."""

    name = "sd3"
    pipeline_class = "StableDiffusion3Pipeline"
    component = "transformer"
    predictions: ClassVar[tuple[PredictionType, ...]] = ("flow_matching",)
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    unused = ("image_encoder", "feature_extractor")
    metadata: ClassVar[Mapping[str, str]] = {"ss_base_model_version": "sd3", "architecture": "stable-diffusion-3-m"}

    def encode_prompt(self, prompt: str, negative: bool) -> Conditioning:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=[prompt], prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.pipe.scheduler.config.num_train_timesteps

    def network(self, x: Tensor, timestep: Tensor, cond: Conditioning) -> Tensor:
        return self.denoiser(
            hidden_states=x,
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            pooled_projections=cond["pooled_prompt_embeds"],
            return_dict=False,
        )[0]

    def mu(self, latent_shape: Sequence[int]) -> float:
        patch = self.denoiser.config.patch_size
        tokens = (latent_shape[-2] // patch) * (latent_shape[-1] // patch)
        return resolution_mu(self.pipe.scheduler.config, tokens, max_shift=1.16)

    def set_schedule(self, scheduler: Any, steps: int, latent_shape: Sequence[int]) -> None:
        if scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=self.mu(latent_shape))
        else:
            scheduler.set_timesteps(steps)

    def pipeline_inputs(self, conditionings: Sequence[Conditioning], negative: Conditioning | None) -> dict[str, Any]:
        inputs = self.collate(conditionings)
        if negative is not None:
            against = self.collate([negative] * len(conditionings))
            inputs |= {f"negative_{key}": value for key, value in against.items()}
        return inputs
