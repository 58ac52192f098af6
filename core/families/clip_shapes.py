"""The layers of CLIP text encoders, from their config files. No torch."""

from collections.abc import Mapping
from typing import Any

from .facts import FamilyFacts, whole

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Layers that get an adapter: the attention's, as diffusers' scripts have them."""
STEM = "text_model."
"""Every layer's name begins with it after the part's, also where transformers has dropped it."""

Configs = Mapping[str, Mapping[str, Any]]
Shapes = dict[str, tuple[int, ...]]


def encoder_shapes(configs: Configs, facts: FamilyFacts) -> Shapes:
    """The linear layers of a family's trainable encoders as (outputs, inputs), by `adapters.text_encoders.full_name`; of an encoder whose
    config does not say its sizes, none."""
    shapes: Shapes = {}
    for part in facts.trained_encoders:
        config = configs.get(part, {})
        width, inner, layers = (config.get(key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
        if not (whole(width) and whole(inner) and whole(layers)):
            continue
        for number in range(layers):
            at = f"{part}.{STEM}encoder.layers.{number}"
            shapes |= {f"{at}.self_attn.{target}": (width, width) for target in TARGETS}
            shapes |= {f"{at}.mlp.fc1": (inner, width), f"{at}.mlp.fc2": (width, inner)}
    return shapes


def embedding_weights(configs: Configs, facts: FamilyFacts) -> int:
    """Numbers in the encoders' tables of tokens and places."""
    total = 0
    for part in facts.trained_encoders:
        config = configs.get(part, {})
        width, words, places = (config.get(key) for key in ("hidden_size", "vocab_size", "max_position_embeddings"))
        if whole(width) and whole(words) and whole(places):
            total += width * (words + places)
    return total
