"""What the families with a UNet on latents have in common (no torch)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from .facts import PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from .unsuitable_facts import DISTILLED, TEXT_TO_IMAGE

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


def _channels(configs: PartConfigs) -> Mapping[str, Any] | None:
    taken, given = configs.get("unet", {}).get("in_channels", 4), configs.get("vae", {}).get("latent_channels", 4)
    return None if taken == given else {"taken": taken, "given": given}


def other_inputs(*pipelines: str) -> Unsuitable:
    """Models for inpainting and editing, which take more channels than latents have. `pipelines`: classes that are always of this kind."""
    return Unsuitable(
        what="models for inpainting or editing",
        why="is a model for inpainting or editing",
        remedy=TEXT_TO_IMAGE,
        marks=_channels,
        shown="its UNet takes {taken} channels where its VAE gives {given}",
        pipelines=pipelines,
    )


def few_steps(what: str, base: str, *hub: str) -> Unsuitable:
    """Models distilled to a few steps, which only their name tells. `base`: what to train instead; `hub`: their ids."""
    return Unsuitable(
        what=what, why=DISTILLED, remedy=f"Train on {base}; its LoRA can be tried on the distilled model.", hub=hub
    )


LATENT_CONSISTENCY = Unsuitable(
    what="latent consistency models (LCM)",
    why=DISTILLED,
    remedy="Choose its undistilled base.",
    marks=lambda configs: None if configs.get("unet", {}).get("time_cond_proj_dim") is None else {},
    shown="its UNet takes the guidance as an input (time_cond_proj_dim)",
    pipelines=("LatentConsistencyModelPipeline",),
)
