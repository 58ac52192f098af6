"""FLUX.2 dev: a transformer on a rectified flow; Mistral 3 text; guidance as an input."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ..black_forest_facts import FLUX2
from ..double_stream_file_facts import SECOND, has_guidance, second_generation, second_says
from ..facts import FamilyFacts, PartConfigs, Unsuitable
from ..flux2_facts import LORA_TARGETS, OTHER_INPUTS, SCHEDULE, geometry, text
from ..guidance import Embedded
from ..single_file_facts import Contents, SingleFile
from ..unsuitable_facts import DISTILLED, is_off

PICTURE_READER = "PixtralProcessor"
"""The released checkpoint's text goes through it, and transformers makes none without torchvision."""


def without_torchvision(configs: PartConfigs) -> Mapping[str, Any] | None:
    """The checkpoint's own files need it, and it is not installed."""
    tokenizer = configs.get("pipeline", {}).get("tokenizer", ())
    return {"reader": PICTURE_READER} if PICTURE_READER in tokenizer and find_spec("torchvision") is None else None


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
    kohya=FLUX2,
    lycoris="lycoris_",
    unsuitable=(
        Unsuitable(
            what="forms distilled further",
            why=DISTILLED,
            remedy="Choose FLUX.2-dev, or a checkpoint made from it.",
            marks=is_off("transformer", "guidance_embeds"),
            shown="it takes no guidance as an input (guidance_embeds)",
        ),
        Unsuitable(
            what="the released checkpoint, where torchvision is not installed",
            why="needs torchvision, which is not installed",
            remedy="Install the torchvision that belongs to your torch: python -m pip install torchvision",
            marks=without_torchvision,
            shown="its text goes through a {reader}",
        ),
        OTHER_INPUTS,
    ),
    comfyui_loads=True,
    header={"ss_base_model_version": "flux2", "architecture": "flux2-dev"},
    elsewhere={"SimpleTuner": ("flux2",), "ai-toolkit": ("flux2",), "OneTrainer": ("FLUX_2",), "diffusers": ("flux2",)},
    licence="FLUX Non-Commercial License",
    examples=("black-forest-labs/FLUX.2-dev",),
    single_file=SingleFile(
        recognised=recognised, says=second_says, names=SECOND, official="black-forest-labs/FLUX.2-dev"
    ),
    model="Flux2Dev",
)
