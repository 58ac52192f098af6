"""Lumina-Image 2.0, and the flow model of the demo."""

from ..facts import USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..lora_facts import NoKohyaLayout

LONGEST_TEXT = 256
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""


def text(configs: PartConfigs) -> TextCost:
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "cap_feat_dim", usual=2304))


FACTS = FamilyFacts(
    name="lumina2",
    label="Lumina 2",
    # The second is the name that the class had before diffusers 0.34.
    pipelines=("Lumina2Pipeline", "Lumina2Text2ImgPipeline"),
    component="transformer",
    predictions=("flow_matching",),
    # Two calls, as the pipeline does: prompts and negative prompts differ in length, and a common padding would cost more.
    guidance=ClassifierFree(rescale="rows", joint=False),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, "shift": 6.0}, sigmas="steps", bends_with="channels"),
    geometry=vae_geometry("transformer"),
    text=text,
    kohya=NoKohyaLayout(
        "has a file of another layout that diffusers reads only where it has every layer of each block; ComfyUI reads its diffusers layout"
    ),
    lycoris="lycoris_",
    comfyui_loads=True,
    header={"ss_base_model_version": "lumina2", "architecture": "lumina-2"},
    elsewhere={
        "SimpleTuner": ("lumina2",),
        "ai-toolkit": ("lumina2", "is_lumina2"),
        "kohya_ss": ("lumina",),
        "diffusers": ("lumina2",),
    },
    licence="Apache 2.0",
    examples=("Alpha-VLLM/Lumina-Image-2.0",),
    model="Lumina2",
)
