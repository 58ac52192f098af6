"""What every importer of another tool's settings takes and gives, so that one page, one command and one test serve them all.

An importer is a module with `NAME`, `looks_like(data)` and `read(data, near) -> ImportedConfig`; `importing.IMPORTERS` lists them. Every
key of the file is in exactly one of the three lists of the result: carried, changed in meaning, or left. A key is its path:
`config.process[0].train.lr`. A list without objects in it is one value; an empty object is one too.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..config import RunConfig, config_from_flat
from ..config.options import ConfigError, Fault

MOST_KEYS = 20_000
DEEPEST = 40


@dataclass(frozen=True)
class Carried:
    """A key that means the same here under the name `option`; `value` is how it is written here."""

    key: str
    given: Any
    option: str
    value: Any


@dataclass(frozen=True)
class Changed:
    """A key whose meaning is another here: `how` is the sentence that says so, `options` what it became."""

    key: str
    given: Any
    options: Mapping[str, Any]
    how: str


@dataclass(frozen=True)
class Left:
    """A key that was not carried over, and why. `quiet`: it was off or unset there, or changes nothing of what is learned."""

    key: str
    given: Any
    why: str
    quiet: bool = False


@dataclass(frozen=True)
class ImportedConfig:
    """A foreign config, read.

    Args:
        program: the tool that wrote it.
        flat: our flat keys and their values, of the file and of the tool's defaults for what it leaves out.
        carried, changed, left: every key of the file, in exactly one of them.
        assumed: the flat keys that no key of the file gave: the tool's own defaults.
        notes: sentences about the whole, which belong to no single key.
        fill_in: flat keys that a person must give.
    """

    program: str
    flat: Mapping[str, Any] = field(default_factory=dict)
    carried: tuple[Carried, ...] = ()
    changed: tuple[Changed, ...] = ()
    left: tuple[Left, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fill_in: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that the three lists name, as often as they do."""
        return tuple(each.key for each in (*self.carried, *self.changed, *self.left))


@dataclass(frozen=True)
class Near:
    """What lies beside a config: where relative paths start, and the files that were given along.

    Args:
        folder: the config's own folder; None for a file that a browser sent.
        files: name -> path of the files that were given along.
    """

    folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def _places(self, written: str) -> Iterator[Path]:
        parts = [part for part in written.replace("\\", "/").split("/") if part not in ("", ".")]
        if parts and parts[-1] in self.files:
            yield self.files[parts[-1]]
        yield Path(written).expanduser()
        if self.folder is not None:
            yield self.folder.joinpath(*parts) if parts else self.folder
            if parts:
                yield self.folder / parts[-1]

    def find_file(self, written: Any) -> Path | None:
        """The file that a config names, if it was given along or is on this computer."""
        return next((path for path in self._places(written) if _is(path, "file")), None) if _names(written) else None

    def find_folder(self, written: Any) -> Path | None:
        """The folder that a config names, if it is on this computer."""
        return next((path for path in self._places(written) if _is(path, "dir")), None) if _names(written) else None


class Importer(Protocol):
    """One tool's importer; a module serves as one."""

    NAME: str

    def looks_like(self, data: Any) -> bool: ...

    def read(self, data: Any, near: Near) -> ImportedConfig: ...


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every setting in nested data. Raises ConfigError where there are more than any tool writes."""
    for count, found in enumerate(_leaves(data, path, 0), 1):
        if count > MOST_KEYS:
            raise ConfigError([Fault(f"holds more than {MOST_KEYS:,} settings; this is no tool's training config.")])
        yield found


def _leaves(data: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise ConfigError([Fault(f"is nested more than {DEEPEST} deep; this is no tool's training config.")])
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(data, list) and any(isinstance(each, Mapping) for each in data):
        for index, value in enumerate(data):
            yield from _leaves(value, f"{path}[{index}]", depth + 1)
    else:
        yield path, data


def settled(read: ImportedConfig) -> tuple[RunConfig, ImportedConfig]:
    """The config, and what was read without the values that our rules refuse: those move to the list of what was left.

    A single value out of its bounds never comes this far (`Sheet` leaves it); here two settings exclude each other. Raises ConfigError where a
    rule speaks of nothing that the file gave.
    """
    read = _with_class_words(read)
    while True:
        try:
            return config_from_flat(read.flat), read
        except ConfigError as error:
            fault = error.faults[0]
            named = [name for name in fault.options if name in read.flat]
            if not named:
                raise
            assumed = [name for name in named if name in read.assumed]
            read = without(read, (assumed if assumed else named)[0], fault.message)
            if (assumed if assumed else named)[0] == "concepts":
                read = _without_things(read, fault.message)


def _with_class_words(read: ImportedConfig) -> ImportedConfig:
    """Further things share the class pictures of the first where they have none of their own: there one pool serves all."""
    words = {name: read.flat[name] for name in ("class_prompt", "class_data_dir") if name in read.flat}
    given = read.flat.get("concepts")
    made_here = any("concepts" in each.options for each in read.changed)
    if not made_here or not isinstance(given, str) or "class_prompt" not in words:
        return read
    things = [each if "class_prompt" in each else {**words, **each} for each in json.loads(given)]
    option = {"concepts": json.dumps(things, ensure_ascii=False)}
    changed = tuple(replace(each, options={**each.options, **option}) if "concepts" in each.options else each for each in read.changed)  # fmt: skip
    return replace(read, flat={**read.flat, **option}, changed=changed)


def _without_things(read: ImportedConfig, why: str) -> ImportedConfig:
    """After further things were left: a length that was counted with their pictures is theirs, too."""
    read = replace(read, notes=(*read.notes, f"The further things are left out, and not trained: {why}"))
    if not any("max_train_steps" in each.options for each in read.changed):
        return read
    left = without(read, "max_train_steps", "the pictures of things that were left out are counted in it; set max_train_steps")  # fmt: skip
    return replace(left, fill_in=(*left.fill_in, "max_train_steps"))


def without(read: ImportedConfig, option: str, why: str) -> ImportedConfig:
    """What was read without the value of one option, whose key moves to the list of what was left."""
    gone = [Left(each.key, each.given, why) for each in read.carried if each.option == option]
    changed = []
    for each in read.changed:
        if option not in each.options:
            changed.append(each)
        elif len(each.options) == 1:
            gone.append(Left(each.key, each.given, why))
        else:
            rest = {name: value for name, value in each.options.items() if name != option}
            changed.append(replace(each, options=rest, how=f"{each.how} Without {option}: {why}"))
    return replace(
        read,
        flat={name: value for name, value in read.flat.items() if name != option},
        carried=tuple(each for each in read.carried if each.option != option),
        changed=tuple(changed),
        left=(*read.left, *gone),
        assumed=tuple(name for name in read.assumed if name != option),
    )


def _names(written: Any) -> bool:
    if not isinstance(written, str) or not written.strip() or "\0" in written or len(written) > 4096:
        return False
    return not written.startswith(
        ("\\\\", "//")
    )  # another host's folder: Windows would log in there only because a file says so


def _is(path: Path, kind: str) -> bool:
    try:
        return path.is_file() if kind == "file" else path.is_dir()
    except (OSError, ValueError):  # a name that this system cannot have is not here
        return False
