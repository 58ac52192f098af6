"""Models whose pipeline gives each prompt in its true length, and takes a list of them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .base import Conditioning, Model, Prompt


def by_length(call: Callable[..., Tensor], lengths: Tensor, *rows: Tensor) -> Tensor:
    """`call(length, *rows)` for the rows of each length by themselves, for networks to which a text that is filled up is another text.

    Args:
        lengths: (B,) tokens of each row's text. rows: tensors of B rows each.
    Returns: the answers (B, ...) in the rows' order.
    Cost: as many rows; a call for each length that occurs.
    """
    counts = lengths.tolist()
    if len(set(counts)) == 1:
        return call(counts[0], *rows)
    parts, places = [], []
    for length in sorted(set(counts)):
        own = [row for row, count in enumerate(counts) if count == length]
        places += own
        parts.append(call(length, *(each[own] for each in rows)))
    return torch.cat(parts)[torch.tensor(places, device=lengths.device).argsort()]


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


class OneLength(RaggedTexts):
    """Whose pipeline takes the prompts of a call as one tensor, so all of one length."""

    def call_key(self, prompt: Prompt) -> Hashable:
        return len(prompt["prompt_embeds"])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = {"prompt_embeds": torch.stack([one["prompt_embeds"] for one in conditionings]).to(self.device)}
        if negative is not None:
            against = negative["prompt_embeds"].to(self.device)
            inputs["negative_prompt_embeds"] = against.expand(len(conditionings), *against.shape)
        return inputs
