"""Stable Diffusion XL. Source: diffusers' `StableDiffusionXLPipeline`; Podell et al., arXiv 2307.01952, section 2.2 (size and crop)."""

from typing import Any

import torch
from torch import Tensor

from ..latent_unet import SizedUNet
from . import FACTS


class StableDiffusionXL(SizedUNet):
    """SDXL base 1.0 and what was trained from it. The refiner is another pipeline."""

    facts = FACTS

    def encode_together(self, prompts: list[str], negative: bool) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        if negative and prompts == [""] and self.pipe.config.force_zeros_for_empty_prompt:
            # A bare `pipe(prompt)` guides away from zeros, not from the encoded empty prompt.
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def lora_options(self) -> dict[str, Any]:
        # Files of other tools name the UNet's blocks by number; the loader needs the layers per block to tell them apart.
        return {"unet_config": self.network_config}
