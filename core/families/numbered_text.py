"""FLUX.1's kind of network without a pooled vector, whose text tokens have places of their own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .base import Model
from .layout import Packed2x2


class NumberedText(Model):
    """A text token has its number as row and column; a picture token is a square of 2x2 cells. Sigma is the time, `prompt_embeds` the text."""

    layout = Packed2x2()

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        text = cond["prompt_embeds"]
        # Float32, in which the network makes angles of them: the numbers may be larger than 16 bits tell apart.
        place = torch.arange(text.shape[1], device=text.device, dtype=torch.float32)
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=text,
            txt_ids=pad(torch.stack([place, place], dim=1), (1, 0)),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])
