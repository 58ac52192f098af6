"""What the two demo models do not share in training: the wording of a caption, the loss, where the auxiliary losses read."""

import numpy as np
import torch
from rollout_studio.core.demo import EPSILON, FLOW, world
from torch.nn import functional as F

from .models import build_epsilon, build_flow

# Two auxiliary losses. "On the left" only helps a network that knows both the word and where
# each of its features lies, and neither half is worth learning without the other: in a first run both models ignored
# places for 1,500 and 2,000 steps (the level of chance, the loss equal for right and wrong places) while they learned
# colours, sizes and backgrounds. With these losses they knew places 500 steps later (docs/demo.md). The probes are not shipped.


class PositionProbe(torch.nn.Module):
    """Predicts row and column of every feature of a layer from the feature itself."""

    def __init__(self, layer: torch.nn.Module, channels: int, side: int):
        super().__init__()
        self.side, self.read = side, torch.nn.Linear(channels, 2 * side)
        layer.register_forward_hook(self.keep)

    def keep(self, layer, inputs, output) -> None:
        self.seen = output

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of row and column; `features` (B, side * side, channels)."""
        guess = self.read(features).unflatten(-1, (2, self.side)).flatten(0, 1)
        cell = torch.arange(self.side**2).repeat(len(features))
        return F.cross_entropy(guess[:, 0], cell // self.side) + F.cross_entropy(guess[:, 1], cell % self.side)


PLACE_NAMES = list(world.PLACES)


class PlaceProbe(torch.nn.Module):
    """Predicts from the text encoder's output which place a caption names, so that the word is kept until it is of use."""

    def __init__(self, width: int):
        super().__init__()
        self.read = torch.nn.Linear(width, len(PLACE_NAMES))

    def loss(self, embeds: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Cross-entropy at the caption's last token and at the last padding; `place` (B,) is -100 for none."""
        last = embeds[torch.arange(len(embeds)), mask.sum(1) - 1]
        return sum(F.cross_entropy(self.read(features), place) for features in (last, embeds[:, -1])) / 2


class Flow:
    """What is particular to the flow model: its pipeline, how a caption is worded, and its loss."""

    folder, build, denoiser = FLOW, staticmethod(build_flow), "transformer"

    def wording(self, pipe, text: str, rng: np.random.Generator) -> str:
        """As `Lumina2Pipeline.encode_prompt` does: the system prompt first, but a bare empty prompt for guidance."""
        return text if text == "" and rng.random() < 0.5 else f"{pipe.system_prompt} <Prompt Start> {text}"

    def probes(self, pipe) -> torch.nn.ModuleList:
        return torch.nn.ModuleList([PositionProbe(pipe.transformer.layers[1], 160, 8)])

    def probed(self, probes, mask) -> torch.Tensor:
        (probe,) = probes  # its layer sees the caption's tokens first, then the picture's
        at = (mask.sum(1)[:, None] + torch.arange(64))[..., None].expand(-1, -1, probe.seen.shape[-1])
        return probe.loss(probe.seen.gather(1, at))

    def embed(self, pipe, ids, mask):
        states = pipe.text_encoder(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        return states[-2]

    def loss(self, pipe, x0, noise, draws, embeds, mask, high: float):
        """Noise levels: 30 % uniform, 70 % logit-normal shifted by 2 as the sampler's; then the share `high` near 1."""
        batch = len(x0)
        normal = torch.randn(batch, generator=draws).sigmoid()
        s = torch.where(
            torch.rand(batch, generator=draws) < 0.3, torch.rand(batch, generator=draws), 2 * normal / (1 + normal)
        )
        s = torch.where(torch.rand(batch, generator=draws) < high, 0.8 + 0.2 * torch.rand(batch, generator=draws), s)
        s = s[:, None, None, None]
        answer = pipe.transformer(
            (1 - s) * x0 + s * noise, timestep=1 - s.flatten(), encoder_hidden_states=embeds,
            encoder_attention_mask=mask, return_dict=False,
        )[0]  # fmt: skip
        return (-answer - (noise - x0)).square().mean()


class Epsilon:
    """What is particular to the epsilon model."""

    folder, build, denoiser = EPSILON, staticmethod(build_epsilon), "unet"

    def wording(self, pipe, text, rng):
        return text

    def probes(self, pipe) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(
            [PositionProbe(pipe.unet.mid_block, 80, 4), PositionProbe(pipe.unet.up_blocks[0], 80, 8)]
        )

    def probed(self, probes, mask) -> torch.Tensor:
        return sum(probe.loss(probe.seen.flatten(2).transpose(1, 2)) for probe in probes) / len(probes)

    def embed(self, pipe, ids, mask):
        return pipe.text_encoder(ids)[0]  # Stable Diffusion hands over padded, unmasked states

    def loss(self, pipe, x0, noise, draws, embeds, mask, high: float):
        """Weighted by min(1 / alpha^2, 100): the plain epsilon loss hardly weighs high noise."""
        batch = len(x0)
        t = torch.randint(1000, (batch,), generator=draws)
        t = torch.where(
            torch.rand(batch, generator=draws) < high, torch.randint(700, 1000, (batch,), generator=draws), t
        )
        alpha2 = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        answer = pipe.unet(alpha2.sqrt() * x0 + (1 - alpha2).sqrt() * noise, t, embeds, return_dict=False)[0]
        return ((answer - noise).square() * (1 / alpha2).clamp(max=100)).mean()
