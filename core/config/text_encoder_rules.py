"""What may be trained of text encoders: refusals between sections, and settings that do nothing."""

import re
from collections.abc import Iterator
from typing import Any

from ..families.registry import FAMILIES
from .options import Fault, shown

LORA_PART = ("text_encoder_learning_rate", "text_encoder_lora_rank", "text_encoder_steps")
"""Options that wait for `train_text_encoder`."""
TOKEN_PART = ("new_token_initializer", "new_token_learning_rate", "new_token_steps", "new_token_steps_alone")
"""Options that wait for `new_tokens`."""
_WORD = re.compile(r"<?[a-z][a-z0-9-]*>?")


def text_encoder_rules(config: Any) -> Iterator[Fault]:
    """`config`: the sections; a RunConfig, or one that is being checked."""
    text, training = config.text_encoder, config.training
    if not text.is_on:
        return
    asked = "train_text_encoder" if text.train_text_encoder else "new_tokens"
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
    kind, kept = config.lora.type, config.data.output_preservation_weight
    if text.train_text_encoder and kind != "lora":
        yield Fault(
            f"train_text_encoder = true: text encoders get a plain LoRA, and one file holds one kind; lora_type is {shown(kind)}. Set lora_type to "
            '"lora", or leave train_text_encoder out.',
            ("train_text_encoder", "lora_type"),
        )
    if kept > 0:
        yield Fault(
            f"output_preservation_weight = {shown(kept)}: keeps the network's answers to a prompt that the text encoders still encode as before, and "
            f"{asked} changes them; use with_prior_preservation, or leave {asked} out.",
            ("output_preservation_weight", asked),
        )
    if text.new_tokens:
        yield from _token_rules(config)


def _token_rules(config: Any) -> Iterator[Fault]:
    tokens, steps, word = config.text_encoder.new_tokens, config.training.max_train_steps, config.data.trigger_word
    if word is None or not _WORD.fullmatch(word):
        given = "no trigger_word is set" if word is None else f"trigger_word is {shown(word)}"
        yield Fault(
            f"new_tokens = {tokens}: the trigger word becomes them, and {given}; take one word of small letters, digits and hyphens that "
            "begins with a letter, for example qrx or <qrx>.",
            ("trigger_word", "new_tokens"),
        )
    if config.training.optimizer == "prodigy":
        yield Fault(
            f"new_tokens = {tokens}: new tokens need a learning rate of their own, and prodigy finds one rate for all that trains; take "
            "another optimizer.",
            ("optimizer", "new_tokens"),
        )
    alone = config.text_encoder.new_token_steps_alone
    if alone >= steps:
        yield Fault(
            f"new_token_steps_alone = {alone}: the run has {steps} steps, so its LoRA would never train; lower it.",
            ("new_token_steps_alone", "max_train_steps"),
        )
    last = config.text_encoder.text_encoder_steps
    if config.text_encoder.train_text_encoder and last is not None and last <= alone:
        yield Fault(
            f"text_encoder_steps = {last}: the LoRA begins after new_token_steps_alone = {alone}, so that of the text encoders would never "
            "train; raise text_encoder_steps, or lower new_token_steps_alone.",
            ("text_encoder_steps", "new_token_steps_alone"),
        )


def why_not(label: str) -> str:
    """Why the text encoders of a family are not trained, as a sentence."""
    return (
        f"the text encoders of {label} are not trained here: they are large language models that stay frozen in every recipe, "
        "and would have to lie beside the network; this is for Stable Diffusion 1, 2 and XL."
    )
