"""AuraFlow. Source: diffusers' `AuraFlowPipeline`.

The network's time is sigma, and its output already the noise-ward velocity. It takes no mask: the zeros that a caption is padded with
take part in the attention, so they belong to the conditioning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Model, Prompt
from . import FACTS, SIDE


class AuraFlow(Model):
    """AuraFlow 0.1 to 0.3."""

    facts = FACTS

    @property
    def default_size(self) -> tuple[int, int]:
        return SIDE, SIDE

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _, _, _ = self.pipe.encode_prompt([prompt], None, False, device=self.device)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # The pipeline demands masks beside embeddings, and uses them no more.
        inputs = super().pipeline_inputs(conditionings, negative)
        masks = {
            name.replace("embeds", "attention_mask"): torch.ones(value.shape[:2], device=value.device)
            for name, value in inputs.items()
        }
        return inputs | masks
