"""What may be trained of text encoders: refusals between sections, and settings that do nothing."""

from collections.abc import Iterator
from typing import Any

from ..families.registry import FAMILIES
from .options import Fault, shown

LORA_PART = ("text_encoder_learning_rate", "text_encoder_lora_rank", "text_encoder_steps")
"""Options that wait for `train_text_encoder`."""


def text_encoder_rules(config: Any) -> Iterator[Fault]:
    """`config`: the sections; a RunConfig, or one that is being checked."""
    text, training = config.text_encoder, config.training
    if not text.is_on:
        return
    asked = "train_text_encoder"
    if training.model_type == "full":
        yield Fault(
            f'{asked} = {shown(getattr(text, asked))}: is trained beside a LoRA, and model_type is "full"; set model_type to "lora", or leave '
            f"{asked} out.",
            (asked, "model_type"),
        )
    family = FAMILIES.get(config.model.model_family)
    if family is not None and not family.trained_encoders:
        yield Fault(
            f"{asked} = {shown(getattr(text, asked))}: {why_not(family.label)} Leave {asked} out.",
            (asked, "model_family"),
        )
    rate = text.text_encoder_learning_rate
    if text.train_text_encoder and training.optimizer == "prodigy" and rate not in (None, training.learning_rate):
        yield Fault(
            f"text_encoder_learning_rate = {shown(rate)}: prodigy finds one rate for all that trains, and learning_rate is "
            f"{shown(training.learning_rate)}; leave text_encoder_learning_rate unset, or take another optimizer.",
            ("text_encoder_learning_rate", "optimizer"),
        )


def why_not(label: str) -> str:
    """Why the text encoders of a family are not trained, as a sentence."""
    return (
        f"the text encoders of {label} are not trained here: they are large language models that stay frozen in every recipe, "
        "and would have to lie beside the network; this is for Stable Diffusion 1, 2 and XL."
    )
