"""PixArt-Sigma: a transformer on a variance-preserving path, which reads T5 text by cross-attention."""

from ..facts import FamilyFacts, PartConfigs, Refusal, Schedule, TextCost, vae_geometry, width_of
from ..lora_facts import NOT_READ

TOKENS = 300
"""Captions are padded to so many; a mask hides the padding."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "caption_channels", usual=4096)
    return TextCost(TOKENS, TOKENS * (4 * width + 8))


def refuse(configs: PartConfigs) -> Refusal | None:
    """PixArt-alpha's network also takes the picture's size and shape, which this pipeline does not give."""
    if configs.get("transformer", {}).get("use_additional_conditions"):
        return Refusal(
            "has a transformer that takes size and shape (use_additional_conditions): a PixArt-alpha.",
            "Choose a PixArt-Sigma.",
        )
    return None


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
    refuse=refuse,
    kohya=NOT_READ,
    header={"ss_base_model_version": "pixart_sigma", "architecture": "pixart-sigma"},
    licence="CreativeML Open RAIL++-M",
    examples=("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",),
    model="PixArtSigma",
)
