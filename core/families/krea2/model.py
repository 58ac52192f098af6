"""Krea 2. Source: diffusers' `Krea2Pipeline`.

The network takes squares of 2x2 latent cells as tokens, sigma as its time, and of each text token the states of several layers of the
text encoder; its output is already the noise-ward velocity. The pipeline pads prompts to 512 tokens in the midst of its template. In the
network every text token stands at the origin and padding is masked: cutting it out is exact (tested), so only true tokens are kept,
which is a tenth of the memory or less. Where no prompt of a batch is padded there is no mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Conditioning, Model, Prompt
from ..codec import PerChannelVae
from ..conditioning import padded
from ..layout import Packed2x2
from . import FACTS, LONGEST_TEXT


class Krea2(Model):
    """Krea 2 Raw. Turbo is distilled, and refused."""

    facts = FACTS
    codec_class = PerChannelVae
    layout = Packed2x2()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, mask = self.pipe.encode_prompt([prompt], device=self.device, max_sequence_length=LONGEST_TEXT)
        return {"prompt_embeds": embeds[0, mask[0]]}

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        embeds, mask = padded([one["prompt_embeds"] for one in prompts])
        rows = {"prompt_embeds": embeds} if mask.all() else {"prompt_embeds": embeds, "prompt_mask": mask}
        return Conditioning(rows).to(self.device)

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text, given = cond["prompt_embeds"], self.layout.to_network(x)
        places = given.pop("img_ids").float()
        output = network(
            **given,
            timestep=timestep,
            encoder_hidden_states=text,
            encoder_attention_mask=cond.get("prompt_mask"),
            position_ids=torch.cat([places.new_zeros(text.shape[1], 3), places]),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # The pipeline places the tokens behind both prompts by the length of the first, so both are padded together. It wants a mask.
        rows = len(conditionings)
        both = [*conditionings, *([] if negative is None else [negative] * rows)]
        embeds, mask = (part.to(self.device) for part in padded([one["prompt_embeds"] for one in both]))
        inputs = {"prompt_embeds": embeds[:rows], "prompt_embeds_mask": mask[:rows]}
        if negative is not None:
            inputs |= {"negative_prompt_embeds": embeds[rows:], "negative_prompt_embeds_mask": mask[rows:]}
        return inputs
