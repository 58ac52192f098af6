"""LongCat-Image: FLUX.1's kind of transformer on a rectified flow, without a pooled vector; Qwen 2.5 VL text, letter by letter in quotes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..facts import JOINT_ATTENTION, USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..unsuitable_facts import DISTILLED, TEXT_TO_IMAGE, other_inputs

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 512
"""Captions are padded to so many; the padding takes part in the attention."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=3584)
    return TextCost(TOKENS, 4 * TOKENS * width)


@dataclass(frozen=True)
class NormLimited(ClassifierFree):
    """Each token of the guided output has at most the norm that the conditional one has (the pipeline's `enable_cfg_renorm`)."""

    def combine(self, conditional: "Tensor", unconditional: "Tensor", scale: float) -> "Tensor":
        mixed = unconditional + scale * (conditional - unconditional)
        return mixed * (self._norm(conditional) / (self._norm(mixed) + 1e-8)).clamp(0.0, 1.0)


FACTS = FamilyFacts(
    name="longcat",
    label="LongCat-Image",
    pipelines=("LongCatImagePipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    # What prompts are rewritten with; training and samples take them as they are.
    unused=("text_processor",),
    guidance=NormLimited(rescale="tokens", cells_per_token=2, joint=False),  # two calls, as the pipeline does
    schedule=USUAL_FLOW.but(sigmas="steps"),
    # A token is a square of 2x2 cells; the network's config names no size, and a bare `pipe(prompt)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=2, native_cells=128),
    text=text,
    reader="network",
    unsuitable=(
        Unsuitable(
            what="LongCat-Image-Edit",
            why="is a model for editing",
            remedy=TEXT_TO_IMAGE,
            pipelines=("LongCatImageEditPipeline",),
        ),
        Unsuitable(
            what="LongCat-Image-Turbo",
            why=DISTILLED,
            remedy="Train on meituan-longcat/LongCat-Image or -Dev; its LoRA can be tried on Turbo.",
            hub=("byliutao/Longcat-Image-Turbo",),
        ),
        other_inputs(),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "longcat_image", "architecture": "longcat-image"},
    licence="Apache 2.0",
    examples=("meituan-longcat/LongCat-Image", "meituan-longcat/LongCat-Image-Dev"),
    model="LongCatImage",
)
