"""Krea 2: a transformer on a rectified flow over 2x2 squares of Qwen-Image's latents; Qwen 3 VL text, of which it reads many layers."""

from dataclasses import replace
from typing import Any

from ..facts import (
    ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    Geometry,
    PartConfigs,
    TextCost,
    Unsuitable,
    vae_geometry,
    width_of,
)
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, Names, Shapes, SingleFile, count
from ..single_file_facts import renamed as by_patterns
from ..unsuitable_facts import DISTILLED, is_set, other_inputs
from .lora_facts import KOHYA

LONGEST_TEXT = 512
"""The stock pipeline's `max_sequence_length`, to which it pads every prompt."""
USUAL_TEXT = 64
"""Only a caption's true tokens go through the blocks."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""
NATIVE_SIZE = 1024
"""Side in pixels of the picture that a bare `pipe(prompt)` draws, whatever its VAE."""
SHIFT = {"shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 6400}
"""Of the released scheduler, as the pipeline's documentation gives it."""


def geometry(configs: PartConfigs) -> Geometry:
    return replace(vae_geometry("transformer", cells_per_token=CELLS)(configs), native_size=NATIVE_SIZE)


def text(configs: PartConfigs) -> TextCost:
    layers = width_of(configs, "transformer", "num_text_layers", usual=12)
    width = width_of(configs, "transformer", "text_hidden_dim", usual=2560)
    return TextCost(USUAL_TEXT, 4 * LONGEST_TEXT * layers * width)


# A checkpoint in one file ---------------------------------------------------------------------------------------------------

_TOP: Names = {
    r"first\.(.*)": r"img_in.\1",
    r"tmlp\.0\.(.*)": r"time_embed.linear_1.\1",
    r"tmlp\.2\.(.*)": r"time_embed.linear_2.\1",
    r"tproj\.1\.(.*)": r"time_mod_proj.\1",
    r"txtmlp\.0\.scale": "txt_in.norm.weight",
    r"txtmlp\.1\.(.*)": r"txt_in.linear_1.\1",
    r"txtmlp\.3\.(.*)": r"txt_in.linear_2.\1",
    r"txtfusion\.(.*)": r"text_fusion.\1",
    r"blocks\.(.*)": r"transformer_blocks.\1",
    r"last\.linear\.(.*)": r"final_layer.linear.\1",
    r"last\.norm\.scale": "final_layer.norm.weight",
    r"last\.modulation\.lin": "final_layer.scale_shift_table",
}
_INSIDE: Names = {
    r"(.*)\.attn\.w([qkv])\.(.*)": r"\1.attn.to_\2.\3",
    r"(.*)\.attn\.wo\.(.*)": r"\1.attn.to_out.0.\2",
    r"(.*)\.attn\.gate\.(.*)": r"\1.attn.to_gate.\2",
    r"(.*)\.attn\.qknorm\.([qk])norm\.scale": r"\1.attn.norm_\2.weight",
    r"(.*)\.mlp\.(.*)": r"\1.ff.\2",
    r"(.*)\.prenorm\.scale": r"\1.norm1.weight",
    r"(.*)\.postnorm\.scale": r"\1.norm2.weight",
    r"(.*)\.mod\.lin": r"\1.scale_shift_table",
}


def recognised(contents: Contents) -> bool:
    return {"txtfusion.projector.weight", "first.weight", "blocks.0.attn.wq.weight"} <= contents.network.keys()


def says(contents: Contents) -> dict[str, dict[str, Any]]:
    shapes = contents.network
    return {"transformer": {"num_layers": count(shapes, "blocks."), "in_channels": shapes["first.weight"][1]}}


def renamed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The network's tensors as `Krea2Transformer2DModel` names them; the six modulation vectors of a block stand flat in a file."""
    found = by_patterns(by_patterns(shapes, _TOP), _INSIDE)
    flat = {name: shape for name, shape in found.items() if name.endswith(".scale_shift_table") and len(shape) == 1}
    return found | {name: (6, shape[0] // 6) for name, shape in flat.items()}


FACTS = FamilyFacts(
    name="krea2",
    label="Krea 2",
    pipelines=("Krea2Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    # The attention layers of diffusers' recommendation for long runs (diffusers' DreamBooth example for Krea 2).
    lora_targets=(*ATTENTION, "to_gate"),
    # Two calls, as the pipeline does: prompts and negative prompts differ in length, and a common padding would cost more.
    guidance=ClassifierFree(anchor="conditional", joint=False),
    schedule=USUAL_FLOW.but(usual={**USUAL_FLOW.usual, **SHIFT}, sigmas="steps"),
    geometry=geometry,
    text=text,
    kohya=KOHYA,
    unsuitable=(
        Unsuitable(
            what="Krea 2 Turbo",
            why=DISTILLED,
            remedy="Train on krea/Krea-2-Raw; its LoRA is made to be loaded into Turbo for sampling.",
            marks=is_set("pipeline", "is_distilled"),
            shown="is_distilled is set in its model_index.json, as for Krea 2 Turbo",
            hub=("krea/Krea-2-Turbo",),
        ),
        other_inputs(channels="z_dim", cells=CELLS),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "krea2", "architecture": "krea-2"},
    elsewhere={"ai-toolkit": ("krea2",), "OneTrainer": ("KREA_2",)},
    licence="Krea 2 Community License",
    examples=("krea/Krea-2-Raw",),
    single_file=SingleFile(recognised=recognised, says=says, renamed=renamed, official="krea/Krea-2-Raw"),
    model="Krea2",
)
