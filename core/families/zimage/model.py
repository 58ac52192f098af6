"""Z-Image. Source: diffusers' `ZImagePipeline`.

The network takes a list with one picture and a list with one text for each row. Time runs the other way (it gets 1 - sigma) and so does
its output (data-ward), which is negated here. A text has its true length; the network brings each to a multiple of 32 tokens with a
learnt filling, and masks what is beyond that, so rows of any lengths may share a call. The pipeline's `guidance_scale` counts from the
prompt's own output: 0 is none.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ..base import Prompt
from ..layout import ListOfItems
from ..ragged import RaggedTexts
from . import FACTS


class ZImage(RaggedTexts):
    """Z-Image, the base model."""

    facts = FACTS
    layout = ListOfItems()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        # The pipeline writes the chat message into the list that it is given: it gets one of its own.
        (embeds,), _ = self.pipe.encode_prompt([prompt], self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def network_time(self, t: Tensor) -> Tensor:
        return (1000 - t * 1000) / 1000  # as the pipeline computes it, to the last bit

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        texts = [
            text[:length] for text, length in zip(cond["prompt_embeds"], cond["prompt_length"].tolist(), strict=True)
        ]
        output = network(**self.layout.to_network(x), t=timestep, cap_feats=texts, return_dict=False)[0]
        return -self.layout.from_network(output, *x.shape[-2:])

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor:
        return latents  # the pipeline makes lists for the network alone
