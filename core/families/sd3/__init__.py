"""Stable Diffusion 3 and 3.5: a transformer on a rectified flow; two CLIP encoders and, where it was saved with it, T5."""

from ..facts import USUAL_FLOW, FamilyFacts, PartConfigs, TextCost, Unsuitable, vae_geometry, width_of
from ..lora_facts import NOT_READ
from ..unsuitable_facts import DISTILLED

TOKENS = 77 + 256
"""CLIP's, and T5's or the zeros in their place."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "joint_attention_dim", usual=4096)
    pooled = width_of(configs, "transformer", "pooled_projection_dim", usual=2048)
    return TextCost(TOKENS, 4 * (TOKENS * width + pooled))


FACTS = FamilyFacts(
    name="sd3",
    label="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    untrained=("pos_embed.pos_embed",),
    text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    unused=("image_encoder", "feature_extractor"),
    schedule=USUAL_FLOW.but(max_shift=1.16),
    geometry=vae_geometry("transformer"),
    text=text,
    kohya=NOT_READ,
    unsuitable=(
        Unsuitable(
            what="SD 3.5 Large Turbo and Medium Turbo",
            why=DISTILLED,
            remedy="Train on stabilityai/stable-diffusion-3.5-large or -medium; its LoRA can be tried on the distilled model.",
            hub=("stabilityai/stable-diffusion-3.5-large-turbo", "tensorart/stable-diffusion-3.5-medium-turbo"),
        ),
    ),
    header={"ss_base_model_version": "sd3", "architecture": "stable-diffusion-3-m"},
    licence="Stability AI Community License",
    examples=("stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large"),
    model="StableDiffusion3",
)
