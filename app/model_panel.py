"""Step 1 of the Train tab: the preset and the model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ..core.config import OPTIONS, ModelConfig, RunConfig, config_from_flat, load_preset, preset_names, read_preset
from ..core.options import ConfigError
from ..core.own_presets import own_presets
from .cards import problems
from .folders import FolderBrowser
from .forms import Form, from_component
from .model_card import model_card
from .panel import QUICK, SLOW, FormPage
from .words import text

_MODEL = [name for name, option in OPTIONS.items() if option.section == "model"]
_NAME = "pretrained_model_name_or_path"


class ModelPanel:
    """Builds the panel in the current layout."""

    def __init__(self, form: Form, preset: str) -> None:
        self.form = form
        self.preset = gr.Radio(
            choices=preset_choices(), value=preset, show_label=False, container=False, elem_id="preset", elem_classes="rs-cards", label="Preset",
        )  # fmt: skip
        self.about = gr.HTML(about(preset))
        with gr.Row(elem_classes="rs-model-row"):
            with gr.Column(scale=5, min_width=260):
                form.place(_NAME)
            with gr.Column(scale=1, min_width=150, elem_classes="rs-model-buttons"):
                self.check = gr.Button("Check this model", size="sm", elem_id="check-model")
                self.browser = FolderBrowser("model", "browse-model")
        self.browser.place()
        self.checked = gr.HTML(elem_id="model-checked", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        return [self.preset]

    @property
    def outputs(self) -> list[Any]:
        return [self.preset, self.about, self.checked]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        return {self.about: about(preset)}

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {self.checked: ""}  # what was checked may be another model

    def wire(self, page: FormPage) -> None:
        def on_preset(given: Mapping[Any, Any]) -> dict[Any, Any]:
            """A preset fills the whole form; the run's name stays."""
            try:
                config = load_preset(given[self.preset])
            except ConfigError as error:  # one of the person's own that was deleted or broken meanwhile
                return page.refused(given, error)
            return page.filled(given, config)

        def use(given: Mapping[Any, Any], path: str) -> dict[Any, Any]:
            given = {**given, field: path}
            try:
                config = page.form.read(given)
            except ConfigError as error:  # something else in the form is wrong; the folder is taken all the same
                return {**page.refused(given, error), field: path, self.checked: self.look(given)}
            return {**page.filled(given, config, [_NAME]), self.checked: self.look(given)}

        field = page.form.components[_NAME]
        self.preset.input(on_preset, page.inputs, page.outputs, **QUICK)
        self.check.click(self.look, page.inputs, self.checked, show_progress_on=[self.checked], **SLOW)
        field.input(lambda: "", None, self.checked, **QUICK)
        self.browser.wire(field, page.inputs, page.outputs, use)

    def look(self, given: Mapping[Any, Any]) -> str:
        """The model that the form names, checked; a hub id is asked for at the hub where there is a network."""
        from ..core.model_check import check_model

        try:
            model = self.model_of(given)
        except ConfigError as error:
            return problems(error.faults)
        return model_card(check_model(model))

    def model_of(self, given: Mapping[Any, Any]) -> ModelConfig:
        """The model section that the form holds, whatever the rest of it says. Raises ConfigError."""
        return config_from_flat({name: from_component(OPTIONS[name], given[self.form.components[name]]) for name in _MODEL}).model


def preset_choices(runs_dir: Path | None = None) -> list[tuple[str, str]]:
    """(title, key) of every preset: those that come along, then the person's own of this runs folder, with a mark."""
    own = [] if runs_dir is None else own_presets(runs_dir)[0]
    return [
        *((_card(preset.title, preset.needs), name) for name, preset in ((name, read_preset(name)) for name in preset_names())),
        *((f"★ {preset.title}\nYour own", preset.key) for preset in own),
    ]


def _card(title: str, needs: str) -> str:
    """The title's first words on a line of their own, then its rest and the first of what the preset needs ("Needs nothing")."""
    name, _, rest = title.partition(": ")
    first = re.split(r"[;:(]|\.\s|\.$", needs, maxsplit=1)[0].strip(" ,")
    lines = [name, f"{rest[:1].upper()}{rest[1:]}", f"Needs {first[:1].lower()}{first[1:]}" if first else ""]
    return "\n".join(line for line in lines if line)


def about(name: str) -> str:
    preset = read_preset(name)
    return f'<div class="rs-about"><p>{text(preset.description)}</p><p><b>Needs:</b> {text(preset.needs)}</p></div>'
