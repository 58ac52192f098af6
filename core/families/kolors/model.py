"""Kolors. Source: diffusers' `KolorsPipeline`.

The network is Stable Diffusion XL's with a layer that brings the text to its width: it is given size and crop of the picture, and the last
token's state as a vector for the whole caption. Captions are filled up in front, to 256 tokens; the text encoder has a mask and the network
has none, so the filling belongs to the encoding. A bare call guides away from the encoded empty prompt.
"""

from torch import Tensor

from ..latent_unet import SizedUNet
from . import FACTS


class Kolors(SizedUNet):
    """Kolors, and what was trained from it."""

    facts = FACTS

    def encode_together(self, prompts: list[str], negative: bool) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompts, self.device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
