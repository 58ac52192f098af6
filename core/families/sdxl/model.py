"""Stable Diffusion XL. Source: diffusers' `StableDiffusionXLPipeline`; Podell et al., arXiv 2307.01952, section 2.2 (size and crop).

The network gets six numbers beside the text: height and width that the picture had, top and left of the crop, height and width that it
has now. A training row has its own; where nothing is known of a picture (samples, drift, rollout from noise) they are those of an
uncropped picture of the latents' size, which is what the pipeline gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base import Conditioning, Frame
from ..latent_unet import LatentUNet
from . import FACTS


class StableDiffusionXL(LatentUNet):
    """SDXL base 1.0 and what was trained from it. The refiner is another pipeline."""

    facts = FACTS

    def encode_together(self, prompts: list[str], negative: bool) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(prompts, device=self.device, do_classifier_free_guidance=False)
        if negative and prompts == [""] and self.pipe.config.force_zeros_for_empty_prompt:
            # A bare `pipe(prompt)` guides away from zeros, not from the encoded empty prompt.
            embeds, pooled = torch.zeros_like(embeds), torch.zeros_like(pooled)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def framed(self, cond: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        ids = [[*frame.original, *frame.corner, *frame.size] for frame in frames]
        return cond.with_rows(time_ids=torch.tensor(ids, dtype=torch.float32, device=self.device))

    def extra_inputs(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        ids = cond.get("time_ids")
        if ids is None:
            size = [side * self.latent_scale for side in x.shape[-2:]]
            ids = x.new_tensor([[*size, 0, 0, *size]]).expand(len(x), -1)
        return {"added_cond_kwargs": {"text_embeds": cond["pooled_prompt_embeds"], "time_ids": ids}}

    def lora_options(self) -> dict[str, Any]:
        # Files of other tools name the UNet's blocks by number; the loader needs the layers per block to tell them apart.
        return {"unet_config": self.network_config}
