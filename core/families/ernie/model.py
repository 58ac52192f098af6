"""ERNIE-Image. Source: diffusers' `ErnieImagePipeline`.

The network takes FLUX.2's latents as they are, 1000 sigma as its time, and a text with its length; its output is already the noise-ward
velocity. A text has its true length; what is behind it in a batch is masked, and a picture's place is counted from it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..base import Conditioning, Model, Prompt
from ..codec import PatchifiedVae
from . import FACTS


class ErnieVae(PatchifiedVae):
    """FLUX.2's, as this pipeline decodes with it: it counts the squares as cells, and adds another number to the variances."""

    patch = 1
    epsilon = 1e-5


class ErnieImage(Model):
    """ERNIE-Image, the base model. Turbo is distilled, and refused."""

    facts = FACTS
    codec_class = ErnieVae

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        (embeds,) = self.pipe.encode_prompt([prompt], self.device)
        return {"prompt_embeds": embeds}

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        embeds = [one["prompt_embeds"] for one in prompts]
        return Conditioning({
            "prompt_embeds": pad_sequence(embeds, batch_first=True).to(self.device),
            "prompt_length": torch.tensor([len(one) for one in embeds], device=self.device),
        })  # fmt: skip

    def network_time(self, t: Tensor) -> Tensor:
        return t * self.pipe.scheduler.config.num_train_timesteps

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            text_bth=cond["prompt_embeds"],
            text_lens=cond["prompt_length"],
            return_dict=False,
        )[0]

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        inputs = {"prompt_embeds": [one["prompt_embeds"].to(self.device) for one in conditionings]}
        if negative is not None:
            inputs["negative_prompt_embeds"] = [negative["prompt_embeds"].to(self.device)] * len(conditionings)
        return inputs
