"""ERNIE-Image. Source: diffusers' `ErnieImagePipeline`.

The network takes FLUX.2's latents as they are, 1000 sigma as its time, and a text with its length; its output is already the noise-ward
velocity. A text has its true length; what is behind it in a batch is masked, and a picture's place is counted from it.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ..base import Prompt
from ..codec import PatchifiedVae
from ..ragged import RaggedTexts
from . import FACTS


class ErnieVae(PatchifiedVae):
    """FLUX.2's, as this pipeline decodes with it: it counts the squares as cells, and adds another number to the variances."""

    patch = 1
    epsilon = 1e-5


class ErnieImage(RaggedTexts):
    """ERNIE-Image, the base model. Turbo is distilled, and refused."""

    facts = FACTS
    codec_class = ErnieVae

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        (embeds,) = self.pipe.encode_prompt([prompt], self.device)
        return {"prompt_embeds": embeds}

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
