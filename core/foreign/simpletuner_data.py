"""SimpleTuner's data-backend file (a list of data sets), given along with its config or found beside it."""

from collections.abc import Mapping
from typing import Any

from ..config.options import ConfigError
from .contract import Near
from .counting import count, share_words, shares_of
from .reading import read_file
from .sheet import Sheet, is_off, is_on, number, whole
from .words import ONE_FOLDER, place_things

KEY = "data_backend"


def is_backend_file(data: Any) -> bool:
    """Whether this is such a file: a list of objects, each with an id and a type or a folder."""
    return isinstance(data, list) and bool(data) and all(
        isinstance(each, dict) and "id" in each and ({"type", "dataset_type", "instance_data_dir", "caption_strategy"} & set(each)) for each in data
    )  # fmt: skip


def with_backends(data: Mapping[str, Any], near: Near) -> dict[str, Any]:
    """The config, with the entries of its data-backend file under `data_backend` where that is at hand. Nested objects of the config stay whole."""
    out = {key: value for key, value in data.items() if key != KEY}
    path = near.find_file(data.get("data_backend_config"))
    if path is None:
        return out
    try:
        found = read_file(path, path.name)
    except ConfigError:  # its key then says that it was not read
        return out
    return {**out, KEY: found} if is_backend_file(found) else out


def place_backends(sheet: Sheet, near: Near) -> None:
    """The first local set of pictures is carried, the others are left by name."""
    places = list(dict.fromkeys(key[: key.index("]") + 2] for key in sheet.values if key.startswith(f"{KEY}[")))
    if not places:
        return
    sheet.leave("data_backend_config", "was read: its entries stand here too", quiet=True)
    pictures = [place for place in places if _is_pictures(sheet, place)]
    mine = next((place for place in pictures if not is_on(sheet.get(f"{place}is_regularisation_data"))), None)
    further = [each for each in pictures if each != mine and is_off(sheet.get(f"{each}is_regularisation_data"))]
    weights = shares_of([_rows(sheet, near, place) for place in (mine, *further) if place is not None])
    if mine is not None:
        _pictures(sheet, mine, near, weights[0] if weights else None)
    place_things(
        sheet, [_thing(sheet, each, weights[number] if weights else None) for number, each in enumerate(further, 1)]
    )
    for place in places:
        kind = sheet.get(f"{place}dataset_type", "image")
        for key in sheet.open(place):
            if place == mine:
                off = is_off(sheet.get(key)) or key.endswith(
                    (
                        "id",
                        "cache_dir_vae",
                        "cache_dir",
                        "type",
                        "metadata_backend",
                        "preserve_data_backend_cache",
                        "skip_file_discovery",
                    )
                )
                sheet.leave(
                    key,
                    "changes nothing of what is learned" if off else "pictures are prepared as the settings say here",
                    quiet=off,
                )
            elif place in pictures and key.endswith("is_regularisation_data") and is_on(sheet.get(key)):
                sheet.leave(
                    key,
                    "there the frozen model's own prediction is the target of these pictures; class pictures here are trained as they are: see with_prior_preservation",
                )
            else:
                quiet = place not in pictures or not key.endswith(("instance_data_dir", "dataset_name"))
                sheet.leave(
                    key,
                    f"is a set of the kind {kind}" if place not in pictures else ONE_FOLDER,
                    quiet=quiet,
                )


def _repeats(sheet: Sheet, place: str) -> int:
    """How often its pictures come in all; extra repeats there are one less."""
    return max(0, whole(sheet.get(f"{place}repeats", 0)) or 0) + 1


def _rows(sheet: Sheet, near: Near, place: str) -> int:
    path = near.find_folder(sheet.get(f"{place}instance_data_dir"))
    return count(path) * _repeats(sheet, place) if path is not None else 0


def _thing(sheet: Sheet, place: str, share: int | None) -> tuple[list[str], dict[str, Any]]:
    """A further set, under our names."""
    table = {
        key: sheet.get(place + key)
        for key in ("instance_data_dir", "instance_prompt")
        if sheet.get(place + key) is not None
    }
    keys = [place + key for key in (*table, "repeats") if sheet.has(place + key)]
    return keys, {**table, "repeats": _repeats(sheet, place) if share is None else share}


def _is_pictures(sheet: Sheet, place: str) -> bool:
    return (sheet.get(f"{place}dataset_type", "image") == "image" and sheet.get(f"{place}type", "local") == "local" and is_off(sheet.get(f"{place}disabled"))
            and sheet.get(f"{place}instance_data_dir") is not None)  # fmt: skip


def _pictures(sheet: Sheet, place: str, near: Near, share: int | None) -> None:
    """The first set. `share`: how often it comes beside further ones, None without or where that is not known."""
    key = f"{place}instance_data_dir"
    path = near.find_folder(sheet.get(key))
    if sheet.gave("instance_data_dir"):
        sheet.leave(key, "instance_data_dir is set in the config", quiet=True)
    if share is not None:
        options = {"instance_data_dir": str(path), "repeats": share}
        sheet.change(key, options, share_words(_repeats(sheet, place), share))
        sheet.leave(f"{place}repeats", "is in the share of its folder", quiet=True)
    sheet.carry(key, "instance_data_dir", value=str(path) if path is not None else sheet.get(key))
    sheet.words(f"{place}caption_strategy", "caption_strategy", {"textfile": "textfile", "instanceprompt": "instanceprompt", "filename": "filename"},
                "captions come from .txt files, names or instance_prompt here")  # fmt: skip
    sheet.carry(f"{place}instance_prompt", "instance_prompt")
    if is_on(sheet.get(f"{place}only_instance_prompt")):
        if sheet.flat.get("caption_strategy") not in (None, "instanceprompt"):
            sheet.leave(f"{place}only_instance_prompt", "set caption_strategy to instanceprompt")
        sheet.change(
            f"{place}only_instance_prompt",
            {"caption_strategy": "instanceprompt"},
            "Every picture has instance_prompt as its caption.",
        )
    sheet.reasons({"prepend_instance_prompt": "captions are taken as they are written here"}, place)
    repeats = whole(sheet.get(f"{place}repeats"))
    if repeats is not None:
        sheet.change(
            f"{place}repeats", {"repeats": repeats + 1}, f"{repeats} extra repeats are {repeats + 1} times in all."
        )
    style = str(sheet.get(f"{place}crop_style", "random")).lower()
    if is_on(sheet.get(f"{place}crop")) and style in ("center", "centre", "random", "corner"):
        sheet.change(
            f"{place}crop_style",
            {"center_crop": style.startswith("cent")},
            f"Pictures are cropped from {'the middle' if style.startswith('cent') else 'a place drawn once per picture'}.",
        )
    sheet.reasons({"crop_style": "pictures are cropped from the middle or a place drawn once per picture here"}, place)
    aspect = str(sheet.get(f"{place}crop_aspect", "")).lower()
    if aspect:
        sheet.change(
            f"{place}crop_aspect",
            {"aspect_buckets": aspect != "square"},
            f"{aspect}: aspect_buckets {str(aspect != 'square').lower()}.",
        )
    sheet.leave(f"{place}crop", "what is left over of a bucket is always cropped here", quiet=True)
    _resolution(sheet, place)
    sheet.silent_at({"probability": (1, 1.0)}, place)


def _resolution(sheet: Sheet, place: str) -> None:
    key = f"{place}resolution"
    size, kind = number(sheet.get(key)), str(sheet.get(f"{place}resolution_type", "pixel_area"))
    if size is not None and kind == "area":
        side = round((size * 1_000_000) ** 0.5)
        sheet.change(key, {"resolution": side}, f"{size:g} megapixels are a square of {side} px.")
    elif size is not None:
        sheet.carry(key, "resolution", value=round(size))
    sheet.leave(key, "is not set there", quiet=True)
    sheet.reasons(
        {"resolution_type": "pictures are always scaled to an area here, given as the side of a square"}
        if kind not in ("pixel_area", "pixel area", "area")
        else {},
        place,
    )
    sheet.silent([f"{place}resolution_type"], why="is read with resolution")
    sheet.reasons(
        {
            "minimum_image_size": "small pictures are reported by the check here",
            "maximum_image_size": "large pictures are scaled down here",
            "target_downsample_size": "large pictures are scaled down here",
        },
        place,
    )
