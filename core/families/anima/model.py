"""Anima. Source: diffusers' `AnimaModularPipeline`, its blocks.

The network takes films, of which a picture is the first frame, and sigma as its time; its output is already the noise-ward velocity. A
caption goes through Qwen 3, and a conditioner reads its states for each of the tokens that T5's tokenizer makes of it; T5 itself has no
part in it. What the conditioner fills up behind a caption is zeros that take part in the attention, so they belong to the conditioning.

Beside the latents the network gets a map of what is padding in a picture, as the pipeline does: nothing is. diffusers brings it to the
latents' size with torchvision, which nothing else needs here: where it is not installed, torch's own function for the same stands in.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from diffusers.models.transformers import transformer_cosmos
from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep
from torch import Tensor, nn

from ..base import Model, Prompt
from ..codec import PerChannelVae
from ..layout import SingleFrame
from . import FACTS, TOKENS


def _resize(image: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    """What torchvision's `resize` is for with a map (B, C, H, W); the pipeline's is all zeros, in any size."""
    return nn.functional.interpolate(image, size=list(size), mode=interpolation)


if not hasattr(transformer_cosmos, "transforms"):
    transformer_cosmos.transforms = SimpleNamespace(  # type: ignore[attr-defined]
        functional=SimpleNamespace(resize=_resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )


class Anima(Model):
    """Anima Base, and what was trained from it."""

    facts = FACTS
    codec_class = PerChannelVae
    layout = SingleFrame()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        found = AnimaTextEncoderStep.encode_prompt(
            self.pipe, [prompt], prepare_unconditional_embeds=False, max_sequence_length=TOKENS, device=self.device
        )
        conditioner = self.pipe.text_conditioner
        embeds = conditioner(
            source_hidden_states=found["qwen_prompt_embeds"].to(conditioner.dtype),
            target_input_ids=found["t5_input_ids"],
            target_attention_mask=found["t5_attention_mask"],
            source_attention_mask=found["qwen_attention_mask"],
        )
        return {"prompt_embeds": embeds[0]}

    def forward(self, network: nn.Module, x: Tensor, timestep: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        output = network(
            **self.layout.to_network(x),
            timestep=timestep,
            encoder_hidden_states=cond["prompt_embeds"],
            padding_mask=x.new_zeros(1, 1, *x.shape[-2:]),
            return_dict=False,
        )[0]
        return self.layout.from_network(output, *x.shape[-2:])
