"""CogView 4: a transformer on a rectified flow, text and picture tokens in one sequence; GLM-4 text. Needs no torch."""

import math
from collections.abc import Mapping
from typing import Any

from ..facts import FLOW_SCHEDULER, FamilyFacts, PartConfigs, Schedule, TextCost, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..unsuitable_facts import other_inputs

LONGEST_TEXT = 1024
"""The stock pipeline's `max_sequence_length`."""
USUAL_TEXT = 64
"""A caption is filled up to the next 16 tokens, no further."""


def text(configs: PartConfigs) -> TextCost:
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "text_embed_dim", usual=4096))


def mu(scheduler: Mapping[str, Any], tokens: int) -> float:
    """What bends the sigmas of a picture of so many tokens: it grows with the picture's side. Source: `calculate_shift` of the pipeline."""
    growth = math.sqrt(tokens / scheduler.get("base_image_seq_len", 256))
    return growth * scheduler.get("max_shift", 0.75) + scheduler.get("base_shift", 0.25)


FACTS = FamilyFacts(
    name="cogview4",
    label="CogView 4",
    pipelines=("CogView4Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    schedule=Schedule(
        usual={
            "_class_name": FLOW_SCHEDULER,
            "use_dynamic_shifting": True,
            "time_shift_type": "linear",
            "base_shift": 0.25,
            "max_shift": 0.75,
            "num_train_timesteps": 1000,
        },
        sigmas="whole",
        mu_by_length=mu,
    ),
    geometry=vae_geometry("transformer"),
    text=text,
    unsuitable=(other_inputs("CogView4ControlPipeline", cells=1),),
    header={"ss_base_model_version": "cogview4", "architecture": "cogview4"},
    elsewhere={"ai-toolkit": ("cogview4",)},
    licence="Apache 2.0",
    examples=("THUDM/CogView4-6B", "zai-org/CogView4-6B"),
    model="CogView4",
)
