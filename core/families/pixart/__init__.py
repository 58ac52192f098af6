"""PixArt-Sigma: a transformer on a variance-preserving path, which reads T5 text by cross-attention."""

from ..facts import FamilyFacts, PartConfigs, Schedule, TextCost, Unsuitable, vae_geometry, width_of
from ..lora_facts import NOT_READ
from ..unsuitable_facts import is_set

TOKENS = 300
"""Captions are padded to so many; a mask hides the padding."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "caption_channels", usual=4096)
    return TextCost(TOKENS, TOKENS * (4 * width + 8))


FACTS = FamilyFacts(
    name="pixart",
    label="PixArt-Sigma",
    pipelines=("PixArtSigmaPipeline",),
    component="transformer",
    predictions=("epsilon",),
    schedule=Schedule(
        usual={
            "_class_name": "DPMSolverMultistepScheduler",
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "num_train_timesteps": 1000,
        }
    ),
    geometry=vae_geometry("transformer"),
    text=text,
    kohya=NOT_READ,
    lycoris="transformer.",
    reader="peft",
    unsuitable=(
        Unsuitable(
            what="PixArt-alpha",
            why="is a PixArt-alpha, whose network is also given size and shape of the picture, and this family gives it none",
            remedy="Choose a PixArt-Sigma.",
            marks=is_set("transformer", "use_additional_conditions"),
            shown="its transformer takes size and shape (use_additional_conditions)",
            pipelines=("PixArtAlphaPipeline",),
        ),
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "pixart_sigma", "architecture": "pixart-sigma"},
    elsewhere={
        "SimpleTuner": ("pixart_sigma",),
        "ai-toolkit": ("pixart_sigma", "is_pixart_sigma"),
        "OneTrainer": ("PIXART_SIGMA",),
    },
    licence="CreativeML Open RAIL++-M",
    examples=("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",),
    model="PixArtSigma",
)
