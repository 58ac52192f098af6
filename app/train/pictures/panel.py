"""The panel of pictures on the Train tab: their folder, their captions and checks, and the class pictures.

The grid of pictures is one HTML component with a script of its own (`js/captions.js`), because two hundred caption fields as components
would be slow, and because nothing that is typed may be lost when the rest of the form is drawn again: the script keeps unsaved captions,
this module sends it what the folder holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ....core.config import DataConfig, RunConfig
from ....core.config.options import ConfigError
from ....core.findings import Finding, printable
from ...parts import notices
from ...parts.folders import FolderBrowser
from ...parts.forms import Form
from ...parts.panel import SLOW, UNSEEN, FormPage
from ...parts.translation import with_words
from ...parts.watch import Watch
from .auto_captions import AutoCaptions
from .captions import UPLOADS, Draft, DroppedSets, Edits, Refused, is_picture_name, read_edits
from .editing import Answer, SetEditor
from .form_data import DataFields
from .many import read_edit
from .set_view import SetReader, SetView, count_of, folder_of
from .things import ThingsPanel
from .tool import PictureTool, read_marks
from .words import WordsPanel

_JS = Path(__file__).parents[2] / "js"
_SCRIPT = "\n".join((_JS / name).read_text(encoding="utf-8") for name in ("caption_tools.js", "captions.js"))
# A change of these changes what the checks say.
_WATCHED = ("instance_data_dir", "trigger_word", "instance_prompt", "caption_strategy", "resolution", "aspect_buckets", "with_prior_preservation",
            "class_prompt", "class_data_dir", "num_class_images")  # fmt: skip

_ADVICE = """<p class="rs-quiet">5 to 20 pictures of one thing, from different sides and on different backgrounds. A caption may lie beside a
picture: photo.txt for photo.png. Drop more later: they are added.</p>"""
_ABOUT_CLASS = """<p class="rs-quiet">Class pictures show <b>ordinary things of the same kind</b> (other dogs, when yours is one dog). They are trained on
beside yours, so that the model keeps knowing what the kind looks like: <em>prior preservation</em>. A step then takes about twice as long.
<em>Output preservation</em> keeps what the model answers to the class prompt and needs no pictures.</p>"""


class PicturesPanel:
    """Builds the panel in the current layout. `preset`: the component that chooses the preset, whose words go with its own pictures."""

    def __init__(self, form: Form, config: RunConfig, watch: Watch, preset: gr.components.Component) -> None:
        self.form = form
        self.fields = DataFields(form)
        self.sets = DroppedSets(watch.store.root / ".pictures")
        self.reader = SetReader(self.sets, watch.previews)
        self.set_editor = SetEditor(self.sets, watch.store)
        view = self.reader.read(config.data)
        with gr.Row():
            with gr.Column(scale=3, min_width=260):
                self.files = gr.File(
                    file_count="multiple",
                    type="filepath",
                    height=150,
                    elem_id="drop",
                    label="Your pictures",
                    file_types=list(UPLOADS),
                )
                gr.HTML(_ADVICE)
            with gr.Column(scale=4, min_width=260):
                form.place("instance_data_dir")
                self.browser = FolderBrowser("pictures", "browse-pictures", self._places)
                form.place("trigger_word", "instance_prompt")
        self.browser.place()
        # the pictures that the words in the form were last adapted to
        self.held = gr.State(config.data.instance_data_dir)
        self.words = WordsPanel(self.fields, preset, self.held)
        self.editor = gr.HTML(
            value="", html_template='<div class="rs-set"></div>', js_on_load=with_words(_SCRIPT), apply_default_css=False, shown=view.shown, elem_id="pictures",
        )  # fmt: skip
        self.tool = PictureTool(watch.previews)
        self.checks = gr.HTML(view.checks, elem_id="picture-checks", elem_classes="rs-maybe")
        self.auto_captions = AutoCaptions(self.set_editor, watch)
        self.things = ThingsPanel(form, config)
        with (
            gr.Accordion(
                "Class pictures: so that the model does not forget the kind", open=False, elem_id="class-pictures"
            ),
            form.inside("#class-pictures"),
        ):
            gr.HTML(_ABOUT_CLASS)
            form.place("with_prior_preservation", "class_prompt")
            with gr.Row():
                form.place("class_data_dir", "num_class_images")
            form.place("output_preservation_weight")
            self.class_browser = FolderBrowser("pictures", "browse-class", self._places)
            self.class_browser.place()
            self.classes = gr.HTML(view.classes, elem_id="class-shown", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        return [self.editor, self.tool.component, self.held, *self.things.inputs]

    @property
    def outputs(self) -> list[Any]:
        return [self.editor, self.tool.component, self.checks, self.classes, self.files, self.held, *self.words.outputs,
                *self.things.outputs]  # fmt: skip

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        """The words alone: reading the folder is not for every keystroke."""
        return {**self.words.drawn(config, preset), **self.things.drawn(config)}

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        seen = self._updates(self.reader.read(config.data))
        return {**seen, **self.things.reread(config), self.held: config.data.instance_data_dir}

    def unsaved(self, given: Mapping[Any, Any]) -> list[Finding]:
        """An error where captions of the chosen folder are typed and not saved: training would read the old ones."""
        data, edits = self.fields.read(given), self._edits(given)
        written = [folder_of(thing) for thing in data.things if self.auto_captions.is_writing(folder_of(thing))]
        if written:
            return [Finding("error", "Captions", f"a model is writing the captions in {written[0]}; training would read half of them.",
                            "Wait until it is done, or press Stop there.", "captions-being-written")]  # fmt: skip
        if not edits.drafts or data.instance_data_dir is None or edits.folder != str(folder_of(data)):
            return []
        count = len(edits.drafts)
        return [
            Finding(
                "error", "Captions", f"{count_of(count, 'caption')} {'is' if count == 1 else 'are'} changed and not saved; training reads the saved ones.",
                "Press Save captions above the pictures, or Discard changes.", "captions-unsaved",
            )
        ]  # fmt: skip

    def _places(self) -> list[tuple[str, str]]:
        return [("Dropped here", str(self.sets.root))] if self.sets.root.is_dir() else []

    # -- handlers ---------------------------------------------------------------------------------------------------------

    def wire(self, page: FormPage) -> None:
        components = self.form.components
        folder, class_folder = components["instance_data_dir"], components["class_data_dir"]
        mine = [self.editor, self.checks, self.classes]
        quiet = {**SLOW, **UNSEEN}

        def use(name: str) -> Any:
            return lambda given, path: self._put_folder(page, given, name, path)

        changes = [
            event for name in _WATCHED if name != "instance_data_dir" for event in _change_events(components[name])
        ]
        gr.on(
            [*changes, self.editor.select, self.editor.input], self.on_change, page.inputs, mine, trigger_mode="always_last", **quiet,
        )  # fmt: skip
        gr.on(
            _change_events(folder), lambda given: self.on_folder(page, given), page.inputs, page.outputs, trigger_mode="always_last", **quiet,
        )  # fmt: skip
        self.things.wire(page)
        self.words.wire(page, lambda given, data: self._updates(self.reader.read(data, self._edits(given))), **quiet)
        self.editor.apply(self.on_many, page.inputs, mine, **quiet)
        self.editor.edit(self.on_open, page.inputs, [self.tool.component], **quiet)
        self._wire_edits(page, quiet)
        self.auto_captions.wire(page, self.fields.read, self._edited, self.on_change, mine)
        self.browser.wire(folder, page.inputs, page.outputs, use("instance_data_dir"))
        self.class_browser.wire(class_folder, page.inputs, page.outputs, use("class_data_dir"))

    def _wire_edits(self, page: FormPage, quiet: Mapping[str, Any]) -> None:
        """Connect what changes the set on the disk."""

        def save(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return self._edited(page, given, self.set_editor.save)

        def remove(given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            return self._edited(page, given, lambda data, edits: self.set_editor.remove(data, _text_of(event, "name")))

        def undo(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return self._edited(page, given, lambda data, edits: self.set_editor.bring_back(data))

        def upload(given: Mapping[Any, Any]) -> dict[Any, Any]:
            dropped = [Path(path) for path in (given[self.files] if given[self.files] is not None else [])]
            updates = self._edited(page, given, lambda data, edits: self.set_editor.add(data, dropped))
            return {**updates, self.files: None}

        self.tool.component.submit(lambda given: self.on_marks(page, given), page.inputs, page.outputs, **quiet)
        self.editor.submit(save, page.inputs, page.outputs, **quiet)
        self.editor.delete(remove, page.inputs, page.outputs, **quiet)
        self.editor.undo(undo, page.inputs, page.outputs, **quiet)
        self.files.upload(upload, {*page.inputs, self.files}, page.outputs, show_progress_on=[self.checks], **SLOW)

    def on_change(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Read the folder again: another page of it, other captions, or other settings."""
        return self._updates(self.reader.read(self.fields.read(given), self._edits(given)))

    def on_folder(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The folder's field is left: read the folder, and where it names other pictures than before, adapt the words. For that field this
        is also what `on_edit` is for the others: two handlers of one event could answer in any order, one of them with the old words."""
        folder, edits = self.fields.read(given).instance_data_dir, self._edits(given)
        if folder == given[self.held]:
            return self.on_change(given)
        try:
            config = self.form.read(given)
        except ConfigError as error:  # the words wait until the form can be read
            return {**page.refused(given, error), **self.on_change(given)}
        updates, data = self.fields.fill(page, given, config, self.words.changes(given, config))
        return {**updates, **self._updates(self.reader.read(data, edits)), self.held: folder}

    def on_many(self, given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Propose other captions: the trigger word in front, text replaced, tags added or removed; nothing is written before "Save captions"."""
        data, edits = self.fields.read(given), self._edits(given)
        try:
            proposal = self.set_editor.many(data, edits, read_edit(event._data))
        except Refused as refused:
            notices.warn(str(refused))
            return self._updates(self.reader.read(data, edits))
        notices.inform(proposal.message)
        typed = {name: Draft(each["text"], each["was"]) for name, each in proposal.texts.items()}
        with_typed = replace(edits, drafts={**edits.drafts, **typed})
        return self._updates(self.reader.read(data, with_typed, proposed=proposal.texts, label=proposal.label))

    def on_open(self, given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Open a picture in the crop and mask tool."""
        data, name = self.fields.read(given), _text_of(event, "name")
        folder = folder_of(data)
        try:
            if folder is None or not is_picture_name(name) or not (folder / name).is_file():
                raise Refused(f"There is no picture {printable(name)} in this folder any more.")
            return {self.tool.component: self.tool.opened(data, folder, name)}
        except Refused as refused:
            notices.warn(str(refused))
            return {self.tool.component: self.tool.closed()}

    def on_marks(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Save what the tool drew; where that is refused the tool stays open, with the reason in it."""
        problem = ""

        def act(data: DataConfig, edits: Edits) -> Answer:
            nonlocal problem
            try:
                return self.set_editor.mark(data, read_marks(given[self.tool.component]))
            except (Refused, OSError) as error:
                problem = str(error) if isinstance(error, Refused) else f"The disk did not take it: {error}."
                return Answer()

        updates = self._edited(page, given, act)
        return {**updates, self.tool.component: self.tool.kept(problem) if problem else self.tool.closed()}

    def _edited(
        self, page: FormPage, given: Mapping[Any, Any], act: Callable[[DataConfig, Edits], Answer]
    ) -> dict[Any, Any]:
        """Do `act`, report its result, and show the set as it is then."""
        data, edits = self.fields.read(given), self._edits(given)
        try:
            answer = act(data, edits)
        except (Refused, OSError) as problem:
            notices.warn(
                str(problem) if isinstance(problem, Refused) else f"The disk did not take it: {problem}.", duration=None
            )
            return self._updates(self.reader.read(data, edits))
        for message in answer.infos:
            notices.inform(message)
        for message in answer.warnings:
            notices.warn(message, duration=None)
        moved = answer.folder is not None and str(answer.folder) != data.instance_data_dir
        if not moved:
            return self._updates(self.reader.read(data, edits, saved=answer.saved, changed=answer.changed))
        updates = self._put_folder(page, given, "instance_data_dir", str(answer.folder))
        view = self.reader.read(
            self.fields.read_updated(given, updates),
            replace(edits, folder=str(answer.folder)) if answer.copied else Edits(str(answer.folder)), saved=answer.saved,
            changed=answer.changed, moved_from=edits.folder if answer.copied else "",
        )  # fmt: skip
        return {**updates, **self._updates(view)}

    def _put_folder(self, page: FormPage, given: Mapping[Any, Any], name: str, value: str) -> dict[Any, Any]:
        """Updates that put a folder into the form."""
        field = self.form.components[name]
        given = {**given, field: value}
        try:
            config = self.form.read(given)
        except ConfigError as error:  # something else in the form is wrong; the folder is taken all the same
            return {
                **page.refused(given, error),
                field: value,
                **self._updates(self.reader.read(self.fields.read(given))),
            }
        changes = self.words.changes(given, config) if name == "instance_data_dir" else {}
        return self.fields.fill(page, given, config, changes, (name,))[0]

    def _updates(self, view: SetView) -> dict[Any, Any]:
        return {self.editor: gr.HTML(shown=view.shown), self.checks: view.checks, self.classes: view.classes}

    def _edits(self, given: Mapping[Any, Any]) -> Edits:
        try:
            return read_edits(given[self.editor])
        except Refused as refused:
            notices.warn(str(refused))
            return Edits()


def _text_of(event: gr.EventData, key: str) -> str:
    """A text of an event, or "" where it has none."""
    value = event._data.get(key) if isinstance(event._data, dict) else None
    return value if isinstance(value, str) else ""


def _change_events(component: Any) -> list[Any]:
    """The events after which a field's value is meant: leaving it, or choosing."""
    if isinstance(component, gr.Textbox | gr.Number):
        return [component.blur, component.submit]
    return [component.release] if isinstance(component, gr.Slider) else [component.input]
