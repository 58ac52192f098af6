"""Wan 2.1, given a single frame. Source: diffusers' `WanPipeline`.

The network takes films, of which a picture is the first frame, and 1000 sigma as its time; its output is already the noise-ward
velocity. The pipeline's own scheduler (UniPC) rounds that time down to a whole number; training and rollout give the network the time
itself. The zeros that a caption is padded with take part in the attention, so they belong to the conditioning.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..base import Model, Prompt
from ..codec import PerChannelVae
from ..layout import SingleFrame
from . import FACTS, TOKENS


class Wan(Model):
    """Wan 2.1 text-to-video in both sizes."""

    facts = FACTS
    codec_class = PerChannelVae
    layout = SingleFrame()

    @property
    def pipeline_scale(self) -> int:
        return self.pipe.vae_scale_factor_spatial

    @property
    def size_multiple(self) -> int:
        return max(16, super().size_multiple)  # the stock pipeline demands it

    @property
    def default_size(self) -> tuple[int, int]:
        stock = inspect.signature(type(self.pipe).__call__).parameters
        return stock["height"].default, stock["width"].default

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, _ = self.pipe.encode_prompt([prompt], None, False, max_sequence_length=TOKENS, device=self.device)
        return {"prompt_embeds": embeds[0]}

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.pipe.scheduler.config.num_train_timesteps

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        return super().pipeline_inputs(conditionings, negative) | {"num_frames": 1}
