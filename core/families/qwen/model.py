"""Qwen-Image. Source: diffusers' `QwenImagePipeline`.

The network takes squares of 2x2 latent cells as tokens, how many rows and columns of them there are, and sigma as its time; its output
is already the noise-ward velocity. The place of a text token is its number, counted from the prompt's first, and padding behind a prompt
is masked: cutting it off is exact (tested), so only true tokens are kept. Where no prompt of a batch is padded there is no mask, as in
the pipeline.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Conditioning, Model, Prompt
from ..codec import PerChannelVae
from ..conditioning import padded
from ..layout import Packed2x2WithShapes
from . import FACTS, LONGEST_TEXT


class QwenImage(Model):
    """Qwen-Image, and Qwen-Image 2512."""

    facts = FACTS
    codec_class = PerChannelVae
    layout = Packed2x2WithShapes()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], device=self.device, max_sequence_length=LONGEST_TEXT)
        return {"prompt_embeds": embeds[0]}

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        embeds, mask = padded([one["prompt_embeds"] for one in prompts])
        rows = {"prompt_embeds": embeds} if mask.all() else {"prompt_embeds": embeds, "prompt_mask": mask}
        return Conditioning(rows).to(self.device)

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            encoder_hidden_states_mask=cond.get("prompt_mask"),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = self._texts(conditionings)
        if negative is not None:
            inputs |= {
                f"negative_{name}": value for name, value in self._texts([negative] * len(conditionings)).items()
            }
        return inputs

    def _texts(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        # The pipeline warns where it is given no mask, and drops one that masks nothing.
        embeds, mask = (part.to(self.device) for part in padded([one["prompt_embeds"] for one in prompts]))
        return {"prompt_embeds": embeds, "prompt_embeds_mask": mask.to(torch.long)}
