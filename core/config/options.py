"""How one option is declared: a dataclass field that carries its label, help, unit, bounds, source and level.

A section of the config is a frozen dataclass on `Checked`; its fields are made with `option(...)`. From that one declaration come the
JSON key, the command-line flag, the form's component, the row in `docs/options.md` and the checks. Nothing here knows which options
exist: the files of `sections/` declare them.

Every check names the value, the rule and the remedy. Faults are collected: a `ConfigError` carries all of them.
"""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from ..names import not_a_path

Level = Literal["simple", "advanced"]
LARGEST_SEED = 2**53 - 1  # what a browser's number can hold exactly
UNSET_WORDS = {"", "none", "null"}
"""What a text field, a flag or a quoted JSON value may say for "not set" where an option can be unset."""

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a config.

    `options` are the flat names involved, the one to mend first in front; empty when the fault is not about an option (broken JSON).
    `message` is a whole sentence: value, rule, remedy.
    """

    message: str
    options: tuple[str, ...] = ()


class ConfigError(ValueError):
    """A config cannot be used. `faults` lists everything that is wrong with it, not only the first thing."""

    def __init__(self, faults):
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("\n".join(fault.message for fault in self.faults))


class _Wrong(Exception):
    """A value breaks a rule; the text is the rule, without the option's name."""


@dataclass(frozen=True)
class Option:
    """One option, as declared.

    `name` is the flat key (`scheduled_sampling_grid_steps`), `field` its name in the section (`grid_steps`).
    `type` is one of bool, int, float, str, list[str], list[int]; with `choices`, only those values are allowed.
    `default` None means that the option may be left unset (and only then may it be). Bounds are inclusive; for lists they hold
    for every element. `split` separates the elements of a list written as plain text. `soft`: see `slider_end`. `label` names it for a
    person; `example` is a value that a person would have to make up. `numbered`: the one of the choices that a number may follow
    ("cuda": also cuda:0, cuda:1, ...). `reads`: see `option`.
    """

    name: str
    field: str
    section: str
    type: str
    default: Any
    choices: tuple[str, ...] | None
    minimum: float | None
    maximum: float | None
    unit: str
    help: str
    source: str
    level: Level
    split: str = ","
    since: str = "0.1"
    soft: float | Callable[[Any], float] | None = None
    label: str = ""
    example: str = ""
    numbered: str | None = None
    reads: Callable[[Any], Any] | None = None

    def slider_end(self, config: Any) -> float | None:
        """The soft maximum in this config: where a slider ends, because more is rarely useful; more, up to `maximum`, is typed.

        None where the option has no soft maximum. Always above `minimum` and at most `maximum`.
        """
        if self.soft is None or self.minimum is None or self.maximum is None:
            return None
        end = self.soft(config) if callable(self.soft) else self.soft
        return min(max(end, self.minimum + 1), self.maximum)

    @property
    def optional(self) -> bool:
        """May the option be unset (None)?"""
        return self.default is None

    def read(self, value: Any, *, text: bool = False) -> Any:
        """The checked value in its own type (integral floats become ints, lists become tuples).

        Args:
            value: what a person, a file or a form gave.
            text: also understand strings for numbers, booleans and lists ("1e-4", "false", "1,3,5", "none").

        Raises:
            ConfigError: one fault, naming value, rule and remedy.
        """
        try:
            return self._read(value, text)
        except _Wrong as wrong:
            raise ConfigError([Fault(f"{self.name} = {shown(value)}: {wrong}", (self.name,))]) from None

    def _read(self, value: Any, text: bool) -> Any:
        if isinstance(value, str) and self.optional and value.strip().lower() in UNSET_WORDS:
            value = None
        if value is not None and self.reads is not None:
            value = self.reads(value)
        if value is None:
            if self.optional:
                return None
            raise _Wrong(f"must have a value; leave the key out for the default, {shown(self.default)}.")
        if not self.type.startswith("list"):
            return self._element(self.type, value, text)
        element = self.type.removeprefix("list[").removesuffix("]")
        if isinstance(value, str):
            if not text:
                raise _Wrong("must be a list.")
            value = self._split(value)
        if not isinstance(value, list | tuple):
            raise _Wrong(
                'must be a list, for example ["a", "b"].'
                if element == "str"
                else "must be a list, for example [1, 3, 5]."
            )
        return tuple(self._element(element, item, text) for item in value)

    def _split(self, value: str) -> list:
        if value.strip().startswith("[") and value.strip().endswith("]"):  # "[V] dog" is a caption
            try:
                return json.loads(value)
            except json.JSONDecodeError as error:
                raise _Wrong(f"is not a JSON list ({error.msg} at character {error.pos + 1}).") from None
        return [part.strip() for part in value.split(self.split) if part.strip()]

    def _element(self, kind: str, value: Any, text: bool) -> Any:
        if kind == "str":
            if not isinstance(value, str):
                raise _Wrong("must be text." if self.choices is None else f"must be one of {', '.join(self.choices)}.")
            if self.choices is not None and value not in self.choices and not self._is_numbered(value):
                more = "" if self.numbered is None else f", or {self.numbered}:N with a number from 0"
                raise _Wrong(f"must be one of {', '.join(self.choices)}{more}.{did_you_mean(value, self.choices)}")
            if "\0" in value:
                raise _Wrong("must not contain a NUL character.")
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                raise _Wrong("holds half of a character pair, which no file can hold; write the character anew.")
            return value
        if isinstance(value, str):
            if not text:
                raise _Wrong(f"must be {_NAMES[kind]}, not text.")
            value = _from_text(kind, value.strip())
        if kind == "bool":
            if not isinstance(value, bool):
                raise _Wrong("must be true or false.")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Wrong(f"must be {_NAMES[kind]}{', not true or false' if isinstance(value, bool) else ''}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise _Wrong("must be a finite number.")
        if kind == "int":
            if value != int(value):
                raise _Wrong("must be a whole number.")
            value = int(value)
        default = "unset" if self.optional else shown(self.default)
        if self.minimum is not None and value < self.minimum:
            raise _Wrong(f"must be at least {with_unit(self.minimum, self.unit)}; the default is {default}.")
        if self.maximum is not None and value > self.maximum:
            raise _Wrong(f"must be at most {with_unit(self.maximum, self.unit)}; the default is {default}.")
        return float(value) if kind == "float" else value

    def _is_numbered(self, value: str) -> bool:
        return self.numbered is not None and re.fullmatch(rf"{self.numbered}:(0|[1-9][0-9]?)", value) is not None


def path_faults(section: "Checked", *fields: str) -> Iterator[Fault]:
    """Faults of the options in `fields`, each the path of a file or a folder, that no disk can hold."""
    for each in options_of(type(section), ""):
        value = getattr(section, each.field)
        if each.field in fields and value is not None and (wrong := not_a_path(value)) is not None:
            yield Fault(f"{each.name} = {shown(value[:80])}: {wrong}", (each.name,))


_NAMES = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def _from_text(kind: str, text: str) -> bool | int | float:
    if kind == "bool":
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise _Wrong("must be true or false.")
    try:
        return int(text)
    except ValueError:
        pass  # not written as an integer: "1e3" and "2.0" are read as floats next
    try:
        return float(text)
    except ValueError:
        raise _Wrong(f"must be {_NAMES[kind]}.") from None


def shown(value: Any) -> str:
    """A value as a person would write it in a config file."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bool | str | list | tuple | dict) or value is None:
        try:
            return json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            return repr(value)
    return str(value)


def with_unit(value: float, unit: str) -> str:
    """A number with its unit, in the singular for one: "1 step", "3 steps", "0.5"."""
    if value == 1 and unit.endswith("s"):
        unit = unit[:-2] if unit.endswith("ches") else unit[:-1]
    return f"{shown(value)} {unit}" if unit else shown(value)


def did_you_mean(given: str, names) -> str:
    """ " Did you mean 'x'?" with a leading blank, or nothing where no name is near."""
    import difflib  # only where something is wrong; keeps the start quick

    near = difflib.get_close_matches(given, list(names), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    source: str = "",
    level: Level = "simple",
    split: str = ",",
    since: str = "0.1",
    soft: float | Callable[[Any], float] | None = None,
    label: str = "",
    example: str = "",
    numbered: str | None = None,
    reads: Callable[[Any], Any] | None = None,
) -> Any:
    """Declare one option: a dataclass field with metadata.

    Args:
        default: its value where none is given; None only where "not set" means something, and then `help` says what.
        help: one or two sentences for a person who has not read a paper.
        unit: of the value and its bounds.
        ge, le: inclusive bounds (of every element, for lists).
        source: a paper or tool that the option comes from.
        level: simple options are shown first; advanced ones under a fold.
        split: what separates the elements of a list written as text.
        since: the version that brought it. Files of the host that name values by position keep to the order of versions.
        soft: for a number whose useful part is a small piece of what is allowed, where its slider ends: a number, or a function of the
            whole config, for what depends on the grid or the length of the run.
        label: the name that a person reads, without the unit; only where the field's own name, written out, would not tell a newcomer
            enough. Unlike that of any other option, and at most 50 characters.
        example: what an empty field shows, for a text that a person has to make up.
        numbered: of an option with choices, the one that a number may follow: "cuda" allows cuda:0, cuda:1, ..., too.
        reads: of a text with a form of its own, what puts whatever was given into its one canonical text. Raises ConfigError.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "minimum": ge,
        "maximum": le,
        "source": source,
        "level": level,
        "split": split,
        "since": since,
        "soft": soft,
        "label": label,
        "example": example,
        "numbered": numbered,
        "reads": reads,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _type_of(annotation: Any) -> tuple[str, tuple[str, ...] | None, bool]:
    """(type name, choices, may be None) of a field's annotation."""
    optional = False
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        members = [member for member in typing.get_args(annotation) if member is not types.NoneType]
        optional = len(members) < len(typing.get_args(annotation))
        if len(members) != 1:
            raise TypeError(f"an option has one type, not {annotation}")
        annotation = members[0]
    if typing.get_origin(annotation) is Literal:
        return "str", typing.get_args(annotation), optional
    if typing.get_origin(annotation) is tuple:
        return f"list[{typing.get_args(annotation)[0].__name__}]", None, optional
    return annotation.__name__, None, optional


def options_of(section: type["Checked"], section_name: str) -> tuple[Option, ...]:
    """The options that a section declares, in order."""
    return _declared(cast(Hashable, section), section_name)  # mypy takes no class with a hash of its own for hashable


@functools.cache  # asked whenever a section is built, at every edit of the page
def _declared(section: Any, section_name: str) -> tuple[Option, ...]:
    hints = typing.get_type_hints(section)
    found = []
    for field in dataclasses.fields(section):
        kind, choices, optional = _type_of(hints[field.name])
        if optional != (field.default is None):
            raise TypeError(f"{section.__name__}.{field.name}: an option can be unset exactly when its default is None")
        metadata = dict(field.metadata)
        metadata["label"] = metadata["label"] if metadata["label"] else field.name.replace("_", " ").capitalize()
        found.append(
            Option(section.prefix + field.name, field.name, section_name, kind, field.default, choices, **metadata)
        )
    return tuple(found)


@dataclass(frozen=True)
class Checked:
    """Base of the config's sections: every field is checked, and put into its own type, when the object is built.

    `title` names the section for a person; `prefix` stands before its fields in the flat form.
    """

    title: ClassVar[str] = ""
    prefix: ClassVar[str] = ""

    def __post_init__(self):
        faults: list[Fault] = []
        for each in options_of(type(self), ""):
            try:
                # frozen: this is construction, the one moment a value may be normalised (a list to a tuple, 1 to 1.0)
                object.__setattr__(self, each.field, each.read(getattr(self, each.field)))
            except ConfigError as error:
                faults += error.faults
        if not faults:
            faults += self.rules()
        if faults:
            raise ConfigError(faults)

    def rules(self) -> Iterator[Fault]:
        """Faults between the fields of this section, each of which is valid on its own."""
        yield from ()
