"""Kinds of checkpoints that several families refuse: what tells them (no torch)."""

from collections.abc import Mapping
from typing import Any

from .facts import Marks, PartConfigs, Unsuitable, width_of

DISTILLED = "is distilled to a few steps, and training on noisy pictures undoes that"
"""Of a checkpoint's kind, after its name."""
TEXT_TO_IMAGE = "Choose a text-to-image checkpoint."


def is_set(part: str, key: str) -> Marks:
    """The setting of a part's config is there and neither 0 nor false."""
    return lambda configs: {} if configs.get(part, {}).get(key) else None


def is_off(part: str, key: str) -> Marks:
    """The setting of a part's config is there and says no."""
    return lambda configs: None if configs.get(part, {}).get(key, True) else {}


def other_inputs(*pipelines: str, channels: str = "latent_channels", latents: int = 16, cells: int = 2) -> Unsuitable:
    """Transformers that take a second picture beside the latents, told by their channels.

    Args:
        pipelines: classes that are always of this kind. channels: the VAE's own name for how many its latents have; latents: so many
            where its config does not say. cells: side in latent cells of what the network takes as one position.
    """

    def marks(configs: PartConfigs) -> Mapping[str, Any] | None:
        given = cells**2 * width_of(configs, "vae", channels, usual=latents)
        taken = width_of(configs, "transformer", "in_channels", usual=given)
        return None if taken == given else {"taken": taken, "given": given}

    return Unsuitable(
        what="models for filling, editing or control",
        why="is a model for filling, editing or control",
        remedy=TEXT_TO_IMAGE,
        marks=marks,
        shown="its transformer takes {taken} channels where a square of its VAE's latents has {given}",
        pipelines=pipelines,
    )
