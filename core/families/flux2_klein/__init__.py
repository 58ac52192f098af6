"""FLUX.2 klein in its undistilled form: a transformer on a rectified flow; Qwen 3 text; guidance by a second, empty prompt."""

from ..double_stream_file_facts import SECOND, has_guidance, second_generation, second_says
from ..facts import FamilyFacts, PartConfigs, Refusal
from ..flux2_facts import LORA_TARGETS, SCHEDULE, geometry, text
from ..flux2_facts import refuse as refuse_inputs
from ..guidance import ClassifierFree
from ..single_file_facts import Contents, SingleFile


def refuse(configs: PartConfigs) -> Refusal | None:
    """The form distilled to a few steps says so in its `model_index.json`."""
    if configs.get("pipeline", {}).get("is_distilled"):
        return Refusal(
            "was distilled to a few steps without guidance (is_distilled in its model_index.json), and training on noisy pictures undoes that.",
            "Train its undistilled base, black-forest-labs/FLUX.2-klein-base-4B or -base-9B; the LoRA loads into the distilled model, too.",
        )
    return refuse_inputs(configs)


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
    refuse=refuse,
    header={"ss_base_model_version": "flux2_klein", "architecture": "flux2-klein"},
    licence="4B: Apache 2.0; 9B: FLUX Non-Commercial License",
    examples=("black-forest-labs/FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-klein-base-9B"),
    single_file=SingleFile(
        recognised=recognised, says=second_says, names=SECOND, official="black-forest-labs/FLUX.2-klein-base-4B"
    ),
    model="Flux2Klein",
)
