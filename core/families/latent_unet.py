"""A UNet on a variance-preserving path, predicting epsilon, v or x0, with CLIP text: what several families share.

The network takes fractional timesteps: its embedding is sinusoidal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Conditioning, Frame, Prompt
from .conditioning import Unencoded
from .layout import AsIs
from .variance_preserving import VariancePreservingModel


class LatentUNet(VariancePreservingModel):
    """Everything but the text: it is encoded here by the pipeline of a single CLIP encoder."""

    layout = AsIs("sample")

    @property
    def size_multiple(self) -> int:
        # The stock pipeline demands sides divisible by 8; the UNet pads what its down-sampling does not divide.
        return max(8, self.latent_scale)

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        return {key: value[0] for key, value in self.encode_together([prompt], negative).items()}

    def encode_together(self, prompts: list[str], negative: bool) -> dict[str, Tensor]:
        """Several prompts in one call of the text encoders, each (P, ...) on the device; gradients flow where encoders train."""
        embeds, _ = self.pipe.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds}

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The rows of a batch as the text encoders encode them now, each caption once: (B, ...) on the device; gradients flow. The caption ""
        is the unconditional row, as inference has it."""
        kinds = {caption: caption == "" for caption in captions}
        places: dict[str, int] = {}
        parts: list[dict[str, Tensor]] = []
        for negative in (False, True):
            words = [caption for caption, is_negative in kinds.items() if is_negative == negative]
            if words:
                places |= {caption: len(places) + number for number, caption in enumerate(words)}
                parts.append(self.encode_together(words, negative))
        rows = torch.tensor([places[caption] for caption in captions], device=self.device)
        return {key: torch.cat([part[key] for part in parts])[rows] for key in parts[0]}

    def by_words(self, prompts: Sequence[str]) -> list[Prompt]:
        may_change = self.facts.trained_encoders and self.text.are_open
        return [Unencoded(prompt) for prompt in prompts] if may_change else super().by_words(prompts)

    def collate(self, prompts: Sequence[Prompt]) -> Conditioning:
        return super().collate([self._encoded(prompt) for prompt in prompts])

    def _encoded(self, prompt: Prompt) -> Prompt:
        return self.text.remembered([prompt.words], prompt.negative)[0] if isinstance(prompt, Unencoded) else prompt

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            return_dict=False,
            **self.extra_inputs(x, cond),
        )[0]

    def extra_inputs(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        """Further arguments of the network."""
        return {}


class SizedUNet(LatentUNet):
    """A UNet that gets a vector for the whole caption (`pooled_prompt_embeds`) and six numbers beside the text: height and width that the
    picture had, top and left of the crop, height and width that it has now. A training row has its own; where nothing is known of a picture
    (samples, drift, rollout from noise) they are those of an uncropped picture of the latents' size, which is what the pipelines give."""

    def framed(self, cond: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        ids = [[*frame.original, *frame.corner, *frame.size] for frame in frames]
        return cond.with_rows(time_ids=torch.tensor(ids, dtype=torch.float32, device=self.device))

    def extra_inputs(self, x: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Any]:
        ids = cond.get("time_ids")
        if ids is None:
            size = [side * self.latent_scale for side in x.shape[-2:]]
            ids = x.new_tensor([[*size, 0, 0, *size]]).expand(len(x), -1)
        return {"added_cond_kwargs": {"text_embeds": cond["pooled_prompt_embeds"], "time_ids": ids}}
