"""The fold "Captions by a model": its settings, Start and Stop, and how far it is. The work is done by a process of its own (`core/captioning`).

A start belongs to its folder, not to a viewer: whoever shows that folder sees how far it is. Captions appear in the editor as they come, and
are text like any other there.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ....core.captioning import models
from ....core.captioning.job import CaptionJob, JobState
from ....core.captioning.models import CaptionError
from ....core.captioning.settings import OPTIONS, CaptionSettings
from ....core.config import DataConfig
from ....core.config.options import ConfigError
from ....core.findings import printable
from ....core.platform_calls import device_name
from ....core.sizes import size
from ....core.texts import translated
from ...parts.forms import AUTOMATIC, component, from_component, info, label
from ...parts.panel import QUICK, SLOW, UNSEEN, FormPage
from ...parts.watch import Watch
from ...parts.words import text
from .captions import Edits, Refused
from .editing import Answer, SetEditor
from .set_view import count_of, folder_of

_TICK_S = 1.0
_REREAD_S = 2.0  # between two readings of the folder while captions come
_ABOUT = """<p class="rs-quiet">A model on this computer looks at each picture and writes what it sees. Nothing is loaded before you press the button, and
nothing is downloaded unless you allow it. The captions then stand below the pictures: correct them like your own.</p>"""
_SKIPPED_SHOWN = 5


class AutoCaptions:
    """Builds the fold in the current layout. `editor`: what may be done with the chosen folder."""

    def __init__(self, editor: SetEditor, watch: Watch) -> None:
        self.editor, self.watch = editor, watch
        self._jobs: dict[Path, CaptionJob] = {}
        self._lock = threading.RLock()
        self.fields: dict[str, gr.components.Component] = {}
        with gr.Accordion("Captions by a model", open=False, elem_id="auto-captions") as self.fold:
            gr.HTML(_ABOUT)
            with gr.Row():
                self.fields["model"] = _model_field()
                with gr.Column(min_width=220):
                    self._place("download")
                    self.model = gr.HTML(elem_id="caption-model", elem_classes="rs-maybe")
            with gr.Row():
                self._place("existing", "detail", "trigger_word")
            with gr.Accordion("More settings of the captions", open=False, elem_id="auto-captions-more"):
                rest = [name for name in OPTIONS if name not in self.fields]
                for first in range(0, len(rest), 3):
                    with gr.Row():
                        self._place(*rest[first : first + 3])
            with gr.Row():
                self.start = gr.Button("Write captions", elem_id="caption-start")
                self.stop = gr.Button("Stop", elem_id="caption-stop", interactive=False)
            self.card = gr.HTML(elem_id="caption-state", elem_classes="rs-maybe")
            self.seen = gr.State({})
            self.timer = gr.Timer(_TICK_S, active=False)

    def _place(self, *names: str) -> None:
        for name in names:
            made = self.fields[name] = component(OPTIONS[name], OPTIONS[name].default, full=False)
            if isinstance(made, gr.Dropdown) and OPTIONS[name].optional:  # here no checkpoint says what is unset
                made.choices = [(translated("unset"), AUTOMATIC), *made.choices[1:]]

    @property
    def outputs(self) -> list[Any]:
        """What its own handlers change of it."""
        return [self.model, self.start, self.stop, self.card, self.seen, self.timer]

    def wire(
        self,
        page: FormPage,
        read: Callable[[Mapping[Any, Any]], DataConfig],
        edited: Callable[[FormPage, Mapping[Any, Any], Callable[[DataConfig, Edits], Answer]], dict[Any, Any]],
        reread: Callable[[Mapping[Any, Any]], dict[Any, Any]],
        set_outputs: list[Any],
    ) -> None:
        """Connect everything.

        Args:
            read: the data section that the form holds.
            edited: does an edit of the set and gives the updates that show it; reports what is refused.
            reread: updates that show the set as it is on the disk; they change `set_outputs`.
        """
        inputs, quiet = {*page.inputs, *self.fields.values(), self.seen}, {**SLOW, **UNSEEN}
        live = [*set_outputs, *self.outputs]

        def start(given: Mapping[Any, Any]) -> dict[Any, Any]:
            updates = edited(page, given, lambda data, edits: self.begin(given, data, edits))
            moved = updates.get(page.form.components["instance_data_dir"])
            folder = moved.get("value") if isinstance(moved, dict) else moved
            return {**updates, **self.shown(folder_of(read(given)) if folder is None else Path(folder), {})}

        def stop(given: Mapping[Any, Any]) -> dict[Any, Any]:
            job = self.job(folder_of(read(given)))
            if job is not None:
                job.stop()
            return self._buttons(job)

        def tick(given: Mapping[Any, Any]) -> dict[Any, Any]:
            seen = given[self.seen] if isinstance(given[self.seen], dict) else {}
            updates = self.shown(folder_of(read(given)), seen)
            return {**updates, **(reread(given) if updates[self.seen].get("reread") != seen.get("reread") else {})}

        def opened(given: Mapping[Any, Any]) -> dict[Any, Any]:
            return {**self.shown(folder_of(read(given)), {}), self.model: self.about_model(given)}

        self.start.click(start, inputs, [*page.outputs, *self.outputs], show_progress_on=[self.card], **SLOW)
        self.stop.click(stop, inputs, [self.start, self.stop], **QUICK)
        self.timer.tick(tick, inputs, live, **quiet)
        self.fold.expand(opened, inputs, self.outputs, **quiet)
        asked = [self.fields["model"].change, self.fields["revision"].blur]
        gr.on(
            asked,
            lambda given: {self.model: self.about_model(given)},
            inputs,
            [self.model],
            trigger_mode="always_last",
            **quiet,
        )

    # -- what a viewer does -----------------------------------------------------------------------------------------------

    def settings(self, given: Mapping[Any, Any]) -> CaptionSettings:
        """The settings that the fields hold. Raises ConfigError with every fault."""
        values, faults = {}, []
        for name, each in self.fields.items():
            try:
                values[name] = from_component(OPTIONS[name], given[each])
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError(faults)
        return CaptionSettings(**values)

    def begin(self, given: Mapping[Any, Any], data: DataConfig, edits: Edits) -> Answer:
        """Start on the chosen folder, in a copy of it where a run was made with it. Raises Refused with what stands in the way."""
        folder = folder_of(data)
        running = self.job(folder)
        if running is not None and not running.state.over:
            return Answer(infos=["Captions of these pictures are being written already."])
        if edits.drafts:
            raise Refused(
                "Save or discard the captions that you typed first: the model would write others for the same pictures."
            )
        try:
            settings = self.settings(given)
            self._check_model(settings)
        except ConfigError as error:
            raise Refused(" ".join(fault.message for fault in error.faults)) from error
        except CaptionError as error:
            raise Refused(str(error)) from error
        device = device_name(settings.device)
        busy = [run.name for run in self.watch.runs(fresh=True) if run.alive and run.device == device]
        if busy:
            raise Refused(
                f"{', '.join(busy)} is training on this device ({device}): wait for it, or choose another device below More settings."
            )
        with self._lock:
            target, copied, words = self.editor.for_captions(data, edits)
            running = self.job(target)  # of another viewer, meanwhile
            if running is None or running.state.over:
                self._jobs[target.resolve()] = CaptionJob(target, settings)
        return Answer(folder=target if copied else None, copied=copied, infos=[words] if words else [])

    @staticmethod
    def _check_model(settings: CaptionSettings) -> None:
        try:
            faults = settings.refusals(models.find(settings.model, settings.revision).kind)
        except models.NotHere:
            if not settings.download:
                raise
            return  # the process asks the hub what it is
        if faults:
            raise ConfigError(faults)

    def is_writing(self, folder: Path | None) -> bool:
        """Whether captions of a folder are being written now."""
        running = self.job(folder)
        return running is not None and not running.state.over

    def job(self, folder: Path | None) -> CaptionJob | None:
        """The latest start on a folder."""
        with self._lock:
            return None if folder is None else self._jobs.get(folder.resolve())

    # -- what is shown ----------------------------------------------------------------------------------------------------

    def about_model(self, given: Mapping[Any, Any]) -> str:
        """Where the chosen model is, and how large."""
        try:
            settings = self.settings(given)
            found = models.find(settings.model, settings.revision)
            words = f"On this computer: {models.KINDS[found.kind].label}, {size(found.bytes_)} to load."
        except (ConfigError, CaptionError) as error:
            words = str(error)
        return f'<div class="rs-quiet">{text(words)}</div>'

    def shown(self, folder: Path | None, seen: Mapping[str, Any]) -> dict[Any, Any]:
        """Updates that show how far the start on this folder is; `reread` in what is `seen` changes where the set must be read again."""
        job = self.job(folder)
        if job is None:
            return {self.card: "", self.seen: {}, self.timer: gr.Timer(active=False), **self._buttons(None)}
        state, now = job.state, time.monotonic()
        mark, before, at = (state.written, state.over), seen.get("reread"), seen.get("at", 0.0)
        due = list(mark) != before and (state.over or now - at >= _REREAD_S)
        new = {"reread": list(mark), "at": now} if due else {"reread": before, "at": at}
        # The last reading is sent with the timer still on: what is final comes twice rather than not at all.
        active = not state.over or due
        return {
            self.card: state_card(state),
            self.seen: new,
            self.timer: gr.Timer(active=active),
            **self._buttons(job),
        }

    def _buttons(self, job: CaptionJob | None) -> dict[Any, Any]:
        running = job is not None and not job.state.over
        stopping = running and job.stopping
        words = "Stopping after these pictures" if stopping else "Stop"
        return {
            self.start: gr.Button(interactive=not running),
            self.stop: gr.Button(words, interactive=running and not stopping),
        }


def _model_field() -> gr.Dropdown:
    option = OPTIONS["model"]
    choices = [
        (f"{each.label}: {each.about} ({size(each.bytes_)}, {each.licence})", each.name) for each in models.RECOMMENDED
    ]
    return gr.Dropdown(
        choices=[(translated(words), name) for words, name in choices], value=option.default, allow_custom_value=True, label=label(option),
        info=info(option, full=False), elem_id=f"opt-{option.name}", interactive=True, min_width=320, scale=2,
    )  # fmt: skip


def state_card(state: JobState) -> str:
    """How far a start is, what it left out, and how it ended."""
    bar = (
        f'<progress max="{max(1, state.total)}" value="{state.done}" aria-label="captions written" style="width: 100%; accent-color: var(--rs-accent)"></progress>'
        if state.phase == "writing"
        else ""
    )
    lines = [f"<p><b>{text(_headline(state))}</b></p>{bar}"]
    if state.phase == "writing" and state.last:
        lines.append(f'<p class="rs-quiet">{text(printable(state.last, 200))}</p>')
    if state.message:
        lines.append(f"<p>{text(state.message)} {text(state.remedy)}</p>")
    for each in state.skipped[:_SKIPPED_SHOWN]:
        lines.append(
            f'<p class="rs-quiet">Left out: {text(printable(each.picture))}: {text(each.reason.rstrip("."))}. {text(each.remedy)}</p>'
        )
    if len(state.skipped) > _SKIPPED_SHOWN:
        lines.append(f'<p class="rs-quiet">And {len(state.skipped) - _SKIPPED_SHOWN} more left out.</p>')
    return f'<div class="rs-card{" rs-bad" if state.phase == "failed" else ""}" data-testid="auto-captions">{"".join(lines)}</div>'


def _headline(state: JobState) -> str:
    written, left_out = (
        count_of(state.written, "caption"),
        f", {count_of(len(state.skipped), 'picture')} left out" if state.skipped else "",
    )
    kept = f" {state.kept} had one already." if state.kept else ""
    return {
        "starting": "Starting …",
        "downloading": f"Downloading {state.last}: {size(state.bytes_[0])} of {size(state.bytes_[1])}",
        "opening": f"Opening {state.model}: {size(state.bytes_[1])}",
        "writing": f"{state.done} of {count_of(state.total, 'picture')}, on {state.device}",
        "finished": f"{written} written{left_out}.{kept}",
        "stopped": f"Stopped: {written} written{left_out}. Write captions again does the rest.",
        "failed": f"Not finished: {written} written.",
    }[state.phase]
