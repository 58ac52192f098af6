"""The words in the form that belong to the demo's pictures: what became of them with own pictures, and the buttons that change them.

Which words those are is decided in `own_words.py`; here they are shown and put into the form.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from ....core.config import DataConfig, RunConfig, load_preset
from ....core.config.options import ConfigError
from ....core.data import scan_thing
from ...parts import notices
from ...parts.panel import FormPage
from .. import own_words
from .form_data import DataFields


class WordsPanel:
    """Builds the message and its buttons in the current layout.

    Args:
        preset: the component that chooses the preset, whose words go with its own pictures.
        held: the state with the pictures that the words in the form were last adapted to.
    """

    def __init__(self, fields: DataFields, preset: gr.components.Component, held: gr.State) -> None:
        self.fields, self.preset, self.held = fields, preset, held
        self.words = gr.HTML(elem_id="own-words", elem_classes="rs-maybe")
        with gr.Row(elem_classes="rs-buttons"):
            self.clear = gr.Button("Clear the demo's texts", size="sm", visible=False, elem_id="own-words-clear")
            self.fill = gr.Button(
                "Sample prompts from your captions", size="sm", visible=False, elem_id="own-words-prompts"
            )
            self.back = gr.Button("Restore the demo's texts", size="sm", visible=False, elem_id="own-words-back")

    @property
    def outputs(self) -> list[Any]:
        return [self.words, self.clear, self.fill, self.back]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        """Updates of the message and its buttons. Reads no folder: it runs at every edit."""
        message = own_words.message(config, load_preset(preset))
        return {
            self.words: message.markup, self.clear: gr.update(visible=message.clear), self.fill: gr.update(visible=message.prompts),
            self.back: gr.update(visible=message.back),
        }  # fmt: skip

    def changes(self, given: Mapping[Any, Any], config: RunConfig) -> dict[str, Any]:
        """Flat keys that change with the pictures of `config`, which were others before."""
        try:
            preset = load_preset(given[self.preset])
        except ConfigError:
            return {}  # one of the person's own that is gone: the page says so
        before, now = given[self.held], config.data.instance_data_dir
        if own_words.is_own(before) == own_words.is_own(now):
            return {}
        own = replace(config.data, instance_data_dir=now if own_words.is_own(now) else before)
        return own_words.changes(config, preset, before, self._own_prompts(own))

    def wire(self, page: FormPage, show: Callable[[Mapping[Any, Any], DataConfig], dict[Any, Any]], **how: Any) -> None:
        """Connect the buttons. `show(given, data)`: updates that show the pictures of `data`; `how`: settings of the events."""

        def on_click(button: gr.Button, action: Callable[[RunConfig, RunConfig], dict[str, Any]]) -> None:
            def clicked(given: Mapping[Any, Any]) -> dict[Any, Any]:
                try:
                    config = self.fields.form.read(given)
                    changes = action(config, load_preset(given[self.preset]))
                except ConfigError as error:
                    notices.warn("Please mend what is marked in the form first.")
                    return page.refused(given, error)
                updates, data = self.fields.fill(page, given, config, changes)
                return {**updates, **show(given, data)}

            button.click(clicked, page.inputs, page.outputs, **how)

        on_click(self.clear, self._cleared)
        on_click(self.back, self._put_back)
        on_click(self.fill, self._prompts)

    def _cleared(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        return own_words.cleared(config, preset, self._own_prompts(config.data))

    def _put_back(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        return own_words.put_back(config, preset, self._own_prompts(config.data))

    def _prompts(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        prompts = self._own_prompts(config.data, config.data.instance_prompt)
        if not prompts:
            notices.warn(
                "There is no caption yet: write and save one under a picture, or one for all pictures without their own."
            )
        return {"validation_prompts": prompts} if prompts else {}

    @staticmethod
    def _own_prompts(data: DataConfig, instance_prompt: str | None = None) -> list[str]:
        """Validation prompts from the captions beside the pictures, else from `instance_prompt`."""
        captions = []
        if data.caption_strategy != "instanceprompt":
            found = scan_thing(replace(data, instance_prompt=None, trigger_word=None, with_prior_preservation=False))
            captions = [item.caption for item in found.items]
        return own_words.prompts_from(captions, instance_prompt)
