"""The search over all settings: words of a setting's name, help or key, and a jump to its field, wherever that is folded away."""

from pathlib import Path

import gradio as gr

from ...core.config import OPTIONS, SECTIONS
from ...core.texts import translated
from ..parts.forms import Form, label
from ..parts.translation import translated_markup, with_words

_SCRIPT = (Path(__file__).parents[1] / "js" / "find_option.js").read_text(encoding="utf-8")
_FIELD = """<div class="rs-find"><input type="text" role="combobox" autocomplete="off" spellcheck="false" aria-expanded="false" aria-controls="found"
aria-label="Find a setting" placeholder="Find a setting: press / anywhere"><ul id="found" role="listbox" aria-label="Settings found" hidden></ul></div>"""


class FindOption:
    """Builds the field in the current layout; `fill` gives it the options of a form, once all have their places.

    Its script also follows every link `<a data-option="NAME">` of the page to the field of that option.
    """

    def __init__(self) -> None:
        self.component = gr.HTML(
            html_template=translated_markup(_FIELD), js_on_load=with_words(_SCRIPT), apply_default_css=False, options=[], places={}, elem_id="find-option", padding=False,
        )  # fmt: skip

    def fill(self, form: Form) -> None:
        self.component.props["places"] = {name: list(places) for name, places in form.places.items()}
        self.component.props["options"] = [
            {
                "name": name,
                "label": label(option),
                "help": translated(option.help),
                "where": translated(SECTIONS[option.section].title),
                "text": " ".join(
                    (name, label(option), translated(option.help), SECTIONS[option.section].title)
                ).lower(),
            }
            for name, option in OPTIONS.items()
        ]
