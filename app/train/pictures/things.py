"""Further things in the same run, on the page: a list, a small form to add or change one, and the option itself as text.

The option's text field is where they are kept; this writes into it. What the form has no field for stays as it was in a thing that is
changed here.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ....core.config import OPTIONS, RunConfig
from ....core.config.concepts import OPTION, Concept, concepts_of, entry, read_concepts
from ....core.config.options import ConfigError
from ....core.data import scan_thing
from ....core.findings import printable
from ...parts import notices
from ...parts.forms import Form, from_component
from ...parts.panel import QUICK, SLOW, FormPage
from ...parts.words import text
from .set_view import count_of

_NEW = "new"
_FIELDS = ("instance_data_dir", "trigger_word", "instance_prompt", "class_prompt", "repeats")
"""What the small form can say; each is a field of `Concept`."""
_ABOUT = """<p class="rs-quiet">A run can learn several things at once: each with its own folder and its own trigger word. They are shown equally often,
whatever the number of their pictures. With class pictures on, each needs the caption of its kind.</p>"""


class ThingsPanel:
    """Builds the list and the small form in the current layout."""

    def __init__(self, form: Form, config: RunConfig) -> None:
        self.form = form
        with gr.Accordion("More things in the same run", open=False, elem_id="things"), form.inside("#things"):
            gr.HTML(_ABOUT)
            self.list = gr.HTML(_listed(config), elem_id="things-list", elem_classes="rs-maybe")
            self.which = gr.Dropdown(
                _choices(config),
                value=_NEW,
                label="Add or change",
                filterable=False,
                elem_id="things-which",
                allow_custom_value=True,  # a thing that is gone meanwhile must not break every event of the form
            )
            with gr.Row():
                folder = gr.Textbox(label="Folder with its pictures", max_lines=1, elem_id="things-folder")
                trigger = gr.Textbox(label="Its trigger word", max_lines=1, elem_id="things-trigger")
            with gr.Row():
                prompt = gr.Textbox(label="Caption for its pictures without one", max_lines=1, elem_id="things-prompt")
                of_class = gr.Textbox(label="Caption of its class pictures", max_lines=1, elem_id="things-class")
                share = gr.Textbox(
                    label="Its share beside the others", placeholder="1 = as often as they", max_lines=1, elem_id="things-share",
                )  # fmt: skip
            self.boxes = dict(zip(_FIELDS, (folder, trigger, prompt, of_class, share), strict=True))
            with gr.Row(elem_classes="rs-buttons"):
                self.keep = gr.Button("Add this thing", size="sm", elem_id="things-keep")
                self.remove = gr.Button("Remove it", size="sm", visible=False, elem_id="things-remove")
            form.place(OPTION)

    @property
    def inputs(self) -> list[Any]:
        return [self.which, *self.boxes.values()]

    @property
    def outputs(self) -> list[Any]:
        return [self.list, self.which, *self.boxes.values(), self.keep, self.remove]

    def drawn(self, config: RunConfig) -> dict[Any, Any]:
        """The list; what is typed into the small form stays. Reads no folder: it runs at every edit."""
        return {self.list: _listed(config), self.which: gr.update(choices=_choices(config))}

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        """Another config is in the form: the small form begins anew."""
        chosen = self._chosen(config.data.concepts, _NEW)
        return {**self.drawn(config), **chosen, self.which: gr.update(choices=_choices(config), value=_NEW)}

    def wire(self, page: FormPage) -> None:
        mine = [self.which, *self.boxes.values(), self.keep, self.remove]
        self.which.input(self.on_choice, page.inputs, mine, **QUICK)
        self.keep.click(lambda given: self.on_keep(page, given), page.inputs, page.outputs, **SLOW)
        self.remove.click(lambda given: self.on_remove(page, given), page.inputs, page.outputs, **SLOW)

    def on_choice(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Show the chosen thing in the small form."""
        return self._chosen(self._text(given), given[self.which])

    def on_keep(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Add the thing in the small form, or put it in the place of the chosen one."""
        if not self._readable(given):
            return {}
        tables, place = self._tables(given)
        typed = {name: str(given[box] or "").strip() for name, box in self.boxes.items()}
        table = {} if place is None else tables[place]
        table = {**table, **{name: value if value else None for name, value in typed.items()}}
        tables = [*tables, table] if place is None else [*tables[:place], table, *tables[place + 1 :]]
        number = len(tables) - 1 if place is None else place
        return self._put(page, given, tables, number)

    def on_remove(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        if not self._readable(given):
            return {}
        tables, place = self._tables(given)
        if place is None:
            notices.warn("Choose the thing to remove first.")
            return {}
        return self._put(page, given, [*tables[:place], *tables[place + 1 :]], None)

    def _put(
        self, page: FormPage, given: Mapping[Any, Any], tables: list[dict[str, Any]], number: int | None
    ) -> dict[Any, Any]:
        """Updates that put the list of things into the form. `number`: the one that is new or changed."""
        try:
            value = read_concepts(tables)
            config = self.form.read({**given, self.form.components[OPTION]: "" if value is None else value})
        except ConfigError as error:
            own = [fault.message for fault in error.faults if OPTION in fault.options]
            notices.warn(own[0] if own else "Please mend what is marked in the form first.", duration=None)
            return {} if own else page.refused(given, error)
        if number is not None:
            self._tell(config, number)
        return page.filled(given, config, (OPTION,))

    @staticmethod
    def _tell(config: RunConfig, number: int) -> None:
        """Say what the thing's folder holds."""
        concepts = concepts_of(config.data.concepts)
        thing = config.data.things[len(config.data.things) - len(concepts) + number]
        found = scan_thing(thing)
        if found.errors:
            notices.warn(f"{found.errors[0].message} {found.errors[0].remedy}", duration=None)
        else:
            notices.inform(f"{entry(number, concepts[number])}: {count_of(len(found.items), 'picture')}.")

    def _readable(self, given: Mapping[Any, Any]) -> bool:
        """Whether the option's own text can be read; where a person has broken it, nothing may be written over it."""
        try:
            from_component(OPTIONS[OPTION], given[self.form.components[OPTION]])
        except ConfigError as error:
            notices.warn(error.faults[0].message, duration=None)
            return False
        return True

    def _text(self, given: Mapping[Any, Any]) -> str | None:
        """The option as the form holds it; None where it cannot be read, which its field says."""
        try:
            return from_component(OPTIONS[OPTION], given[self.form.components[OPTION]])
        except ConfigError:
            return None

    def _tables(self, given: Mapping[Any, Any]) -> tuple[list[dict[str, Any]], int | None]:
        """(the things as tables, the place of the chosen one or None for a new one)."""
        tables = [concept.given() for concept in concepts_of(self._text(given))]
        place = _place(given[self.which], len(tables))
        return tables, place

    def _chosen(self, value: str | None, which: Any) -> dict[Any, Any]:
        """Updates that show a thing in the small form, or an empty one."""
        concepts = concepts_of(value)
        place = _place(which, len(concepts))
        concept = Concept() if place is None else concepts[place]
        shown = {name: getattr(concept, name) for name in _FIELDS}
        return {
            **{box: "" if shown[name] is None else str(shown[name]) for name, box in self.boxes.items()},
            self.which: gr.update(value=_NEW if place is None else str(place)),
            self.keep: "Add this thing" if place is None else "Save the change",
            self.remove: gr.update(visible=place is not None),
        }


def _place(which: Any, count: int) -> int | None:
    """The place of a choice of the dropdown; None for a new thing, and for what is no choice."""
    if isinstance(which, str) and which.isascii() and which.isdecimal() and len(which) < 4 and int(which) < count:
        return int(which)
    return None


def _choices(config: RunConfig) -> list[tuple[str, str]]:
    """The new thing, and each that is there."""
    things = enumerate(concepts_of(config.data.concepts))
    return [("A new thing", _NEW), *((f"{number + 1}: {printable(each.name)}", str(number)) for number, each in things)]


def _listed(config: RunConfig) -> str:
    """The further things, one line each; nothing where there are none."""
    concepts = concepts_of(config.data.concepts)
    if not concepts:
        return ""
    lines = []
    for each in concepts:
        share = "" if each.repeats is None else f" · {each.repeats} times"
        folder = printable(str(each.instance_data_dir))
        lines.append(
            f'<li><b>{text(printable(each.name))}</b> <span class="rs-quiet">{text(folder)}{share}</span></li>'
        )
    return f'<ol class="rs-things">{"".join(lines)}</ol>'
