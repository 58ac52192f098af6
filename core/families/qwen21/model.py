"""Qwen-Image 2.1. Source: diffusers' `QwenImage21Pipeline`.

The network takes each latent cell as a token, behind the text in one sequence, and sigma as its time; its output is already the noise-ward
velocity. It reads the sequence in order: text tokens see those before them, the picture sees all. The picture's place is the number of
text tokens, and padding behind a text, though masked, would move it; so captions of different lengths go through the network one length
after the other, and rows of equal length in one call. The time reaches it in the precision of its weights, as in the pipeline.

The autoencoder's pictures have an alpha channel. Training pictures are given to it opaque; what it draws is laid over white, on which the
checkpoint's own pictures with transparency were laid for its text encoder.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Prompt
from ..codec import LatentCodec
from ..layout import TokensWithIds
from ..ragged import OneLength, by_length
from ..source import ModelError
from . import FACTS

CELLS_OF_A_SLOT = 4
"""The network counts a picture in squares of 2x2 cells."""
RESERVED = ("<|image_pad|>", "<|video_pad|>")
"""Words of a text that stand for pictures."""


def text_reader(location: str, revision: str | None) -> Any:
    """The pipeline's processor, as far as texts need it. `location`: the checkpoint's folder, or its hub id."""
    from .reader import TextReader

    folder = Path(location)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(location, revision=revision, allow_patterns="processor/*"))
    return TextReader.of(folder / "processor")


class FourChannelVae(LatentCodec):
    """A mean and a deviation for each channel; pictures of red, green, blue and alpha, as a film of a single frame."""

    def _statistics(self, like: Tensor) -> tuple[Tensor, ...]:
        """(mean, deviation), each (C, 1, 1)."""
        config = self.vae.config
        return tuple(torch.tensor(config[name])[:, None, None].to(like) for name in ("latents_mean", "latents_std"))

    def scale(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def unscale(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        return latents * deviation + mean

    def encoded(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        opaque = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
        return super().encoded(opaque[:, :, None], generator)[:, :, 0]

    def decoded(self, latents: Tensor) -> Tensor:
        pixels = super().decoded(latents[:, :, None])[:, :, 0]
        opacity = (pixels[:, 3:] + 1) / 2
        return 1 + opacity * (pixels[:, :3] - 1)


class CellsInOrder(TokensWithIds):
    """Each cell a token (B, h * w, C), row by row; `img_shapes` says how many frames, rows and columns of them each picture has."""

    def to_network(self, x: Tensor) -> dict[str, Any]:
        return {
            "hidden_states": x.flatten(2).transpose(1, 2),
            "img_shapes": [[(1, x.shape[-2], x.shape[-1])]] * len(x),
        }


class QwenImage21(OneLength):
    """Qwen-Image 2.1. Turbo is distilled, and refused."""

    facts = FACTS
    codec_class = FourChannelVae
    layout = CellsInOrder()

    @property
    def size_multiple(self) -> int:
        return 2 * self.latent_scale  # whole slots

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        reserved = [word for word in RESERVED if word in prompt]
        if reserved:
            raise ModelError(
                f"The prompt {prompt!r} holds {' and '.join(reserved)}, which to {self.facts.label} means a picture.",
                "Take it out of the caption or prompt.",
            )
        embeds, *_ = self.pipe.encode_prompt([prompt], device=self.device)
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return by_length(partial(self._one_length, network), cond["prompt_length"], x, cond["prompt_embeds"], timestep)

    def _one_length(self, network: nn.Module, length: int, x: Tensor, embeds: Tensor, time: Tensor) -> Tensor:
        tokens = x.shape[-2] * x.shape[-1]
        is_picture = torch.arange(length + tokens // CELLS_OF_A_SLOT, device=x.device) >= length
        output = network(
            **self.layout.to_network(x),
            encoder_hidden_states=embeds[:, :length],
            timestep=time,
            img_mask=is_picture.expand(len(x), -1),
            return_dict=False,
        )[0]
        return self.layout.from_network(output[:, -tokens:], *x.shape[-2:])
