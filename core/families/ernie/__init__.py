"""ERNIE-Image: a transformer on a rectified flow over FLUX.2's latents, text and picture tokens in one sequence; Ministral 3 text."""

from dataclasses import replace

from ..facts import USUAL_FLOW, FamilyFacts, Geometry, PartConfigs, TextCost, Unsuitable, width_of
from ..flux2_facts import OTHER_INPUTS
from ..flux2_facts import geometry as squares
from ..unsuitable_facts import DISTILLED

LONGEST_TEXT = 512
"""The stock pipeline cuts nothing off; longer captions are rare."""
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""
SIDE = 1024
"""Of the picture that a bare `pipe(prompt)` gives, in pixels, whatever its VAE."""


def geometry(configs: PartConfigs) -> Geometry:
    return replace(squares(configs), native_size=SIDE)


def text(configs: PartConfigs) -> TextCost:
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "text_in_dim", usual=3072))


FACTS = FamilyFacts(
    name="ernie",
    label="ERNIE-Image",
    pipelines=("ErnieImagePipeline",),
    component="transformer",
    predictions=("flow_matching",),
    # A language model that rewrites prompts; training and samples take prompts as they are.
    unused=("pe", "pe_tokenizer"),
    schedule=USUAL_FLOW.but(sigmas="steps"),
    geometry=geometry,
    text=text,
    unsuitable=(
        Unsuitable(
            what="ERNIE-Image-Turbo",
            why=DISTILLED,
            remedy="Train on baidu/ERNIE-Image; its LoRA can be tried on Turbo.",
            hub=("baidu/ERNIE-Image-Turbo",),
        ),
        OTHER_INPUTS,
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "ernie_image", "architecture": "ernie-image"},
    elsewhere={"ai-toolkit": ("ernie", "ernie_image"), "OneTrainer": ("ERNIE",)},
    licence="Apache 2.0",
    examples=("baidu/ERNIE-Image",),
    model="ErnieImage",
)
