"""Qwen-Image: a transformer on a rectified flow over 2x2 squares of latents, whose VAE is one for films; Qwen 2.5 VL text."""

from collections.abc import Mapping
from typing import Any

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
from ..guidance import ClassifierFree
from ..lora_facts import UNDERSCORED
from ..single_file_facts import Contents, SingleFile, count
from ..unsuitable_facts import TEXT_TO_IMAGE, other_inputs

LONGEST_TEXT = 512
"""The stock pipeline's `max_sequence_length`."""
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""
SHIFT = {
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}
"""Of the released scheduler."""


def text(configs: PartConfigs) -> TextCost:
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "joint_attention_dim", usual=3584))


def further_inputs(configs: PartConfigs) -> Mapping[str, Any] | None:
    """Inputs beside the latents that the network has: a second picture, a layer's number, a guidance."""
    network = configs.get("transformer", {})
    extra = [name for name in ("guidance_embeds", "zero_cond_t", "use_additional_t_cond") if network.get(name)]
    return {"extra": ", ".join(extra)} if extra else None


def recognised(contents: Contents) -> bool:
    """A file names the tensors as diffusers does."""
    marks = {"txt_norm.weight", "img_in.weight", "transformer_blocks.0.img_mod.1.weight"}
    return marks <= contents.network.keys()


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    shapes = contents.network
    network = {"num_layers": count(shapes, "transformer_blocks."), "in_channels": shapes["img_in.weight"][1]}
    if "__index_timestep_zero__" in shapes:  # the empty tensor by which files of editing models with that input tell it
        network["zero_cond_t"] = True
    return {"transformer": network}


def unsaid(contents: Contents) -> str:
    return "files of the older editing models look the same as those of Qwen-Image, as which this one is trained"


FACTS = FamilyFacts(
    name="qwen",
    label="Qwen-Image",
    pipelines=("QwenImagePipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=JOINT_ATTENTION,
    # Two calls, as the pipeline does: prompts and negative prompts differ in length, and a common padding would cost more.
    guidance=ClassifierFree(argument="true_cfg_scale", rescale="tokens", cells_per_token=CELLS, joint=False),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, **SHIFT}, sigmas="steps"),
    geometry=vae_geometry("transformer", cells_per_token=CELLS, native_cells=128),
    text=text,
    kohya=UNDERSCORED,
    unsuitable=(
        Unsuitable(
            what="Qwen-Image-Edit and Layered",
            why="is a model for editing or layers",
            remedy=TEXT_TO_IMAGE,
            marks=further_inputs,
            shown="its transformer is made for further inputs ({extra})",
            pipelines=("QwenImageEditPipeline", "QwenImageEditPlusPipeline", "QwenImageLayeredPipeline"),
        ),
        other_inputs(channels="z_dim", cells=CELLS),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "qwen_image", "architecture": "Qwen-Image"},
    elsewhere={
        "SimpleTuner": ("qwen_image",),
        "ai-toolkit": ("qwen_image",),
        "OneTrainer": ("QWEN",),
        "diffusers": ("qwen_image",),
    },
    licence="Apache 2.0",
    examples=("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
    single_file=SingleFile(recognised=recognised, says=says, official="Qwen/Qwen-Image", unsaid=unsaid),
    model="QwenImage",
)
