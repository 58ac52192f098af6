"""What the families with a UNet on latents have in common (no torch)."""

from collections.abc import Callable
from typing import Literal

from .facts import PartConfigs, Refusal, TextCost, vae_geometry, width_of

CLIP_TOKENS = 77
"""Every caption is padded to so many."""
PREDICTIONS: tuple[Literal["epsilon", "v_prediction", "sample"], ...] = ("epsilon", "v_prediction", "sample")
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
OPENING = {"requires_safety_checker": False}
GEOMETRY = vae_geometry("unet", cells_per_token=1)


def clip_text(*encoders: str, pooled: str | None = None) -> Callable[[PartConfigs], TextCost]:
    """The hidden states of the named encoders side by side; `pooled`: one that also gives a single vector."""

    def text(configs: PartConfigs) -> TextCost:
        widths = [width_of(configs, encoder, "hidden_size", usual=1280) for encoder in encoders]
        more = 0 if pooled is None else width_of(configs, pooled, "projection_dim", "hidden_size", usual=1280)
        return TextCost(CLIP_TOKENS, 4 * (CLIP_TOKENS * sum(widths) + more))

    return text


def refuse(configs: PartConfigs) -> Refusal | None:
    """Models for inpainting and editing (more channels than latents have) and those distilled for guidance."""
    unet, vae = configs.get("unet", {}), configs.get("vae", {})
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        return Refusal(
            f"has a UNet that takes {channels} channels where its VAE gives {latents}: a model for inpainting or editing.",
            "Choose a text-to-image checkpoint.",
        )
    if unet.get("time_cond_proj_dim") is not None:
        return Refusal("is distilled for guidance (time_cond_proj_dim is set).", "Choose its undistilled base.")
    return None
