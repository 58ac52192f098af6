"""Stable Diffusion 1.x. Source: diffusers' `StableDiffusionPipeline`."""

from ..latent_unet import LatentUNet
from . import FACTS


class StableDiffusion1(LatentUNet):
    """SD 1.4, 1.5 and what was trained from them."""

    facts = FACTS
