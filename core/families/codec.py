"""Pixels and the latents that noise is added to. What kinds of autoencoder differ in is here: the rest of the core sees (B, C, h, w)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .modes import evaluating


class LatentCodec(ABC):
    """An autoencoder as the rest of the core sees it.

    Attributes:
        vae: the pipeline's own; float32.
        device: where it computes. A parked one lies on the CPU between two calls.
        patch: side of one cell here, in cells as the stock pipeline counts them (`vae_scale_factor` pixels each).
    """

    patch: ClassVar[int] = 1

    def __init__(self, vae: nn.Module, device: torch.device):
        self.vae, self.device = vae, device
        self._parked, self._users = False, 0

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels (B, 3, H, W) in -1..1 -> latents (B, C, h, w) float32 on the device.

        `generator`: draws from the posterior (a CPU generator makes it the same on every device); None takes the posterior's mode.
        """
        with self.present(), evaluating(self.vae):
            return self.scale(self.encoded(pixels.to(self.device, torch.float32), generator))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pixels (B, 3, H, W) in 0..1, float32 on the device."""
        with self.present(), evaluating(self.vae):
            pixels = self.decoded(self.unscale(latents.to(self.device, torch.float32)))
        return (pixels / 2 + 0.5).clamp(0, 1)

    @abstractmethod
    def scale(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents -> the network's, (B, C, h, w)."""

    @abstractmethod
    def unscale(self, latents: Tensor) -> Tensor:
        """The inverse of `scale`."""

    def encoded(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        """What the autoencoder makes of pixels."""
        posterior: Any = self.vae.encode(pixels).latent_dist  # type: ignore[operator]
        return posterior.mode() if generator is None else posterior.sample(generator)

    def decoded(self, latents: Tensor) -> Tensor:
        """What the autoencoder makes of its latents, in -1..1."""
        return self.vae.decode(latents, return_dict=False)[0]  # type: ignore[operator]

    def park(self) -> None:
        """Keep the autoencoder on the CPU between calls; each brings it back for its time."""
        self._parked = True
        self.vae.to("cpu")

    @contextmanager
    def present(self) -> Iterator[nn.Module]:
        """Inside, the autoencoder is on the device."""
        self._users += 1
        if self._parked:
            self.vae.to(self.device)
        try:
            yield self.vae
        finally:
            self._users -= 1
            if self._parked and self._users == 0:
                self.vae.to("cpu")


class ScaledVae(LatentCodec):
    """One shift and one factor for all channels (AutoencoderKL)."""

    @property
    def _shift(self) -> float:
        shift = self.vae.config.get("shift_factor")
        return 0.0 if shift is None else shift

    def scale(self, latents: Tensor) -> Tensor:
        return (latents - self._shift) * self.vae.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor + self._shift


class PerChannelVae(LatentCodec):
    """A mean and a deviation for each channel, of an autoencoder for films that is given a single frame (Qwen-Image, Wan)."""

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, 1 / deviation), each (C, 1, 1): the pipelines multiply and divide by the inverse, which keeps their bits."""
        mean, deviation = (
            torch.tensor(self.vae.config[name])[:, None, None] for name in ("latents_mean", "latents_std")
        )
        return mean.to(like), (1.0 / deviation).to(like)

    def scale(self, latents: Tensor) -> Tensor:
        mean, inverse = self._statistics(latents)
        return (latents - mean) * inverse

    def unscale(self, latents: Tensor) -> Tensor:
        mean, inverse = self._statistics(latents)
        return latents / inverse + mean

    def encoded(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().encoded(pixels[:, :, None], generator)[:, :, 0]

    def decoded(self, latents: Tensor) -> Tensor:
        return super().decoded(latents[:, :, None])[:, :, 0]


class DeepVae(LatentCodec):
    """One factor, and no posterior: what it encodes is a point, so a generator changes nothing (AutoencoderDC of Sana)."""

    def scale(self, latents: Tensor) -> Tensor:
        return latents * self.vae.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.vae.config.scaling_factor

    def encoded(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.vae.encode(pixels).latent  # type: ignore[operator]


class PatchifiedVae(LatentCodec):
    """Squares of 2x2 cells as channels, (B, 4C, h/2, w/2), each by the running statistics of a batch norm (AutoencoderKLFlux2)."""

    patch = 2

    @property
    def epsilon(self) -> float:
        """Added to the variances."""
        return self.vae.config.batch_norm_eps

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm: Any = self.vae.bn
        deviation = torch.sqrt(norm.running_var[:, None, None] + self.epsilon)
        return norm.running_mean[:, None, None].to(like), deviation.to(like)

    def scale(self, latents: Tensor) -> Tensor:
        rows, channels, height, width = latents.shape
        squares = latents.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        patches = squares.reshape(rows, 4 * channels, height // 2, width // 2)
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def unscale(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        rows, channels, height, width = latents.shape
        squares = (latents * deviation + mean).reshape(rows, channels // 4, 2, 2, height, width)
        return squares.permute(0, 1, 4, 2, 5, 3).reshape(rows, channels // 4, 2 * height, 2 * width)
