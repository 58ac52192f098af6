"""The pictures of kohya_ss: folders named "10_sks dog", and the dataset TOML of sd-scripts with its datasets and subsets."""

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from ..config.options import ConfigError
from .contract import Near
from .counting import Folder, count, repeated_folders, repeats_and_caption, share_words, shares, shares_of
from .reading import read_file
from .sheet import Sheet, is_off, is_on, number, whole
from .words import ONE_FOLDER, place_resolution, place_things, things_of


def is_dataset(data: Any) -> bool:
    """Whether this is a dataset file: a list of datasets with subsets."""
    sets = data.get("datasets") if isinstance(data, Mapping) else None
    return isinstance(sets, list) and any(
        isinstance(each, Mapping) and isinstance(each.get("subsets"), list) for each in sets
    )


def flattened(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Its arguments without the section names of a TOML file, which mean nothing there; and name -> the key with its section."""
    flat: dict[str, Any] = {}
    written: dict[str, str] = {}
    for key, value in data.items():
        is_section = (
            isinstance(value, Mapping) and bool(value) and not any(isinstance(each, Mapping) for each in value.values())
        )
        for name, each in (value if is_section else {key: value}).items():
            path = f"{key}.{name}" if is_section else key
            name = path if name in flat else name
            flat[name], written[name] = each, path
    return flat, written


def dataset_beside(flat: Mapping[str, Any], near: Near) -> dict[str, Any]:
    """The dataset file that a config names, under `datasets` and `general`, where it lies beside it or was given along."""
    path = near.find_file(flat.get("dataset_config"))
    if path is None:
        return {}
    try:
        data = read_file(path, path.name)
    except (ConfigError, tomllib.TOMLDecodeError):  # the key then says that it was not read
        return {}
    return {key: data[key] for key in ("general", "datasets") if key in data} if is_dataset(data) else {}


def place_folders(sheet: Sheet, near: Near) -> int:
    """The folders with pictures. Returns pictures x repeats of an epoch, 0 where they cannot be counted."""
    rows = 0
    if any(key.startswith("datasets[") for key in sheet.values):
        sheet.leave("dataset_config", "was read: its keys stand here too", quiet=True)
        rows = place_dataset(sheet, near)
        sheet.reasons(
            {"train_data_dir": "the dataset file decides there", "reg_data_dir": "the dataset file decides there"}
        )
    sheet.reasons(
        {
            "dataset_config": "is the name of another file, which is not beside this one; bring it along, or name the folder with your pictures"
        }
    )
    classes = _class_folders(sheet, near)
    rows = max(rows, _train_data(sheet, near, classes))
    _class_data(sheet, near, classes)
    _captions(sheet, "")
    place_crop(sheet, "")
    sheet.assume("center_crop", True)
    if sheet.flat.get("with_prior_preservation"):
        sheet.carry("prior_loss_weight", "prior_loss_weight")
    sheet.silent(["prior_loss_weight"], why="there are no class pictures")
    for key in ("image_folder", "train_dir"):
        sheet.reasons({key: "belongs to fine-tuning with a metadata file; name the folder with your pictures"})
    sheet.reasons({"dataset_repeats": "belongs to fine-tuning with a metadata file: repeats"})
    return rows


def _train_data(sheet: Sheet, near: Near, classes: list[Folder]) -> int:
    key = "train_data_dir"
    if not sheet.has(key):
        return 0
    written = sheet.get(key)
    path = near.find_folder(written)
    if path is None:
        sheet.leave(
            key,
            "is not set there" if written is None else "is not on this computer; name the folder with your pictures",
            quiet=written is None,
        )
        return 0
    folders = [each for each in repeated_folders(path) if each.pictures]
    if folders:
        return _first(sheet, key, folders, classes)
    own = repeats_and_caption(path.name)
    found = count(path)
    if not found:
        sheet.leave(key, "there are no pictures in it, nor in a sub-folder that is named like 10_sks dog")
        return 0
    options: dict[str, Any] = {"instance_data_dir": str(path)}
    if own is not None:
        options |= _named(own)
        sheet.change(
            key,
            options,
            f'The name "{path.name}" says {own[0]} repeats and the caption "{own[1]}" of pictures without a .txt file.',
        )
        return found * own[0]
    sheet.carry(key, "instance_data_dir", value=str(path))
    return found


def _named(own: tuple[int, str]) -> dict[str, Any]:
    words = {"instance_prompt": own[1]} if own[1] else {}
    return {"repeats": max(1, own[0]), **words}


def _class_folders(sheet: Sheet, near: Near) -> list[Folder]:
    path = near.find_folder(sheet.get("reg_data_dir"))
    return [] if path is None else [each for each in repeated_folders(path) if each.pictures]


def _class_of(caption: str | None, classes: list[Folder]) -> Folder:
    """The class pictures of a thing: those whose caption its own ends with ("sks dog": "dog"), else the first."""
    own = (caption or "").split()
    fits = (each for each in classes if each.caption and own[-len(each.caption.split()) :] == each.caption.split())
    return next(fits, classes[0])


def _class_words(caption: str | None, classes: list[Folder]) -> dict[str, Any]:
    found = _class_of(caption, classes) if classes else None
    if found is None or not found.caption:
        return {}
    return {"class_prompt": found.caption, "class_data_dir": str(found.path), "num_class_images": found.pictures}


def _first(sheet: Sheet, key: str, folders: list[Folder], classes: list[Folder]) -> int:
    first, others = folders[0], folders[1:]
    things = things_of(
        [
            {
                "instance_data_dir": str(each.path),
                **_named((share, each.caption or "")),
                **_class_words(each.caption, classes),
            }
            for each, share in zip(others, _shares(folders)[1:], strict=True)
        ]
    )
    repeats = _shares(folders)[0] if things else first.repeats
    options = {"instance_data_dir": str(first.path), **_named((repeats, first.caption or "")), **things}
    how = f'The folder "{first.path.name}" in it: {first.pictures} pictures, {first.repeats} repeats, and the caption "{first.caption}" of those without a .txt file.'
    names = ", ".join(folder.path.name for folder in others[:5]) + (" and more" if len(others) > 5 else "")
    if things:
        how += f" Further things of the run: {names}. Here a thing comes as often as its repeats say, so they are pictures x repeats of its folder."
    elif others:
        how += f" Not taken: {names}; {ONE_FOLDER}."
    sheet.change(key, options, how)
    return sum(each.pictures * each.repeats for each in (folders if things else [first]))


def _shares(folders: list[Folder]) -> list[int]:
    return shares([each.pictures * max(1, each.repeats) for each in folders])


def _class_data(sheet: Sheet, near: Near, classes: list[Folder]) -> None:
    key = "reg_data_dir"
    if not sheet.has(key):
        return
    path = near.find_folder(sheet.get(key))
    if path is None:
        off = is_off(sheet.get(key))
        sheet.leave(
            key,
            "is not set there"
            if off
            else "is not on this computer; name the folder with the class pictures: class_data_dir",
            quiet=off,
        )
        return
    first = _class_of(sheet.flat.get("instance_prompt"), classes) if classes else Folder(path, 0)
    chosen, caption = first.path, first.caption
    options: dict[str, Any] = {"class_data_dir": str(chosen), "with_prior_preservation": True}
    if caption:
        options["class_prompt"] = caption
        options["num_class_images"] = first.pictures
    else:
        sheet.note("Class pictures need class_prompt here; fill it in.")
    sheet.change(
        key,
        options,
        "Class pictures are rows of their own there; here each step has as many of them as instance pictures, so it is twice as long.",
    )


def place_crop(sheet: Sheet, prefix: str) -> None:
    """Without `random_crop` it crops from the middle; we do that with `center_crop`."""
    key, middle = f"{prefix}random_crop", is_off(sheet.get(f"{prefix}random_crop"))
    if sheet.gave("center_crop"):
        sheet.leave(key, "is set more closely", quiet=True)
    sheet.change(
        key,
        {"center_crop": middle},
        f"Pictures are cropped from {'the middle' if middle else 'a place drawn once per picture'}: center_crop {str(middle).lower()}.",
    )


def _captions(sheet: Sheet, prefix: str) -> None:
    key = f"{prefix}caption_extension"
    if not sheet.has(key):
        return
    given = sheet.get(key)
    if given is None:
        sheet.leave(key, "is not set there", quiet=True)
    elif str(given).strip().lstrip(".").lower() == "txt":
        sheet.carry(key, "caption_strategy", value="textfile")
    else:
        sheet.leave(
            key, "captions are .txt files beside the pictures here; where there are none, instance_prompt is used"
        )


_SUBSET_REASONS = {
    "conditioning_data_dir": "masks lie beside the pictures here, as name-mask.png; see masked_training", "metadata_file": "a metadata file is not read; captions are .txt files beside the pictures here",
    "shuffle_caption": "captions are taken as they are written here", "keep_tokens": "captions are taken as they are written here",
    "keep_tokens_separator": "captions are taken as they are written here", "secondary_separator": "captions are taken as they are written here",
    "enable_wildcard": "captions are taken as they are written here", "caption_prefix": "captions are taken as they are written here; see trigger_word",
    "caption_suffix": "captions are taken as they are written here", "caption_tag_dropout_rate": "captions are taken as they are written here",
    "caption_dropout_every_n_epochs": "a share of the rows has no caption here", "color_aug": "colours are not changed here", "face_crop_aug_range": "faces are not looked for here",
    "bucket_no_upscale": "small pictures are enlarged here; the check names them", "min_bucket_reso": "sides of the shapes follow the resolution here",
    "max_bucket_reso": "sides of the shapes follow the resolution here", "token_warmup_min": "captions are taken as they are written here",
    "token_warmup_step": "captions are taken as they are written here", "alpha_mask": "see masked_training: transparency is the mask of a picture that has none beside it", "validation_split": "see drift_holdout_images",
    "validation_seed": "see drift_holdout_images",
}  # fmt: skip


def place_dataset(sheet: Sheet, near: Near) -> int:
    """The datasets: the first subset that is no class folder, and the first that is one; subset before dataset before general."""
    subsets = sorted(
        {match[0] for key in sheet.values if (match := re.match(r"datasets\[(\d+)\]\.subsets\[(\d+)\]\.", key))},
        key=_numbers,
    )
    mine = next((each for each in subsets if is_off(sheet.get(each + "is_reg"))), None)
    theirs = next((each for each in subsets if is_on(sheet.get(each + "is_reg"))), None)
    further = [
        place
        for place in subsets
        if place != mine and is_off(sheet.get(place + "is_reg")) and near.find_folder(sheet.get(place + "image_dir"))
    ]
    rows = [_rows(sheet, near, place) for place in (mine, *further) if place is not None]
    weights = shares_of(rows)
    if mine is not None:
        _subset(sheet, near, mine, weights[0] if weights else None)
        for place in (mine, mine.partition(".")[0] + ".", "general."):
            _sizes(sheet, place)
    if theirs is not None:
        _class_subset(sheet, near, theirs)
    place_things(
        sheet,
        [_thing(sheet, near, place, weights[number] if weights else None) for number, place in enumerate(further, 1)],
    )
    for key in sheet.open("datasets["):
        taken = mine is not None and key.startswith(mine.partition(".")[0] + ".")
        if not (taken and (key.startswith(mine) or ".subsets[" not in key)):
            off = is_off(sheet.get(key))
            sheet.leave(key, "is off there" if off else ONE_FOLDER, quiet=off)
    return sum(rows) if rows and rows[0] else 0


def _numbers(place: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", place)]


def _repeats(sheet: Sheet, place: str) -> int:
    """How often its pictures come in an epoch: once where that is not said."""
    return max(1, whole(sheet.get(place + "num_repeats", 1)) or 1)


def _rows(sheet: Sheet, near: Near, place: str) -> int:
    path = near.find_folder(sheet.get(place + "image_dir"))
    return count(path) * _repeats(sheet, place) if path is not None else 0


def _subset(sheet: Sheet, near: Near, place: str, share: int | None) -> None:
    """The first set. `share`: how often it comes beside further ones, None without or where that is not known."""
    path = near.find_folder(sheet.get(place + "image_dir"))
    if path is not None and share is not None:
        options = {"instance_data_dir": str(path), "repeats": share}
        sheet.change(place + "image_dir", options, share_words(_repeats(sheet, place), share))
        sheet.leave(place + "num_repeats", "is in the share of its folder", quiet=True)
    elif path is not None:
        sheet.carry(place + "image_dir", "instance_data_dir", value=str(path))
    sheet.leave(place + "image_dir", "is not on this computer; name the folder with your pictures")
    sheet.carry(place + "num_repeats", "repeats")
    sheet.carry(place + "class_tokens", "instance_prompt")
    sheet.silent([place + "is_reg"], why="is off there")


def _thing(sheet: Sheet, near: Near, place: str, share: int | None) -> tuple[list[str], dict[str, Any]]:
    table = {"image_dir": ("instance_data_dir", str(near.find_folder(sheet.get(place + "image_dir")))), "class_tokens": ("instance_prompt", sheet.get(place + "class_tokens")),
             "num_repeats": ("repeats", whole(sheet.get(place + "num_repeats")))}  # fmt: skip
    given = {key: pair for key, pair in table.items() if pair[1] is not None}
    repeats = _repeats(sheet, place) if share is None else share
    return [place + key for key in given], {**dict(given.values()), "repeats": repeats}


def _class_subset(sheet: Sheet, near: Near, place: str) -> None:
    path = near.find_folder(sheet.get(place + "image_dir"))
    if path is None:
        sheet.leave(
            place + "image_dir", "is not on this computer; name the folder with the class pictures: class_data_dir"
        )
        sheet.leave(place + "is_reg", "its folder is not on this computer")
    else:
        sheet.carry(place + "image_dir", "class_data_dir", value=str(path))
        sheet.change(
            place + "is_reg",
            {"with_prior_preservation": True},
            "Here each step has as many class pictures as instance pictures, so it is twice as long.",
        )
    sheet.carry(place + "class_tokens", "class_prompt")
    sheet.reasons({"num_repeats": "class pictures are drawn evenly here"}, place)


def _sizes(sheet: Sheet, place: str) -> None:
    for key, option in (("batch_size", "train_batch_size"), ("enable_bucket", "aspect_buckets"), ("bucket_reso_steps", "bucket_step"), ("flip_aug", "random_flip"),
                        ("caption_dropout_rate", "caption_dropout_probability")):  # fmt: skip
        if sheet.gave(option):
            sheet.leave(place + key, f"{option} is set more closely", quiet=True)
        sheet.carry(place + key, option)
    if sheet.gave("resolution"):
        sheet.leave(place + "resolution", "resolution is set more closely", quiet=True)
    if sheet.has(place + "resolution"):
        place_resolution(sheet, place + "resolution")
    if sheet.has(place + "random_crop"):
        place_crop(sheet, place)
    if sheet.gave("caption_strategy"):
        sheet.leave(place + "caption_extension", "is set more closely", quiet=True)
    _captions(sheet, place)
    sheet.silent_at({"min_bucket_reso": (256,), "max_bucket_reso": (1024, 2048)}, place)
    sheet.reasons(_SUBSET_REASONS, place)
    if number(sheet.get(place + "network_multiplier")) == 1:
        sheet.silent([place + "network_multiplier"])
