"""Stable Diffusion XL: a UNet that also sees the picture's size and crop; two CLIP encoders, the second one's pooled vector too."""

from ..facts import BETAS, FamilyFacts, Schedule, Unsuitable
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, PREDICTIONS, clip_text, few_steps, other_inputs
from ..unsuitable_facts import TEXT_TO_IMAGE
from .lora_facts import KOHYA

BASE = "stabilityai/stable-diffusion-xl-base-1.0"
from ..single_file_facts import Contents, SingleFile
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
    kohya=KOHYA,
    unsuitable=(
        other_inputs("StableDiffusionXLInpaintPipeline", "StableDiffusionXLInstructPix2PixPipeline"),
        Unsuitable(
            what="the SDXL refiner",
            why="is a model that refines the pictures of another",
            remedy=TEXT_TO_IMAGE,
            pipelines=("StableDiffusionXLImg2ImgPipeline",),
        ),
        LATENT_CONSISTENCY,
        few_steps("SDXL-Turbo", BASE, "stabilityai/sdxl-turbo"),
        few_steps(
            "Turbo and Lightning forms of other SDXL models",
            "the same model in its undistilled form",
            "Lykon/dreamshaper-xl-v2-turbo",
            "Lykon/dreamshaper-xl-lightning",
            "RunDiffusion/Juggernaut-XL-Lightning",
            "SG161222/RealVisXL_V3.0_Turbo",
            "SG161222/RealVisXL_V4.0_Lightning",
        ),
    ),
    header={"ss_base_model_version": "sdxl_base_v1-0", "architecture": "stable-diffusion-xl-v1-base"},
    elsewhere={
        "SimpleTuner": ("sdxl",),
        "ai-toolkit": ("sdxl", "is_xl"),
        "OneTrainer": ("STABLE_DIFFUSION_XL_10_BASE",),
        "kohya_ss": ("sdxl", "sdxl_checkbox"),
        "diffusers": ("sdxl",),
    },
    licence="CreativeML Open RAIL++-M",
    examples=(BASE,),
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
