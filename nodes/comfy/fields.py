"""A node's inputs as ComfyUI declares fields: types, bounds, tooltips."""

from decimal import Decimal
from typing import Any, Self

from ...core.config.options import shown
from ..graph.declaration import LARGEST_INT, Socket, Widget
from ..graph.validate import value_faults


class TextBound(float):
    """The bound of numbers that stand in a text field, because it may be empty or hold several.

    ComfyUI compares a field's value with `min` and `max` as it is; here the text is read first. An empty field that may be empty is
    within every bound; text that is no number is below the smallest.
    """

    def __new__(cls, widget: Widget, bound: float) -> Self:
        made = super().__new__(cls, bound)
        made.widget = widget
        return made

    def __format__(self, spec: str) -> str:
        several = self.widget.option.type.startswith("list")
        words = (
            "numbers, with commas between"
            if several
            else "a number" + (", or nothing" if self.widget.option.optional else "")
        )
        return f"{shown(float(self))} ({words})"

    def _wrong(self, text: str) -> str | None:
        faults = value_faults(self.widget, text)
        return faults[0].type if faults else None

    def __gt__(self, text: str) -> bool:
        """As `min`: is the text below?"""
        return self._wrong(text) not in (None, "value_bigger_than_max")

    def __lt__(self, text: str) -> bool:
        """As `max`: is the text above?"""
        return self._wrong(text) == "value_bigger_than_max"


def input_type(given: Socket | Widget) -> tuple[Any, dict[str, Any]]:
    """One entry of INPUT_TYPES."""
    if isinstance(given, Socket):
        return given.type, {"tooltip": given.help}
    option = given.option
    unit = f" ({option.unit})" if option.unit else ""
    options: dict[str, Any] = {"tooltip": f"{option.help}{unit}", "default": given.in_field(given.default)}
    if option.level == "advanced":
        options["advanced"] = True
    if given.kind == "COMBO":
        return list(given.choices), options
    if given.kind in ("INT", "FLOAT"):
        options |= {"step": given.step}
        options |= {
            name: bound for name, bound in (("min", option.minimum), ("max", option.maximum)) if bound is not None
        }
    if given.kind == "INT":
        # the page would draw a new seed after every run, and that would be another training
        options |= {"max": min(options.get("max", LARGEST_INT), LARGEST_INT), "control_after_generate": False}
    if given.kind == "FLOAT":
        options["round"] = False  # else the page rounds a value to its step
        # The page shows as many digits as the step has: 0.25 looked like 0.3, and 0.999 like 1.0.
        options["step"] = float(
            f"{min(given.step / 10, 10.0 ** Decimal(repr(option.default)).as_tuple().exponent):.0e}"
        )
    if given.kind == "STRING":
        options["multiline"] = given.multiline
        options |= {
            name: TextBound(given, bound)
            for name, bound in (("min", option.minimum), ("max", option.maximum))
            if bound is not None
        }
    return given.kind, options
