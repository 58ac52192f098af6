"""What is known of a diffusers model from its small files, and what is wrong with them. No weights are read, no torch, no network."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ModelConfig
from ..config.options import did_you_mean
from ..demo import BUILT_IN, MODELS, resolve
from ..families.checkpoint_file import Checkpoint, read_header, recognise
from ..families.facts import FamilyFacts, TextCost, vae_geometry
from ..families.index_files import cached_index, index_file, plain
from ..families.registry import FAMILIES, family_of, refused_name
from ..families.source import ModelError, SingleFileSource, Source, is_component, locate
from ..findings import Finding
from ..names import is_hub_id

NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a model that training has no use for."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known from the small files of a diffusers folder, or the header of a single file; None where they do not have it.

    `folder`: it, or the file. `beside`: weights of the other parts (text encoders, VAE) of a single file; None = see the folder.
    `scheduler`, `checkpoint`: its config, and what a single file was recognised as.
    """

    folder: Path
    component: str | None
    pixels_per_latent: int | None
    latent_channels: int | None
    native_resolution: int | None
    shapes: Mapping[str, tuple[int, ...]]
    cells_per_token: int
    text: TextCost
    family: FamilyFacts | None
    beside: int | None = None
    scheduler: Mapping[str, Any] | None = None
    checkpoint: Checkpoint | None = None


def model_findings(model: ModelConfig) -> tuple[ModelFacts | None, list[Finding]]:
    """(what is known from the model's small files, what is wrong with it), without a network; None where it is not on this
    computer, or not as a whole."""
    name = model.pretrained_model_name_or_path
    option = "pretrained_model_name_or_path"
    folder = Path(resolve(name)).expanduser()

    def error(message: str, remedy: str, code: str = "model-missing") -> tuple[None, list[Finding]]:
        return None, [Finding("error", option, message, remedy, code)]

    if folder.is_dir():
        facts, faults = _read_model(folder, model.variant)
        if not faults:
            faults = _family(model, str(folder), model.revision)
        return facts, [Finding("error", option, fault, remedy, "model-broken") for fault, remedy in faults]
    if name in BUILT_IN:
        return error(
            f"the built-in model {name} is not in this installation ({folder}).",
            "Clone or install Rollout Studio again.",
        )
    if folder.is_file():
        return _single_file(model, folder)
    if not is_hub_id(name):
        known = did_you_mean(name, BUILT_IN)
        return error(
            f"{name!r} is neither an existing folder nor a built-in model nor a hub id (owner/name).{known}",
            f"Check the path; built in are {' and '.join(MODELS)}.",
        )
    return _hub_model(model, name, error)


def _hub_model(model: ModelConfig, name: str, error: Callable) -> tuple[ModelFacts | None, list[Finding]]:
    option = "pretrained_model_name_or_path"
    cached = cached_index(name, model.revision)
    faults: list[tuple[str, str]] = []
    if cached is not None:
        facts, faults = _read_model(cached.parent, model.variant)
        if not faults:
            wrong = _family(model, str(cached.parent), None)
            return facts, [Finding("error", option, fault, remedy, "model-broken") for fault, remedy in wrong]
    refusal = refused_name(name)
    if refusal is not None:
        return error(f"{name} {refusal.why}", refusal.remedy, "model-broken")
    offline = offline_variable()
    if offline:
        state = f"only partly in the local cache ({faults[0][0]})" if faults else "not in the local cache"
        return error(
            f"{name} is {state}, and {offline} forbids to download it.",
            f"Check the spelling, or unset {offline} and start once with a network, or name a local folder.",
            "model-offline",
        )
    return None, [
        Finding(
            "note",
            option,
            f"{name} is {'only partly' if faults else 'not'} in the local cache and will be downloaded when the run starts.",
            "It needs a network and room for the model; for a gated model accept its licence on its page and run `hf auth login` first.",
            "model-download",
        )
    ]


def _single_file(model: ModelConfig, path: Path) -> tuple[ModelFacts | None, list[Finding]]:
    """The same of a checkpoint in one file, and of the pipeline that lends what it lacks."""
    option, components = "pretrained_model_name_or_path", "pretrained_components"

    def broken(fault: str, remedy: str, at: str = option) -> Finding:
        return Finding("error", at, fault, remedy, "model-broken")

    try:
        checkpoint = recognise(path)
    except (ModelError, OSError) as error:
        message, remedy = (error.message, error.remedy) if isinstance(error, ModelError) else (f"{path}: {error}.", "")
        return None, [broken(message, remedy)]
    lends, notes = checkpoint.frame(model.pretrained_components), _about_file(checkpoint, model)
    folder, to_come = _lender(lends)
    if folder is None:
        facts = _file_facts(checkpoint, None)
        return facts, [*notes, replace(to_come, where=components)] if to_come is not None else notes
    try:
        source = locate(str(path), model.revision, model.variant, str(folder))
        assert isinstance(source, SingleFileSource)
        parts = source.parts_in_file
        faults = [] if checkpoint.shipped == folder else _read_model(folder, model.variant, parts)[1]
        if not faults:
            found = [broken(*each) for each in _unwanted(model, str(path), source)]
            return _file_facts(checkpoint, source), [*found, *notes]
    except ModelError as error:
        return _file_facts(checkpoint, None), [broken(error.message, error.remedy), *notes]
    if to_come is not None:
        return _file_facts(checkpoint, None), [*notes, replace(to_come, where=components)]
    found = [broken(f"{lends}: {fault}", remedy, components) for fault, remedy in faults]
    return _file_facts(checkpoint, None), [*found, *notes]


def _lender(name: str) -> tuple[Path | None, Finding | None]:
    """(the folder on this computer that lends parts, of a hub id what is said where it is not there as a whole)."""
    folder = Path(resolve(name)).expanduser()
    if not is_hub_id(name) or folder.exists():
        return folder, None
    cached = cached_index(name, None)
    offline = offline_variable()
    if offline:
        to_come = Finding(
            "error", "", f"the file's missing parts come from {name}, which is not in the local cache as a whole, and {offline} forbids to download it.",
            f"Unset {offline} and start once with a network, or set pretrained_components to a folder with such a model.", "model-offline",
        )  # fmt: skip
    else:
        to_come = Finding(
            "note", "", f"the file's missing parts come from {name}, and are downloaded when the run starts.",
            "If it is gated, accept its licence on its page and run `hf auth login` first; or set pretrained_components to a folder "
            "with such a model.", "model-download",
        )  # fmt: skip
    return (None if cached is None else cached.parent), to_come


def _about_file(checkpoint: Checkpoint, model: ModelConfig) -> list[Finding]:
    """Notes: what the file lacks and does not say."""
    kind, named = checkpoint.kind, model.pretrained_components
    notes = []

    def note(message: str, remedy: str, code: str) -> None:
        notes.append(Finding("note", "pretrained_model_name_or_path", message, remedy, code))

    if named is None and checkpoint.shipped is not None:
        # A part that lies in the file is of no use without its tokenizer, which only a whole pipeline has.
        for part in kind.optional:
            message = f"{part} is not used: the pipeline does without it, and its tokenizer is not in a file."
            note(message, f"To use it, set pretrained_components to a whole pipeline ({kind.official}).", "model-parts")
    elif checkpoint.lacking:
        message = f"the file has no {', '.join(checkpoint.lacking)}: taken from {checkpoint.frame(named)}."
        note(message, "Another model of this kind can lend it: pretrained_components.", "model-parts")
    unsaid = kind.unsaid(checkpoint.contents)
    if unsaid and model.prediction_type is None and named is None:
        note(f"{unsaid}.", "", "model-unsaid")
    return notes


def _file_facts(checkpoint: Checkpoint, source: SingleFileSource | None) -> ModelFacts:
    """`source` None: the lending pipeline is not here, so only what the file says is known."""
    said = checkpoint.kind.says(checkpoint.contents)
    parts = (checkpoint.facts.component, "vae", "scheduler", *checkpoint.facts.text_encoders)
    wanted = () if source is None else [part for part in parts if part in source.index and part not in source.absent]
    configs = said if source is None else {part: dict(source.configs[part]) for part in wanted}
    facts = facts_of(
        checkpoint.path, {name: dict(each) for name, each in configs.items()},
        checkpoint.kind.network(checkpoint.contents), checkpoint.facts,
    )  # fmt: skip
    starts = [checkpoint.starts[part] for part in checkpoint.parts[1:]]
    shapes = checkpoint.contents.shapes
    beside = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(tuple(starts)))
    if source is not None:
        beside += sum(_elements(source.weight_files(part)) for part in checkpoint.lacking)
    return replace(facts, beside=beside, scheduler=configs.get("scheduler"), checkpoint=checkpoint)


def _elements(files: Iterable[Path]) -> int:
    """Numbers in files of one part, of which a variant beside the plain ones does not count."""
    plain = [path for path in files if path.name.count(".") == 1] or list(files)
    return sum(math.prod(shape) for path in plain for shape in safetensors_shapes(path).values())


def _family(model: ModelConfig, folder: str, revision: str | None) -> list[tuple[str, str]]:
    """Why a whole model is of no use here: no family covers it, another family is set, or it is of a kind that cannot be trained."""
    try:
        return _unwanted(model, folder, locate(folder, revision, model.variant))
    except ModelError as error:
        return [(error.message, error.remedy)]


def _unwanted(model: ModelConfig, folder: str, source: Source) -> list[tuple[str, str]]:
    """Why a model that was found is of no use: another family is set, or it is of a kind that cannot be trained."""
    try:
        family = source.family
        refusal = FAMILIES[family].refuse(source.configs, folder, model.pretrained_model_name_or_path)
    except ModelError as error:
        return [(error.message, error.remedy)]
    if model.model_family not in ("auto", family):
        return [
            (
                f"model_family is {model.model_family}, but {folder} holds a {family} model.",
                f"Set model_family = {family} or auto.",
            )
        ]
    return [] if refusal is None else [(f"{folder} {refusal.why}", refusal.remedy)]


def offline_variable() -> str | None:
    """The environment variable that forbids downloads, if one does."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").strip().upper() in ("1", "ON", "YES", "TRUE"):
            return name
    return None


def _read_model(
    folder: Path, variant: str | None, without: tuple[str, ...] = ()
) -> tuple[ModelFacts | None, list[tuple[str, str]]]:
    """(what is known of the folder, [(fault, remedy)]). `without`: parts whose weights are not asked for."""
    again = "Download or copy the model again, whole."
    try:
        index = plain(_read_json(index_file(folder)))
    except FileNotFoundError:
        if (folder / "adapter_config.json").exists() or any(folder.glob("*lora*.safetensors")):
            return None, [(f"{folder} holds a LoRA, not a model.", "Name the model that the LoRA was trained on.")]
        return None, [
            (
                f"{folder} is not a model in the diffusers layout: it has no model_index.json.",
                "Name the folder that holds model_index.json, with unet/ or transformer/, vae/ and so on beside it.",
            )
        ]
    except (OSError, ValueError) as error:
        return None, [(f"{index_file(folder)} cannot be read ({error}).", again)]

    faults: list[tuple[str, str]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    configs: dict[str, dict] = {"pipeline": index}
    for component, kind in index.items():
        if component.startswith("_") or not is_component(kind) or kind[0] is None:
            continue
        part = folder / component
        if component in NEVER_LOADED or component in without:
            continue
        if not part.is_dir():
            faults.append((f"its part {component}/ is missing in {folder}.", again))
            continue
        if not (part / "config.json").is_file():
            continue  # schedulers and tokenizers have no weights
        try:
            configs[component] = _read_json(part / "config.json")
        except (OSError, ValueError) as error:
            faults.append((f"{part / 'config.json'} cannot be read ({error}).", again))
            continue
        found, fault = _weights(part, variant)
        if fault is not None:
            faults.append(fault)
        if component in ("unet", "transformer"):
            shapes = found
    return facts_of(folder, configs, shapes, family_of(index, configs)), faults


def _read_json(path: Path) -> dict:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the file is wrong, not the caller
    return value


def _weights(part: Path, variant: str | None) -> tuple[dict[str, tuple[int, ...]], tuple[str, str] | None]:
    """({tensor: shape} of a component, its first fault)."""
    again = "Download or copy the model again, whole."
    files = sorted(part.glob("*.safetensors"))
    variants = {path.name.split(".")[1] for path in files if path.name.count(".") > 1}
    # a sharded variant is named model.fp16-00001-of-00002.safetensors
    variants = {re.sub(r"-\d{5}-of-\d{5}$", "", each) for each in variants}
    if variant is None:
        chosen = [path for path in files if path.name.count(".") == 1]
    else:
        chosen = [
            path
            for path in files
            if re.match(rf"[^.]+\.{re.escape(variant)}(-\d{{5}}-of-\d{{5}})?\.safetensors$", path.name)
        ]
        if not chosen:  # diffusers takes the plain file of a component that lacks the variant
            chosen = [path for path in files if path.name.count(".") == 1]
    if not chosen:
        if variants:
            have = ", ".join(sorted(variants))
            missing = "no plain weights" if variant is None else f"no weights of the variant {variant}"
            return {}, (f"{part} has {missing}, only {have}.", f"Set variant = {min(variants)}.")
        if any(part.glob("*.bin")) or any(part.glob("*.ckpt")):
            return {}, (
                f"{part} has its weights only as pickles (.bin), which can run code and are not opened.",
                "Take a copy of the model with .safetensors files.",
            )
        return {}, (f"{part} has no weights (.safetensors).", again)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in chosen:
        try:
            shapes |= safetensors_shapes(path)
        except (OSError, ValueError) as error:
            return shapes, (f"{path} is broken: {error}.", again)
    for index in part.glob("*.safetensors.index.json"):
        if (variant is None) != (index.name.count(".") == 3):
            continue
        try:
            wanted = set(_read_json(index).get("weight_map", {}).values())
        except (OSError, ValueError) as error:
            return shapes, (f"{index} cannot be read ({error}).", again)
        absent = sorted(name for name in wanted if not (part / name).is_file())
        if absent:
            return shapes, (f"{part} lacks {', '.join(absent[:3])}{' and more' if len(absent) > 3 else ''}.", again)
    return shapes, None


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file, from its header, checked against the file's length. Reads no weights.

    Raises: ValueError saying what is wrong with the file.
    """
    return read_header(path).shapes


def facts_of(
    folder: Path, configs: Mapping[str, dict], shapes: Mapping[str, tuple[int, ...]], family: FamilyFacts | None
) -> ModelFacts:
    """What is known from the parts' config files (by the part's name), and the shapes of the network's tensors."""
    component = next((name for name in ("unet", "transformer") if name in configs), None)
    geometry = (vae_geometry(str(component)) if family is None else family.geometry)(configs)
    return ModelFacts(
        folder=folder,
        component=component,
        pixels_per_latent=geometry.pixels_per_latent,
        latent_channels=geometry.channels,
        native_resolution=geometry.native_size,
        shapes=shapes,
        cells_per_token=geometry.cells_per_token,
        text=TextCost(512, 4 * 512 * 4096) if family is None else family.text(configs),
        family=family,
    )
