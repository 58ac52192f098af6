"""Ovis-Image: FLUX.1's kind of transformer with gated feed-forward layers, on a rectified flow; text of a Qwen 3 that Ovis 2.5 was made of."""

from ..facts import JOINT_ATTENTION, USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..unsuitable_facts import other_inputs

TOKENS = 256
"""Captions are padded to so many with zeros, which take part in the attention."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=2048)
    return TextCost(TOKENS, 4 * TOKENS * width)


FACTS = FamilyFacts(
    name="ovis",
    label="Ovis-Image",
    pipelines=("OvisImagePipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    schedule=USUAL_FLOW.but(sigmas="steps"),
    # A token is a square of 2x2 cells; the network's config names no size, and a bare `pipe(prompt)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=2, native_cells=128),
    text=text,
    reader="network",
    unsuitable=(other_inputs(),),
    header={"ss_base_model_version": "ovis_image", "architecture": "ovis-image"},
    licence="Apache 2.0",
    examples=("AIDC-AI/Ovis-Image-7B",),
    model="OvisImage",
)
