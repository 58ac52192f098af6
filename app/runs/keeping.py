"""What a person does with a run beside training it: tags and a note, and the trash."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.notes import Notes, read_notes, tags_of, write_notes
from ...core.runs.rows import RunSummary
from ...core.sizes import size
from ..parts import notices
from ..parts.panel import QUICK
from ..parts.watch import Watch, signature
from ..parts.words import text
from .shared import Changes, kept_or_first


class NotesPanel:
    """Tags and a note of the run that is shown; kept when a field is left."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self._lock = watch, threading.Lock()
        with gr.Row(elem_classes="rs-notes", visible=False) as self.row:
            self.tags = gr.Textbox(
                label="Tags", placeholder="portrait, try 3", max_lines=1, scale=2, elem_id="run-tags"
            )
            self.note = gr.Textbox(label="Note", placeholder="what you tried, and what came of it", lines=1, max_lines=8,
                                   scale=5, elem_id="run-note")  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        return [self.row, self.tags, self.note]

    def draw(self, run: RunSummary | None, changes: Changes) -> None:
        """Show the notes of another run. Those of the same one are not shown again, because somebody may be typing."""
        if run is None:
            changes.draw_many("notes", "none", lambda: {self.row: gr.Row(visible=False)})
            return
        changes.draw_many("notes", signature(run.name, run.created), lambda: self._updates(run))

    def _updates(self, run: RunSummary) -> dict[Any, Any]:
        try:
            notes = read_notes(RunDir(run.path))
        except RunError as error:
            notices.warn(str(error))
            notes = Notes()
        return {self.row: gr.Row(visible=True), self.tags: ", ".join(notes.tags), self.note: notes.note}

    def wire(self, picker: gr.Radio) -> None:
        def keep_tags(name: str | None, tags: str) -> None:
            self._keep(name, lambda notes: replace(notes, tags=tags_of(tags)))

        def keep_note(name: str | None, note: str) -> None:
            self._keep(name, lambda notes: replace(notes, note=note.strip()))

        # Each field by itself: two fields left one after the other are two requests, which may be answered in any order.
        for field, keep in ((self.tags, keep_tags), (self.note, keep_note)):
            gr.on([field.blur, field.submit], keep, [picker, field], None, **QUICK)

    def _keep(self, name: str | None, change: Callable[[Notes], Notes]) -> None:
        if name is None:
            return
        try:
            run = self.watch.store.get(name)
            with self._lock:
                before = read_notes(run)
                wanted = change(before)
                if wanted != before:
                    write_notes(run, wanted)
            if wanted != before:
                self.watch.runs(fresh=True)
        except (RunError, OSError, UnicodeError) as error:
            notices.warn(f"Not kept: {error}")


class TrashPanel:
    """Below the list of runs, as long as there is something in it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        with gr.Column(visible=False, elem_classes="rs-card rs-trash", elem_id="trash") as self.box:
            self.words = gr.HTML()
            self.chosen = gr.Dropdown(choices=[], label="In the trash", elem_id="trash-choice")
            with gr.Row():
                self.restore = gr.Button("Bring it back", size="sm", elem_id="do-restore")
                self.empty = gr.Button("Empty the trash", size="sm", variant="stop", elem_id="do-empty")
        with gr.Row(visible=False, elem_classes="rs-card rs-bad") as self.confirm:
            gr.HTML("<b>Remove all runs in the trash for good?</b>")
            self.yes = gr.Button("Yes, remove them", size="sm", variant="stop", elem_id="do-empty-yes")
            self.no = gr.Button("Keep them", size="sm", elem_id="do-empty-no")

    @property
    def outputs(self) -> list[Any]:
        return [self.box, self.words, self.chosen]

    def draw(self, changes: Changes, chosen: str | None = None) -> None:
        """Show what is in it. `chosen`: the one that the browser has chosen, which stays so while it is there."""
        thrown = self.watch.trash()
        changes.draw_many(
            "trash", signature([(each.name, each.when) for each in thrown]), lambda: self._updates(thrown, chosen)
        )

    def _updates(self, thrown: list[Any], chosen: str | None) -> dict[Any, Any]:
        if not thrown:
            return {self.box: gr.Column(visible=False)}
        room = size(sum(each.size_bytes() for each in thrown))
        choices = [(f"{each.name}, deleted {time.strftime('%d %b %H:%M', time.localtime(each.when))}", each.name) for each in thrown]  # fmt: skip
        words = f"<b>Trash</b> <span class='rs-quiet'>{len(thrown)} run{'' if len(thrown) == 1 else 's'}, {text(room)}</span>"
        return {
            self.box: gr.Column(visible=True),
            self.words: words,
            self.chosen: gr.Dropdown(choices=choices, value=kept_or_first(chosen, [each.name for each in thrown])),
        }

    def wire(self, refresh: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """`refresh` as in `RunsTab.wire`."""

        def restored(request: gr.Request, thrown: str | None, *given: Any) -> Any:
            back = None
            if thrown is not None:
                try:
                    back = self.watch.store.restore(thrown).name
                except (RunError, OSError) as error:
                    notices.warn(str(error))
            self.watch.runs(fresh=True)
            return refresh(request, *given, turn_to=back)

        def emptied(request: gr.Request, *given: Any) -> Any:
            try:
                self.watch.store.empty_trash()
            except (RunError, OSError) as error:
                notices.warn(str(error))
            self.watch.runs(fresh=True)
            return refresh(request, *given)

        self.restore.click(restored, [self.chosen, *inputs], outputs, **QUICK)
        self.yes.click(emptied, inputs, outputs, **QUICK)
        self.empty.click(lambda: gr.Row(visible=True), None, self.confirm, **QUICK)
        for button in (self.yes, self.no):
            button.click(lambda: gr.Row(visible=False), None, self.confirm, **QUICK)
