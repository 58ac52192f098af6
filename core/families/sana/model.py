"""Sana. Source: diffusers' `SanaPipeline`; Xie et al., arXiv 2410.10629.

The network's time is 1000 sigma by a factor of its config, and its output already the noise-ward velocity. The pipeline's own scheduler
(DPM++) rounds that time down to a whole number; training and rollout give the network the time itself.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..base import Model, Prompt
from ..codec import DeepVae
from . import FACTS


class Sana(Model):
    """Sana and SANA 1.5 in all their sizes. Sprint is another pipeline."""

    facts = FACTS
    codec_class = DeepVae

    @property
    def size_multiple(self) -> int:
        return max(32, super().size_multiple)  # the stock pipeline demands it

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        # What a bare `pipe(prompt)` puts before prompts; negative prompts go without, as there.
        stock = inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"].default
        embeds, mask, _, _ = self.pipe.encode_prompt(
            [prompt], False, device=self.device, complex_human_instruction=None if negative else stock
        )
        return {"prompt_embeds": embeds[0], "prompt_attention_mask": mask[0]}

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.pipe.scheduler.config.num_train_timesteps * self.network_config["timestep_scale"]

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            encoder_attention_mask=cond["prompt_attention_mask"],
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # Binning would draw another size than was asked for, and scale the picture.
        inputs = super().pipeline_inputs(conditionings, negative)
        return inputs | {"negative_prompt": None, "use_resolution_binning": False}
