"""LongCat-Image. Source: diffusers' `LongCatImagePipeline`.

The network takes squares of 2x2 latent cells as tokens, the place of each as an id that begins behind the longest caption, and sigma as its
time; its output is already the noise-ward velocity. Captions have 512 places; what fills them takes part in the attention, so it belongs to
the conditioning. A bare `pipe(prompt)` lets its language model rewrite the prompt first; here it never does.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from ..base import Prompt
from ..layout import Packed2x2
from ..numbered_text import NumberedText
from . import FACTS, TOKENS


class BehindTheText(Packed2x2):
    """FLUX.1's tokens; ids are 1, row, column, counted from the longest caption's length."""

    def places(self, height: int, width: int, like: Tensor) -> Tensor:
        first = like.new_tensor([1, TOKENS, TOKENS], dtype=torch.float32)
        return super().places(height, width, like.new_empty(0, dtype=torch.float32)) + first


class _Placed:
    """A pipeline that says of itself that it is on `device`: where its encoders are, while its other parts may be elsewhere or absent."""

    def __init__(self, pipe: Any, device: torch.device):
        self._pipe, self.device = pipe, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)


class LongCatImage(NumberedText):
    """LongCat-Image, and the Dev checkpoint that its makers released for further training."""

    facts = FACTS
    layout = BehindTheText()

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        # Its `encode_prompt` takes no device, and asks the first of its parts for one.
        embeds = type(self.pipe)._encode_prompt(_Placed(self.pipe, self.device), [prompt])
        return {"prompt_embeds": embeds[0]}

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        self.pipe._encode_prompt = self._encoded
        inputs: dict[str, Any] = {"prompt": [_Words(one) for one in conditionings], "enable_prompt_rewrite": False}
        if negative is not None:
            inputs["negative_prompt"] = [_Words(negative) for _ in conditionings]
        return inputs

    def _encoded(self, prompts: Sequence["_Words"]) -> Tensor:
        """Takes the place of the pipeline's own encoding while pictures are drawn."""
        return torch.stack([one.encoded["prompt_embeds"] for one in prompts]).to(self.device, self.dtype)


class _Words(str):
    """A prompt that is encoded already, for a pipeline that fails where it is given embeddings: it asks for the number of texts then."""

    encoded: Prompt

    def __new__(cls, encoded: Prompt) -> Self:
        one = super().__new__(cls, "encoded")
        one.encoded = encoded
        return one
