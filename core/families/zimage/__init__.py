"""Z-Image: a transformer on a rectified flow that takes picture and text as one sequence; Qwen 3 text as chat messages.

The base model and Z-Image-Turbo have the same configs of network and VAE; only the shift of their schedulers tells them apart.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..facts import USUAL_FLOW, FamilyFacts, Geometry, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, Names, SingleFile, three
from ..unsuitable_facts import DISTILLED
from .lora_facts import KOHYA

LONGEST_TEXT = 512
USUAL_TEXT = 64
"""A caption in its chat message, brought to a multiple of 32 tokens inside the network."""
BASE_SHIFT, TURBO_SHIFT = 6.0, 3.0
"""Of the scheduler configs in the hub's Tongyi-MAI/Z-Image and Tongyi-MAI/Z-Image-Turbo."""


def geometry(configs: PartConfigs) -> Geometry:
    # The pipeline takes squares of 2x2 cells, and draws 1024 pixels where it is told no size.
    return replace(vae_geometry("transformer", cells_per_token=2)(configs), native_size=1024)


def text(configs: PartConfigs) -> TextCost:
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "cap_feat_dim", usual=2560))


def schedule_of_turbo(configs: PartConfigs) -> Mapping[str, Any] | None:
    """Turbo is distilled to eight steps without guidance, and training on pictures undoes that within a few hundred steps."""
    scheduler = configs.get("scheduler", {})
    if scheduler.get("use_dynamic_shifting") or scheduler.get("shift") != TURBO_SHIFT:
        return None
    return {"shift": TURBO_SHIFT, "base": BASE_SHIFT}


_NAMES: Names = {
    r"final_layer\.(.*)": r"all_final_layer.2-1.\1",
    r"x_embedder\.(.*)": r"all_x_embedder.2-1.\1",
    r"(.*)\.attention\.qkv\.weight": three(r"\1.attention.", "to_{}", ".weight"),
    r"(.*)\.attention\.out\.(.*)": r"\1.attention.to_out.0.\2",
    r"(.*)\.attention\.([qk])_norm\.weight": r"\1.attention.norm_\2.weight",
}


def recognised(contents: Contents) -> bool:
    return {
        "layers.0.adaLN_modulation.0.weight",
        "cap_embedder.1.weight",
        "x_embedder.weight",
    } <= contents.network.keys()


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    return {"transformer": {"cap_feat_dim": contents.network["cap_embedder.1.weight"][1]}}


def unsaid(contents: Contents) -> str:
    return (
        "a file of Z-Image-Turbo looks the same as one of the base model, and the base model's schedule is taken: training a distilled model "
        "on pictures undoes the distillation"
    )


FACTS = FamilyFacts(
    name="zimage",
    label="Z-Image",
    pipelines=("ZImagePipeline",),
    component="transformer",
    predictions=("flow_matching",),
    guidance=ClassifierFree(anchor="conditional"),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, "shift": BASE_SHIFT}, sigmas="steps"),
    geometry=geometry,
    text=text,
    kohya=KOHYA,
    unsuitable=(
        Unsuitable(
            what="Z-Image-Turbo",
            why=DISTILLED + ", and training through an adapter that guards it is not supported",
            remedy="Train on Tongyi-MAI/Z-Image; its LoRAs can be tried on Turbo afterwards. If this is a base model after all, set the "
            f"shift in its scheduler/scheduler_config.json to {BASE_SHIFT}.",
            marks=schedule_of_turbo,
            shown="it has the schedule of Z-Image-Turbo (shift {shift:g}; the base model has {base:g})",
            hub=("Tongyi-MAI/Z-Image-Turbo",),
        ),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "zimage", "architecture": "Z-Image"},
    elsewhere={
        "SimpleTuner": ("z_image",),
        "ai-toolkit": ("zimage", "z_image"),
        "OneTrainer": ("Z_IMAGE",),
        "diffusers": ("z_image",),
    },
    licence="Apache 2.0",
    examples=("Tongyi-MAI/Z-Image",),
    single_file=SingleFile(
        recognised=recognised, says=says, names=_NAMES, official="Tongyi-MAI/Z-Image", unsaid=unsaid
    ),
    model="ZImage",
)
