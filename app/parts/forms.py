"""Options <-> components: every component of the settings is made from its option's declaration, and read back by it.

A choice becomes a dropdown, a switch a checkbox, a number with two near bounds a slider, any other number a number field (with a slider
beside it where the option declares a soft maximum), the rest text. `to_component(option, value)` and `from_component(option, raw)` are
inverse, so that a config shown in the form and read again is the same config. The declaration decides what is valid, not the component: sliders let NaN through, and requests can be made by hand.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ...core.config import OPTIONS, SECTIONS, RunConfig, config_from_flat, config_to_flat
from ...core.config.options import ConfigError, Fault, Option, shown
from ...core.texts import translated

AUTOMATIC, YES, NO = "automatic", "on", "off"
_LIST_OF_LINES = "list[str]"


def page_sections() -> list[str]:
    """The sections as the page orders them: those with advanced options alone come last, because where the tabs are wider than the page
    the last ones go into a menu."""
    simple = {option.section for option in OPTIONS.values() if option.level == "simple"}
    return sorted(SECTIONS, key=lambda section: section not in simple)


def label(option: Option) -> str:
    """The option's name for people, with its unit: `Warm-up (steps)`."""
    name, unit = translated(option.label), translated(option.unit)
    return f"{name} ({unit})" if option.unit and option.unit not in option.label else name


def info(option: Option, full: bool) -> str:
    """The help below the label: what it does; `full` adds where it comes from and the key it has in a config file."""
    help_ = translated(option.help)
    if not full:
        return help_
    source = f" {option.source.rstrip('.')}." if option.source else ""
    return f"{help_}{source} `{option.name}`"


def said(option: Option, value: Any) -> str:
    """A value in a list of changes: as in a config file, but JSON text as it is, without a second layer of quotes."""
    return value if option.reads is not None and isinstance(value, str) else shown(value)


def is_slider(option: Option) -> bool:
    """Whether a slider is of use: whole numbers on at most 100 places, or a share from 0 to 1 in hundredths.

    Learning rates span ten decades, step counts millions, and the EMA decay lives between 0.99 and 1: those are typed.
    """
    if option.minimum is None or option.maximum is None or option.optional:
        return False
    if option.type == "int":
        return option.maximum - option.minimum <= 100
    return (
        option.type == "float"
        and 0 <= option.minimum < 0.1
        and 0.9 < option.maximum <= 1
        and not 0.99 < option.maximum < 1
    )


def component(option: Option, value: Any, full: bool = True) -> gr.components.Component:
    """The component of one option, showing `value`; `elem_id` is `opt-<name>`."""
    common = {
        "label": label(option),
        "info": info(option, full),
        "value": to_component(option, value),
        "elem_id": f"opt-{option.name}",
        "interactive": True,
    }
    if option.choices is not None:
        unset = [("as the checkpoint says", AUTOMATIC)] if option.optional else []
        return gr.Dropdown(
            choices=[*unset, *((choice, choice) for choice in option.choices)],
            filterable=option.numbered is not None,  # cuda:1 is typed
            allow_custom_value=option.numbered is not None,
            **common,
        )
    if option.type == "bool":
        if option.optional:
            return gr.Radio(choices=[AUTOMATIC, YES, NO], **common)
        return gr.Checkbox(**common)
    if is_slider(option):
        step = 1 if option.type == "int" else 0.01
        return gr.Slider(minimum=option.minimum, maximum=option.maximum, step=step, precision=None, **common)
    if option.type in ("int", "float") and not option.optional:
        # No bounds and no precision here: the component would round or clamp silently, where the option says what is wrong.
        return gr.Number(**common)
    # A number that may be unset is text too: the number field makes a 0 of nothing when it comes into view.
    lines = 4 if option.type == _LIST_OF_LINES else 1
    example = translated(f"unset; for example: {option.example}" if option.example else "unset")
    return gr.Textbox(
        placeholder=example if option.optional else None,
        lines=lines,
        max_lines=max(lines, 8) if lines > 1 else 1,
        **common,
    )


def reach(option: Option, config: RunConfig) -> dict[str, float]:
    """Where the slider of an option with a soft maximum ends in this config, and its step: round numbers, 50 of them or more where it can be."""
    end = option.slider_end(config)
    step = 10 ** math.floor(math.log10((end - option.minimum) / 50))
    return {"maximum": end, "step": max(1, step) if option.type == "int" else step}


def to_component(option: Option, value: Any) -> Any:
    """A config's value as the component shows it."""
    if option.optional and (option.choices is not None or option.type == "bool"):
        return AUTOMATIC if value is None else value if option.choices is not None else (YES if value else NO)
    if option.type == _LIST_OF_LINES:
        plain = all(item and item == item.strip() and "\n" not in item for item in value)
        lines = "\n".join(value)
        return lines if plain and not lines.startswith("[") else json.dumps(list(value), ensure_ascii=False)
    if option.type.startswith("list"):
        return ", ".join(str(item) for item in value)
    if option.optional:
        return "" if value is None else value if option.type == "str" else shown(value)
    return value


def from_component(option: Option, raw: Any) -> Any:
    """What a component delivers, checked, as the config's value. Raises ConfigError with the one fault."""
    if option.optional and raw == AUTOMATIC and (option.choices is not None or option.type == "bool"):
        return None
    if option.type == "bool" and option.optional:
        raw = {YES: True, NO: False}.get(raw, raw)
    elif option.type == _LIST_OF_LINES and isinstance(raw, str) and not raw.lstrip().startswith("["):
        raw = tuple(line.strip() for line in raw.splitlines() if line.strip())
    elif option.type == "str" and option.optional and raw == "":
        raw = None
    elif option.type == "str" and not option.optional and raw is None:
        raw = ""
    return option.read(raw, text=True)


class Form:
    """All option components of a page, each once, wherever the layout put it.

    `sliders`: beside the number fields of options with a soft maximum. The field holds the value; its slider follows it, and writes into
    it when it is moved. So the field takes what is exact or beyond the slider's end, which a slider would cut off.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config, self._shown = config, config_to_flat(config)
        self.components: dict[str, gr.components.Component] = {}
        self.sliders: dict[str, gr.Slider] = {}
        self._full: set[str] = set()
        self.places: dict[str, tuple[str, ...]] = {}
        """What a person must open to see each option's component: `#elem_id` of an accordion, or `tab:Title`, from the outside in."""
        self._inside: tuple[str, ...] = ()

    @contextmanager
    def inside(self, *places: str) -> Iterator[None]:
        """Options that are placed within are found in these (see `places`)."""
        before, self._inside = self._inside, (*self._inside, *places)
        try:
            yield
        finally:
            self._inside = before

    def place(self, *names: str, full: bool = False) -> None:
        """Make the components of these options here, in the current layout. An option is placed once. `full`: see `info`."""
        for name in names:
            if name in self.components:
                raise ValueError(f"{name} has its component already.")
            self.places[name] = self._inside
            if full:
                self._full.add(name)
            if OPTIONS[name].soft is None:
                self.components[name] = component(OPTIONS[name], self._shown[name], full)
                continue
            with gr.Column(min_width=160, elem_classes="rs-slid"):
                self.components[name] = component(OPTIONS[name], self._shown[name], full)
                self.sliders[name] = gr.Slider(
                    minimum=OPTIONS[name].minimum, value=self._shown[name], precision=None, label=label(OPTIONS[name]), show_label=False,
                    elem_id=f"opt-{name}-slider", interactive=True, buttons=[], **reach(OPTIONS[name], self._config),
                )  # fmt: skip

    def reaches(self, config: RunConfig) -> dict[gr.components.Component, Any]:
        """Updates that let every slider end where it should in this config."""
        return {slider: gr.update(**reach(OPTIONS[name], config)) for name, slider in self.sliders.items()}

    def slid(self, config: RunConfig, only: Iterable[str] | None = None) -> dict[gr.components.Component, Any]:
        """Updates that put the sliders (or only those of some options) where `config` has its values, as `show` does with the fields."""
        flat, names = config_to_flat(config), set(self.sliders if only is None else only)
        return {slider: gr.update(value=flat[name]) for name, slider in self.sliders.items() if name in names}

    def missing(self, section: str, level: str | None = None) -> list[str]:
        """Options of a section (and level) that have no component yet, in the order of the reference."""
        return [
            option.name for option in OPTIONS.values()
            if option.section == section and option.name not in self.components and level in (None, option.level)
        ]  # fmt: skip

    def check_complete(self) -> None:
        """Raises ValueError when an option has no component: a setting that cannot be reached."""
        absent = [name for section in SECTIONS for name in self.missing(section)]
        if absent:
            raise ValueError(f"options without a component: {', '.join(absent)}")

    def inputs(self) -> set[gr.components.Component]:
        return set(self.components.values())

    def read(self, given: Mapping[Any, Any]) -> RunConfig:
        """The config that the form shows. Raises ConfigError with every fault, of single fields and between fields."""
        values, faults = self._values(given)
        try:
            config = config_from_flat(values)
        except ConfigError as error:
            faults += [
                fault
                for fault in error.faults
                if not {name for fault in faults for name in fault.options} & set(fault.options)
            ]
            config = None
        if faults:
            raise ConfigError(faults)
        return config

    def _values(self, given: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Fault]]:
        values, faults = {}, []
        for name, each in self.components.items():
            try:
                values[name] = from_component(OPTIONS[name], given[each])
            except ConfigError as error:
                faults += error.faults
        return values, faults

    def show(self, config: RunConfig, only: Iterable[str] | None = None) -> dict[gr.components.Component, Any]:
        """Updates that make the form show `config` (or only some of its options)."""
        flat = config_to_flat(config)
        names = self.components if only is None else only
        return {self.components[name]: to_component(OPTIONS[name], flat[name]) for name in names}

    @staticmethod
    def valued(
        updates: Mapping[Any, Any], values: Mapping[gr.components.Component, Any]
    ) -> dict[gr.components.Component, Any]:
        """`updates`, in which each field of `values` (see `show`) takes its value and keeps only the mark that it has there."""
        marked = dict(updates)
        for field, value in values.items():
            mark = {key: change for key, change in updates.get(field, {}).items() if key in ("info", "elem_classes")}
            marked[field] = gr.update(value=value, **mark)
        return marked

    def faults(self, given: Mapping[Any, Any]) -> list[Fault]:
        """Everything wrong with what the form holds; empty when it is a config."""
        try:
            self.read(given)
        except ConfigError as error:
            return list(error.faults)
        return []

    def marks(
        self, given: Mapping[Any, Any], marked: Iterable[str]
    ) -> tuple[dict[gr.components.Component, Any], list[str]]:
        """Updates that put every fault at its field, and take it from the fields in `marked` that are right again; and what is marked now.

        The message takes the place of the help below the label. (Gradio's own `validator=` also writes at the field, but its message is
        wiped by the next event of the page, and this page has a timer.)
        """
        wrong: dict[str, str] = {}
        for fault in self.faults(given):
            if fault.options and fault.options[0] in self.components:
                wrong.setdefault(fault.options[0], fault.message)
        updates = {self.components[name]: self._marked(name, None) for name in marked if name not in wrong}
        updates |= {self.components[name]: self._marked(name, message) for name, message in wrong.items()}
        return updates, list(wrong)

    def mark(self, name: str, message: str) -> dict[gr.components.Component, Any]:
        """The update that puts a message at a field, for what is found out only when the pictures are looked at."""
        return {self.components[name]: self._marked(name, message)}

    def _marked(self, name: str, message: str | None) -> dict[str, Any]:
        help_ = info(OPTIONS[name], name in self._full)
        return gr.update(
            info=help_ if message is None else f"⚠ {translated(message)}",
            elem_classes=[] if message is None else ["rs-wrong"],
        )
