"""PixArt-Sigma. Source: diffusers' `PixArtSigmaPipeline`; Chen et al., arXiv 2403.04692.

The network answers with twice the channels of its latents: epsilon, and a variance that the pipeline drops and nothing here trains. It
takes fractional timesteps: its embedding is sinusoidal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.utils import is_bs4_available, is_ftfy_available
from torch import Tensor, nn

from ..base import Prompt
from ..variance_preserving import VariancePreservingModel
from . import FACTS


class PixArtSigma(VariancePreservingModel):
    """PixArt-Sigma in all its sizes."""

    facts = FACTS

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        # A bare `pipe(prompt)` also cleans captions of web addresses and the like, where the packages for it are installed.
        clean = is_bs4_available() and is_ftfy_available()
        embeds, mask, _, _ = self.pipe.encode_prompt([prompt], False, device=self.device, clean_caption=clean)
        return {"prompt_embeds": embeds[0], "prompt_attention_mask": mask[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            encoder_attention_mask=cond["prompt_attention_mask"],
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # Binning would draw another size than was asked for, and scale the picture.
        inputs = super().pipeline_inputs(conditionings, negative)
        return inputs | {"negative_prompt": None, "use_resolution_binning": False}
