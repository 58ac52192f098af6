"""Stable Diffusion 3 and 3.5: a transformer on a rectified flow; two CLIP encoders and, where it was saved with it, T5.

Source: diffusers' `StableDiffusion3Pipeline`. The network's time is 1000 sigma and its output already the noise-ward
velocity. Without T5 the pipeline stands zeros in the place of its 256 tokens; they take part in the attention, so they
belong to the conditioning.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ..base import Model, Prompt
from . import FACTS


class StableDiffusion3(Model):
    """SD 3 medium, SD 3.5 medium and large."""

    facts = FACTS

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=[prompt], prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.pipe.scheduler.config.num_train_timesteps

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            pooled_projections=cond["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
