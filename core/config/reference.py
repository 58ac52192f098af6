"""The reference of all options, made from their declarations: as data, as text for a terminal, as `docs/options.md`."""

import textwrap
from typing import Any

from .flat import OPTIONS, SECTIONS
from .options import Option, shown, with_unit


def as_data() -> list[dict[str, Any]]:
    """One object per option, in order: name, label, type, default, choices, minimum, maximum, unit, help, source, section, level.

    `type` is bool, int, float, str, list[str] or list[int]. A null default means that the option may be left unset.
    """
    keys = (
        "name", "label", "type", "default", "choices", "minimum", "maximum", "unit", "help", "source", "section", "level",
    )  # fmt: skip
    return [{key: _plain(getattr(option, key)) for key in keys} for option in OPTIONS.values()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def values_of(option: Option) -> str:
    """What the option takes, in words: choices, bounds with their unit, or the kind."""
    if option.choices is not None:
        return " | ".join((*option.choices, *([] if option.numbered is None else [f"{option.numbered}:N"])))
    kind = {
        "bool": "true | false",
        "int": "whole number",
        "float": "number",
        "str": "text",
        "list[str]": "list of texts",
        "list[int]": "list of whole numbers",
    }[option.type]
    if option.minimum is None:
        return kind
    if option.maximum is None:
        return f"{kind}, from {with_unit(option.minimum, option.unit)}"
    return f"{kind}, {number(option.minimum)} to {number(option.maximum)}{f' {option.unit}' if option.unit else ''}"


def number(value: float) -> str:
    """A bound as a person reads it: 10,000,000, 0.5, 1e-09."""
    if value == int(value):
        return f"{int(value):,}" if abs(value) < 2**53 - 1 else "2^53 - 1"
    return f"{value:g}"


def default_of(option: Option) -> str:
    """The default as it would be written; "unset" for None."""
    return "unset" if option.default is None else shown(option.default)


def heading_of(section: str) -> str:
    """First sentence of a section's docstring."""
    return (SECTIONS[section].__doc__ or "").strip().splitlines()[0]


def as_text(width: int = 100) -> str:
    """The reference for a terminal."""
    lines = []
    for section in SECTIONS:
        lines += [f"{section}: {heading_of(section)}", ""]
        for option in _of(section):
            lines.append(f"  --{option.name} ({values_of(option)}; default {default_of(option)})")
            about = option.help + (f" Source: {option.source}." if option.source else "")
            lines += textwrap.wrap(about, width, initial_indent="      ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def as_markdown() -> str:
    """The text of `docs/options.md`."""
    lines = [
        "# Options",
        "",
        "Made from the declarations in `core/config/sections/` by `rollout-studio options --markdown`; do not edit.",
        "",
        "Every name is a key of a `config.json` and a flag (`--learning_rate 1e-4`). A default of *unset* means that the option may be",
        "left out, or given as `null` (`none` on the command line). Lists are JSON lists in files; as flags they take several values.",
        "",
    ]
    for section in SECTIONS:
        lines += [f"## {section.replace('_', ' ').capitalize()}", "", heading_of(section), ""]
        lines += ["| option | default | values | level | what it does |", "|---|---|---|---|---|"]
        for option in _of(section):
            default = "*unset*" if option.default is None else f"`{default_of(option)}`"
            about = option.help + (f" *Source: {option.source}.*" if option.source else "")
            cells = (f"`{option.name}`", default, values_of(option), option.level, about)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _of(section: str) -> list[Option]:
    return [option for option in OPTIONS.values() if option.section == section]
