"""Stable Diffusion 2.x. Source: diffusers' `StableDiffusionPipeline`."""

from ..latent_unet import LatentUNet
from . import FACTS


class StableDiffusion2(LatentUNet):
    """SD 2.0, 2.1 and what was trained from them."""

    facts = FACTS
