"""A UNet on a variance-preserving path, predicting epsilon, v or x0, with CLIP text: what several families share.

The network takes fractional timesteps: its embedding is sinusoidal.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .base import Prompt
from .layout import AsIs
from .variance_preserving import VariancePreservingModel


class LatentUNet(VariancePreservingModel):
    """Everything but the text: it is encoded here by the pipeline of a single CLIP encoder."""

    layout = AsIs("sample")

    @property
    def size_multiple(self) -> int:
        # The stock pipeline demands sides divisible by 8; the UNet pads what its down-sampling does not divide.
        return max(8, self.latent_scale)

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            return_dict=False,
            **self.extra_inputs(x, cond),
        )[0]

    def extra_inputs(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        """Further arguments of the network."""
        return {}
