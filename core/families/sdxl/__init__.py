"""Stable Diffusion XL: a UNet that also sees the picture's size and crop; two CLIP encoders, the second one's pooled vector too."""

from ..facts import BETAS, FamilyFacts, Schedule
from ..single_file_facts import Contents, SingleFile
from ..unet_facts import GEOMETRY, PREDICTIONS, clip_text, refuse
from ..unet_file_facts import VAE, has_size_input, is_unet, renamed, says


def recognised(contents: Contents) -> bool:
    """The refiner has the second text encoder alone, in the first one's place."""
    refiner = any(name.startswith("conditioner.embedders.0.model.") for name in contents.shapes)
    return is_unet(contents) and has_size_input(contents) and not refiner


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
    header={"ss_base_model_version": "sdxl_base_v1-0", "architecture": "stable-diffusion-xl-v1-base"},
    licence="CreativeML Open RAIL++-M",
    examples=("stabilityai/stable-diffusion-xl-base-1.0",),
    single_file=SingleFile(
        recognised=recognised,
        parts={
            "vae": VAE,
            "text_encoder": "conditioner.embedders.0.transformer.",
            "text_encoder_2": "conditioner.embedders.1.model.",
        },
        says=says,
        renamed=renamed,
        ships_configs=True,
        official="stabilityai/stable-diffusion-xl-base-1.0",
    ),
    model="StableDiffusionXL",
)
