"""Step 2 of the Train tab: pictures of the new thing, dropped or in a folder, with their captions and checks; and class pictures.

The rules of reading and writing are in `captions.py`; here they are shown. The grid of pictures is one HTML component with a script of its
own (`js/captions.js`), because two hundred caption fields as components would be slow, and because nothing that is typed may be lost when
the rest of the form is drawn again: the script keeps unsaved captions, this module tells it what the folder holds.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import OPTIONS, DataConfig, RunConfig, config_from_flat, load_preset, with_changes
from ...core.config.options import ConfigError
from ...core.data import Scan, scan
from ...core.data.captions import clean, from_name, mentions, with_trigger
from ...core.data.scanning import Item, located
from ...core.findings import Finding, printable
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ..parts.folders import FolderBrowser
from ..parts.forms import Form, from_component, to_component
from ..parts.panel import SLOW, FormPage
from ..parts.watch import Watch
from ..parts.words import is_text, text
from . import own_words
from .captions import (
    UPLOADS,
    Draft,
    DroppedSets,
    Edits,
    Kind,
    Refused,
    caption_file,
    caption_names,
    read_caption,
    read_edits,
    save_captions,
)
from .picture_checks import checks_card, marks_of

PER_PAGE = 24
_SCRIPT = (Path(__file__).parents[1] / "js" / "captions.js").read_text(encoding="utf-8")
_DATA = [name for name, option in OPTIONS.items() if option.section == "data"]
# A change of these changes what the checks say.
_WATCHED = ("instance_data_dir", "trigger_word", "instance_prompt", "caption_strategy", "resolution", "aspect_buckets", "with_prior_preservation",
            "class_prompt", "class_data_dir", "num_class_images")  # fmt: skip

_ADVICE = """<p class="rs-quiet">5 to 20 pictures of one thing, from different sides and on different backgrounds. A caption may lie beside a
picture: photo.txt for photo.png. Drop more later: they are added.</p>"""
_ABOUT_CLASS = """<p class="rs-quiet">Class pictures show <b>ordinary things of the same kind</b> (other dogs, when yours is one dog). They are trained on
beside yours, so that the model keeps knowing what the kind looks like: <em>prior preservation</em>. A step then takes about twice as long.</p>"""


class PicturesPanel:
    """Builds the panel in the current layout. `preset`: the component that chooses the preset, whose words go with its own pictures."""

    def __init__(self, form: Form, config: RunConfig, watch: Watch, preset: gr.components.Component) -> None:
        self.watch = watch
        self.form = form
        self.preset = preset
        self.sets = DroppedSets(watch.store.root / ".pictures")
        look = self.look(config.data)
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
        # the pictures that the words in the form were looked through for
        self.held = gr.State(config.data.instance_data_dir)
        self.words = gr.HTML(elem_id="own-words", elem_classes="rs-maybe")
        with gr.Row(elem_classes="rs-buttons"):
            self.clear = gr.Button("Clear the demo's words", size="sm", visible=False, elem_id="own-words-clear")
            self.fill = gr.Button(
                "Sample prompts from your captions", size="sm", visible=False, elem_id="own-words-prompts"
            )
            self.back = gr.Button("Put the demo's words back", size="sm", visible=False, elem_id="own-words-back")
        self.editor = gr.HTML(
            value="", html_template='<div class="rs-set"></div>', js_on_load=_SCRIPT, apply_default_css=False, shown=look.shown, elem_id="pictures",
        )  # fmt: skip
        self.checks = gr.HTML(look.checks, elem_id="picture-checks", elem_classes="rs-maybe")
        with gr.Accordion(
            "Class pictures: so that the model does not forget the kind", open=False, elem_id="class-pictures"
        ):
            gr.HTML(_ABOUT_CLASS)
            form.place("with_prior_preservation", "class_prompt")
            with gr.Row():
                form.place("class_data_dir", "num_class_images")
            self.class_browser = FolderBrowser("pictures", "browse-class", self._places)
            self.class_browser.place()
            self.classes = gr.HTML(look.classes, elem_id="class-shown", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        return [self.editor, self.held]

    @property
    def outputs(self) -> list[Any]:
        return [
            self.editor,
            self.checks,
            self.classes,
            self.files,
            self.held,
            self.words,
            self.clear,
            self.fill,
            self.back,
        ]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        """The words alone: reading the folder is not for every keystroke."""
        told = own_words.told(config, load_preset(preset))
        return {
            self.words: told.markup, self.clear: gr.update(visible=told.clear), self.fill: gr.update(visible=told.prompts),
            self.back: gr.update(visible=told.back),
        }  # fmt: skip

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {**self._updates(self.look(config.data)), self.held: config.data.instance_data_dir}

    def _places(self) -> list[tuple[str, str]]:
        return [("Dropped here", str(self.sets.root))] if self.sets.root.is_dir() else []

    # -- events ---------------------------------------------------------------------------------------------------------

    def wire(self, page: FormPage) -> None:
        fields = self.form.components
        folder, class_folder = fields["instance_data_dir"], fields["class_data_dir"]
        mine = [self.editor, self.checks, self.classes]
        quiet = {**SLOW, "show_progress": "hidden"}

        def save(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return self._edited(page, given, self.save)

        def remove(given: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
            return self._edited(page, given, lambda data, edits: self.remove(data, _told(event, "name")))

        def undo(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return self._edited(page, given, lambda data, edits: self.bring_back(data))

        def upload(given: Mapping[Any, Any]) -> dict[Any, Any]:
            dropped = given[self.files] if given[self.files] is not None else []
            return {
                **self._edited(page, given, lambda data, edits: self.add(data, [Path(path) for path in dropped])),
                self.files: None,
            }

        def use(name: str) -> Any:
            return lambda given, path: self._put(page, given, name, path)

        changes = [event for name in _WATCHED if name != "instance_data_dir" for event in _change_events(fields[name])]
        gr.on(
            [*changes, self.editor.select, self.editor.input],
            self.on_look,
            page.inputs,
            mine,
            trigger_mode="always_last",
            **quiet,
        )
        gr.on(
            _change_events(folder), lambda given: self.on_folder(page, given), page.inputs, page.outputs, trigger_mode="always_last", **quiet,
        )  # fmt: skip
        for button, act in ((self.clear, self._cleared), (self.back, self._back), (self.fill, self._prompts)):
            button.click(lambda given, act=act: self._reworded(page, given, act), page.inputs, page.outputs, **quiet)
        self.editor.apply(self.on_insert, page.inputs, mine, **quiet)
        self.editor.submit(save, page.inputs, page.outputs, **quiet)
        self.editor.delete(remove, page.inputs, page.outputs, **quiet)
        self.editor.undo(undo, page.inputs, page.outputs, **quiet)
        self.files.upload(upload, {*page.inputs, self.files}, page.outputs, show_progress_on=[self.checks], **SLOW)
        self.browser.wire(folder, page.inputs, page.outputs, use("instance_data_dir"))
        self.class_browser.wire(class_folder, page.inputs, page.outputs, use("class_data_dir"))

    def on_look(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Look at the folder again: another page of it, other captions, or other settings."""
        return self._updates(self.look(self.data_of(given), self._edits(given)))

    def on_folder(self, page: FormPage, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The folder's field is left: look at it, and where it names other pictures than before, see to the words. For that field this is
        also what `on_edit` is for the others: two handlers of one event could answer in any order, one of them with the old words."""
        folder, edits = self.data_of(given).instance_data_dir, self._edits(given)
        if folder == given[self.held]:
            return self.on_look(given)
        try:
            config = self.form.read(given)
        except ConfigError as error:  # the words wait until the form can be read
            return {**page.refused(given, error), **self.on_look(given)}
        updates, data = self._filled(page, given, config, self._words(given, config))
        return {**updates, **self._updates(self.look(data, edits)), self.held: folder}

    def _reworded(
        self, page: FormPage, given: Mapping[Any, Any], act: Callable[[RunConfig, RunConfig], dict[str, Any]]
    ) -> dict[Any, Any]:
        """Do what one of the buttons below the words says."""
        try:
            config = self.form.read(given)
            changes = act(config, load_preset(given[self.preset]))
        except ConfigError as error:
            gr.Warning("Please mend what is marked in the form first.")
            return page.refused(given, error)
        updates, data = self._filled(page, given, config, changes)
        return {**updates, **self._updates(self.look(data, self._edits(given)))}

    def _cleared(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        return own_words.cleared(config, preset, self._own_prompts(config.data))

    def _back(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        return own_words.put_back(config, preset, self._own_prompts(config.data))

    def _prompts(self, config: RunConfig, preset: RunConfig) -> dict[str, Any]:
        prompts = self._own_prompts(config.data, config.data.instance_prompt)
        if not prompts:
            gr.Warning(
                "There is no caption yet: write and save one under a picture, or one for all pictures without their own."
            )
        return {"validation_prompts": prompts} if prompts else {}

    def _own_prompts(self, data: DataConfig, instance_prompt: str | None = None) -> list[str]:
        """Validation prompts from the captions beside the pictures, else from `instance_prompt`."""
        captions = []
        if data.caption_strategy != "instanceprompt":
            found = scan(replace(data, instance_prompt=None, trigger_word=None, with_prior_preservation=False))
            captions = [item.caption for item in found.items]
        return own_words.prompts_from(captions, instance_prompt)

    def _words(self, given: Mapping[Any, Any], config: RunConfig) -> dict[str, Any]:
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

    def _filled(self, page: FormPage, given: Mapping[Any, Any], config: RunConfig, changes: Mapping[str, Any],
                also: tuple[str, ...] = ()) -> tuple[dict[Any, Any], DataConfig]:  # fmt: skip
        """Updates that put `changes` into the form (and the values of `also` from `config`), and the data section that it then holds."""
        try:
            new = with_changes(config, changes)
        except ConfigError as error:  # what is empty now is needed by something else that was chosen: the field says so
            shown = {self.form.components[name]: to_component(OPTIONS[name], value) for name, value in changes.items()}
            shown |= self.form.show(config, also)
            updates = self.form.valued(page.refused({**given, **shown}, error), shown)
            return updates, self.data_of({**given, **shown})
        return page.filled(given, new, [*also, *changes]), new.data

    def on_insert(self, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Propose the trigger word in front of every caption that lacks it; nothing is written before "Save captions"."""
        data, edits = self.data_of(given), self._edits(given)
        proposed = self.with_trigger(data, edits)
        trigger = clean(data.trigger_word) if data.trigger_word is not None else ""
        if not trigger:
            gr.Warning("Write a trigger word first.")
        elif proposed:
            gr.Info(
                f'"{trigger}" now stands in front of {_count(len(proposed), "caption")}. Look through them, then save.'
            )
        else:
            gr.Info(f'Every caption has "{trigger}" already.')
        typed = {name: Draft(each["text"], each["was"]) for name, each in proposed.items()}
        return self._updates(self.look(data, replace(edits, drafts={**edits.drafts, **typed}), proposed=proposed))

    def _edited(
        self, page: FormPage, given: Mapping[Any, Any], act: Callable[[DataConfig, Edits], "Answer"]
    ) -> dict[Any, Any]:
        """Do `act`, tell what came of it, and show the set as it is then."""
        data, edits = self.data_of(given), self._edits(given)
        try:
            answer = act(data, edits)
        except (Refused, OSError) as problem:
            gr.Warning(
                str(problem) if isinstance(problem, Refused) else f"The disk did not take it: {problem}.", duration=None
            )
            return self._updates(self.look(data, edits))
        for told in answer.infos:
            gr.Info(told)
        for told in answer.warnings:
            gr.Warning(told, duration=None)
        moved = answer.folder is not None and str(answer.folder) != data.instance_data_dir
        if not moved:
            return self._updates(self.look(data, edits, saved=answer.saved, changed=answer.changed))
        updates = self._put(page, given, "instance_data_dir", str(answer.folder))
        look = self.look(
            self.data_of({**given, **_values(updates, self.form)}),
            replace(edits, folder=str(answer.folder)) if answer.copied else Edits(str(answer.folder)), saved=answer.saved,
            changed=answer.changed, moved_from=edits.folder if answer.copied else "",
        )  # fmt: skip
        return {**updates, **self._updates(look)}

    def _put(self, page: FormPage, given: Mapping[Any, Any], name: str, value: str) -> dict[Any, Any]:
        """Updates that put a folder into the form."""
        field = self.form.components[name]
        given = {**given, field: value}
        try:
            config = self.form.read(given)
        except ConfigError as error:  # something else in the form is wrong; the folder is taken all the same
            return {**page.refused(given, error), field: value, **self._updates(self.look(self.data_of(given)))}
        changes = self._words(given, config) if name == "instance_data_dir" else {}
        return self._filled(page, given, config, changes, (name,))[0]

    def _updates(self, look: "Look") -> dict[Any, Any]:
        return {self.editor: gr.HTML(shown=look.shown), self.checks: look.checks, self.classes: look.classes}

    def _edits(self, given: Mapping[Any, Any]) -> Edits:
        try:
            return read_edits(given[self.editor])
        except Refused as refused:
            gr.Warning(str(refused))
            return Edits()

    def data_of(self, given: Mapping[Any, Any]) -> DataConfig:
        """The data section that the form holds, with the defaults where a field is wrong: pictures are shown all the same."""
        values = {}
        for name in _DATA:
            try:
                values[name] = from_component(OPTIONS[name], given[self.form.components[name]])
            except ConfigError:
                continue  # the mark at the field says what is wrong with it
        for kept in (values, {name: values[name] for name in values if OPTIONS[name].type == "str"}):
            try:
                return config_from_flat(kept).data
            except ConfigError:
                continue  # single values are right and do not go together: the form says so
        return DataConfig(instance_data_dir=values.get("instance_data_dir"))

    def unsaved(self, given: Mapping[Any, Any]) -> list[Finding]:
        """An error where captions of the chosen folder are typed and not saved: training would read the old ones."""
        data, edits = self.data_of(given), self._edits(given)
        if not edits.drafts or data.instance_data_dir is None or not self._same(edits, data):
            return []
        count = len(edits.drafts)
        return [
            Finding(
                "error", "Captions", f"{_count(count, 'caption')} {'is' if count == 1 else 'are'} changed and not saved; training reads the saved ones.",
                "Press Save captions above the pictures, or Discard changes.", "captions-unsaved",
            )
        ]  # fmt: skip

    # -- what is done with a set ------------------------------------------------------------------------------------------

    def save(self, data: DataConfig, edits: Edits) -> "Answer":
        """Write the unsaved captions of the chosen folder."""
        folder, kind = self._editable(data, edits)
        if not edits.drafts:
            return Answer(infos=["No caption was changed."])
        target, copied = self._for_edit(folder)
        written = save_captions(target, edits.drafts, "no file" if kind == "dropped" else "empty file")
        answer = Answer(folder=target if copied else None, copied=copied, changed=written.changed)
        answer.saved = {name: {"sent": edits.drafts[name].text, "now": now} for name, now in written.saved.items()}
        if written.saved:
            answer.infos.append(
                f"{_count(len(written.saved), 'caption')} saved beside the pictures in {printable(str(target))}.{self._copied(copied, folder)}"
            )
            runs = self._runs_with(target) if kind == "own" else []
            if runs:
                answer.infos.append(
                    f"{_and(runs)} was made with the old captions and cannot be resumed with the new ones."
                )
        if written.failed:
            some = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(written.failed.items())[:3])
            more = f"; and {len(written.failed) - 3} more" if len(written.failed) > 3 else ""
            answer.warnings.append(
                f"{_count(len(written.failed), 'caption')} not saved, and kept here as typed. {some}{more}."
            )
        return answer

    def add(self, data: DataConfig, paths: list[Path]) -> "Answer":
        """Copy dropped files into the chosen set, or into a new one where the chosen folder is not ours."""
        folder = self._folder(data)
        ours = folder is not None and self.sets.kind(folder) == "dropped" and folder.is_dir()
        copied, into = False, None
        if ours:
            into, copied = self._for_edit(folder)
        added = self.sets.add(paths, into)
        answer = Answer(folder=added.folder if not ours or copied else None, copied=copied)
        if added.refused:
            answer.warnings.append(
                f"Left out: {', '.join(map(printable, added.refused[:5]))}{' and more' if len(added.refused) > 5 else ''}."
            )
        if added.twice:
            answer.infos.append(
                f"Already there: {', '.join(map(printable, added.twice[:5]))}{' and more' if len(added.twice) > 5 else ''}."
            )
        if ours:
            answer.infos.append(f"{_count(added.pictures, 'picture')} added.{self._copied(copied, folder)}")
        elif added.folder is not None and folder is not None and self.sets.kind(folder) == "own":
            answer.infos.append(
                f"The dropped pictures are a set of their own now; your folder {printable(str(folder))} is as it was."
            )
        return answer

    def remove(self, data: DataConfig, name: str) -> "Answer":
        """Take a picture out of a dropped set; from any other folder nothing is ever removed."""
        folder = self._folder(data)
        if folder is None or self.sets.kind(folder) != "dropped":
            raise Refused("Only pictures that were dropped here are removed here. Remove it in its own folder.")
        target, copied = self._for_edit(folder)
        self.sets.remove(target, name)
        return Answer(
            folder=target if copied else None,
            copied=copied,
            infos=[self._copied(True, folder).strip()] if copied else [],
        )

    def bring_back(self, data: DataConfig) -> "Answer":
        """Undo the last removal."""
        folder = self._folder(data)
        if folder is None:
            raise Refused("No picture was removed from this set.")
        return Answer(infos=[f"{printable(self.sets.bring_back(folder))} is back."])

    def with_trigger(self, data: DataConfig, edits: Edits) -> dict[str, dict[str, str]]:
        """The captions, saved or typed, of all pages that lack the trigger word, with it in front: {picture: {text, was}}."""
        trigger = clean(data.trigger_word) if data.trigger_word is not None else ""
        try:
            folder, _ = self._editable(data, edits)
        except Refused:
            return {}
        names, fallback, out = _names(folder), _fallback(data), {}
        for path in _paths(scan(data), folder):
            said, problem = read_caption(caption_file(path, names))
            draft = edits.drafts.get(path.name)
            own = said if draft is None else clean(draft.text)
            before = own if own else fallback
            after = with_trigger(before, trigger)
            if trigger and not problem and is_text(path.name) and after != before:
                out[path.name] = {"text": after, "was": said if draft is None else draft.was}
        return out

    def _folder(self, data: DataConfig) -> Path | None:
        return None if data.instance_data_dir is None else located(data.instance_data_dir)

    def _same(self, edits: Edits, data: DataConfig) -> bool:
        return edits.folder == str(self._folder(data))

    def _editable(self, data: DataConfig, edits: Edits) -> tuple[Path, Kind]:
        """The chosen folder, where its captions may be written. Raises Refused."""
        folder = self._folder(data)
        if folder is None or not self._same(edits, data):
            raise Refused(
                "Another folder was chosen meanwhile. Look at its pictures, then save again; what you typed is kept with its folder."
            )
        kind = self.sets.kind(folder)
        if kind == "built-in":
            raise Refused("These pictures are built in and cannot be edited. Drop your own to edit.")
        if data.caption_strategy != "textfile":
            raise Refused(
                "Captions do not come from text files now: set the caption strategy to textfile first (All settings, Pictures)."
            )
        return folder, kind

    def _for_edit(self, folder: Path) -> tuple[Path, bool]:
        """(the folder to change, whether it is a new copy): a set that a run was made with stays as it is."""
        if self.sets.kind(folder) == "dropped" and folder.is_dir() and self._runs_with(folder):
            return self.sets.copy(folder), True
        return folder, False

    def _copied(self, copied: bool, folder: Path) -> str:
        return (
            f" It is a copy of the set, because {_and(self._runs_with(folder))} was made with the old one."
            if copied
            else ""
        )

    def _runs_with(self, folder: Path) -> list[str]:
        """Names of the runs whose pictures are those of `folder`."""
        found = []
        for run in self.watch.store.list():
            try:
                pictures = RunDir(run.path).read_config().get("instance_data_dir")
            except (RunError, OSError):
                continue  # the Runs tab tells what is wrong with it
            if isinstance(pictures, str) and located(pictures).resolve() == folder.resolve():
                found.append(run.name)
        return found

    # -- how it is shown --------------------------------------------------------------------------------------------------

    def look(self, data: DataConfig, edits: Edits | None = None, **answer: Any) -> "Look":
        """Read the folder and say everything about it; `answer` are the script's `saved`, `changed`, `proposed`, `moved_from`."""
        edits = edits if edits is not None else Edits()
        shown: dict[str, Any] = {
            "folder": "", "page": 0, "pages": 1, "per_page": PER_PAGE, "total": 0, "names": [], "items": [], "head": "", "said": "", "where": "",
            "editable": False, "removable": False, "removed": 0, "trigger": "", "stamp": str(time.monotonic_ns()), "saved": {}, "changed": {},
            "proposed": {}, "moved_from": "", **answer,
        }  # fmt: skip
        folder = self._folder(data)
        if folder is None:
            shown["head"] = "No pictures yet. Drop some above, or name a folder on this computer."
            return Look(shown, "", _class_view(data, Scan(()), [], self.watch))
        found = scan(data)
        of_class = [finding for finding in found.problems if _is_of_class(finding, data)]
        problems = [finding for finding in found.problems if finding not in of_class]
        kind = self.sets.kind(folder)
        paths = _paths(found, folder)
        pages = max(1, -(-len(paths) // PER_PAGE))
        page = min(edits.page, pages - 1) if edits.folder == str(folder) else 0
        edits = edits if edits.folder == str(folder) else Edits(str(folder))
        editable = kind != "built-in" and data.caption_strategy == "textfile" and bool(paths)
        shown |= {
            "folder": printable(str(folder)) if not is_text(str(folder)) else str(folder), "page": page, "pages": pages, "total": len(paths),
            "names": [path.name for path in paths if is_text(path.name)], "editable": editable, "removable": kind == "dropped",
            "removed": self.sets.removed(folder) if kind == "dropped" else 0,
            "trigger": clean(data.trigger_word) if data.trigger_word is not None else "",
            "head": _head(kind, folder, len(paths), sum(finding.code == "picture-bad" for finding in problems), data), "said": _SAID[kind],
            "where": f"Saving writes a text file beside each of these pictures, in {printable(str(folder))}.",
        }  # fmt: skip
        names = _names(folder)
        items = {item.path: item for item in found.items}
        twins: dict[str, list[Item]] = {}
        for item in found.items:
            twins.setdefault(item.digest, []).append(item)
        for path in paths[page * PER_PAGE : (page + 1) * PER_PAGE]:
            shown["items"].append(self._item(path, items.get(path), data, edits, problems, names, twins, editable))
        well = f"All {len(paths)} pictures can be read, are large enough for {data.resolution} px and have a caption; none is there twice."
        return Look(shown, checks_card(problems, len(paths), well), _class_view(data, found, of_class, self.watch))

    def _item(self, path: Path, item: Item | None, data: DataConfig, edits: Edits, problems: list[Finding], names: Mapping[str, str],
              twins: Mapping[str, list[Item]], editable: bool) -> dict[str, Any]:  # fmt: skip
        file = caption_file(path, names)
        said, problem, fallback = "", "", _fallback(data)
        if data.caption_strategy == "textfile":
            said, problem = read_caption(file)
        elif data.caption_strategy == "filename":
            said = from_name(path)
        unreadable = any(finding.code == "picture-bad" and finding.where == str(path) for finding in problems)
        draft = edits.drafts.get(path.name)
        own = said if draft is None else clean(draft.text)
        caption = own if own else fallback
        marks = marks_of(
            [
                finding
                for finding in problems
                if draft is None or finding.code not in ("caption-missing", "caption-empty")
            ],
            {str(path), str(file)},
        )
        if draft is not None and not caption:
            marks.append(
                {
                    "level": "error",
                    "short": "no caption",
                    "full": "Write one, or set the caption for pictures without one.",
                }
            )
        if item is not None and twins[item.digest][0] is not item:
            first = printable(twins[item.digest][0].name)
            marks.append(
                {"level": "warning", "short": "twice", "full": f"The same picture as {first}; remove one of them."}
            )
        trigger = clean(data.trigger_word) if data.trigger_word is not None else ""
        if trigger and caption and not mentions(caption, trigger):
            full = "Training puts the trigger word in front by itself; the button above writes it into the caption."
            marks.append({"level": "note", "short": f'no "{trigger}"', "full": full})
        return {
            "name": path.name if is_text(path.name) else printable(path.name),
            "size": f"{item.width} × {item.height} px" if item is not None else "", "caption": "" if unreadable else said,
            "fallback": "" if unreadable else fallback, "marks": marks,
            "url": None if unreadable else self.watch.previews.thumbnail(path),
            "editable": editable and not problem and not unreadable and is_text(path.name),
        }  # fmt: skip


@dataclass
class Look:
    """What the panel shows of a set: for the script, and as markup."""

    shown: dict[str, Any]
    checks: str
    classes: str


@dataclass
class Answer:
    """What came of an edit. `folder`: the one to show from now on, None = the same; `copied`: it is a copy of the old one."""

    folder: Path | None = None
    copied: bool = False
    infos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    saved: dict[str, dict[str, str]] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)


_SAID = {
    "dropped": "Write what each picture shows. Saving puts a text file beside it.",
    "own": "Write what each picture shows. Nothing is written into your folder until you press Save captions.",
    "built-in": "",
}


def _head(kind: Kind, folder: Path, count: int, left_out: int, data: DataConfig) -> str:
    pictures, where = _count(count, "picture"), printable(str(folder))
    if left_out:
        pictures += f" ({left_out} left out, see the checks)"
    if count == 0:
        return f"No pictures in {where}."
    if kind == "built-in":
        return f"{pictures}, built in: they cannot be edited. Drop your own to edit."
    head = (
        f"{pictures}, dropped here; they lie in {where}."
        if kind == "dropped"
        else f"{pictures} in your folder {where}; no picture there is changed or removed."
    )
    if data.caption_strategy != "textfile":
        source = "are the names of the files" if data.caption_strategy == "filename" else "are the same for all"
        head += f" Captions {source} (the caption strategy, under All settings), so there are none to edit here."
    return head


def _class_view(data: DataConfig, found: Scan, problems: list[Finding], watch: Watch) -> str:
    """What prior preservation will train on, with the first class pictures."""
    if not data.with_prior_preservation:
        return '<div class="rs-quiet">Off: only your pictures are trained on. Turn it on when ordinary things of the kind begin to look like yours.</div>'
    have = min(len(found.class_items), data.num_class_images)
    missing = data.num_class_images - have
    said = (
        f"{_count(have, 'class picture')} from {printable(str(located(data.class_data_dir)))}."
        if have and data.class_data_dir is not None
        else ""
    )
    if missing and not any(finding.level == "error" for finding in problems):
        where = (
            "and kept in the cache for later runs"
            if data.class_data_dir is None
            else f"into {printable(str(located(data.class_data_dir)))}"
        )
        prompt = clean(data.class_prompt) if data.class_prompt is not None else ""
        said += f' {_count(missing, "more" if have else "class picture", "" if have else "s")} of "{prompt}" will be drawn by the untrained model before the first step, {where}.'
    cards = []
    for item in found.class_items[: min(PER_PAGE, have)]:
        address = watch.previews.thumbnail(item.path)
        image = (
            f'<img src="{text(address)}" alt="{text(printable(item.name))}" loading="lazy">'
            if address
            else '<div class="rs-gone">cannot be shown</div>'
        )
        cards.append(
            f'<figure title="{text(printable(item.name))}">{image}<figcaption>{text(printable(item.caption))}</figcaption></figure>'
        )
    more = f'<p class="rs-quiet">The first {len(cards)} are shown.</p>' if have > len(cards) else ""
    grid = f'<div class="rs-pictures">{"".join(cards)}</div>' if cards else ""
    return f'<div class="rs-quiet">{text(said.strip())}</div>{grid}{more}' + checks_card(problems, 0, "")


def _is_of_class(finding: Finding, data: DataConfig) -> bool:
    if finding.where in ("class_prompt", "class_data_dir", "num_class_images"):
        return True
    if finding.where in OPTIONS or data.class_data_dir is None or not data.with_prior_preservation:
        return False
    folder = located(data.class_data_dir)
    return Path(finding.where) == folder or folder in Path(finding.where).parents


def _paths(found: Scan, folder: Path) -> list[Path]:
    """Every picture of the folder, usable or not, in the order of their names."""
    bad = {Path(finding.where) for finding in found.problems if finding.code in ("picture-bad", "caption-missing")}
    every = {item.path for item in found.items} | {path for path in bad if path.parent == folder}
    return sorted(every, key=lambda path: (path.name.casefold(), path.name))


def _names(folder: Path) -> dict[str, str]:
    try:
        return caption_names(folder)
    except OSError:
        return {}  # the scan has said what is wrong with the folder


def _fallback(data: DataConfig) -> str:
    return clean(data.instance_prompt) if data.instance_prompt is not None else ""


def _count(count: int, thing: str, plural: str = "s") -> str:
    return f"{count} {thing}{'' if count == 1 else plural}"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def _values(updates: Mapping[Any, Any], form: Form) -> dict[Any, Any]:
    """The values that updates put into the fields of the form."""
    found = {}
    for each in form.components.values():
        new = updates.get(each)
        if not isinstance(new, dict):
            found |= {each: new} if each in updates else {}
        elif "value" in new:
            found[each] = new["value"]
    return found


def _told(event: gr.EventData, key: str) -> str:
    """A text of an event, or "" where it has none."""
    value = event._data.get(key) if isinstance(event._data, dict) else None
    return value if isinstance(value, str) else ""


def _change_events(component: Any) -> list[Any]:
    """The events after which a field's value is meant: leaving it, or choosing."""
    if isinstance(component, gr.Textbox | gr.Number):
        return [component.blur, component.submit]
    return [component.release] if isinstance(component, gr.Slider) else [component.input]
