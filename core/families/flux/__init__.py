"""FLUX.1: a transformer on a rectified flow over 2x2 squares of latents; a pooled CLIP vector and T5 text; guidance as an input."""

from ..black_forest_facts import FLUX1
from ..facts import (
    JOINT_ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    PartConfigs,
    TextCost,
    Unsuitable,
    vae_geometry,
    width_of,
)
from ..guidance import Embedded
from ..unsuitable_facts import DISTILLED, is_off, other_inputs

TOKENS = 512
"""Captions are padded to so many, and the padding takes part in the attention."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=768)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


FACTS = FamilyFacts(
    name="flux",
    label="FLUX.1",
    pipelines=("FluxPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    text_encoders=("text_encoder", "text_encoder_2"),
    unused=("image_encoder", "feature_extractor"),
    guidance=Embedded(),
    schedule=USUAL_FLOW.but(
        usual={**USUAL_FLOW.usual, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        sigmas="steps",
    ),
    # The network's config names no size; a bare `pipe(prompt)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=CELLS, native_cells=128),
    text=text,
    kohya=FLUX1,
    unsuitable=(
        Unsuitable(
            what="FLUX.1 schnell",
            why=DISTILLED,
            remedy="Choose FLUX.1-dev, or a checkpoint made from it.",
            marks=is_off("transformer", "guidance_embeds"),
            shown="it takes no guidance as an input (guidance_embeds), as FLUX.1 schnell",
            hub=("black-forest-labs/FLUX.1-schnell",),
        ),
        other_inputs("FluxFillPipeline", "FluxControlPipeline", "FluxKontextPipeline"),
    ),
    header={"ss_base_model_version": "flux1", "architecture": "flux-1-dev"},
    licence="FLUX.1 [dev] Non-Commercial License",
    examples=("black-forest-labs/FLUX.1-dev",),
    model="Flux",
)
