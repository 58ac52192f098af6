"""The panel's fields of `Drawing`, and every fault at its field."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ....core.config.options import Fault
from ....core.look.sample_request import DRAWING_OPTIONS

LABELS = {
    "seed": "Seed",
    "steps": "Steps",
    "guidance": "Guidance",
    "negative_prompt": "What it should not show",
    "width": "Width (px)",
    "height": "Height (px)",
}
"""Field of `Drawing` -> its label."""


def drawing_field(name: str) -> gr.components.Component:
    """The component of one field of `Drawing`."""
    option = DRAWING_OPTIONS[name]
    common = {"label": LABELS[name], "info": option.help, "elem_id": f"try-{name}", "min_width": 150}
    if name == "steps":
        return gr.Slider(minimum=option.minimum, maximum=option.maximum, step=1, value=option.default, **common)
    if name == "seed":
        return gr.Number(value=option.default, **common)
    return gr.Textbox(
        value="" if option.default is None else str(option.default),
        placeholder="unset" if option.optional else None,
        max_lines=1,
        **common,
    )


def fault_marks(faults: Sequence[Fault], helped: Mapping[Any, tuple[str, str]]) -> dict[Any, Any]:
    """Every fault at its field; the usual help at the others. `helped`: field -> (what faults call it, its help)."""
    wrong = {fault.options[0]: fault.message for fault in reversed(faults) if fault.options}
    return {
        field: gr.update(
            info=f"⚠ {wrong[name]}" if name in wrong else help, elem_classes=["rs-wrong"] if name in wrong else []
        )
        for field, (name, help) in helped.items()
    }
