"""Models whose pipeline gives each prompt in its true length, and takes a list of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .base import Conditioning, Model, Prompt


class RaggedTexts(Model):
    """`encode_prompt` gives `prompt_embeds` (tokens, width). In a batch they are padded behind, and `prompt_length` (B,) counts the true tokens."""

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        embeds = [one["prompt_embeds"] for one in prompts]
        return Conditioning({
            "prompt_embeds": pad_sequence(embeds, batch_first=True).to(self.device),
            "prompt_length": torch.tensor([len(one) for one in embeds], device=self.device),
        })  # fmt: skip

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = {"prompt_embeds": [one["prompt_embeds"].to(self.device) for one in conditionings]}
        if negative is not None:
            inputs["negative_prompt_embeds"] = [negative["prompt_embeds"].to(self.device)] * len(conditionings)
        return inputs
