"""CogView 4. Source: diffusers' `CogView4Pipeline`.

Its output is already the noise-ward velocity. Its time is the level's place in the training table before the picture's size bends it, a
whole number: 1000 r, where sigma = s r / (1 + (s - 1) r) with the shift s of the picture's size. So the time of a level depends on the size.

A caption is filled up in front, to the next multiple of 16 tokens, before it is encoded; the filling takes part in the attention, so it
belongs to the encoding. The network's mask is added to its attention as ones and zeros and hides nothing, so captions of different
lengths go through the network one length after the other. Size and crop are inputs as those of Stable Diffusion XL.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..base import Conditioning, Frame, Prompt
from ..ragged import OneLength, by_length
from ..schedule import flow_shift
from . import FACTS


class CogView4(OneLength):
    """CogView 4 6B."""

    facts = FACTS

    @property
    def size_multiple(self) -> int:
        return max(16, super().size_multiple)  # the stock pipeline demands it

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], do_classifier_free_guidance=False, device=self.device)
        return {"prompt_embeds": embeds[0]}

    def framed(self, cond: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        numbers = [[*frame.original, *frame.size, *frame.corner] for frame in frames]
        return cond.with_rows(frame=torch.tensor(numbers, dtype=torch.float32, device=self.device))

    def table_number(self, t: Tensor, x: Tensor) -> Tensor:
        """The network's time of the levels `t` (B,) for latents of x's size: whole numbers, (B,) float32."""
        config = self.pipe.scheduler.config
        shift = flow_shift(config, self.facts.schedule, self.geometry, x.shape)
        sigma = t.double()
        return (config.num_train_timesteps * sigma / (shift - (shift - 1) * sigma)).round().to(t.dtype)

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        frame = cond.get("frame")
        if frame is None:  # a whole picture of the latents' size, as the pipeline says where nothing else is known
            size = [side * self.latent_scale for side in x.shape[-2:]]
            frame = x.new_tensor([[*size, *size, 0, 0]]).expand(len(x), -1)
        original, target, corner = frame.split(2, dim=1)
        given = (x, cond["prompt_embeds"], self.table_number(timestep, x), original, target, corner)
        return by_length(partial(self._one_length, network), cond["prompt_length"], *given)

    def _one_length(self, network: nn.Module, length: int, x: Tensor, embeds: Tensor, time: Tensor, original: Tensor,
                    target: Tensor, corner: Tensor) -> Tensor:  # fmt: skip
        return network(
            **self.layout.to_network(x),
            encoder_hidden_states=embeds[:, :length],
            timestep=time,
            original_size=original,
            target_size=target,
            crop_coords=corner,
            return_dict=False,
        )[0]
