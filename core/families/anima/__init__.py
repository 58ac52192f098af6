"""Anima: Cosmos Predict2's transformer on a rectified flow over Qwen-Image's latents; Qwen 3 text, which a conditioner turns into T5's tokens."""

from ..facts import (
    ATTENTION,
    USUAL_FLOW,
    FamilyFacts,
    Modular,
    PartConfigs,
    TextCost,
    Unsuitable,
    vae_geometry,
    width_of,
)
from ..guidance import ClassifierFree
from ..unsuitable_facts import DISTILLED, other_inputs
from .file_facts import SINGLE_FILE
from .lora_facts import KOHYA

TOKENS = 512
"""Captions are cut at so many, and filled up to them with zeros, which take part in the attention."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""


def text(configs: PartConfigs) -> TextCost:
    return TextCost(TOKENS, 4 * TOKENS * width_of(configs, "transformer", "text_embed_dim", usual=1024))


FACTS = FamilyFacts(
    name="anima",
    label="Anima",
    pipelines=("AnimaModularPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    # Attention and feed-forward of every block, as the public trainers for it (sd-scripts) do; the conditioner stays as it is.
    lora_targets=(*ATTENTION, "ff.net.0.proj", "ff.net.2"),
    text_encoders=("text_encoder", "text_conditioner"),
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    modular=Modular(
        encoding=("text_encoder", "denoise.text_conditioning"), decoding=("decode.decode", "decode.postprocess")
    ),
    schedule=USUAL_FLOW.but(sigmas="steps"),
    # The network's config names no size, and a bare `pipe(prompt=...)` draws 128 x 128 cells.
    geometry=vae_geometry("transformer", cells_per_token=CELLS, native_cells=128),
    text=text,
    kohya=KOHYA,
    unsuitable=(
        Unsuitable(
            what="Anima Turbo",
            why=DISTILLED,
            remedy="Train on circlestone-labs/Anima-Base-v1.0-Diffusers; its LoRA can be tried on Turbo.",
            hub=("vladmandic/Anima-1.0-Turbo",),
        ),
        other_inputs(channels="z_dim", cells=1),
    ),
    header={"ss_base_model_version": "anima", "architecture": "anima"},
    elsewhere={"ai-toolkit": ("anima",), "OneTrainer": ("ANIMA",)},
    licence="CircleStone Labs Non-Commercial License; of what it was made from: NVIDIA Open Model License",
    examples=("circlestone-labs/Anima-Base-v1.0-Diffusers",),
    single_file=SINGLE_FILE,
    model="Anima",
)
