"""Stable Diffusion 1.x: 1x1 convolutions around the attention blocks of its UNet."""

from ..facts import USUAL_VARIANCE_PRESERVING, FamilyFacts
from ..lora_facts import UNDERSCORED
from ..single_file_facts import Contents, SingleFile
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, OPENING, PREDICTIONS, UNUSED, clip_text, few_steps, other_inputs
from ..unet_file_facts import VAE, has_size_input, is_unet, linear_projections, renamed, says


def recognised(contents: Contents) -> bool:
    return is_unet(contents) and not has_size_input(contents) and not linear_projections(contents)


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
    elsewhere={
        "SimpleTuner": ("sd1x",),
        "ai-toolkit": ("sd1", "sd15"),
        "OneTrainer": ("STABLE_DIFFUSION_15",),
        "kohya_ss": ("",),
    },
    licence="CreativeML Open RAIL-M",
    examples=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    single_file=SingleFile(
        recognised=recognised,
        parts={"vae": VAE, "text_encoder": "cond_stage_model.transformer."},
        says=says,
        renamed=renamed,
        ships_configs=True,
        official="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    model="StableDiffusion1",
)
