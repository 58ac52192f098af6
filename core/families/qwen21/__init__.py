"""Qwen-Image 2.1: text and picture in one sequence, read in order; latents of 16 px a side with 64 channels; Qwen 3 VL text."""

from ..facts import USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..lora_facts import UNDERSCORED
from ..unsuitable_facts import DISTILLED, is_set, other_inputs

LONGEST_TEXT = 512
"""Tokens of a caption for which memory is counted; the stock pipeline cuts none off."""
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""
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
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * width_of(configs, "transformer", "context_in_dim", usual=4096))


FACTS = FamilyFacts(
    name="qwen21",
    label="Qwen-Image 2.1",
    pipelines=("QwenImage21Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    made={"processor": "text_reader"},
    # Two calls, as the pipeline does: a text's length says where the picture stands.
    guidance=ClassifierFree(argument="true_cfg_scale", joint=False),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, **SHIFT}, sigmas="steps"),
    # A cell is a token; the network's config names no size, and a bare `pipe(prompt)` draws 64 x 64 cells.
    geometry=vae_geometry("transformer", cells_per_token=1, native_cells=64),
    text=text,
    kohya=UNDERSCORED,
    unsuitable=(
        Unsuitable(
            what="Qwen-Image 2.1 Turbo",
            why=DISTILLED,
            remedy="Train on Qwen/Qwen-Image-2.1; its LoRA can be tried on Turbo.",
            marks=is_set("pipeline", "sample_sigmas"),
            shown="its model_index.json names the few noise levels that it draws with (sample_sigmas), as Qwen-Image 2.1 Turbo's does",
            hub=("Qwen/Qwen-Image-2.1-Turbo",),
        ),
        other_inputs(channels="z_dim", latents=64, cells=1),
    ),
    header={"ss_base_model_version": "qwen_image_2_1", "architecture": "Qwen-Image-2.1"},
    licence="Qwen Research License (not for commercial use)",
    examples=("Qwen/Qwen-Image-2.1",),
    model="QwenImage21",
)
