"""Further things that a run learns beside its first: the option `concepts`, a JSON list of tables, or a file that holds one.

    "concepts": [{"instance_data_dir": "cat", "instance_prompt": "a photo of qrx cat", "trigger_word": "qrx", "class_prompt": "a photo of a cat"}]

A table has the fields of `Concept`; the four of diffusers' `concepts_list` files have their names there. What a table leaves out of
`caption_strategy`, `num_class_images` and `repeats` is as the run's own options have it; words and folders are each thing's own.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from ..names import is_elsewhere
from .options import Checked, ConfigError, Fault, did_you_mean, option, options_of, shown

OPTION = "concepts"
LARGEST_FILE = 2**20
"""Bytes of a file with concepts; more is no list of folders and words."""
MOST = 100


@dataclass(frozen=True, kw_only=True)
class Concept(Checked):
    """One further thing: its pictures, its words, its class pictures, and how often it comes."""

    title: ClassVar[str] = "Concept"

    instance_data_dir: str | None = option(None, "Folder with the pictures of this thing.")
    instance_prompt: str | None = option(None, "Caption for every picture without one of its own.")
    trigger_word: str | None = option(None, "The rare word that will mean this thing.")
    caption_strategy: Literal["textfile", "instanceprompt", "filename"] | None = option(
        None, "Where its captions come from; unset = as the run's option."
    )
    class_prompt: str | None = option(None, "Caption of its class pictures; prior preservation needs it.")
    class_data_dir: str | None = option(None, "Folder with its class pictures; unset = a folder in the cache.")
    num_class_images: int | None = option(
        None, "Its class pictures wanted; unset = as the run's option.", unit="pictures", ge=1, le=100_000
    )
    repeats: int | None = option(None, "Its share of the rows beside those of the other things; unset = as the run's option.", unit="times", ge=1, le=10_000)  # fmt: skip

    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}

    @property
    def name(self) -> str:
        """What it is called in messages: its trigger word, else the last part of its folder."""
        if self.trigger_word is not None and self.trigger_word.strip():
            return " ".join(self.trigger_word.split())
        return "" if self.instance_data_dir is None else PurePath(self.instance_data_dir.replace("\\", "/")).name


@functools.lru_cache(maxsize=64)
def concepts_of(text: str | None) -> tuple[Concept, ...]:
    """The concepts in the option's value, as `read_concepts` gave it."""
    return () if text is None else tuple(Concept(**table) for table in json.loads(text))


def entry(number: int, concept: Concept) -> str:
    """How messages call the concept at a place, counted from 0: `concepts, entry 2 (qrx)`."""
    return f"{OPTION}, entry {number + 1}{f' ({concept.name})' if concept.name else ''}"


def read_concepts(value: Any) -> str | None:
    """The option's value in its canonical form: JSON text with the set fields in their order; None for an empty list.

    Args:
        value: a list of tables (a config file), JSON text of one, or the path of a JSON file that holds one.
    Raises: ConfigError with every fault, each naming entry and field.
    """
    tables = _loaded(value) if isinstance(value, str) else value
    if isinstance(tables, Mapping):
        tables = [tables]
    if not isinstance(tables, list | tuple):
        raise _wrong(
            f'{OPTION} = {shown(value)}: must be a list of tables, for example [{{"instance_data_dir": "cat"}}].'
        )
    if len(tables) > MOST:
        raise _wrong(f"{OPTION}: has {len(tables)} entries; at most {MOST} things are learned in one run.")
    faults: list[Fault] = []
    found = [_read_one(number, table, faults) for number, table in enumerate(tables)]
    if faults:
        raise ConfigError(faults)
    given = [concept.given() for concept in found if concept is not None]
    return json.dumps(given, ensure_ascii=False) if given else None


def _read_one(number: int, table: Any, faults: list[Fault]) -> Concept | None:
    where = f"{OPTION}, entry {number + 1}"
    if isinstance(table, str):  # on the command line each may be a text of its own
        with contextlib.suppress(ValueError, RecursionError):  # it is then no table, which is the fault below
            table = json.loads(table)
    if not isinstance(table, Mapping):
        faults.append(
            Fault(f'{where} = {shown(table)}: must be a table, for example {{"instance_data_dir": "cat"}}.', (OPTION,))
        )
        return None
    known = {each.name: each for each in options_of(Concept, OPTION)}
    values: dict[str, Any] = {}
    wrong = len(faults)
    for key, value in table.items():
        if str(key).startswith("_"):  # a remark, as in a config
            continue
        if key not in known:
            near = did_you_mean(str(key), known)
            faults.append(
                Fault(f"{where}: unknown field '{key}'.{near or ' Fields: ' + ', '.join(known) + '.'}", (OPTION,))
            )
            continue
        try:
            values[key] = known[key].read(value, text=True)
        except ConfigError as error:
            faults += [Fault(f"{where}, {fault.message}", (OPTION,)) for fault in error.faults]
    if values.get("instance_data_dir") is None and not any(
        "instance_data_dir" in fault.message for fault in faults[wrong:]
    ):
        faults.append(
            Fault(f"{where}: needs instance_data_dir, the folder with the pictures of this thing.", (OPTION,))
        )
    return Concept(**values) if len(faults) == wrong else None


def _loaded(text: str) -> Any:
    """What JSON text holds, or the file that it names."""
    text = text.strip()
    source = f"{OPTION} = {shown(text[:100])}"
    if not text.startswith(("[", "{")):
        text, source = _file(text), f"{OPTION}, {text}"
    try:
        return json.loads(text)
    except RecursionError:
        raise _wrong(f"{source}: is nested too deeply; a list of tables is wanted.") from None
    except json.JSONDecodeError as error:
        raise _wrong(f"{source}: broken JSON (line {error.lineno}, column {error.colno}: {error.msg}).") from None
    except ValueError:
        raise _wrong(f"{source}: holds a number with thousands of digits; no field takes one.") from None


def _file(name: str) -> str:
    if is_elsewhere(name):
        raise _wrong(f"{OPTION} = {shown(name)}: names another machine or is a URL; copy the file here first.")
    path = Path(name).expanduser()
    if not path.is_file():
        raise _wrong(
            f"{OPTION} = {shown(name)}: is neither a JSON list nor a file; write a list of tables, or name a file that holds one."
        )
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise _wrong(f"{OPTION}, {name}: has more than {LARGEST_FILE // 2**20} MiB; it is no list of concepts.")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong(f"{OPTION}, {name}: is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise _wrong(f"{OPTION}, {name}: cannot be read ({error.strerror}).") from None


def _wrong(message: str) -> ConfigError:
    return ConfigError([Fault(message, (OPTION,))])


def concept_faults(data: Any) -> Iterator[Fault]:
    """Rules between the concepts, and between them and the other options of the data section."""
    seen = {} if data.instance_data_dir is None else {data.instance_data_dir: "instance_data_dir"}
    for number, concept in enumerate(concepts_of(data.concepts)):
        where = entry(number, concept)
        folder = concept.instance_data_dir
        if folder in seen:
            yield Fault(
                f"{where}, instance_data_dir = {shown(folder)}: is also that of {seen[folder]}; give each thing a folder of its own.",
                (OPTION, "instance_data_dir"),
            )
        seen.setdefault(folder, where)
        if data.with_prior_preservation and concept.class_prompt is None:
            yield Fault(
                f"{where}: with_prior_preservation = true needs class_prompt, the caption of its class pictures (for example: a photo of a cat).",
                (OPTION, "with_prior_preservation"),
            )
        if data.output_preservation_weight > 0 and (concept.class_prompt is None or not concept.class_prompt.strip()):
            yield Fault(
                f"{where}: output_preservation_weight = {shown(data.output_preservation_weight)} needs class_prompt, the prompt whose answers are "
                "kept (for example: a photo of a cat).",
                (OPTION, "output_preservation_weight"),
            )
        strategy = data.caption_strategy if concept.caption_strategy is None else concept.caption_strategy
        if strategy == "instanceprompt" and concept.instance_prompt is None:
            yield Fault(
                f'{where}: caption_strategy "instanceprompt" needs instance_prompt, the caption for all its pictures.',
                (OPTION, "caption_strategy"),
            )
