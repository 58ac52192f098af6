"""Lumina-Image 2.0: a transformer on a rectified flow, text and picture tokens in one sequence; Gemma 2 text.

Source: diffusers' `Lumina2Pipeline`. Time runs the other way (the network gets 1 - sigma) and so does its output
(data-ward), which is negated here. The pipeline pads prompts to 256 tokens, but the network cuts every row to its true
length before text meets picture, and masks the rest before that: trimming is exact (tested), so only true tokens are
kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..base import Conditioning, Model, Prompt
from ..conditioning import padded
from . import FACTS


class Lumina2(Model):
    """Lumina-Image 2.0, and the flow model of the demo."""

    facts = FACTS

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        # Negative prompts go without the system prompt, as in the pipeline.
        if negative:
            _, _, embeds, mask = self.pipe.encode_prompt([""], True, negative_prompt=[prompt], device=self.device)
        else:
            embeds, mask, _, _ = self.pipe.encode_prompt([prompt], False, device=self.device)
        return {"prompt_embeds": embeds[0, : int(mask[0].sum())].contiguous()}

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        embeds, mask = padded([one["prompt_embeds"] for one in prompts])
        return Conditioning({"prompt_embeds": embeds, "prompt_mask": mask}).to(self.device)

    def network_time(self, t: Tensor) -> Tensor:
        return 1 - t

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return -network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            encoder_attention_mask=cond["prompt_mask"],
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # The pipeline wants prompts and negative prompts of one shape, so both are padded together.
        rows = len(conditionings)
        both = self.collate([*conditionings, *([] if negative is None else [negative] * rows)])
        inputs = {"prompt_embeds": both["prompt_embeds"][:rows], "prompt_attention_mask": both["prompt_mask"][:rows]}
        if negative is not None:
            inputs |= {
                "negative_prompt_embeds": both["prompt_embeds"][rows:],
                "negative_prompt_attention_mask": both["prompt_mask"][rows:],
            }
        return inputs
