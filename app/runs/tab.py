"""The Runs tab: every run, and one of them in full: how far it is, its loss, its samples, its drift, its files, its log.

A run is a process of its own. This tab reads its files and leaves commands for it; it never waits for it. What stands side by side with
other runs is `compare/`.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr

from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog
from ..drift.measured import filmstrip
from ..parts.live_chart import live_chart
from ..parts.panel import QUICK
from ..parts.watch import Watch, signature
from ..parts.words import text
from .buttons import RunButtons
from .compare.panel import ComparePanel
from .curves import live_loss, rollout_charts
from .files import EXPORT, PROBLEM, DiskUse, files_card, report_mark
from .head import hangs, head
from .keeping import NotesPanel, TrashPanel
from .machine_card import machine_card
from .messages import messages, requests_card
from .notify import notify_box
from .queue_table import QueueTable
from .run_list import FIND, FIND_SCRIPT, run_choices, storage_card
from .samples import glance, samples_grid
from .shared import Changes, drift_over_training
from .study_panel import StudyPanel
from .try_it.panel import TryPanel
from .viewer import sample_viewer

_CURVE_POINTS = 400  # a long run's curves move by less than a pixel with each step: they are drawn again so many times
_NO_RUNS = '<div class="rs-card rs-mild"><h3>No runs yet</h3><p>Start one on the Train tab; it will appear here by itself.</p></div>'
_LOG_LINES, _LOG_CHARACTERS = 120, 16_000


class RunsTab:
    """Builds the tab in the current layout. `view` draws it for one viewer; the page's timer calls it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._disk_use = DiskUse()
        self.queue = QueueTable(watch)
        self.studies = StudyPanel(watch)
        with gr.Row(elem_classes="rs-two"):
            with gr.Column(scale=3, min_width=260, elem_classes="rs-list"):
                gr.HTML('<h2 class="rs-list-title">Runs</h2>')
                gr.HTML(FIND, js_on_load=FIND_SCRIPT, elem_id="find-run", apply_default_css=False)
                self.storage = gr.HTML(elem_id="runs-storage", elem_classes="rs-maybe")
                self.picker = gr.Radio(
                    choices=[],
                    show_label=False,
                    label="Run",
                    container=False,
                    elem_id="run-picker",
                    elem_classes="rs-cards rs-runs",
                )
                notify_box()
                self.trash = TrashPanel(watch)
            with gr.Column(scale=9, min_width=320):
                self.head = gr.HTML('<div class="rs-card rs-quiet">Looking for runs …</div>', elem_id="run-head")
                self.buttons = RunButtons(watch)
                self.notes = NotesPanel(watch)
                self.requests = gr.HTML(elem_id="run-requests", elem_classes="rs-maybe")
                self.messages = gr.HTML(elem_id="run-messages", elem_classes="rs-maybe")
                with gr.Tabs(elem_id="run-parts"):
                    with gr.Tab("Overview", id="run-overview") as overview:
                        self.files = gr.HTML(elem_id="run-files", elem_classes="rs-maybe")
                        self.loss = live_chart("run-loss")
                        self.charts = gr.HTML(elem_id="run-charts", elem_classes="rs-maybe")
                        self.glance = gr.HTML(elem_id="run-glance", elem_classes="rs-maybe")
                        machine_card()
                    with gr.Tab("Samples and drift", id="run-look") as look:
                        self.samples = gr.HTML(elem_id="run-samples", elem_classes="rs-maybe")
                        self.over_training = gr.HTML(elem_id="run-drift-over-training", elem_classes="rs-maybe")
                        self.drift = gr.HTML(elem_id="run-drift", elem_classes="rs-maybe")
                    with gr.Tab("Try it", id="run-try") as try_it:
                        self.try_it = TryPanel(watch)
                    with gr.Tab("Compare", id="run-compare") as beside:
                        self.compare = ComparePanel(watch)
                    with gr.Tab("Log", id="run-log-tab") as tail:
                        self.log = gr.HTML(elem_id="run-log", max_height=420, autoscroll=True)
                sample_viewer()
                self._parts, self._beside = (overview, look, try_it, tail), beside

    @property
    def inputs(self) -> list[Any]:
        """What of the tab is chosen in the browser, in the order in which `view` takes it."""
        return [self.picker, self.trash.chosen, self.studies.which]

    @property
    def outputs(self) -> list[Any]:
        return [self.picker, self.storage, self.queue.component, self.head, self.loss, *self._of_one_run.values(), *self.try_it.outputs,
                *self.notes.outputs, *self.trash.outputs, *self.studies.outputs, *self.buttons.named.values()]  # fmt: skip

    @property
    def lively(self) -> list[Any]:
        """The outputs that change with every step of a run."""
        return [self.picker, self.queue.component, self.head, self.loss, self.charts, self.log]

    @property
    def _of_one_run(self) -> dict[str, gr.HTML]:
        """The parts below the head, by name."""
        return {"requests": self.requests, "messages": self.messages, "charts": self.charts, "glance": self.glance, "files": self.files,
                "samples": self.samples, "over_training": self.over_training, "drift": self.drift, "log": self.log}  # fmt: skip

    def view(
        self,
        chosen: str | None,
        seen: dict[str, str],
        viewer: str | None = None,
        thrown: str | None = None,
        study: str | None = None,
    ) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `chosen` and was last shown `seen` (changed in place; `picked` in it: the run that the list shows as
        chosen there).

        `viewer`: whose tries are shown; None = not known here, they follow with the next tick. `thrown`, `study`: what is chosen in the trash, and of the studies.
        """
        runs = self.watch.runs()
        run = next((run for run in runs if run.name == chosen), None)
        if run is None:
            run = self.watch.current()
        name = run.name if run is not None else None
        choices = run_choices(runs, self.watch.waiting)
        changes = Changes(seen)
        if viewer is not None:
            changes.updates |= self.try_it.view(name, viewer, seen)
        changes.draw("storage", self.storage, str(self.watch.problem), lambda: storage_card(self.watch.problem))
        # A list of a thousand is not drawn anew for a choice that the browser shows already.
        if name != seen.get("picked"):
            seen.pop("picker", None)
        seen["picked"] = name
        changes.draw("picker", self.picker, signature(choices), lambda: gr.Radio(choices=choices, value=name))
        self.queue.draw(runs, changes)
        self.notes.draw(run, changes)
        self.trash.draw(changes, thrown)
        self.studies.draw(runs, changes, study)
        if run is None:
            self._clear(changes)
        else:
            self._draw(run, changes)
        return changes.updates

    def _clear(self, changes: Changes) -> None:
        """There is no run at all."""
        changes.draw("head", self.head, "none", lambda: _NO_RUNS)
        changes.draw("loss", self.loss, "none", lambda: gr.HTML(value=None))
        for part, component in self._of_one_run.items():
            changes.draw(part, component, "none", lambda: "")
        changes.draw_many("buttons", "none", lambda: self.buttons.updates({}))

    def _draw(self, run: RunSummary, changes: Changes) -> None:
        log, directory = self.watch.log(run), RunDir(run.path)
        who = (run.name, run.created)
        hung = hangs(run)
        stacks = self.watch.store.stacks(run.name) if run.stalled is not None else ""
        disk = self._disk_use.of(run, log)
        pending = directory.pending_commands() if run.alive else []

        def draw(part: str, make: Callable[[], str], *depends_on: Any) -> None:
            changes.draw(part, getattr(self, part), signature(who, *depends_on), make)

        draw("head", lambda: head(run, log, hung, disk),
             run.state, run.alive, run.step, run.message, log.version, hung, disk)  # fmt: skip
        draw("requests", lambda: requests_card(run, log, pending),
             run.alive, pending, log.doing, log.doing and log.phase, log.answered)  # fmt: skip
        draw(
            "messages",
            lambda: messages(run, log, stacks),
            run.state,
            run.message,
            log.error,
            list(log.warnings),
            stacks,
        )
        point = log.last_step and log.last_step["step"] // max(1, (run.total_steps or 0) // _CURVE_POINTS)
        changes.draw(
            "loss", self.loss, signature(who, point, run.total_steps), lambda: gr.HTML(value=live_loss(run, log))
        )
        draw("charts", lambda: rollout_charts(run, log), run.alive, point, run.total_steps)
        draw("glance", lambda: glance(run, log, self.watch), log.samples)
        draw(
            "files",
            lambda: files_card(run, log, self.watch),
            log.exported,
            log.saved,
            run.last_checkpoint,
            report_mark(run),
            EXPORT.mark(run, self.watch),
            PROBLEM.mark(run, self.watch),
        )
        draw("samples", lambda: samples_grid(run, log, self.watch), log.samples)
        draw("over_training", lambda: drift_over_training(run, log), log.drifts, run.total_steps)
        draw("drift", lambda: self._newest_drift(run, log), log.drifts)
        log_size = directory.log_path.stat().st_size if directory.log_path.exists() else 0
        draw("log", lambda: _log_tail(directory, log_size), log_size)
        shown = self.buttons.shown(run, hung is not None)
        changes.draw_many("buttons", signature(who, sorted(shown)), lambda: self.buttons.updates(shown))

    def _newest_drift(self, run: RunSummary, log: RunLog) -> str:
        return filmstrip(run, log.drifts[max(log.drifts)], self.watch, brief=True) if log.drifts else ""

    def wire(self, refresh: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """Connect everything. `refresh(request, *inputs)` draws the page again for `outputs`; `turn_to`: for another run than the one that is chosen."""
        self.buttons.wire(refresh, inputs, outputs)
        self.picker.input(refresh, inputs, outputs, **QUICK)
        self.queue.wire(refresh, inputs, outputs)
        self.notes.wire(self.picker)
        self.trash.wire(refresh, inputs, outputs)
        self.compare.wire(self._beside, self._parts, self.picker)
        self.try_it.wire(self.picker)
        self.studies.wire()


def _log_tail(directory: RunDir, size: int) -> str:
    return f'<pre class="rs-log" tabindex="0" aria-label="The end of the log">{text(directory.log_tail(_LOG_LINES, _LOG_CHARACTERS)) if size else "(empty)"}</pre>'
