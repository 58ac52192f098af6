"""A person's own presets: small JSON files like those in `presets/`, in the folder `.presets` beside the runs.

    <runs>/.presets/<name>.json     {"_metadata": {"title", "description", "needs"}, "learning_rate": 0.001, ...}

The page and the command line see the same ones, wherever they were written. A broken file is reported and skipped; it takes
nothing else with it.
"""

import json
import os
from pathlib import Path

from .. import names, platform_calls
from ..formats import remarks
from ..sizes import size
from .flat import RunConfig, differences
from .options import ConfigError, Fault, did_you_mean
from .presets import Preset, preset_names, read_preset

FOLDER = ".presets"
LONGEST_TITLE = 80
LARGEST_FILE = 512 * 1024  # bytes; a config with long prompts has some ten thousand


def folder_of(runs_dir: Path) -> Path:
    """Where the own presets of a runs folder lie."""
    return runs_dir / FOLDER


def own_presets(runs_dir: Path) -> tuple[list[Preset], dict[Path, str]]:
    """(the presets that can be used, by title; for every broken file what is wrong with it)."""
    found, broken = [], {}
    folder = folder_of(runs_dir)
    for path in sorted(folder.glob("*.json")) if os.path.isdir(folder) else []:
        if path.name.startswith(".") or not path.is_file():  # one that is being written; what is no file at all
            continue
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ConfigError([Fault(f"{path}: is larger than {size(LARGEST_FILE)}; no preset is.")])
            if path.stem.casefold() in _shipped():
                raise ConfigError([Fault(f"{path}: has the name of a preset that comes along; rename the file.")])
            preset = read_preset(str(path))
            preset.config()
        except (ConfigError, OSError) as error:
            broken[path] = str(error)
        else:
            found.append(preset)
    return sorted(found, key=lambda preset: (preset.title.casefold(), preset.name)), broken


def find_preset(name: str, runs_dir: Path) -> Preset:
    """A preset by its name: one that comes along, else a person's own.

    Raises ConfigError for an unknown name (with the nearest one) and for a broken file.
    """
    if name.casefold() in _shipped():
        return read_preset(name)
    found, broken = own_presets(runs_dir)
    for preset in found:
        if preset.name == name:
            return preset
    for path, wrong in broken.items():
        if path.stem == name:
            raise ConfigError([Fault(wrong)])
    known = [*preset_names(), *(preset.name for preset in found)]
    raise ConfigError([Fault(f"Unknown preset '{name}'.{did_you_mean(name, known)} There are: {', '.join(known)}.")])


def name_for(title: str) -> str:
    """A file's name made from a title; `preset` when the title has no letter or digit that a name may have."""
    return names.slug(title, "preset")


def save_preset(runs_dir: Path, name: str, title: str, config: RunConfig, *, replace: bool = False) -> Preset:
    """Keep what `config` changes from the defaults under `name`; atomic.

    Args:
        title: what the preset's card shows; 1 to 80 characters.
        replace: whether an own preset of that name may be replaced.

    Raises: ConfigError for a name or title that cannot be; `Exists` where there is one of that name and `replace` is false.
    """
    title = title.strip()
    if not 1 <= len(title) <= LONGEST_TITLE or not title.isprintable():
        raise ConfigError(
            [Fault(f"The title must have 1 to {LONGEST_TITLE} characters in one line; it has {len(title)}.")]
        )
    try:
        names.check(name, "preset")
    except names.BadName as error:
        raise ConfigError([Fault(str(error))]) from None
    if name.casefold() in _shipped():
        raise ConfigError([Fault(f"'{name}' is the name of a preset that comes along; take another one.")])
    folder = folder_of(runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # Two names that differ in case only are one file on Windows and macOS.
    same = next((path for path in folder.glob("*.json") if path.stem.casefold() == name.casefold()), None)
    if same is not None and not replace:
        raise Exists(same)
    model = config.model.pretrained_model_name_or_path
    about = {
        "title": title,
        "description": f"Your own settings, kept on this computer. Model: {model}.",
        "needs": "What it names must still be there.",
    }
    text = (
        json.dumps({"_metadata": about, **remarks("settings"), **differences(config)}, indent=2, ensure_ascii=False)
        + "\n"
    )
    if same is not None and same.name != f"{name}.json":
        same.unlink()
    path = folder / f"{name}.json"
    platform_calls.write_atomically(path, text.encode())
    return read_preset(str(path))


def delete_preset(runs_dir: Path, name: str) -> None:
    """Remove an own preset, or a broken file in its folder. Raises ConfigError where there is none of that name."""
    path = next((path for path in folder_of(runs_dir).glob("*.json") if path.stem == name), None)
    if path is None:
        raise ConfigError([Fault(f"There is no preset of your own named '{name}' any more.")])
    path.unlink(missing_ok=True)


class Exists(ConfigError):
    """There is an own preset of that name already, in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__([Fault(f"You have a preset named '{path.stem}' already. Replace it, or take another name.")])


def _shipped() -> set[str]:
    return {name.casefold() for name in preset_names()}
