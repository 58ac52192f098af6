"""Qwen-Image: a transformer on a rectified flow over 2x2 squares of latents, whose VAE is one for films; Qwen 2.5 VL text."""

from typing import Any

from ..facts import (
    JOINT_ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    PartConfigs,
    Refusal,
    TextCost,
    vae_geometry,
    width_of,
)
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, SingleFile, count

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


def refuse(configs: PartConfigs) -> Refusal | None:
    """Models that take a second picture, a layer's number or a guidance beside the latents."""
    network = configs.get("transformer", {})
    taken = width_of(configs, "transformer", "in_channels", usual=64)
    given = CELLS**2 * width_of(configs, "vae", "z_dim", usual=16)
    extra = [name for name in ("guidance_embeds", "zero_cond_t", "use_additional_t_cond") if network.get(name)]
    if taken == given and not extra:
        return None
    why = f"takes {taken} channels where a square of its VAE's latents has {given}"
    if extra:
        why = f"is made for further inputs ({', '.join(extra)})"
    return Refusal(f"has a transformer that {why}: no text-to-image model.", "Choose a text-to-image checkpoint.")


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
    refuse=refuse,
    header={"ss_base_model_version": "qwen_image", "architecture": "Qwen-Image"},
    licence="Apache 2.0",
    examples=("Qwen/Qwen-Image", "Qwen/Qwen-Image-2512"),
    single_file=SingleFile(recognised=recognised, says=says, official="Qwen/Qwen-Image", unsaid=unsaid),
    model="QwenImage",
)
