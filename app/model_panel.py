"""Step 1 of the Train tab: the preset and the model."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..core.config import RunConfig, load_preset, preset_names, read_preset
from .forms import Form
from .panel import QUICK, FormPage
from .words import text


class ModelPanel:
    """Builds the panel in the current layout."""

    def __init__(self, form: Form, preset: str) -> None:
        self.preset = gr.Radio(
            choices=preset_choices(), value=preset, show_label=False, container=False, elem_id="preset", elem_classes="rs-cards", label="Preset",
        )  # fmt: skip
        self.about = gr.HTML(about(preset))
        form.place("pretrained_model_name_or_path")

    @property
    def inputs(self) -> list[Any]:
        return [self.preset]

    @property
    def outputs(self) -> list[Any]:
        return [self.preset, self.about]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        return {self.about: about(preset)}

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {}

    def wire(self, page: FormPage) -> None:
        def on_preset(given: Mapping[Any, Any]) -> dict[Any, Any]:
            """A preset fills the whole form; the run's name stays."""
            return page.filled(given, load_preset(given[self.preset]))

        self.preset.input(on_preset, page.inputs, page.outputs, **QUICK)


def preset_choices() -> list[tuple[str, str]]:
    """(title, name) of every preset."""
    return [(read_preset(name).title, name) for name in preset_names()]


def about(name: str) -> str:
    preset = read_preset(name)
    return f'<div class="rs-about"><p>{text(preset.description)}</p><p><b>Needs:</b> {text(preset.needs)}</p></div>'
