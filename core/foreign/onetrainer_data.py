"""OneTrainer's concepts and samples: lists inside the config, or in files that it names."""

import re
from typing import Any

from ..config.options import ConfigError
from .contract import Near
from .counting import count, share_words, shares_of
from .reading import read_file
from .sheet import Sheet, is_off, number
from .words import ONE_FOLDER, place_things

_CONCEPT_ROWS = {"image.enable_random_flip": "random_flip"}
_CONCEPT_SILENT = (
    "__version",
    "name",
    "seed",
    "enabled",
    "image_variations",
    "text_variations",
    "concept_stats",
    "include_subdirectories",
    "balancing_strategy",
    "type",
    "loss_weight",
)


def with_files(data: dict[str, Any], near: Near) -> dict[str, Any]:
    """The config with its concepts and samples, where they are files beside it or were given along."""
    out = dict(data)
    for name, key in (("concept_file_name", "concepts"), ("sample_definition_file_name", "samples")):
        path = near.find_file(data.get(name)) if not data.get(key) else None
        try:
            found = read_file(path, path.name) if path is not None else None
        except ConfigError:  # the name of the file then says that it was not read
            continue
        if isinstance(found, list) and found and all(isinstance(each, dict) for each in found):
            out[key] = found
    return out


def place_concepts(sheet: Sheet, near: Near) -> int:
    places = sorted(
        {key[: key.index("]") + 2] for key in sheet.open("concepts[")},
        key=lambda place: int(re.findall(r"\d+", place)[0]),
    )
    if places:
        sheet.silent(["concept_file_name"], why="its concepts stand here too")
    sheet.reasons(
        {
            "concept_file_name": "is the name of another file, which is not beside this one; bring it along, or name the folder with your pictures"
        }
    )
    on = [place for place in places if sheet.get(f"{place}enabled", True) is not False]
    mine = next((place for place in on if str(sheet.get(f"{place}type", "STANDARD")) == "STANDARD"), None)
    held_out = next((place for place in on if str(sheet.get(f"{place}type")) == "VALIDATION"), None)
    further = [
        each
        for each in on
        if each != mine
        and str(sheet.get(f"{each}type", "STANDARD")) == "STANDARD"
        and near.find_folder(sheet.get(f"{each}path"))
    ]
    rows = [_rows(sheet, near, place) for place in (mine, *further) if place is not None]
    weights = shares_of(rows)
    if mine is not None:
        _concept(sheet, near, mine, weights[0] if weights else None)
    if held_out is not None and near.find_folder(sheet.get(f"{held_out}path")) is not None:
        sheet.change(
            f"{held_out}path",
            {"drift_data_dir": str(near.find_folder(sheet.get(f"{held_out}path")))},
            "Pictures for validation are those that drift is measured on here.",
        )
    place_things(
        sheet,
        [_thing(sheet, near, each, weights[number] if weights else None) for number, each in enumerate(further, 1)],
    )
    for place in places:
        for key in sheet.open(place):
            if place not in on:
                sheet.leave(key, "its concept is switched off there", quiet=True)
            off = is_off(sheet.get(key)) or place == mine or not key.endswith(".path")
            sheet.leave(
                key,
                "is off there, or as usual" if off else ONE_FOLDER,
                quiet=off,
            )
    sheet.silent(["concepts"], why="is empty")
    return sum(rows) if rows and rows[0] else 0


def _rows(sheet: Sheet, near: Near, place: str) -> int:
    """Rows of an epoch: pictures x balancing, or balancing itself where that is a number of samples; 0 where it cannot be counted."""
    path, balancing = near.find_folder(sheet.get(f"{place}path")), number(sheet.get(f"{place}balancing")) or 1
    found = count(path) if path is not None else 0
    each = 1 if str(sheet.get(f"{place}balancing_strategy", "REPEATS")) == "SAMPLES" else found
    return max(1, round(each * min(balancing, 1e6))) if found else 0


def _thing(sheet: Sheet, near: Near, place: str, share: int | None) -> tuple[list[str], dict[str, Any]]:
    repeats = number(sheet.get(f"{place}balancing")) or 1
    table = {
        "instance_data_dir": str(near.find_folder(sheet.get(f"{place}path"))),
        "repeats": max(1, round(repeats)) if share is None else share,
    }
    return [key for key in (f"{place}path", f"{place}balancing") if sheet.has(key)], table


def _concept(sheet: Sheet, near: Near, place: str, share: int | None) -> None:
    """The first concept. `share`: how often it comes beside further ones, None without or where that is not known."""
    path = near.find_folder(sheet.get(f"{place}path"))
    if path is not None and share is not None:
        how = share_words(number(sheet.get(f"{place}balancing")) or 1, share)
        sheet.change(f"{place}path", {"instance_data_dir": str(path), "repeats": share}, how)
        sheet.leave(f"{place}balancing", "is in the share of its folder", quiet=True)
    if path is not None:
        sheet.carry(f"{place}path", "instance_data_dir", value=str(path))
    sheet.leave(f"{place}path", "is not on this computer; name the folder with your pictures")
    sheet.rows(_CONCEPT_ROWS, place)
    jitter = sheet.get(f"{place}image.enable_crop_jitter")
    if isinstance(jitter, bool):
        sheet.change(
            f"{place}image.enable_crop_jitter",
            {"center_crop": not jitter},
            f"center_crop is {str(not jitter).lower()}: the same the other way round.",
        )
    source = str(sheet.get(f"{place}text.prompt_source", "sample")).lower()
    sheet.words(
        f"{place}text.prompt_source",
        "caption_strategy",
        {"sample": "textfile", "filename": "filename"},
        "one file with a prompt for all pictures: set instance_prompt",
    )
    if source in ("sample", "filename"):
        sheet.silent([f"{place}text.prompt_path"], why="is used with one prompt for all")
    sheet.reasons({"text.prompt_path": "is the name of another file; set instance_prompt"}, place)
    repeats = number(sheet.get(f"{place}balancing"))
    if str(sheet.get(f"{place}balancing_strategy", "REPEATS")) == "REPEATS" and repeats and repeats >= 1:
        sheet.change(
            f"{place}balancing",
            {"repeats": round(repeats)},
            f"{repeats:g} repeats; with one folder they only make the epoch longer.",
        )
    sheet.leave(f"{place}balancing", "pictures come as often as repeats says here", quiet=repeats == 1)
    for key in sheet.open(f"{place}image.") + sheet.open(f"{place}text."):
        last = key.rpartition(".")[2]
        value = sheet.get(key)
        off = is_off(value) or not last.startswith("enable") and not last.endswith("enable")
        sheet.leave(
            key,
            "is off there, or belongs to what is"
            if off
            else "pictures are only mirrored, and captions taken as they are written here",
            quiet=off,
        )
    sheet.silent(_CONCEPT_SILENT, place)


def place_samples(sheet: Sheet) -> None:
    if sheet.open("samples["):
        sheet.silent(["sample_definition_file_name"], why="its samples stand here too")
    sheet.reasons(
        {"sample_definition_file_name": "is the name of another file, which is not beside this one; paste its prompts"}
    )
    keys = [key for key in sheet.open("samples[") if key.endswith("].prompt") and sheet.get(key)]
    prompts = [
        str(sheet.get(key)) for key in keys if sheet.get(key.replace("].prompt", "].enabled"), True) is not False
    ]
    for key in keys:
        if sheet.get(key) in prompts:
            sheet.change(key, {"validation_prompts": prompts}, "Is one of validation_prompts here.")
        sheet.leave(key, "is switched off there", quiet=True)
    if keys:
        first = keys[0].removesuffix("prompt")
        for key, option in (
            ("negative_prompt", "validation_negative_prompt"),
            ("seed", "validation_seed"),
            ("diffusion_steps", "validation_num_inference_steps"),
            ("cfg_scale", "validation_guidance"),
        ):
            sheet.carry(first + key, option)
    for key in sheet.open("samples["):
        last = key.rpartition(".")[2]
        quiet = last not in ("seed", "diffusion_steps", "cfg_scale") or is_off(sheet.get(key))
        sheet.leave(key, "all samples are drawn alike here, as large as the training pictures", quiet=quiet)
    sheet.silent(["samples"], why="is empty")
