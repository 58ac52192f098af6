"""FLUX.1. Source: diffusers' `FluxPipeline`.

The network takes squares of 2x2 latent cells as tokens, the place of each as an id, sigma as its time, and (dev) the guidance as a
number: it was distilled from pictures drawn with classifier-free guidance, so no second row is needed. Its output is already the
noise-ward velocity. Training feeds a guidance of 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..base import Model, Prompt
from ..guidance import Guidance, Unguided
from ..layout import Packed2x2
from . import FACTS


class Flux(Model):
    """FLUX.1 dev, and models of the same class without guidance as an input (schnell, which is distilled to a few steps)."""

    facts = FACTS
    layout = Packed2x2()

    def checkpoint_guidance(self) -> Guidance:
        return self.facts.guidance if self.network_config["guidance_embeds"] else Unguided()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, pooled, _ = self.pipe.encode_prompt([prompt], None, device=self.device)
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text = cond["prompt_embeds"]
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            guidance=cond.get("guidance"),
            pooled_projections=cond["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # Guidance is an input of the network: there is nothing to guide away from.
        return dict(self.collate(conditionings))
