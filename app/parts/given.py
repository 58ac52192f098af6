"""What a browser sends to a handler, checked by the kind of its component before any handler sees it.

A browser of ours cannot send a list from a text field. A program with the cookie can, and a handler would then fail somewhere inside; so a
value of another kind is refused here, once for all of them.
"""

import math
from collections.abc import Iterable
from typing import Any

import gradio as gr

_TEXTS = {"textbox", "code", "radio"}
_NUMBERS = {"number", "slider"}


def is_of_its_kind(component: Any, value: Any) -> bool:
    """Whether a component of this kind can hold a value. None is what an empty one sends. Kinds that are not named take anything."""
    kind = component.get_block_name()
    if value is None or getattr(component, "stateful", False):
        return True
    if kind in _NUMBERS:
        return (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < 1e300
            and math.isfinite(value)
        )
    if kind == "checkbox":
        return isinstance(value, bool)
    if kind == "checkboxgroup" or (kind == "dropdown" and component.multiselect):
        return isinstance(value, list) and all(_is_one(each) for each in value)
    return _is_one(value) if kind in _TEXTS or kind == "dropdown" else True


def _is_one(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def check(components: Iterable[Any], values: Any) -> None:
    """Raises Gradio's own error, which a viewer is shown and no traceback is printed of, where a value is not of its component's kind."""
    if isinstance(values, list) and not all(map(is_of_its_kind, components, values)):
        raise gr.Error(
            "The page sent a value of another kind than its field has. Reload the page.", print_exception=False
        )
