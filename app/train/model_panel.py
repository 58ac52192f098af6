"""Step 1 of the Train tab: the preset and the model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import (
    OPTIONS,
    ModelConfig,
    Preset,
    RunConfig,
    config_from_flat,
    config_to_flat,
    load_preset,
    preset_names,
    read_preset,
    tier_changes,
    tier_for,
    tier_of,
    with_changes,
)
from ...core.config.options import ConfigError
from ...core.config.own_presets import own_presets
from ...core.demo import MODELS
from ...core.findings import printable
from ..parts.cards import problems
from ..parts.folders import FolderBrowser
from ..parts.forms import Form, from_component, to_component
from ..parts.panel import QUICK, SLOW, FormPage
from ..parts.watch import Watch
from ..parts.words import text
from .model_card import model_card

_MODEL = [name for name, option in OPTIONS.items() if option.section == "model"]
_NAME = "pretrained_model_name_or_path"


class ModelPanel:
    """Builds the panel in the current layout. What it says about the model is about the one in the form, whichever card it started from."""

    def __init__(self, form: Form, preset: gr.Radio, watch: Watch) -> None:
        """`preset`: the cards (`preset_cards`); they are rendered here."""
        self.form, self.watch, self.preset = form, watch, preset.render()
        self.about = gr.HTML(about(preset.value), elem_id="about-model")
        self.tier = gr.Radio(
            **tiers_of(preset.value, load_preset(preset.value)), label="Memory of your graphics card", elem_id="tier",
            info="Changes the settings that decide how much memory a step takes. Numbers named an estimate were not measured on a card.",
        )  # fmt: skip
        with gr.Row(elem_classes="rs-model-row"):
            with gr.Column(scale=5, min_width=260):
                form.place(_NAME)
            with gr.Column(scale=1, min_width=150, elem_classes="rs-model-buttons"):
                self.check = gr.Button("Check this model", size="sm", elem_id="check-model")
                self.browser = FolderBrowser("model", "browse-model")
        # the model's fields, as they were when last looked at
        self.held = gr.State(self._as_shown(load_preset(preset.value)))
        self.browser.place()
        self.checked = gr.HTML(elem_id="model-checked", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        return [self.preset, self.held, self.tier]

    @property
    def outputs(self) -> list[Any]:
        return [self.preset, self.held, self.about, self.tier, self.checked]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        cards = self.cards(preset, config.model.pretrained_model_name_or_path)
        return {**cards, self.tier: gr.update(**tiers_of(preset, config))}

    @staticmethod
    def _as_shown(config: RunConfig) -> list[Any]:
        flat = config_to_flat(config)
        return [to_component(OPTIONS[name], flat[name]) for name in _MODEL]

    def put(self, config: RunConfig) -> dict[Any, Any]:
        """The update that knows the fields of a model which was put into the form."""
        return {self.held: self._as_shown(config)}

    def changed(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Updates that take away what was found out about another model than the fields name now; empty where they are as they were."""
        now = [given[self.form.components[name]] for name in _MODEL]
        return {} if now == given[self.held] else {self.held: now, self.checked: ""}

    def cards(self, preset: str, model: Any) -> dict[Any, Any]:
        """Updates of the cards and the words below them for the model that the form names; `model` as the field holds it, right or wrong."""
        return {
            self.about: about(preset, model),
            self.preset: gr.update(choices=preset_choices(self.watch.store.root, preset, model)),
        }

    def named(self, given: Mapping[Any, Any]) -> Any:
        """The model that the form names, as its field holds it."""
        return given[self.form.components[_NAME]]

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
                return {
                    **page.refused(given, error),
                    field: path,
                    **self.changed(given),
                    self.checked: self.model_report(given),
                }
            return {**page.filled(given, config, [_NAME]), self.checked: self.model_report(given)}

        field = page.form.components[_NAME]
        self.preset.input(on_preset, page.inputs, page.outputs, **QUICK)
        self.tier.input(lambda given: self.on_tier(page, given), page.inputs, page.outputs, **QUICK)
        self.check.click(self.model_report, page.inputs, self.checked, show_progress_on=[self.checked], **SLOW)
        field.input(lambda: "", None, self.checked, **QUICK)
        self.browser.wire(field, page.inputs, page.outputs, use)

    def on_tier(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """A tier writes its settings into the form; everything else stays."""
        try:
            preset = read_preset(given[self.preset])
            changes = tier_changes(preset, tier_for(preset, given[self.tier]))
            config = with_changes(page.form.read(given), changes)
        except ConfigError as error:
            return page.refused(given, error)
        return page.filled(given, config, changes)

    def model_report(self, given: Mapping[Any, Any]) -> str:
        """The model that the form names, checked; a hub id is asked for at the hub where there is a network."""
        from ...core.before.model_check import check_model

        try:
            model = self.model_of(given)
        except ConfigError as error:
            return problems(error.faults)
        return model_card(check_model(model))

    def model_of(self, given: Mapping[Any, Any]) -> ModelConfig:
        """The model section that the form holds, whatever the rest of it says. Raises ConfigError."""
        return config_from_flat(
            {name: from_component(OPTIONS[name], given[self.form.components[name]]) for name in _MODEL}
        ).model


def preset_cards(chosen: str) -> gr.Radio:
    """The presets to choose from, not rendered yet: several panels speak of them."""
    return gr.Radio(
        choices=preset_choices(), value=chosen, show_label=False, container=False, elem_id="preset", elem_classes="rs-cards", label="Preset",
        render=False,
    )  # fmt: skip


def preset_choices(runs_dir: Path | None = None, chosen: str | None = None, model: Any = None) -> list[tuple[str, str]]:
    """(title, key) of every preset: those that come along, then the person's own of this runs folder, with a mark.

    `chosen`, `model`: where the form, started from the chosen one, names another model than it, that card describes this model.
    """
    own = [] if runs_dir is None else own_presets(runs_dir)[0]
    shipped = [read_preset(name) for name in preset_names()]
    return [
        *((_card(preset, preset.title, preset.needs, chosen, model), preset.key) for preset in shipped),
        *((_card(preset, f"★ {preset.title}", None, chosen, model), preset.key) for preset in own),
    ]


def _card(preset: Preset, title: str, needs: str | None, chosen: str | None, model: Any) -> str:
    """The title's first words on a line of their own, then its rest, and the smallest card or the first of what else the preset needs."""
    name, _, rest = title.partition(": ") if needs is not None else (title, "", "Your own")
    if preset.key == chosen and is_other(preset, model):
        rest, needs = f"with another model: {printable(_short(model), 60)}", needs_of(model)
    elif preset.tiers and needs is not None:
        needs = f"An NVIDIA card from {preset.tiers[0].gb} GB"
    lines = [name, f"{rest[:1].upper()}{rest[1:]}", _first_need(needs)]
    return "\n".join(line for line in lines if line)


def _first_need(needs: str | None) -> str:
    first = "" if needs is None else re.split(r"[;:(]|\.\s|\.$", needs, maxsplit=1)[0].strip(" ,")
    return f"Needs {first[:1].lower()}{first[1:]}" if first else ""


def _short(model: str) -> str:
    """A folder or file by its own name, anything else as it is."""
    return Path(model).expanduser().name if is_here(model) else model


def is_here(model: str) -> bool:
    """Whether an option names a folder or a file of this computer that is there."""
    try:
        return Path(model).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name that no disk can hold, or a home folder that does not exist
        return False


def tiers_of(key: str, config: RunConfig) -> dict[str, Any]:
    """The tiers of the chosen preset as a radio's settings: hidden where it has none or the form names another model; the one whose
    settings the form has is chosen."""
    preset = read_preset(key)
    own = tier_of(preset, config)
    return {
        "choices": [(tier.words, tier.gb) for tier in preset.tiers],
        "value": None if own is None else own.gb,
        "visible": bool(preset.tiers) and not is_other(preset, config.model.pretrained_model_name_or_path),
    }


def starts_from(preset: Preset) -> str:
    """The model that a preset starts from."""
    return preset.changes.get(_NAME, OPTIONS[_NAME].default)


def is_other(preset: Preset, model: Any) -> bool:
    """Whether the form names another model than the preset it started from; an empty or impossible field names none."""
    return isinstance(model, str) and bool(model.strip()) and model.strip() != starts_from(preset)


def shipped_with(model: str) -> Preset | None:
    """The first of the presets that come along which starts from this model."""
    return next((preset for preset in map(read_preset, preset_names()) if starts_from(preset) == model), None)


def needs_of(model: str) -> str:
    """What a person must have for a model, as far as its name shows; quick, and without a network."""
    model = model.strip()
    if model in MODELS:
        return "Nothing for the model: it comes along. No download, no graphics card."
    known = shipped_with(model)
    if known is not None:
        return known.needs
    if is_here(model):
        return "No download: the model lies on this computer. A graphics card, unless the model is small; “Check this model” shows its size."
    return "A download, unless the model is on this computer already; and a graphics card, unless it is small. “Check this model” shows it."


def about(name: str, model: Any = None) -> str:
    """What stands below the cards. `model`: the one in the form, where that may be another than the preset's."""
    preset = read_preset(name)
    if not is_other(preset, model):
        lines = (
            ("Needs", preset.needs),
            ("Licence", preset.licence),
            ("Access", preset.gate),
            ("Settings from", preset.source),
        )
        told = "".join(f"<p><b>{name}:</b> {text(words)}</p>" for name, words in lines if words)
        return f'<div class="rs-about"><p>{text(preset.description)}</p>{told}</div>'
    words = f"{printable(model.strip())}, in place of {printable(starts_from(preset))} of the preset “{preset.title}”, from which the other settings come."
    return f'<div class="rs-about"><p><b>Model:</b> {text(words)}</p><p><b>Needs:</b> {text(needs_of(model))}</p></div>'


def start_note(config: RunConfig, preset: str) -> str:
    """What stands below Start: about the model and the settings that would be trained."""
    if config.model.pretrained_model_name_or_path not in MODELS:
        return '<p class="rs-note">You may close this page while it trains: the run goes on by itself.</p>'
    as_it_came = preset in preset_names() and config == load_preset(preset)
    how_long = "; a few minutes on a laptop" if as_it_came else ""
    return f'<p class="rs-note">No download and no graphics card needed{how_long}. You may close this page meanwhile: the run goes on.</p>'
