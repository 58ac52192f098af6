"""FLUX.1: a transformer on a rectified flow over 2x2 squares of latents; a pooled CLIP vector and T5 text; guidance as an input."""

from typing import Any

from ..black_forest_facts import FLUX1
from ..double_stream_file_facts import FIRST, has_double_blocks, has_guidance, sizes
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
from ..single_file_facts import Contents, Names, SingleFile
from ..unsuitable_facts import DISTILLED, is_off, other_inputs

TOKENS = 512
"""Captions are padded to so many, and the padding takes part in the attention."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=768)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


# A checkpoint in one file ---------------------------------------------------------------------------------------------------

_NAMES: Names = {
    **FIRST,
    r"time_in\.in_layer\.(.*)": r"time_text_embed.timestep_embedder.linear_1.\1",
    r"time_in\.out_layer\.(.*)": r"time_text_embed.timestep_embedder.linear_2.\1",
    r"vector_in\.in_layer\.(.*)": r"time_text_embed.text_embedder.linear_1.\1",
    r"vector_in\.out_layer\.(.*)": r"time_text_embed.text_embedder.linear_2.\1",
    r"guidance_in\.in_layer\.(.*)": r"time_text_embed.guidance_embedder.linear_1.\1",
    r"guidance_in\.out_layer\.(.*)": r"time_text_embed.guidance_embedder.linear_2.\1",
}


def recognised(contents: Contents) -> bool:
    """Related models have no pooled vector."""
    return has_double_blocks(contents) and "vector_in.in_layer.weight" in contents.network


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """All of the network's config but how its positions are split among the axes."""
    pooled = contents.network["vector_in.in_layer.weight"][1]
    return {
        "transformer": {
            **sizes(contents),
            "pooled_projection_dim": pooled,
            "guidance_embeds": has_guidance(contents),
        }
    }


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
    lycoris="lycoris_",
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
    comfyui_loads=True,
    header={"ss_base_model_version": "flux1", "architecture": "flux-1-dev"},
    elsewhere={
        "SimpleTuner": ("flux",),
        "ai-toolkit": ("flux", "is_flux"),
        "OneTrainer": ("FLUX_DEV_1",),
        "kohya_ss": ("flux", "flux1_checkbox"),
        "diffusers": ("flux",),
    },
    licence="FLUX.1 [dev] Non-Commercial License",
    examples=("black-forest-labs/FLUX.1-dev",),
    single_file=SingleFile(recognised=recognised, says=says, names=_NAMES, official="black-forest-labs/FLUX.1-dev"),
    model="Flux",
)
