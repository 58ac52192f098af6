"""Settings brought in from elsewhere: a config of ours or of another tool, a LoRA file of ours, another run.

Nothing is taken or left out silently: `Imported` lists what came, from where, what means something else, what was not carried over and why, and
what a person must fill in again. A value of our own file that cannot be used refuses the whole, with every fault; in another tool's file it is
left, with the sentence that says why.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..adapters.header import (
    LARGEST_HEADER,
    PATHS,
    ExportError,
    config_of_header,
    parsed_header,
    read_header,
    read_lora_config,
)
from ..config import DEMO_PREDICTION_TYPES, OPTIONS, RunConfig, config_from_flat, differences
from ..config.options import ConfigError, Fault, did_you_mean, shown
from ..data.scanning import located
from ..formats import NUMBER, WRITTEN_BY, refusal
from ..runs.folder import RunDir
from . import ai_toolkit, diffusers_scripts, elsewhere, kohya, onetrainer, simpletuner
from .contract import Carried, Changed, Importer, Left, Near, settled, without
from .kohya_data import is_dataset
from .reading import TEXT_KINDS, read_file, refused

IMPORTERS: tuple[Importer, ...] = (kohya, ai_toolkit, onetrainer, diffusers_scripts, simpletuner)
"""In the order in which they are tried: several names are in more than one, and SimpleTuner's keys are mostly ours."""


WRITTEN_TO = ("lora_folder", "data_cache_dir")
"""Options that name a folder outside the runs folder which this program writes into: never taken from a file."""
TOLD_ELSEWHERE = ("wandb", "trackio")
"""Choices of `report_to` that tell another program, and that perhaps another computer, how a run goes: never taken from a file either."""
_NOT_TOLD = "a file does not decide whom this computer tells how a run goes; choose it again if you want it"
_NOT_IMPORTED = "a file does not decide where this computer writes; enter it again if you want it"


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
        carried, changed, left: of another program's file, every key in exactly one of them; `left` has also what was off there.
    """

    config: RunConfig
    source: str
    taken: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, Any, str], ...] = ()
    remarks: tuple[str, ...] = ()
    fill_in: tuple[str, ...] = ()
    program: str = ""
    carried: tuple[Carried, ...] = field(default=())
    changed: tuple[Changed, ...] = field(default=())
    left: tuple[Left, ...] = field(default=())

    @property
    def notes(self) -> list[str]:
        """The remarks that `changed` does not say already."""
        said = {each.how for each in self.changed}
        return [remark for remark in self.remarks if remark not in said]

    @property
    def quiet(self) -> list[Left]:
        """What was off there, or changes nothing of what is learned."""
        return [each for each in self.left if each.quiet]


def import_file(
    path: Path, name: str | None = None, along: Mapping[str, Path] | None = None, *, beside: bool = True
) -> Imported:
    """The settings in a file: a config of ours or of another tool, or .safetensors with our header.

    Args:
        path: the file.
        name: as people know it.
        along: name -> path of files that were given with it: a dataset file, concepts, data backends.
        beside: look for such files in its folder, too; not for what a browser sent.

    Raises: ConfigError with every fault.
    """
    name = path.name if name is None else name
    if Path(name).suffix.lower() == ".safetensors":
        return _lora(lambda: _config_of(path, name), name, lambda: read_header(path))
    near = Near(path.parent if beside else None, {} if along is None else along)
    data = read_file(path, name)
    try:
        return _of_data(data, name, near)
    except RecursionError:
        raise refused(name, "is nested too deeply; this is no training config.") from None


def import_files(paths: Mapping[str, Path], *, beside: bool = False) -> Imported:
    """The settings in several files that belong together, by name: the first that is a config, with the others along.

    Raises: ConfigError; of several files that are none, about the first. One before it that cannot be read is among the remarks.
    """
    failed: list[ConfigError] = []
    for name in sorted(paths, key=lambda name: _is_part(paths[name], name)):
        along = {other: path for other, path in paths.items() if other != name}
        try:
            found = import_file(paths[name], name, along, beside=beside)
        except ConfigError as error:
            failed.append(error)
            continue
        return replace(found, remarks=(*found.remarks, *(f"Not read: {error}" for error in failed)))
    raise failed[0] if failed else ConfigError([Fault("No file was given.")])


def _is_part(path: Path, name: str) -> bool:
    """Whether a file is only part of a config: a list, or a dataset file."""
    try:
        data = read_file(path, name)
    except ConfigError:
        return False
    return isinstance(data, list) or is_dataset(data)


def possessive(program: str) -> str:
    """The genitive of a program's name: SimpleTuner's, diffusers'."""
    return f"{program}'" if program.endswith("s") else f"{program}'s"


def import_run(run: RunDir) -> Imported:
    """The settings that a run trained with. Raises ConfigError, RunError."""
    return _ours(run.read_config(), f"the run {run.name}", is_own=True)


def _of_data(data: Any, name: str, near: Near) -> Imported:
    for importer in IMPORTERS:
        each = _flat(data, name) if importer is simpletuner else data
        if importer.looks_like(each):
            return _foreign(importer, each, name, near)
    known = elsewhere.recognised(data)
    if known:
        raise refused(name, known)
    if not isinstance(data, Mapping):
        raise refused(name, 'must be one object, for example {"max_train_steps": 500}.')
    return _ours(_flat(data, name), name)


def _foreign(importer: Importer, data: Any, name: str, near: Near) -> Imported:
    try:
        read = importer.read(data, near)
        for key, why in _outward(read.flat).items():
            read = without(read, key, why)
        config, read = settled(read)
    except ConfigError as error:
        raise ConfigError(
            [
                Fault(fault.message if name in fault.message else f"{name}: {fault.message}", fault.options)
                for fault in error.faults
            ]
        ) from None
    taken = tuple(key for key in OPTIONS if key in read.flat and key not in read.assumed)
    loud = tuple((each.key, each.given, each.why) for each in read.left if not each.quiet)
    remarks = (*dict.fromkeys(each.how for each in read.changed), *read.notes)
    return Imported(
        config, f"{possessive(read.program)} {name}", taken, read.assumed, loud, remarks, read.fill_in, read.program, read.carried, read.changed, read.left
    )  # fmt: skip


def _flat(data: Any, name: str) -> Any:
    """A flat config without dashes before its keys, and out of the object that may be around it; other data as it is."""
    if not isinstance(data, Mapping):
        return data
    if isinstance(data.get("config"), Mapping):
        data = {**data["config"], **{key: value for key, value in data.items() if key == "_metadata"}}
    flat = {str(key).removeprefix("--"): value for key, value in data.items()}
    if len(flat) < len(data):
        twice = next(key for key in flat if key in data and f"--{key}" in data)
        raise ConfigError([Fault(f"{name}: Option '{twice}' is given twice, once as '--{twice}'; keep one.", (twice,))])
    return flat


def import_path(typed: str) -> Imported:
    """The settings in a file on this computer, by the path that a person typed or pasted. Of a LoRA only the header is read."""
    written = typed.strip().strip('"')  # Windows' "Copy as path" puts quotation marks around it
    if not written:
        raise ConfigError([Fault("Enter the path of a config.json or a LoRA file on this computer.")])
    path = Path(written).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file on this computer"
        raise ConfigError(
            [Fault(f"{written}: {what}; name a config ({', '.join(TEXT_KINDS)}) or a .safetensors file.")]
        )
    return import_file(path)


def import_header(text: Any, name: Any) -> Imported:
    """The settings in a LoRA file of which only the header's text is at hand, because the file stayed where it is."""
    name = name[:200] if isinstance(name, str) else "the file"
    if not isinstance(text, str) or len(text) > LARGEST_HEADER:
        raise ConfigError([Fault(f"{name}: its header was not sent as text.")])
    return _lora(lambda: config_of_header(parsed_header(text, name), name), name, lambda: parsed_header(text, name))


def _lora(read: Callable[[], dict[str, Any] | None], name: str, header: Callable[[], Mapping[str, Any]]) -> Imported:
    try:
        flat = read()
    except ExportError as error:
        raise ConfigError([Fault(str(error))]) from None
    if flat is None:
        metadata = header().get("__metadata__")
        tool = elsewhere.writer_of(metadata) if isinstance(metadata, Mapping) else ""
        remedy = f" It was written by {tool}; bring the config that it was trained with." if tool else ""
        raise ConfigError(
            [
                Fault(
                    f"{name}: carries no settings of Rollout Studio; only LoRA files that were trained here do.{remedy}"
                )
            ]
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


def _ours(flat: Mapping[str, Any], source: str, *, is_own: bool = False) -> Imported:
    """A flat mapping of our own options. Keys of another version are left out and listed; of a file, which may be somebody else's
    (`is_own` false), also those that would have this computer write somewhere."""
    newer = refusal("settings", flat.get(NUMBER), flat.get(WRITTEN_BY))
    if newer is not None:
        raise ConfigError([Fault(f"{source} {newer}")])
    known = {key: value for key, value in flat.items() if key in OPTIONS}
    unknown = tuple(
        (key, flat[key], unknown_key(key)) for key in flat if key not in OPTIONS and not key.startswith("_")
    )
    if not is_own:
        unknown += tuple((key, known.pop(key), why) for key, why in _outward(known).items())
    if not known:
        near = f" Unknown: {', '.join(key[:60] for key, _, _ in unknown[:5])}." if unknown else ""
        raise ConfigError([Fault(f"{source}: holds none of the {len(OPTIONS)} settings.{near}")])
    return Imported(config_from_flat(known), source, tuple(known), (), unknown)


def _outward(flat: Mapping[str, Any]) -> dict[str, str]:
    """What a file may not decide, with the reason: where this computer writes, and whom it tells."""
    found = {key: _NOT_IMPORTED for key in WRITTEN_TO if flat.get(key) is not None}
    return found | ({"report_to": _NOT_TOLD} if flat.get("report_to") in TOLD_ELSEWHERE else {})


def unknown_key(key: str) -> str:
    return f"there is no such option.{did_you_mean(key, OPTIONS)}"


def summary(imported: Imported) -> str:
    """What was imported, in one sentence."""
    changed = len(differences(imported.config))
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


def short_key(key: str) -> str:
    """A key without the way to ai-toolkit's process, which every key of it has."""
    return re.sub(r"^config\.process\[\d+\]\.", "", key)[:80]
