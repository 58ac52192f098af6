"""Settings brought in from elsewhere: a config.json (ours, SimpleTuner's, or a diffusers script's), a LoRA file of ours, another run.

Nothing is taken or left out silently: `Imported` lists what came, from where, what was not carried over and why,
and what a person must fill in again. A value that cannot be used refuses the whole, with every fault; an unknown key is only listed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.header import LARGEST_HEADER, PATHS, ExportError, config_of_header, parsed_header, read_lora_config
from ..config import DEMO_PREDICTION_TYPES, OPTIONS, RunConfig, config_from_flat, config_to_flat, read_flat
from ..config.options import ConfigError, Fault, did_you_mean, shown
from ..data.scanning import located
from ..runs.folder import RunDir
from ..sizes import size
from . import diffusers_scripts, simpletuner

PROGRAMS = {"diffusers": diffusers_scripts, "SimpleTuner": simpletuner}
"""Whose files are read with their own meaning, in the order in which they are tried: several names are in both."""
LARGEST_JSON = 512 * 1024  # bytes; a config with long prompts has some ten thousand


@dataclass(frozen=True)
class Imported:
    """What was brought in.

    Args:
        config: all settings as they are now; what the source does not set has its default.
        source: what it was, in words: "the LoRA file cat.safetensors".
        taken: flat names that the source gave.
        assumed: flat names that the source left to its own program's default, which differs from ours.
        left_out: (key, value, why) of what was not carried over.
        remarks: what means something else there.
        fill_in: flat names that a person must give again.
        program: the other program that the file is of, if any: "SimpleTuner".
    """

    config: RunConfig
    source: str
    taken: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, Any, str], ...] = ()
    remarks: tuple[str, ...] = ()
    fill_in: tuple[str, ...] = ()
    program: str = ""


def import_file(path: Path, name: str | None = None) -> Imported:
    """The settings in a file: .json, or .safetensors with our header. `name`: as people know it.

    Raises: ConfigError with every fault.
    """
    name = path.name if name is None else name
    kind = Path(name).suffix.lower()
    if kind == ".safetensors":
        return _lora(lambda: _config_of(path, name), name)
    if kind == ".json":
        return _json(path, name)
    raise ConfigError(
        [Fault(f"{name}: is neither a config.json nor a LoRA file; choose one that ends in .json or .safetensors.")]
    )


def possessive(program: str) -> str:
    """The genitive of a program's name: SimpleTuner's, diffusers'."""
    return f"{program}'" if program.endswith("s") else f"{program}'s"


def import_run(run: RunDir) -> Imported:
    """The settings that a run trained with. Raises ConfigError, RunError."""
    return _ours(run.read_config(), f"the run {run.name}")


def _json(path: Path, name: str) -> Imported:
    count = path.stat().st_size
    if count > LARGEST_JSON:
        raise ConfigError(
            [
                Fault(
                    f"{name}: has {size(count)}, and a config.json at most {size(LARGEST_JSON)}; this is another kind of file."
                )
            ]
        )
    try:
        written = read_flat(path)
    except ConfigError as error:
        # The path is where the page put the upload; people know the file by its name.
        raise ConfigError(
            [Fault(fault.message.replace(str(path), name), fault.options) for fault in error.faults]
        ) from None
    flat = {str(key).removeprefix("--"): value for key, value in written.items() if not str(key).startswith("_")}
    if len(flat) < sum(not str(key).startswith("_") for key in written):
        config_from_flat(written)  # a key bare and with dashes: refused there, with its name
    for program, language in PROGRAMS.items():
        if language.is_one(flat):
            read = language.translated(flat)
            config = config_from_flat(read.flat)
            return Imported(
                config,
                f"{possessive(program)} {name}",
                read.taken,
                read.assumed,
                read.left_out,
                read.remarks,
                read.fill_in,
                program,
            )
    return _ours(flat, name)


def import_path(typed: str) -> Imported:
    """The settings in a file on this computer, by the path that a person typed or pasted. Of a LoRA only the header is read."""
    written = typed.strip().strip('"')  # Windows' "Copy as path" puts quotation marks around it
    if not written:
        raise ConfigError([Fault("Enter the path of a config.json or a LoRA file on this computer.")])
    path = Path(written).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file on this computer"
        raise ConfigError([Fault(f"{written}: {what}; name a .json or .safetensors file.")])
    return import_file(path)


def import_header(text: Any, name: Any) -> Imported:
    """The settings in a LoRA file of which only the header's text is at hand, because the file stayed where it is."""
    name = name[:200] if isinstance(name, str) else "the file"
    if not isinstance(text, str) or len(text) > LARGEST_HEADER:
        raise ConfigError([Fault(f"{name}: its header was not sent as text.")])
    return _lora(lambda: config_of_header(parsed_header(text, name), name), name)


def _lora(read: Callable[[], dict[str, Any] | None], name: str) -> Imported:
    try:
        flat = read()
    except ExportError as error:
        raise ConfigError([Fault(str(error))]) from None
    if flat is None:
        raise ConfigError(
            [Fault(f"{name}: carries no settings of Rollout Studio; only LoRA files that were trained here do.")]
        )
    gone = {key: flat[key] for key in PATHS if isinstance(flat.get(key), str) and not _can_be_found(key, flat[key])}
    kept = {key: value for key, value in flat.items() if key not in gone or key == "pretrained_model_name_or_path"}
    found = _ours(kept, f"the LoRA file {name}")
    why = "a LoRA file keeps only the last part of a path, and there is nothing of that name here"
    return Imported(
        found.config, found.source, found.taken, (), (*found.left_out, *((key, value, why) for key, value in gone.items() if key not in kept)),
        fill_in=tuple(key for key in (*gone, *_unpublished(flat)) if key not in ("data_cache_dir", "drift_data_dir", "lora_folder")),
    )  # fmt: skip


def _unpublished(flat: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run needs and its file does not name, because its folders were not to be published."""
    needed = ("pretrained_model_name_or_path", "instance_data_dir")
    return tuple(key for key in needed if key not in flat) if flat.get("publish_folders") is False else ()


def _config_of(path: Path, name: str) -> dict[str, Any] | None:
    try:
        return read_lora_config(path)
    except ExportError as error:  # the path is where the page put the upload; people know the file by its name
        raise ExportError(str(error).replace(str(path), name)) from None


def _can_be_found(key: str, value: str) -> bool:
    """Whether a LoRA file's path still leads somewhere: a built-in name, a hub id, or a folder that is there."""
    if key == "pretrained_model_name_or_path":
        return value in DEMO_PREDICTION_TYPES or value.count("/") == 1 or Path(value).is_dir()
    return located(value).is_dir()


def _ours(flat: Mapping[str, Any], source: str) -> Imported:
    """A flat mapping of our own options. Keys of another version are left out and listed."""
    known = {key: value for key, value in flat.items() if key in OPTIONS}
    unknown = tuple(
        (key, flat[key], unknown_key(key)) for key in flat if key not in OPTIONS and not key.startswith("_")
    )
    if not known:
        near = f" Unknown: {', '.join(key[:60] for key, _, _ in unknown[:5])}." if unknown else ""
        raise ConfigError([Fault(f"{source}: holds none of the {len(OPTIONS)} settings.{near}")])
    return Imported(config_from_flat(known), source, tuple(known), (), unknown)


def unknown_key(key: str) -> str:
    return f"there is no such option.{did_you_mean(key, OPTIONS)}"


def summary(imported: Imported) -> str:
    """What was imported, in one sentence."""
    changed = sum(config_to_flat(imported.config)[name] != config_to_flat(RunConfig())[name] for name in OPTIONS)
    number = len(imported.taken)
    words = f"{number} setting{'' if number == 1 else 's'} imported from {imported.source}"
    if imported.assumed:
        words += f", and {len(imported.assumed)} that it leaves to {possessive(imported.program)} defaults"
    left = len(imported.left_out)
    words += f"; {left} left out" if left else ""
    return f"{words}. {changed} now differ from the defaults."


def shown_value(value: Any, longest: int = 60) -> str:
    """A value as a person would write it, cut where it is long."""
    whole = shown(value)
    return whole if len(whole) <= longest else f"{whole[:longest]}…"
