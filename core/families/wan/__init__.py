"""Wan 2.1 as a model of single pictures: a transformer on a rectified flow for films, given one frame; UMT5 text."""

from ..facts import ATTENTION, FamilyFacts, PartConfigs, Schedule, TextCost, Unsuitable, vae_geometry, width_of
from ..guidance import ClassifierFree
from ..unsuitable_facts import TEXT_TO_IMAGE, is_set, other_inputs

TOKENS = 512
"""Captions are padded to so many with zeros, which take part in the attention."""
CELLS = 2
"""A position is a square of 2x2 latent cells."""


def text(configs: PartConfigs) -> TextCost:
    return TextCost(TOKENS, 4 * TOKENS * width_of(configs, "transformer", "text_dim", usual=4096))


FACTS = FamilyFacts(
    name="wan",
    label="Wan 2.1 (single pictures)",
    pipelines=("WanPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=(*ATTENTION, "ffn.net.0.proj", "ffn.net.2"),
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    schedule=Schedule(
        usual={
            "_class_name": "UniPCMultistepScheduler",
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "flow_shift": 3.0,
            "num_train_timesteps": 1000,
        }
    ),
    geometry=vae_geometry("transformer", cells_per_token=CELLS),
    text=text,
    unsuitable=(
        Unsuitable(
            what="Wan 2.2 with two networks (A14B)",
            why="shares its work between two networks by noise level, and only one is trained here",
            remedy="Choose a Wan 2.1 text-to-video checkpoint, such as Wan-AI/Wan2.1-T2V-14B-Diffusers.",
            marks=is_set("pipeline", "boundary_ratio"),
            shown="boundary_ratio is set in its model_index.json",
        ),
        Unsuitable(
            what="Wan 2.2 with a time for each position (TI2V-5B)",
            why="takes a time for each position",
            remedy="Choose a Wan 2.1 text-to-video checkpoint, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.",
            marks=is_set("pipeline", "expand_timesteps"),
            shown="expand_timesteps is set in its model_index.json",
        ),
        Unsuitable(
            what="Wan from pictures or films",
            why="is a model that starts from a picture or a film",
            remedy=TEXT_TO_IMAGE,
            pipelines=("WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline", "WanAnimatePipeline"),
        ),
        other_inputs(channels="z_dim", cells=1),
    ),
    header={"ss_base_model_version": "wan2.1", "architecture": "wan2.1"},
    elsewhere={"ai-toolkit": ("wan21",)},
    licence="Apache 2.0",
    examples=("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    model="Wan",
)
