"""Whether the LoRA can be written as asked, and where."""

from collections.abc import Iterable
from pathlib import Path

from ...adapters.kinds import LYCORIS
from ...config.rank_pattern import faults_of
from ...families.facts import ATTENTION, FamilyFacts
from ...families.lora_facts import KohyaLayout, kohya_layout
from ...families.registry import FAMILIES
from ...families.source import ModelError, locate
from ...findings import Finding
from ..disk import adapted_layers
from .folders import writable
from .situation import Situation


def layout(situation: Situation) -> Iterable[Finding]:
    """An error where files of the asked layout are not written for this model, or a layer that trains has no name there."""
    config, model = situation.config, situation.model
    if config.training.model_type != "lora" or config.lora.layout == "diffusers":
        return
    facts = FAMILIES.get(config.model.model_family) if model is None or model.family is None else model.family
    if facts is None:
        return  # known when the model is there; the export itself refuses, too
    network = {} if model is None else _network(facts, model.folder)
    found, why = kohya_layout(facts.kohya, network)
    if config.lora.type in LYCORIS:
        yield from _lycoris(situation, facts, found, network)
        return
    if found is None:
        yield Finding(
            "error",
            "lora_layout",
            f"{config.lora.layout}, but {facts.label} {why}.",
            "Set lora_layout = diffusers.",
            "lora-layout",
        )
        return
    if model is None:
        return
    layers = _layers(situation, facts)
    nameless = [layer for layer in layers if found.place(layer, network) is None]
    if nameless:
        yield Finding(
            "error",
            "lora_layout",
            f"{config.lora.layout}, but {len(nameless)} of the {len(layers)} layers that lora_targets names have no name in that layout, the "
            f"first is {nameless[0]}.",
            "Set lora_layout = diffusers, or leave lora_targets empty.",
            "lora-layout",
        )


def _layers(situation: Situation, facts: FamilyFacts) -> list[str]:
    """The layers of the model that get an adapter."""
    lora, model = situation.config.lora, situation.model
    return (
        []
        if model is None
        else adapted_layers(model.shapes, lora.targets if lora.targets else (facts.lora_targets or ATTENTION))
    )


def _lycoris(situation: Situation, facts: FamilyFacts, layout: KohyaLayout | None, network: dict) -> Iterable[Finding]:
    """An error where no tool is known to read a LoHa or LoKr of these layers (`variants.file_names`)."""
    places = [] if layout is None else [layout.place(layer, network) for layer in _layers(situation, facts)]
    if facts.lycoris is None and (not places or any(place is None or place.joined for place in places)):
        yield Finding(
            "error",
            "lora_type",
            f"{situation.config.lora.type}, but {facts.label} has no names for it that another tool is known to read.",
            "Set lora_type = lora or dora, with lora_layout = diffusers.",
            "lora-layout",
        )


def ranks(situation: Situation) -> Iterable[Finding]:
    """An error for every line of lora_rank_pattern that changes no layer of this model."""
    config, model = situation.config, situation.model
    facts = None if model is None else model.family
    if config.training.model_type != "lora" or facts is None:
        return  # the training refuses it, too
    for wrong, remedy in faults_of(_layers(situation, facts), config.lora.rank_pattern):
        yield Finding("error", "lora_rank_pattern", f"{wrong}.", remedy, "lora-ranks")


def _network(facts: FamilyFacts, folder: Path) -> dict:
    try:
        return locate(str(folder)).configs[facts.component]
    except ModelError:
        return {}  # the model's own check says what is wrong with it


def folder(situation: Situation) -> Iterable[Finding]:
    """An error where the folder for the finished LoRA is not there or takes no files; a note where a file has the run's name already."""
    config = situation.config
    if config.training.model_type != "lora" or config.lora.folder is None:
        return
    place = Path(config.lora.folder).expanduser()
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        yield Finding(
            "error",
            "lora_folder",
            f"{place} {what}.",
            "Name a folder that is there, such as ComfyUI's models/loras, or leave it unset.",
            "lora-folder",
        )
        return
    yield from writable(place, "lora_folder")
    name = None if situation.run_dir is None else f"{situation.run_dir.name}.safetensors"
    if name is not None and (place / name).exists():
        yield Finding(
            "note",
            "lora_folder",
            f"{place} has a file {name} already, which stays: this run's LoRA will have a number in its name there.",
            "Give the run another name, or move that file.",
            "lora-folder",
        )
