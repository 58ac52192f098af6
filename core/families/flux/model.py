"""FLUX.1. Source: diffusers' `FluxPipeline`.

The network takes squares of 2x2 latent cells as positions, the place of each as an id, sigma as its time, and (dev) the guidance as a
number: it was distilled from pictures drawn with classifier-free guidance, so no second row is needed. Its output is already the
noise-ward velocity. Training feeds a guidance of 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ..base import Conditioning, Model, Prompt
from ..source import ModelError
from . import CELLS, FACTS


def packed(x: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> positions (B, h/2 * w/2, 4C): row by row, each channel's square together."""
    rows, channels, height, width = x.shape
    squares = x.reshape(rows, channels, height // CELLS, CELLS, width // CELLS, CELLS)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * CELLS**2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`; `height` and `width` in latent cells."""
    rows, _, values = tokens.shape
    squares = tokens.reshape(rows, height // CELLS, width // CELLS, values // CELLS**2, CELLS, CELLS)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(rows, values // CELLS**2, height, width)


def places(height: int, width: int, like: Tensor) -> Tensor:
    """The ids of the positions of `height` x `width` latent cells, (h/2 * w/2, 3): 0, row, column."""
    down, across = (torch.arange(side // CELLS, device=like.device, dtype=like.dtype) for side in (height, width))
    ids = torch.cartesian_prod(down, across)
    return torch.nn.functional.pad(ids, (1, 0))


class Flux(Model):
    """FLUX.1 dev, and models of the same class without guidance as an input (schnell, which is distilled to a few steps)."""

    facts = FACTS

    @property
    def default_size(self) -> tuple[int, int]:
        size = cast(int, self.geometry.native_size)
        return size, size

    @property
    def takes_guidance(self) -> bool:
        """Is guidance an input of this checkpoint's network?"""
        return bool(self.denoiser.config.guidance_embeds)

    @property
    def default_guidance(self) -> float:
        return super().default_guidance if self.takes_guidance else 1.0

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, pooled, _ = self.pipe.encode_prompt([prompt], None, device=self.device)
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}

    def network(self, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        height, width = x.shape[-2:]
        text = cond["prompt_embeds"]
        guidance = None
        if self.takes_guidance:
            guidance = cond["guidance"] if "guidance" in cond else torch.ones(len(x), device=x.device)
        output = self.denoiser(
            hidden_states=packed(x),
            timestep=timestep,
            guidance=guidance,
            pooled_projections=cond["pooled_prompt_embeds"],
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=places(height, width, x),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)

    def guided(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], negative: Any, guidance: float) -> Tensor:
        """One call, with the guidance as a number. Raises ModelError where the network has no such input."""
        if not self.takes_guidance:
            raise ModelError(
                f"guidance = {guidance:g}, but '{self.source.name}' was distilled without guidance as an input.",
                "Set the guidance to 1.",
            )
        return self.denoise(
            x, t, Conditioning(cond).with_rows(guidance=torch.full((len(x),), guidance, device=x.device))
        )

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # Guidance is an input of the network: there is nothing to guide away from.
        return dict(self.collate(conditionings))

    def pipeline_latents(self, latents: Tensor, height: int, width: int) -> Tensor:
        return unpacked(latents, height, width)
