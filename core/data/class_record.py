"""How the generated pictures of a class folder were made: a file beside them, so that pictures of two models or prompts are not mixed unseen.

`class-pictures.json` lists, for each group of settings, the pictures made with them. A folder without it holds pictures from
elsewhere, about which nothing is claimed. Importing this costs no torch.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config import RunConfig, config_to_flat
from ..config.options import shown
from ..findings import Finding

RECORD = "class-pictures.json"
SHOWS = ("pretrained_model_name_or_path", "revision", "variant", "prediction_type", "class_prompt")
"""Options that say what a class picture shows; the others say how finely it is drawn."""
SETTINGS = (
    *SHOWS,
    "resolution",
    "class_sample_steps",
    "class_sample_guidance",
    "seed",
    "base_model_precision",
    "base_model_quantization",
)

Made = list[tuple[dict[str, Any], list[str]]]
"""(settings, names of the pictures made with them), in the order in which they were first used."""


class BadRecord(ValueError):
    """The file is no such record; the text is the reason."""


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the class pictures of a run depend on, by the options' names."""
    flat = config_to_flat(config)
    return {name: flat[name] for name in SETTINGS}


def read_record(folder: Path) -> Made:
    """What is recorded about a folder's pictures, those that are still there; empty where nothing is. Raises: BadRecord."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        made = [(dict(each["settings"]), [str(name) for name in each["pictures"]]) for each in found["made"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRecord(f"{type(error).__name__}: {error}") from error
    there = [(settings, [name for name in names if (folder / name).is_file()]) for settings, names in made]
    return [(settings, names) for settings, names in there if names]


def record_text(made: Made, settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """The record's file with pictures that are about to be written."""
    new = list(names)
    kept = [(had, [name for name in had_names if name not in new]) for had, had_names in made]
    if all(had != settings for had, _ in kept):
        kept.append((dict(settings), []))
    groups = [
        {"settings": had, "pictures": sorted([*names_, *(new if had == settings else [])])} for had, names_ in kept
    ]
    return json.dumps({"version": 1, "made": [each for each in groups if each["pictures"]]}, indent=1) + "\n"


def record_findings(folder: Path, config: RunConfig, missing: int) -> list[Finding]:
    """Whether the recorded pictures of a folder are those that this config would make; `missing` more will be.

    An error where pictures of another model or prompt would get new ones beside them; a warning where they are merely used, and where
    they were drawn otherwise (resolution, steps, guidance, seed, precision).
    """
    try:
        made = read_record(folder)
    except BadRecord as error:
        return [
            Finding(
                "warning",
                str(folder / RECORD),
                f"cannot be read ({error}), so how the class pictures beside it were made is not known.",
                "Delete it; if they are of another model or prompt, delete them too.",
                "class-record-damaged",
            )
        ]
    now, findings = settings_of(config), []
    for settings, names in made:
        differs = [name for name in SETTINGS if settings.get(name) != now[name]]
        of_another = any(name in SHOWS for name in differs)
        if not differs or not (of_another or missing > 0):
            continue
        how = "; ".join(f"{name} was {shown(settings.get(name))}, is {shown(now[name])}" for name in differs)
        message = f"{len(names)} picture{'' if len(names) == 1 else 's'} in {folder} {'was' if len(names) == 1 else 'were'} made otherwise: {how}."
        if of_another and missing > 0:
            findings.append(
                Finding(
                    "error",
                    "class_data_dir",
                    f"{message} {missing} more would be mixed with them.",
                    f"Name another folder (it may be new), put these settings back, or empty this one. If they show the same all the same (a "
                    f"model that was moved), delete {RECORD} in it.",
                    "class-pictures-of-another",
                )
            )
        elif of_another:
            findings.append(
                Finding(
                    "warning",
                    "class_data_dir",
                    f"{message} They are trained on as they are.",
                    "Name another folder to have others made, if these do not show what this model makes of the class prompt.",
                    "class-pictures-of-another",
                )
            )
        else:
            findings.append(
                Finding(
                    "warning",
                    "class_data_dir",
                    f"{message} {missing} more will be made beside them.",
                    "Name another folder if they should all be alike.",
                    "class-pictures-mixed",
                )
            )
    return findings
