"""Ovis-Image. Source: diffusers' `OvisImagePipeline`.

The network takes squares of 2x2 latent cells as tokens, the place of each as an id, and sigma as its time; its output is already the
noise-ward velocity. Text tokens have their number as row and column. The pipeline puts an instruction before a caption, cuts its tokens
off again, and sets what is behind the caption to zeros; the network has no mask, so the zeros belong to the conditioning.
"""

from collections.abc import Sequence
from typing import Any

from ..base import Prompt
from ..numbered_text import NumberedText
from . import FACTS


class OvisImage(NumberedText):
    """Ovis-Image 7B."""

    facts = FACTS

    def encode_prompt(self, prompt: str, negative: bool) -> Prompt:
        embeds, *_ = self.pipe.encode_prompt([prompt], do_classifier_free_guidance=False, device=self.device)
        return {"prompt_embeds": embeds[0]}

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # The pipeline has an empty text by default, and refuses one beside embeddings.
        return super().pipeline_inputs(conditionings, negative) | {"negative_prompt": None}
