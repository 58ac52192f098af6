"""Chroma. Source: diffusers' `ChromaPipeline`.

The network takes squares of 2x2 latent cells as tokens, the place of each as an id, and sigma as its time; its output is already the
noise-ward velocity. A prompt has a mask over its 512 places: its tokens and one filling token. It goes over text and picture together,
as numbers: attention adds them to its logits, so masked places count less, not nothing (huggingface/diffusers#13619). Pictures are
drawn that way, so training does the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Model, Prompt
from ..layout import Packed2x2
from . import FACTS


class Chroma(Model):
    """Chroma1 Base and HD, and what was trained from them."""

    facts = FACTS
    layout = Packed2x2()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _, mask, *_ = self.pipe.encode_prompt([prompt], device=self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0], "prompt_attention_mask": mask[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text, picture = cond["prompt_embeds"], self.layout.to_network(x)
        words = cond["prompt_attention_mask"]
        mask = torch.cat([words, words.new_ones(picture["hidden_states"].shape[:2])], dim=1)
        with _masked_checkpoints(network, mask):
            output = network(
                **picture,
                timestep=timestep,
                encoder_hidden_states=text,
                txt_ids=text.new_zeros(text.shape[1], 3),
                attention_mask=mask,
                return_dict=False,
            )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = dict(self.collate(conditionings))
        if negative is not None:
            against = self.collate([negative] * len(conditionings))
            inputs |= {f"negative_{key}": value for key, value in against.items()}
        return inputs


@contextmanager
def _masked_checkpoints(network: Any, mask: Tensor) -> Iterator[None]:
    """Single blocks get the mask with gradient checkpointing too: diffusers 0.42 hands it to them only without."""
    if not network.gradient_checkpointing:
        yield
        return
    checkpoint = network._gradient_checkpointing_func

    def with_mask(block: nn.Module, *given: Any) -> Any:
        # A single block is given states, modulation and rotary embedding; a double block the mask as a fifth.
        return checkpoint(block, *given, mask) if len(given) == 3 else checkpoint(block, *given)

    network._gradient_checkpointing_func = with_mask
    try:
        yield
    finally:
        network._gradient_checkpointing_func = checkpoint
