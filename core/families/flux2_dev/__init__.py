"""FLUX.2 dev: a transformer on a rectified flow; Mistral 3 text; guidance as an input."""

from importlib.util import find_spec

from ..double_stream_file_facts import SECOND, has_guidance, second_generation, second_says
from ..facts import FamilyFacts, PartConfigs, Refusal
from ..flux2_facts import LORA_TARGETS, SCHEDULE, geometry, text
from ..flux2_facts import refuse as refuse_inputs
from ..guidance import Embedded
from ..single_file_facts import Contents, SingleFile

PICTURE_READER = "PixtralProcessor"
"""The released checkpoint's text goes through it, and transformers makes none without torchvision."""


def refuse(configs: PartConfigs) -> Refusal | None:
    """Models without guidance as an input, and an installation without what the checkpoint's own files need."""
    if not configs.get("transformer", {}).get("guidance_embeds", True):
        return Refusal(
            "takes no guidance as an input: a model that was distilled further, and training on noisy pictures undoes that.",
            "Choose FLUX.2-dev, or a checkpoint made from it.",
        )
    if PICTURE_READER in configs.get("pipeline", {}).get("tokenizer", ()) and find_spec("torchvision") is None:
        return Refusal(
            f"needs torchvision, which is not installed: its text goes through a {PICTURE_READER}.",
            "Install the torchvision that belongs to your torch: python -m pip install torchvision",
        )
    return refuse_inputs(configs)


def recognised(contents: Contents) -> bool:
    return second_generation(contents) and has_guidance(contents)


FACTS = FamilyFacts(
    name="flux2_dev",
    label="FLUX.2 dev",
    pipelines=("Flux2Pipeline",),
    component="transformer",
    predictions=("flow_matching",),
    lora_targets=LORA_TARGETS,
    guidance=Embedded(),
    schedule=SCHEDULE,
    geometry=geometry,
    text=text,
    refuse=refuse,
    header={"ss_base_model_version": "flux2", "architecture": "flux2-dev"},
    licence="FLUX Non-Commercial License",
    examples=("black-forest-labs/FLUX.2-dev",),
    single_file=SingleFile(
        recognised=recognised, says=second_says, names=SECOND, official="black-forest-labs/FLUX.2-dev"
    ),
    model="Flux2Dev",
)
