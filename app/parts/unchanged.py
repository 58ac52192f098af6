"""What the browser shows already is not sent back to it.

An answer takes a while. A value that comes with it lands over what the person typed or clicked meanwhile, also where the answer did not mean to change it.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr


def without_unchanged(updates: Mapping[Any, Any], given: Mapping[Any, Any]) -> dict[Any, Any]:
    """`updates` without the values that their components held when the browser asked; other properties, such as choices, stay.

    Args:
        updates: component -> its value, or an update of it.
        given: component -> what the browser sent of it. Never what a handler put in its place.
    """
    left = {}
    for component, update in updates.items():
        made = isinstance(update, gr.components.Component)
        changes = update.constructor_args if made else update if _is_update(update) else {"value": update}
        if component not in given or "value" not in changes or not _same(changes["value"], given[component]):
            left[component] = update
            continue
        others = {name: each for name, each in changes.items() if name not in ("value", "__type__")}
        if others:
            left[component] = type(update)(**others) if made else gr.update(**others)
    return left


def _is_update(update: Any) -> bool:
    return isinstance(update, dict) and update.get("__type__") == "update"


def _same(new: Any, held: Any) -> bool:
    """Equal, and of one kind: 1 is not True."""
    return type(new) is type(held) and new == held
