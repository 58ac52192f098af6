"""FLUX.2 klein in its undistilled form: a transformer on a rectified flow; Qwen 3 text; guidance by a second, empty prompt."""

from ..black_forest_facts import FLUX2
from ..double_stream_file_facts import SECOND, has_guidance, second_generation, second_says
from ..facts import FamilyFacts, Unsuitable
from ..flux2_facts import LORA_TARGETS, OTHER_INPUTS, SCHEDULE, geometry, text
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, SingleFile
from ..unsuitable_facts import DISTILLED, is_set


def recognised(contents: Contents) -> bool:
    return second_generation(contents) and not has_guidance(contents)


FACTS = FamilyFacts(
    name="flux2_klein",
    label="FLUX.2 klein",
    pipelines=("Flux2KleinPipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=LORA_TARGETS,
    guidance=ClassifierFree(joint=False),  # two calls, as the pipeline does
    schedule=SCHEDULE,
    geometry=geometry,
    text=text,
    kohya=FLUX2,
    lycoris="lycoris_",
    unsuitable=(
        Unsuitable(
            what="FLUX.2 klein 4B and 9B in their distilled form",
            why=DISTILLED,
            remedy="Train its undistilled base, black-forest-labs/FLUX.2-klein-base-4B or -base-9B; the LoRA loads into the distilled model, too.",
            marks=is_set("pipeline", "is_distilled"),
            shown="is_distilled is set in its model_index.json",
            hub=("black-forest-labs/FLUX.2-klein-4B", "black-forest-labs/FLUX.2-klein-9B"),
            pipelines=("Flux2KleinKVPipeline",),
        ),
        OTHER_INPUTS,
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "flux2_klein", "architecture": "flux2-klein"},
    elsewhere={
        "SimpleTuner": ("flux2",),
        "ai-toolkit": ("flux2_klein_4b", "flux2_klein_9b"),
        "OneTrainer": ("FLUX_2",),
        "diffusers": ("flux2_klein",),
    },
    licence="4B: Apache 2.0; 9B: FLUX Non-Commercial License",
    examples=("black-forest-labs/FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-klein-base-9B"),
    single_file=SingleFile(
        recognised=recognised, says=second_says, names=SECOND, official="black-forest-labs/FLUX.2-klein-base-4B"
    ),
    model="Flux2Klein",
)
