"""The text encoders: a LoRA of their own, and new tokens for the trigger word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..options import Checked, Fault, option

_PIVOTAL = "Textual inversion (arXiv 2208.01618); together with a LoRA: pivotal tuning"
USUAL_TOKEN_RATE = 5e-4


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Checked):
    """What of the text encoders is trained beside the denoiser's LoRA: layers, new tokens, or nothing (the default)."""

    title: ClassVar[str] = "Text encoders"

    train_text_encoder: bool = option(
        False,
        "Also train a LoRA on the text encoders (Stable Diffusion 1, 2 and XL): the model learns what the words mean, not only how the "
        "picture looks. Every step encodes its captions anew, which costs time and memory.",
        label="Also train the text encoders",
        level="advanced",
        since="0.3",
    )
    text_encoder_learning_rate: float | None = option(
        None,
        "Size of an update of the text encoders' LoRA; they forget quickly, so a half or a tenth of the learning rate is usual. "
        "Unset = the learning rate.",
        label="Learning rate of the text encoders",
        ge=1e-9,
        le=10,
        level="advanced",
        since="0.3",
    )
    text_encoder_lora_rank: int | None = option(
        None,
        "Capacity of the text encoders' LoRA; its scale is that of the LoRA (alpha / rank). Unset = the LoRA's rank.",
        label="Rank of the text encoders' LoRA",
        ge=1,
        le=1024,
        level="advanced",
        since="0.3",
    )
    text_encoder_steps: int | None = option(
        None,
        "The text encoders' LoRA trains for so many steps and is then kept as it is; unset = to the end.",
        label="Text encoders train for",
        unit="steps",
        ge=1,
        le=10_000_000,
        level="advanced",
        since="0.3",
    )

    def rules(self) -> Iterator[Fault]:
        yield from ()

    @property
    def is_on(self) -> bool:
        """Does a text encoder change while the run trains?"""
        return self.train_text_encoder
