"""Chroma: FLUX.1's transformer without the pooled vector and the guidance input, pruned and trained on; T5 text with a mask."""

from typing import Any

from ..black_forest_facts import FLUX1
from ..double_stream_file_facts import FIRST, has_double_blocks, sizes
from ..facts import JOINT_ATTENTION, USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, Names, SingleFile, count
from ..unsuitable_facts import DISTILLED, other_inputs

TOKENS = 512
"""Captions are padded to so many."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    return TextCost(TOKENS, 4 * TOKENS * (width + 1))


_APPROXIMATOR = "distilled_guidance_layer."
_NAMES: Names = {
    **FIRST,
    r"distilled_guidance_layer\.layers\.(\d+)\.in_layer\.(.*)": _APPROXIMATOR + r"layers.\1.linear_1.\2",
    r"distilled_guidance_layer\.layers\.(\d+)\.out_layer\.(.*)": _APPROXIMATOR + r"layers.\1.linear_2.\2",
    r"distilled_guidance_layer\.norms\.(\d+)\.scale": _APPROXIMATOR + r"norms.\1.weight",
}


def recognised(contents: Contents) -> bool:
    return has_double_blocks(contents) and f"{_APPROXIMATOR}in_proj.weight" in contents.network


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    """Sizes of the network and of what makes its modulation."""
    hidden, given = contents.network[f"{_APPROXIMATOR}in_proj.weight"]
    made = {
        "approximator_num_channels": given,
        "approximator_hidden_dim": hidden,
        "approximator_layers": count(contents.network, f"{_APPROXIMATOR}layers."),
    }
    return {"transformer": {**sizes(contents), **made}}


FACTS = FamilyFacts(
    name="chroma",
    label="Chroma",
    pipelines=("ChromaPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    unused=("image_encoder", "feature_extractor"),
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    schedule=USUAL_FLOW.but(sigmas="steps"),
    # A token is a square of 2x2 cells; the network's config names no size, and a bare `pipe(prompt)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=2, native_cells=128),
    text=text,
    kohya=FLUX1,
    lycoris="lycoris_",
    unsuitable=(
        Unsuitable(
            what="Chroma1-Flash",
            why=DISTILLED,
            remedy="Train on lodestones/Chroma1-HD or -Base; its LoRA can be tried on Flash.",
            hub=("lodestones/Chroma1-Flash",),
        ),
        other_inputs(),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "chroma", "architecture": "chroma"},
    elsewhere={"SimpleTuner": ("chroma",), "ai-toolkit": ("chroma",), "OneTrainer": ("CHROMA_1",)},
    licence="Apache 2.0",
    examples=("lodestones/Chroma1-HD", "lodestones/Chroma1-Base"),
    single_file=SingleFile(recognised=recognised, says=says, names=_NAMES, official="lodestones/Chroma1-HD"),
    model="Chroma",
)
