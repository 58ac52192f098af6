"""Stable Diffusion 2.x: linear layers around the attention blocks of its UNet; often v-prediction.

The text widths (1024, before 768) may differ in small models, so the linear layers tell the two apart.
"""

from ..facts import USUAL_VARIANCE_PRESERVING, FamilyFacts
from ..lora_facts import UNDERSCORED
from ..single_file_facts import Contents, SingleFile
from ..unet_facts import GEOMETRY, LATENT_CONSISTENCY, OPENING, PREDICTIONS, UNUSED, clip_text, few_steps, other_inputs
from ..unet_file_facts import VAE, has_size_input, is_unet, linear_projections, renamed, says


def recognised(contents: Contents) -> bool:
    return is_unet(contents) and not has_size_input(contents) and linear_projections(contents)


def unsaid(contents: Contents) -> str:
    """The 512 px base predicts epsilon, the 768 px model v, and their files are alike."""
    if "prediction_type" in says(contents).get("scheduler", {}):
        return ""
    return (
        "the file does not say what its network predicts: v_prediction is taken, as of Stable Diffusion 2.1 for 768 px. For one made from "
        "the 512 px base set prediction_type = epsilon"
    )


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
    elsewhere={
        "SimpleTuner": ("sd2x",),
        "ai-toolkit": ("sd2", "is_v2"),
        "OneTrainer": (
            "STABLE_DIFFUSION_20",
            "STABLE_DIFFUSION_20_BASE",
            "STABLE_DIFFUSION_21",
            "STABLE_DIFFUSION_21_BASE",
        ),
        "kohya_ss": ("v2",),
    },
    licence="CreativeML Open RAIL++-M",
    single_file=SingleFile(
        recognised=recognised,
        parts={"vae": VAE, "text_encoder": "cond_stage_model.model."},
        says=says,
        renamed=renamed,
        ships_configs=True,
        official="stabilityai/stable-diffusion-2-1",
        unsaid=unsaid,
    ),
    model="StableDiffusion2",
)
