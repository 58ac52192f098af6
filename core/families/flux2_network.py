"""What the models of the FLUX.2 generation have in common. Source: diffusers' `Flux2Transformer2DModel` and its pipelines.

Latents are squares of 2x2 of the autoencoder's cells, each channel by the running statistics of a batch norm; the network takes them as
tokens with four coordinates each (picture, row, column, place in the text), sigma as its time, and hidden states of three layers of
a language model as text. Its output is already the noise-ward velocity.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .base import Model, Prompt
from .codec import PatchifiedVae
from .layout import TokensWithIds


class SquaresAndTokens(Model):
    """Everything but guidance and what the stock pipeline is called with."""

    codec_class = PatchifiedVae
    layout = TokensWithIds()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], device=self.device)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text = cond["prompt_embeds"]
        places = torch.arange(text.shape[1], device=text.device)
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            guidance=cond.get("guidance"),
            encoder_hidden_states=text,
            txt_ids=pad(places[:, None], (3, 0)),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])
