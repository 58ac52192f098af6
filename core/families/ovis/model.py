"""Ovis-Image. Source: diffusers' `OvisImagePipeline`.

The network takes squares of 2x2 latent cells as tokens, the place of each as an id, and sigma as its time; its output is already the
noise-ward velocity. Text tokens have their number as row and column. The pipeline puts an instruction before a caption, cuts its tokens
off again, and sets what is behind the caption to zeros; the network has no mask, so the zeros belong to the conditioning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..base import Model, Prompt
from ..layout import Packed2x2
from . import FACTS


class OvisImage(Model):
    """Ovis-Image 7B."""

    facts = FACTS
    layout = Packed2x2()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, *_ = self.pipe.encode_prompt([prompt], do_classifier_free_guidance=False, device=self.device)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text = cond["prompt_embeds"]
        place = torch.arange(text.shape[1], device=text.device, dtype=text.dtype)
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=text,
            txt_ids=pad(torch.stack([place, place], dim=1), (1, 0)),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # The pipeline has an empty text by default, and refuses one beside embeddings.
        return super().pipeline_inputs(conditionings, negative) | {"negative_prompt": None}
