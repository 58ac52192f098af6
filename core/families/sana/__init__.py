"""Sana: a transformer with linear attention on a rectified flow over deeply compressed latents (32 pixels a cell); Gemma 2 text."""

from ..facts import FamilyFacts, PartConfigs, Schedule, TextCost, Unsuitable, vae_geometry, width_of
from ..lora_facts import NoKohyaLayout
from ..unsuitable_facts import DISTILLED, is_set

TOKENS = 300
"""Captions are padded to so many; a mask hides the padding."""


def text(configs: PartConfigs) -> TextCost:
    width = width_of(configs, "transformer", "caption_channels", usual=2304)
    return TextCost(TOKENS, TOKENS * (4 * width + 8))


FACTS = FamilyFacts(
    name="sana",
    label="Sana",
    pipelines=("SanaPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    schedule=Schedule(
        usual={
            "_class_name": "DPMSolverMultistepScheduler",
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": 3.0,
            "num_train_timesteps": 1000,
        }
    ),
    geometry=vae_geometry("transformer"),
    text=text,
    kohya=NoKohyaLayout("is in the key map of no other tool that is known: ComfyUI's leaves it out"),
    unsuitable=(
        Unsuitable(
            what="Sana-Sprint",
            why=DISTILLED,
            remedy="Choose a Sana that is not a Sprint, such as Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers.",
            marks=is_set("transformer", "guidance_embeds"),
            shown="its transformer takes the guidance as an input (guidance_embeds)",
            pipelines=("SanaSprintPipeline",),
        ),
    ),
    header={"ss_base_model_version": "sana", "architecture": "sana"},
    elsewhere={"SimpleTuner": ("sana",), "ai-toolkit": ("sana",), "OneTrainer": ("SANA",), "diffusers": ("sana",)},
    licence="NVIDIA License (NSCL v2-custom); its text encoder: Gemma Terms of Use",
    examples=("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",),
    model="Sana",
)
