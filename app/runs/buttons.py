"""The buttons of one run: which of them make sense now, and what each does."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ...core.config import ConfigError
from ...core.runs.archive import pack
from ...core.runs.errors import RunError
from ...core.runs.rows import RunSummary
from ..parts import notices
from ..parts.panel import QUICK, SLOW
from ..parts.problem import write_problem
from ..parts.watch import Watch
from .files import EXPORT, PROBLEM
from .report import write_run_report

COMMANDS = {
    "pause": ("Pause", "It waits until you press Go on; nothing is lost."),
    "resume": ("Go on", ""),
    "save": ("Save now", ""),
    "sample": ("Sample now", ""),
    "drift": ("Drift now", ""),
    "stop-and-save": ("Stop and save", ""),
    "stop": ("Stop without saving", ""),
}
"""Command of a live run -> the words of its button, and what to add when it was sent."""
_ALLOWED = {  # which commands make sense in which state of a live run
    "starting": ("stop",),
    "running": ("pause", "save", "sample", "drift", "stop-and-save", "stop"),
    "paused": ("resume", "save", "sample", "drift", "stop-and-save", "stop"),
    "stopping": (),
}


class RunButtons:
    """Builds the buttons in the current layout; deleting asks for confirmation in a row of its own below them."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        with gr.Row(elem_classes="rs-buttons"):
            self.commands = {
                command: gr.Button(words, size="sm", visible=False, elem_id=f"do-{command}",
                                   variant="stop" if command == "stop" else "secondary")
                for command, (words, _) in COMMANDS.items()
            }  # fmt: skip
            self.force = gr.Button("Force stop", size="sm", variant="stop", visible=False, elem_id="do-force")
            self.again = gr.Button("Resume", size="sm", variant="primary", visible=False, elem_id="do-again")
            self.clone = gr.Button("Start again as a copy", size="sm", visible=False, elem_id="do-clone")
            self.change = gr.Button("Copy with changes", size="sm", visible=False, elem_id="do-change")
            self.earlier = gr.Button("Earlier", size="sm", visible=False, elem_id="do-earlier")
            self.later = gr.Button("Later", size="sm", visible=False, elem_id="do-later")
            self.dequeue = gr.Button("Take out of the queue", size="sm", visible=False, elem_id="do-dequeue")
            self.report = gr.Button("Make a report to share", size="sm", visible=False, elem_id="do-report")
            self.export = gr.Button("Pack into a zip", size="sm", visible=False, elem_id="do-export")
            self.problem = gr.Button("Report a problem", size="sm", visible=False, elem_id="do-problem")
            self.delete = gr.Button("Delete", size="sm", variant="stop", visible=False, elem_id="do-delete")
        with gr.Row(visible=False, elem_classes="rs-card rs-bad") as self.confirm:
            gr.HTML(
                "<b>Delete this run with its checkpoints, samples and LoRA?</b> From the trash it can be brought back."
            )
            self.delete_yes = gr.Button("To the trash", size="sm", variant="stop", elem_id="do-delete-yes")
            self.delete_now = gr.Button("Remove it for good", size="sm", variant="stop", elem_id="do-delete-now")
            self.delete_no = gr.Button("Keep it", size="sm", elem_id="do-delete-no")

    @property
    def named(self) -> dict[str, gr.Button]:
        """Every button that comes and goes with the state of a run, by the key that `shown` uses."""
        return {**self.commands, "force": self.force, "again": self.again, "clone": self.clone, "change": self.change, "earlier": self.earlier,
                "later": self.later, "dequeue": self.dequeue, "report": self.report, "export": self.export, "problem": self.problem, "delete": self.delete}  # fmt: skip

    @staticmethod
    def shown(run: RunSummary, hangs: bool) -> dict[str, str]:
        """Button -> its words, for those that make sense now. `hangs`: its process is there and does not go on."""
        if run.alive:
            shown = {command: COMMANDS[command][0] for command in _ALLOWED.get(run.state, ())}
            if hangs or run.state == "stopping":
                shown["force"] = "Force stop"
            return {**shown, "change": "Copy with changes", "problem": "Report a problem"}
        if run.state == "queued":
            return {
                "change": "Copy with changes",
                "earlier": "Earlier",
                "later": "Later",
                "dequeue": "Take out of the queue",
            }
        shown = {"clone": "Start again as a copy", "change": "Copy with changes", "delete": "Delete"}
        if run.step:
            shown |= {"report": "Make a report to share", "export": "Pack into a zip"}
        if run.state != "created":
            shown["problem"] = "Report a problem"
        if run.resumable:
            shown["again"] = f"Resume from step {run.last_checkpoint}"
        elif run.state == "created":
            shown["again"] = "Start"
        elif run.state in ("failed", "crashed", "stopped"):
            shown["again"] = "Retry from the start"
            del shown["clone"]  # it would do the same
        return shown

    def updates(self, shown: dict[str, str]) -> dict[Any, Any]:
        """Updates that show these buttons with these words, and hide all others."""
        return {
            button: gr.Button(value=shown[key], visible=True) if key in shown else gr.Button(visible=False)
            for key, button in self.named.items()
        }

    def wire(self, refresh: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """Connect the buttons. `refresh` as in `RunsTab.wire`; the first input is the chosen run."""

        def on_click(button: gr.Button, action: Callable[[str], str | tuple[str, str] | None]) -> None:
            """`action(name)` does it and returns the message to show, and the run to show from then on where that is another."""

            def clicked(request: gr.Request, chosen: str | None, *rest: Any) -> dict[Any, Any]:
                turn_to = None
                if chosen is not None:
                    try:
                        message = action(chosen)
                    except (RunError, ConfigError, OSError) as error:
                        notices.warn(str(error))
                    else:
                        if isinstance(message, tuple):
                            message, turn_to = message
                        if message:
                            notices.inform(message)
                self.watch.runs(fresh=True)
                return refresh(request, chosen, *rest, turn_to=turn_to)

            button.click(clicked, inputs, outputs, **QUICK)

        for command, button in self.commands.items():
            on_click(button, lambda name, command=command: self._send(name, command))
        on_click(self.force, self._force_stop)
        on_click(self.again, self.start_again)
        on_click(self.clone, self._start_copy)
        on_click(self.earlier, lambda name: self.watch.store.move(name, -1))
        on_click(self.later, lambda name: self.watch.store.move(name, 1))
        on_click(self.dequeue, self._take_out)
        on_click(self.report, self._make_report)
        on_click(self.export, self._export)
        on_click(self.problem, self._report_problem)
        on_click(self.delete_yes, self._delete)
        on_click(self.delete_now, lambda name: self._delete(name, for_good=True))
        self.delete.click(lambda: gr.Row(visible=True), None, self.confirm, **QUICK)
        for button in (self.delete_yes, self.delete_now, self.delete_no):
            button.click(lambda: gr.Row(visible=False), None, self.confirm, **QUICK)

    def wire_change(self, train: Any, picker: gr.Radio, tabs: gr.Tabs) -> None:
        """ "Copy with changes" opens the form with the settings of the run. `train`: the Train tab; `picker`: which run the page shows."""

        def changed(given: Mapping[Any, Any]) -> dict[Any, Any]:
            name = given[picker]
            if name is None:
                return {tabs: gr.skip()}
            notices.inform(
                f"The form holds the settings of {name}. Change what you like, then start it under its new name."
            )
            return {**train.take_run(given, str(name)), tabs: gr.Tabs(selected="train")}

        self.change.click(changed, {*train.inputs, picker}, [*train.outputs, tabs], **SLOW)

    def _send(self, name: str, command: str) -> str:
        self.watch.store.send(name, command)
        when = "when the current step is over" if command in ("sample", "drift") else "at once"
        return f"{COMMANDS[command][0]}: sent; it takes effect {when}. {COMMANDS[command][1]}".strip()

    def _make_report(self, name: str) -> str:
        store = self.watch.store
        path = write_run_report(store.get(name), store.summary(name))
        return f"{path.name} lies in the run's folder, and to download under Overview: one file that shows everything without a network."

    def _force_stop(self, name: str) -> str:
        return (
            "Ended. What it trained since its last checkpoint is lost."
            if self.watch.store.kill(name)
            else "It was already gone."
        )

    def start_again(self, name: str) -> str | tuple[str, str]:
        """Start a run that was never started, resume one from its checkpoint, or start a copy of one that has none.

        Returns: the message to show, and the name of the copy where there is one.
        """
        run = self.watch.store.summary(name)
        if run.state == "created":
            self.watch.store.enqueue(name)
            return "It starts as soon as its device is free."
        again = self.watch.store.retry(name)
        if again.name == name:
            return f"It goes on from step {run.last_checkpoint} as soon as its device is free."
        return (
            f"{again.name} starts from the beginning with the same settings, as soon as its device is free; {name} stays as it is.",
            again.name,
        )

    def _start_copy(self, name: str) -> tuple[str, str]:
        run = self.watch.store.clone(name, self.watch.store.free_name(name))
        self.watch.store.enqueue(run.name)
        return (
            f"{run.name} has the same settings and starts as soon as the device is free.",
            run.name,
        )

    def _take_out(self, name: str) -> str:
        return "Taken out of the queue." if self.watch.store.dequeue(name) else "It has already started."

    def _export(self, name: str) -> str:
        run = self.watch.store.summary(name)
        path = pack(self.watch.store.get(name), EXPORT.path(run, self.watch))
        return f"{path.name} is ready to download under Overview."

    def _report_problem(self, name: str) -> str:
        run = self.watch.store.summary(name)
        path = write_problem(self.watch.store.get(name), PROBLEM.path(run, self.watch))
        return (
            f"{path.name} is ready to download under Overview. Nothing was sent; look through it before you hand it on."
        )

    def _delete(self, name: str, for_good: bool = False) -> str:
        self.watch.store.delete(name, for_good=for_good)
        return f"{name} is {'removed' if for_good else 'in the trash, below the list'}."
