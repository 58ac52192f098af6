"""Kolors: Stable Diffusion XL's kind of UNet, which also sees the picture's size and crop; text of a ChatGLM 3, English or Chinese."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ..facts import BETAS, FamilyFacts, PartConfigs, Schedule, TextCost, Unsuitable, width_of
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, PREDICTIONS, other_inputs

TOKENS = 256
"""Every caption is filled up to so many, in front; the UNet has no mask."""
TOKENIZER = "ChatGLMTokenizer"
"""Diffusers' own, which reads its words with sentencepiece."""


def text(configs: PartConfigs) -> TextCost:
    """States of every token, and the last one's as a vector for the whole caption."""
    return TextCost(TOKENS, 4 * (TOKENS + 1) * width_of(configs, "text_encoder", "hidden_size", usual=4096))


def without_sentencepiece(configs: PartConfigs) -> Mapping[str, Any] | None:
    """The checkpoint's own tokenizer needs it, and it is not installed."""
    tokenizer = configs.get("pipeline", {}).get("tokenizer", ())
    return {"reader": TOKENIZER} if TOKENIZER in tokenizer and find_spec("sentencepiece") is None else None


FACTS = FamilyFacts(
    name="kolors",
    label="Kolors",
    pipelines=("KolorsPipeline",),
    own_library="kolors",
    component="unet",
    predictions=PREDICTIONS,
    unused=("image_encoder", "feature_extractor"),
    schedule=Schedule(
        usual={"_class_name": "EulerDiscreteScheduler", **BETAS, "beta_end": 0.014, "num_train_timesteps": 1100}
    ),
    geometry=GEOMETRY,
    text=text,
    unsuitable=(
        Unsuitable(
            what="any checkpoint, where sentencepiece is not installed",
            why="needs sentencepiece, which is not installed",
            remedy="Install it: python -m pip install sentencepiece.",
            marks=without_sentencepiece,
            shown="its text goes through a {reader}",
        ),
        Unsuitable(
            what="what edits pictures",
            why="is a pipeline that edits pictures",
            remedy="Name the text-to-image model, Kwai-Kolors/Kolors-diffusers; it has the same network.",
            pipelines=("KolorsImg2ImgPipeline",),
        ),
        other_inputs(),
        LATENT_CONSISTENCY,
    ),
    header={"ss_base_model_version": "kolors", "architecture": "kolors"},
    licence="Kolors License (commercial use must be registered)",
    examples=("Kwai-Kolors/Kolors-diffusers",),
    model="Kolors",
)
