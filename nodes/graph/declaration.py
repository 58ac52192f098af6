"""A node is a declaration and a function. The declaration serves the editor, validation, headless execution and ComfyUI.

Widgets are made from the options of `core.config`, so bounds, choices, help and defaults stand in one place. What no option
covers (a caption to search for, the columns of a grid) is declared with the same `Option` record, by `local`.

Node keys, input names and output positions are never renamed or reordered: workflows refer to them. New inputs go to the end.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ...core.config import OPTIONS
from ...core.config.options import Option
from . import values

PREFIX = "RolloutStudio"
"""Every node's key begins with it: ComfyUI keeps the nodes of all packs in one table."""
IN_COMFYUI = f"{PREFIX}Comfy"
"""The keys of nodes that are only there inside ComfyUI begin with it."""
FIRST = "0.1"  # a socket is as old as its node
LARGEST_INT = 2**53 - 1  # JavaScript alters larger ones
UNSET = "unset"

Lane = Literal["instant", "files", "run", "device", "host"]
"""What a node does: instant = only computes settings; files = reads and draws; run = waits for a training; device = uses a model;
host = uses a model of ComfyUI, and is there only."""


@dataclass(frozen=True)
class Socket:
    """An input that only a link can give. `makes`: what the link names on the disk is made by this node where it is not there."""

    name: str
    type: str
    help: str
    optional: bool = False
    makes: bool = False


@dataclass(frozen=True)
class Output:
    """What a node gives."""

    name: str
    type: str
    help: str


@dataclass(frozen=True)
class Widget:
    """An input with a value of its own; a link of its wire type may replace it.

    `cosmetic`: changes no result. `names_path`: a file or folder, which is looked at before the node runs. `rule`: what is wrong with a
    checked value by itself, where no bound and no choice can express it; None = nothing.
    """

    name: str
    option: Option
    multiline: bool = False
    cosmetic: bool = False
    names_path: bool = False
    rule: Callable[[Any], str | None] | None = None

    @property
    def default(self) -> Any:
        return self.option.default

    @property
    def kind(self) -> str:
        """INT, FLOAT, STRING, BOOLEAN or COMBO. What may be unset, and lists, are text: an empty field is "not set"."""
        option = self.option
        if option.choices is not None or (option.type == "bool" and option.optional):
            return "COMBO"
        if option.type == "bool":
            return "BOOLEAN"
        if option.optional or option.type.startswith("list"):
            return "STRING"
        return {"int": "INT", "float": "FLOAT", "str": "STRING"}[option.type]

    @property
    def choices(self) -> tuple[str, ...]:
        """Of a COMBO, as shown; `unset` first where the option may be unset."""
        given = self.option.choices if self.option.choices is not None else ("true", "false")
        return (UNSET, *given) if self.option.optional else tuple(given)

    @property
    def step(self) -> float | None:
        """A sensible stride for a number field; None for what is no number."""
        if self.option.type == "int":
            return 1
        if self.option.type != "float":
            return None
        default = self.option.default
        if default in (None, 0, 1):
            return 0.01
        power = 10.0 ** math.floor(math.log10(abs(default)))
        return power / 10 if abs(default) > 1 else power

    def read(self, value: Any) -> Any:
        """The checked value in its own type. Raises ConfigError with value, rule and remedy.

        Numbers and switches must come as such; only where the field is text by kind (see `kind`) is text read.
        """
        if isinstance(value, dict) and set(value) == {"__value__"}:
            value = value["__value__"]
        if self.option.optional and value == UNSET:
            value = None
        as_text = self.option.optional or self.option.type.startswith("list")
        return self.option.read(value, text=as_text)

    def shown(self, value: Any) -> Any:
        """A checked value as a workflow file holds it: JSON, lists wrapped, None where unset."""
        return {"__value__": list(value)} if isinstance(value, tuple) else value

    def in_field(self, value: Any) -> Any:
        """A checked value as a field of `kind` shows it."""
        if value is None:
            return UNSET if self.kind == "COMBO" else ""
        if isinstance(value, tuple):
            return ("\n" if self.option.split == "\n" else ", ").join(str(each) for each in value)
        if self.kind in ("COMBO", "STRING") and not isinstance(value, str):
            return str(value).lower() if isinstance(value, bool) else repr(value)
        return value


@dataclass(frozen=True)
class Declaration:
    """One kind of node.

    `function(context, **inputs)` returns a tuple, one value per output. `lane` says what it needs; `effect` nodes write files of
    their own and are never served from the cache; `shows` nodes are roots of execution (there is something to look at).
    `fingerprint(inputs)` describes what the node reads besides its inputs, as text; `check(inputs, linked)` yields (input, what is
    wrong) for rules between inputs; `absent(inputs)` yields the same for what the inputs name on the disk and is not there.
    `version` is raised when the function's results change. `takes_lists`: a list of pictures or texts in ComfyUI is one call of the
    node, not one for each.
    """

    key: str
    title: str
    category: str
    help: str
    inputs: tuple[Socket | Widget, ...]
    outputs: tuple[Output, ...]
    function: Callable[..., tuple] = field(repr=False)
    lane: Lane = "instant"
    shows: bool = False
    effect: bool = False
    fingerprint: Callable[[Mapping[str, Any]], str] | None = None
    check: Callable[[Mapping[str, Any], frozenset[str]], Iterable[tuple[str, str]]] | None = None
    absent: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]] | None = None
    version: int = 1
    aliases: tuple[str, ...] = ()
    takes_lists: bool = False

    def input(self, name: str) -> Socket | Widget | None:
        return next((each for each in self.inputs if each.name == name), None)

    @property
    def sockets(self) -> tuple[Socket, ...]:
        return tuple(each for each in self.inputs if isinstance(each, Socket))

    @property
    def widgets(self) -> tuple[Widget, ...]:
        return tuple(each for each in self.inputs if isinstance(each, Widget))

    def defaults(self) -> dict[str, Any]:
        """Every widget's value when a workflow does not say otherwise."""
        return {widget.name: widget.default for widget in self.widgets}


NODES: dict[str, Declaration] = {}
"""Key -> declaration, in the order of the menu. A workflow can name these and nothing else."""


def node(
    key: str,
    title: str,
    category: str,
    *,
    inputs: Iterable[Socket | Widget] = (),
    outputs: Iterable[Output] = (),
    into: dict[str, Declaration] = NODES,
    **more: Any,
) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Declare the decorated function as a node; its docstring is the node's help.

    `into`: the table that it goes into; one of ComfyUI alone has its own. Inputs are in the order of the versions that brought them, then as given: ComfyUI's files name widget values by position.
    """
    inputs = sorted(
        inputs, key=lambda each: _version(each.option.since) if isinstance(each, Widget) else _version(FIRST)
    )

    def declare(function: Callable[..., tuple]) -> Callable[..., tuple]:
        declared = Declaration(
            PREFIX + key, title, category, " ".join(function.__doc__.split()), tuple(inputs), tuple(outputs), function, **more
        )  # fmt: skip
        names = [each.name for each in declared.inputs]
        if declared.key in into or len(set(names)) < len(names):
            raise ValueError(f"{declared.key} is declared twice, or has two inputs of one name")
        into[declared.key] = declared
        return function

    return declare


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def of_option(name: str, *, called: str | None = None, default: Any = ..., **more: Any) -> Widget:
    """The widget of a config option. `called`: the input's name, else the option's field; `default`: another than the option's."""
    option = OPTIONS[name]
    if default is not ...:
        option = replace(option, default=default)
    names_path = name.endswith(("_dir", "_path"))  # the options' names keep to that
    widget = Widget(
        option.field if called is None else called,
        option,
        multiline=option.split == "\n",
        names_path=names_path,
        **more,
    )
    # the fault's text names the input as the node shows it
    return replace(widget, option=replace(option, name=widget.name))


def local(
    name: str, type: str, default: Any, help: str, *, choices: tuple[str, ...] | None = None, ge: float | None = None,
    le: float | None = None, unit: str = "", level: str = "simple", split: str = ",", **more: Any,
) -> Widget:  # fmt: skip
    """A widget that no config option covers, declared with the same record."""
    return Widget(
        name, Option(name, name, "node", type, default, choices, ge, le, unit, help, "", level, split), **more
    )


def accepts(wanted: str, given: str) -> bool:
    """May an output of type `given` go into an input of type `wanted`? Types may be unions, "A,B", or "*"."""
    if values.ANY in (wanted, given):
        return True
    return bool(set(wanted.split(",")) & set(given.split(",")))


def wire_type(given: Socket | Widget) -> str:
    """The type of link that an input takes; COMBO takes none but its own."""
    return given.type if isinstance(given, Socket) else given.kind


def described() -> list[dict[str, Any]]:
    """All declarations as JSON-able data: what an editor, `graph nodes --json` and the docs need."""
    return [_described(each) for each in NODES.values()]


def _described(declared: Declaration) -> dict[str, Any]:
    inputs = []
    for each in declared.inputs:
        if isinstance(each, Socket):
            inputs.append(
                {"name": each.name, "socket": True, "type": each.type, "optional": each.optional, "help": each.help}
            )
            continue
        option = each.option
        inputs.append({
            "name": each.name, "socket": False, "type": each.kind, "value_type": option.type, "default": each.shown(each.default),
            "unsettable": option.optional, "choices": list(each.choices) if each.kind == "COMBO" else None,
            "minimum": option.minimum, "maximum": option.maximum, "step": each.step, "unit": option.unit, "help": option.help,
            "source": option.source, "level": option.level, "multiline": each.multiline,
        })  # fmt: skip
    return {
        "key": declared.key, "title": declared.title, "category": declared.category, "help": declared.help, "inputs": inputs,
        "outputs": [{"name": each.name, "type": each.type, "help": each.help} for each in declared.outputs],
        "shows": declared.shows, "effect": declared.effect, "lane": declared.lane, "aliases": list(declared.aliases),
    }  # fmt: skip
