"""Stable Diffusion 1.x: 1x1 convolutions around the attention blocks of its UNet."""

from ..facts import USUAL_VARIANCE_PRESERVING, FamilyFacts
from ..lora_facts import UNDERSCORED
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, OPENING, PREDICTIONS, UNUSED, clip_text, few_steps, other_inputs

FACTS = FamilyFacts(
    name="sd1x",
    label="Stable Diffusion 1.x",
    pipelines=("StableDiffusionPipeline",),
    component="unet",
    predictions=PREDICTIONS,
    unused=UNUSED,
    opening=OPENING,
    schedule=USUAL_VARIANCE_PRESERVING,
    geometry=GEOMETRY,
    text=clip_text("text_encoder"),
    unsuitable=(
        other_inputs("StableDiffusionInpaintPipeline", "StableDiffusionInstructPix2PixPipeline"),
        LATENT_CONSISTENCY,
        few_steps("DreamShaper 8 LCM", "Lykon/dreamshaper-8", "Lykon/dreamshaper-8-lcm"),
    ),
    claims=lambda configs: not configs.get("unet", {}).get("use_linear_projection"),
    kohya=UNDERSCORED,
    header={"ss_base_model_version": "sd_v1", "architecture": "stable-diffusion-v1"},
    licence="CreativeML Open RAIL-M",
    examples=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    model="StableDiffusion1",
)
