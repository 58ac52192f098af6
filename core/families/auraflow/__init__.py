"""AuraFlow: a transformer on a rectified flow, text and picture tokens in one sequence; UMT5 text."""

from dataclasses import replace

from ..facts import JOINT_ATTENTION, USUAL_FLOW, FamilyFacts, Geometry, PartConfigs, TextCost, vae_geometry, width_of
from ..lora_facts import NOT_READ

TOKENS = 256
"""Captions are padded to so many with zeros, which take part in the attention."""
REGISTERS = 8
"""Tokens that the network puts before the text."""
SIDE = 1024
"""Of the picture that a bare `pipe(prompt)` gives, in pixels: the network's `sample_size` says half of it."""


def geometry(configs: PartConfigs) -> Geometry:
    return replace(vae_geometry("transformer")(configs), native_size=SIDE)


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=2048)
    return TextCost(REGISTERS + TOKENS, 4 * TOKENS * width)


FACTS = FamilyFacts(
    name="auraflow",
    label="AuraFlow",
    pipelines=("AuraFlowPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, "shift": 1.73}),
    geometry=geometry,
    text=text,
    kohya=NOT_READ,
    lycoris="transformer.",
    comfyui_loads=True,
    header={"ss_base_model_version": "auraflow", "architecture": "auraflow"},
    elsewhere={"SimpleTuner": ("auraflow",), "ai-toolkit": ("auraflow", "is_auraflow")},
    licence="Apache 2.0",
    examples=("fal/AuraFlow-v0.3",),
    model="AuraFlow",
)
