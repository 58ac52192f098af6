"""FLUX.2 klein. Source: diffusers' `Flux2KleinPipeline`.

The pipeline takes no negative prompt as text, only as an encoding; a bare call goes away from the empty one.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..base import Prompt
from ..flux2_network import SquaresAndTokens
from . import FACTS


class Flux2Klein(SquaresAndTokens):
    """FLUX.2 klein base, 4B and 9B."""

    facts = FACTS

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = dict(self.collate(conditionings))
        if negative is not None:
            inputs["negative_prompt_embeds"] = self.collate([negative] * len(conditionings))["prompt_embeds"]
        return inputs

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor:
        # This pipeline gives the autoencoder's own latents.
        return self.codec.scale(latents.float())
