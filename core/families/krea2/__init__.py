"""Krea 2: a transformer on a rectified flow over 2x2 squares of Qwen-Image's latents; Qwen 3 VL text, of which it reads many layers."""

from dataclasses import replace

from ..facts import (
    ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    Geometry,
    PartConfigs,
    Refusal,
    TextCost,
    vae_geometry,
    width_of,
)
from ..guidance import ClassifierFree
from .lora_facts import KOHYA

LONGEST_TEXT = 512
"""The stock pipeline's `max_sequence_length`, to which it pads every prompt."""
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""
NATIVE_SIZE = 1024
"""Side in pixels of the picture that a bare `pipe(prompt)` draws, whatever its VAE."""
SHIFT = {"shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 6400}
"""Of the released scheduler, as the pipeline's documentation gives it."""


def geometry(configs: PartConfigs) -> Geometry:
    return replace(vae_geometry("transformer", cells_per_token=CELLS)(configs), native_size=NATIVE_SIZE)


def text(configs: PartConfigs) -> TextCost:
    layers = width_of(configs, "transformer", "num_text_layers", usual=12)
    width = width_of(configs, "transformer", "text_hidden_dim", usual=2560)
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * layers * width)


def refuse(configs: PartConfigs) -> Refusal | None:
    """The distilled checkpoint, and models that take a second picture beside the latents."""
    if configs.get("pipeline", {}).get("is_distilled"):
        return Refusal(
            "is distilled to a few steps without guidance (Krea 2 Turbo): training on pictures would undo the distillation.",
            "Train on krea/Krea-2-Raw; its LoRA is made to be loaded into Turbo for sampling.",
        )
    taken = width_of(configs, "transformer", "in_channels", usual=64)
    given = CELLS**2 * width_of(configs, "vae", "z_dim", usual=16)
    if taken == given:
        return None
    return Refusal(
        f"has a transformer that takes {taken} channels where a square of its VAE's latents has {given}: no text-to-image model.",
        "Choose a text-to-image checkpoint.",
    )


FACTS = FamilyFacts(
    name="krea2",
    label="Krea 2",
    pipelines=("Krea2Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    # The attention layers of diffusers' recommendation for long runs (diffusers' DreamBooth example for Krea 2).
    lora_targets=(*ATTENTION, "to_gate"),
    # Two calls, as the pipeline does: prompts and negative prompts differ in length, and a common padding would cost more.
    guidance=ClassifierFree(anchor="conditional", joint=False),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, **SHIFT}, sigmas="steps"),
    geometry=geometry,
    text=text,
    refuse=refuse,
    kohya=KOHYA,
    header={"ss_base_model_version": "krea2", "architecture": "krea-2"},
    licence="Krea 2 Community License",
    examples=("krea/Krea-2-Raw",),
    model="Krea2",
)
