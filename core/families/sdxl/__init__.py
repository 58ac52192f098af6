"""Stable Diffusion XL: a UNet that also sees the picture's size and crop; two CLIP encoders, the second one's pooled vector too."""

from ..facts import BETAS, FamilyFacts, Schedule
from ..unet_facts import GEOMETRY, PREDICTIONS, clip_text, refuse
from .lora_facts import KOHYA

FACTS = FamilyFacts(
    name="sdxl",
    label="Stable Diffusion XL",
    pipelines=("StableDiffusionXLPipeline",),
    component="unet",
    predictions=PREDICTIONS,
    text_encoders=("text_encoder", "text_encoder_2"),
    unused=("image_encoder", "feature_extractor"),
    schedule=Schedule(usual={"_class_name": "EulerDiscreteScheduler", **BETAS}),
    geometry=GEOMETRY,
    text=clip_text("text_encoder", "text_encoder_2", pooled="text_encoder_2"),
    refuse=refuse,
    kohya=KOHYA,
    header={"ss_base_model_version": "sdxl_base_v1-0", "architecture": "stable-diffusion-xl-v1-base"},
    licence="CreativeML Open RAIL++-M",
    examples=("stabilityai/stable-diffusion-xl-base-1.0",),
    model="StableDiffusionXL",
)
