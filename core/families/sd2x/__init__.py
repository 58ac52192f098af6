"""Stable Diffusion 2.x: linear layers around the attention blocks of its UNet; often v-prediction.

The text widths (1024, before 768) may differ in small models, so the linear layers tell the two apart.
"""

from ..facts import USUAL_VARIANCE_PRESERVING, FamilyFacts
from ..lora_facts import UNDERSCORED
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, OPENING, PREDICTIONS, UNUSED, clip_text, few_steps, other_inputs

FACTS = FamilyFacts(
    name="sd2x",
    label="Stable Diffusion 2.x",
    pipelines=("StableDiffusionPipeline",),
    component="unet",
    predictions=PREDICTIONS,
    unused=UNUSED,
    opening=OPENING,
    schedule=USUAL_VARIANCE_PRESERVING,
    geometry=GEOMETRY,
    text=clip_text("text_encoder"),
    unsuitable=(
        other_inputs(),
        LATENT_CONSISTENCY,
        few_steps("SD-Turbo", "Stable Diffusion 2.1", "stabilityai/sd-turbo"),
    ),
    claims=lambda configs: bool(configs.get("unet", {}).get("use_linear_projection")),
    kohya=UNDERSCORED,
    header={"ss_base_model_version": "sd_v2", "architecture": "stable-diffusion-v2"},
    licence="CreativeML Open RAIL++-M",
    model="StableDiffusion2",
)
