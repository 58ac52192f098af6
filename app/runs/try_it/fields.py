"""The panel's controls, and every fault at its field."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ....core.config import ConfigError
from ....core.config.options import Fault
from ....core.look.sample_request import DRAWING_OPTIONS
from ...parts.watch import Watch
from .companions import HELP, SLIDER, Companions
from .matrix import COLUMNS_HELP, ROWS_HELP, Matrix

LABELS = {
    "seed": "Seed",
    "steps": "Steps",
    "guidance": "Guidance",
    "negative_prompt": "What it should not show",
    "width": "Width (px)",
    "height": "Height (px)",
}
"""Field of `Drawing` -> its label."""

_PROMPT_HELP = (
    "Say what the picture should show, with the run's own word for the new thing. Several lines are several pictures."
)
_WEIGHTS_HELP = "The LoRA file that you download, a checkpoint on the way to it, or the run as it trains now."
_STRENGTH_HELP = "How strongly the LoRA acts: 1 = as trained, 0 = not at all."
_BASE_HELP = "From the same noise, so that you see what the training changed."
_KEEP_HELP = "Off: each press of Draw takes a new seed."
_SCRIPT = (Path(__file__).parents[2] / "js" / "try.js").read_text(encoding="utf-8")


class Controls:
    """Everything that is filled in, and the places of what comes of it, in the current layout."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        with gr.Column(elem_classes="rs-try"):
            with gr.Row():
                self.prompt = gr.Textbox(
                    label="Prompt",
                    info=_PROMPT_HELP,
                    lines=4,
                    max_lines=8,
                    scale=3,
                    min_width=260,
                    elem_id="try-prompt",
                )
                with gr.Column(scale=2, min_width=240):
                    self.weights = gr.Dropdown(
                        choices=[],
                        value=None,
                        label="Drawn with",
                        info=_WEIGHTS_HELP,
                        filterable=False,
                        elem_id="try-weights",
                    )
                    self.strength = gr.Slider(
                        **SLIDER, value=1.0, label="Weight of the LoRA", info=_STRENGTH_HELP, elem_id="try-strength"
                    )
                    self.base = gr.Checkbox(
                        value=True, label="The untrained model beside it", info=_BASE_HELP, elem_id="try-base"
                    )
                    self.keep_seed = gr.Checkbox(
                        value=True, label="Keep the seed", info=_KEEP_HELP, elem_id="try-keep-seed"
                    )
            with gr.Row(elem_classes="rs-try-row"):
                self.fields = {"seed": drawing_field("seed")}
                self.fields |= {name: drawing_field(name) for name in ("steps", "guidance")}
            self.others = Companions(watch)
            self.matrix = Matrix()
            with gr.Accordion("More", open=False), gr.Row(elem_classes="rs-try-row"):
                self.fields |= {name: drawing_field(name) for name in ("negative_prompt", "width", "height")}
            with gr.Row(elem_classes="rs-buttons"):
                self.draw = gr.Button("Draw", variant="primary", elem_id="try-draw")
                self.dice = gr.Button("Draw with another seed", elem_id="try-dice")
                self.stop = gr.Button("Cancel", visible=False, elem_id="try-stop")
                self.picture = gr.UploadButton("Settings from a picture", file_types=[".png"], elem_id="try-picture")
            self.note = gr.HTML(elem_id="try-note", elem_classes="rs-maybe")
            gr.HTML(
                html_template="<span hidden></span>",
                js_on_load=_SCRIPT,
                apply_default_css=False,
                container=False,
                elem_id="try-script",
            )
            self.now = gr.HTML(elem_id="try-now", elem_classes="rs-maybe")
            self.earlier = gr.HTML(elem_id="try-earlier", elem_classes="rs-maybe")

    @property
    def _marked(self) -> dict[Any, tuple[str, str]]:
        """Every field that can be wrong -> (what faults call it, its help)."""
        helped: dict[Any, tuple[str, str]] = {
            self.prompt: ("prompts", _PROMPT_HELP),
            self.weights: ("checkpoints", _WEIGHTS_HELP),
            self.strength: ("strength", _STRENGTH_HELP),
            self.base: ("base", _BASE_HELP),
            self.matrix.rows: ("strengths", ROWS_HELP),
            self.matrix.columns: ("columns", COLUMNS_HELP),
            self.others.files[0]: ("beside", HELP),
        }
        return helped | {field: (name, DRAWING_OPTIONS[name].help) for name, field in self.fields.items()}

    @property
    def _given(self) -> list[Any]:
        """The fields that a request is made of."""
        return [*self._marked, *self.others.fields]

    def _drawing(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: given[field] for name, field in self.fields.items()}

    def _beside(self, given: Mapping[Any, Any]) -> tuple[list[dict[str, Any]], list[Fault]]:
        try:
            return self.others.asked(given), []
        except ConfigError as error:
            return [], list(error.faults)

    def fault_marks(self, faults: Sequence[Fault]) -> dict[Any, Any]:
        """Every fault at its field; the usual help at the others."""
        return fault_marks(faults, self._marked)


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
