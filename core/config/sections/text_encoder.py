"""The text encoders: a LoRA of their own, and new tokens for the trigger word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ..options import Checked, Fault, option

_PIVOTAL = "Textual inversion (arXiv 2208.01618); together with a LoRA: pivotal tuning"


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

    new_tokens: int = option(
        0,
        "The trigger word becomes so many tokens of its own, whose embeddings are learned beside the LoRA (Stable Diffusion 1, 2 and XL); the "
        "run then also gives an embedding file. 1 to 4 are usual; 0 = the word stays what the tokenizer makes of it.",
        label="New tokens for the trigger word",
        unit="tokens",
        ge=0,
        le=32,
        source=_PIVOTAL,
        level="advanced",
        since="0.3",
    )
    new_token_initializer: str | None = option(
        None,
        "A plain word whose meaning the new tokens start from: what the thing is. Unset = none; new tokens need one.",
        label="New tokens start as",
        example="dog",
        level="advanced",
        since="0.3",
    )
    new_token_learning_rate: float = option(
        5e-4,
        "Size of an update of the new tokens; no weight decay.",
        label="Learning rate of the new tokens",
        ge=1e-9,
        le=10,
        source=_PIVOTAL,
        level="advanced",
        since="0.3",
    )
    new_token_steps: int | None = option(
        None,
        "The new tokens train for so many steps and are then kept as they are; unset = to the end.",
        label="New tokens train for",
        unit="steps",
        ge=1,
        le=10_000_000,
        level="advanced",
        since="0.3",
    )
    new_token_steps_alone: int = option(
        0,
        "For so many steps at the start the new tokens train alone, and the LoRA begins after them; 0 = together from the start.",
        label="New tokens train alone for",
        unit="steps",
        ge=0,
        le=10_000_000,
        source=_PIVOTAL,
        level="advanced",
        since="0.3",
    )

    def rules(self) -> Iterator[Fault]:
        if self.new_tokens and (self.new_token_initializer is None or not self.new_token_initializer.strip()):
            yield Fault(
                f"new_tokens = {self.new_tokens}: needs new_token_initializer, a plain word that they start from (for example: dog).",
                ("new_token_initializer", "new_tokens"),
            )
        if self.new_tokens and self.new_token_steps is not None and self.new_token_steps < self.new_token_steps_alone:
            yield Fault(
                f"new_token_steps_alone = {self.new_token_steps_alone}: the new tokens train for {self.new_token_steps} steps only; in the "
                "steps between nothing would train. Lower it, or raise new_token_steps.",
                ("new_token_steps_alone", "new_token_steps"),
            )

    @property
    def is_on(self) -> bool:
        """Does a text encoder change while the run trains?"""
        return self.train_text_encoder or self.new_tokens > 0

    def trains_layers(self, step: int) -> bool:
        """Does the text encoders' LoRA train at optimizer step `step`, counted from 0?"""
        begun = self.begins <= step
        return self.train_text_encoder and begun and (self.text_encoder_steps is None or step < self.text_encoder_steps)

    def trains_tokens(self, step: int) -> bool:
        """Do the new tokens?"""
        return self.new_tokens > 0 and (self.new_token_steps is None or step < self.new_token_steps)

    @property
    def begins(self) -> int:
        """The first step at which every LoRA trains."""
        return self.new_token_steps_alone if self.new_tokens else 0
