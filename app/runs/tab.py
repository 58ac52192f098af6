"""The Runs tab: every run, and one of them in full: how far it is, its loss, its samples, its drift, its files, its log.

A run is a process of its own. This tab reads its files and leaves commands for it; it never waits for it. What stands side by side with
other runs is `compare.py`.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from ...core.before.controls import TITLES
from ...core.config import ConfigError
from ...core.runs.commands import Command
from ...core.runs.errors import RunError
from ...core.runs.folder import ACTIVE_STATES, RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import PHASES, RunLog, Series, number
from ...core.sizes import size
from ..drift.measured import filmstrip
from ..parts.charts import Line, chart, smoothed
from ..parts.watch import Watch, signature
from ..parts.words import duration, quantity, text
from .compare import ComparePanel
from .parts import course, picture
from .try_panel import TryPanel

STATE_WORDS = {
    "created": "not started",
    "queued": "waiting",
    "starting": "starting",
    "running": "training",
    "paused": "paused",
    "stopping": "stopping",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "crashed",
}
_SILENT_S = 60
_MOST_COLUMNS = 12
_CHART_STEPS = 400  # so many places along the axis of a curve are told apart
_NO_RUNS = '<div class="rs-card rs-mild"><h4>No runs yet</h4><p>Start one on the Train tab; it will appear here by itself.</p></div>'
_COMMANDS = {
    "pause": ("Pause", "It waits until you press Go on; nothing is lost."),
    "resume": ("Go on", ""),
    "save": ("Save now", ""),
    "sample": ("Sample now", ""),
    "drift": ("Drift now", ""),
    "stop-and-save": ("Stop and save", ""),
    "stop": ("Stop without saving", ""),
}
_MAY = {  # which commands make sense in which state of a live run
    "starting": ("stop",),
    "running": ("pause", "save", "sample", "drift", "stop-and-save", "stop"),
    "paused": ("resume", "save", "sample", "drift", "stop-and-save", "stop"),
    "stopping": (),
}


class RunsTab:
    """Builds the tab in the current layout. `view` draws it for one viewer; the page's timer calls it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        with gr.Row(elem_classes="rs-two"):
            with gr.Column(scale=3, min_width=260, elem_classes="rs-list"):
                gr.HTML('<h3 class="rs-step">Runs</h3>')
                self.storage = gr.HTML(elem_id="runs-storage", elem_classes="rs-maybe")
                self.picker = gr.Radio(
                    choices=[],
                    show_label=False,
                    label="Run",
                    container=False,
                    elem_id="run-picker",
                    elem_classes="rs-cards rs-runs",
                )
            with gr.Column(scale=9, min_width=320):
                self.head = gr.HTML('<div class="rs-card rs-quiet">Looking for runs …</div>', elem_id="run-head")
                with gr.Row(elem_classes="rs-buttons"):
                    self.buttons = {
                        command: gr.Button(words, size="sm", visible=False, elem_id=f"do-{command}",
                                           variant="stop" if command == "stop" else "secondary")
                        for command, (words, _) in _COMMANDS.items()
                    }  # fmt: skip
                    self.force = gr.Button("Force stop", size="sm", variant="stop", visible=False, elem_id="do-force")
                    self.again = gr.Button("Resume", size="sm", variant="primary", visible=False, elem_id="do-again")
                    self.clone = gr.Button("Start again as a copy", size="sm", visible=False, elem_id="do-clone")
                    self.earlier = gr.Button("Earlier", size="sm", visible=False, elem_id="do-earlier")
                    self.later = gr.Button("Later", size="sm", visible=False, elem_id="do-later")
                    self.dequeue = gr.Button("Take out of the queue", size="sm", visible=False, elem_id="do-dequeue")
                    self.delete = gr.Button("Delete", size="sm", variant="stop", visible=False, elem_id="do-delete")
                with gr.Row(visible=False, elem_classes="rs-card rs-bad") as self.sure:
                    gr.HTML("<b>Delete this run with its checkpoints, samples and LoRA?</b> This cannot be undone.")
                    self.delete_yes = gr.Button("Yes, delete", size="sm", variant="stop", elem_id="do-delete-yes")
                    self.delete_no = gr.Button("Keep it", size="sm", elem_id="do-delete-no")
                self.asked = gr.HTML(elem_id="run-asked", elem_classes="rs-maybe")
                self.messages = gr.HTML(elem_id="run-messages", elem_classes="rs-maybe")
                with gr.Tabs(elem_id="run-parts"):
                    with gr.Tab("Overview", id="run-overview") as overview:
                        self.files = gr.HTML(elem_id="run-files", elem_classes="rs-maybe")
                        self.charts = gr.HTML(elem_id="run-charts", elem_classes="rs-maybe")
                        self.glance = gr.HTML(elem_id="run-glance", elem_classes="rs-maybe")
                    with gr.Tab("Samples and drift", id="run-look") as look:
                        self.samples = gr.HTML(elem_id="run-samples", elem_classes="rs-maybe")
                        self.course = gr.HTML(elem_id="run-course", elem_classes="rs-maybe")
                        self.drift = gr.HTML(elem_id="run-drift", elem_classes="rs-maybe")
                    with gr.Tab("Try it", id="run-try") as try_it:
                        self.try_it = TryPanel(watch)
                    with gr.Tab("Compare", id="run-compare") as beside:
                        self.compare = ComparePanel(watch)
                    with gr.Tab("Log", id="run-log-tab") as tail:
                        self.log = gr.HTML(elem_id="run-log", max_height=420, autoscroll=True)
                self._parts, self._beside = (overview, look, try_it, tail), beside
        self._sizes: dict[str, tuple[Any, int]] = {}

    @property
    def outputs(self) -> list[Any]:
        return [self.picker, self.storage, self.head, self.asked, self.messages, self.charts, self.glance, self.files, self.samples, self.course, self.drift,
                self.log, *self.try_it.outputs, *self._all_buttons()]  # fmt: skip

    @property
    def lively(self) -> list[Any]:
        """The outputs that change with every step of a run."""
        return [self.picker, self.head, self.charts, self.log]

    def _all_buttons(self) -> list[gr.Button]:
        return [
            *self.buttons.values(),
            self.force,
            self.again,
            self.clone,
            self.earlier,
            self.later,
            self.dequeue,
            self.delete,
        ]

    # -- drawing ----------------------------------------------------------------------------------------------------------

    def view(self, chosen: str | None, seen: dict[str, str], viewer: str | None = None) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `chosen` and was last shown `seen` (changed in place).

        `viewer`: whose tries are shown; None = not known here, they follow with the next tick.
        """
        runs = self.watch.runs()
        run = next((run for run in runs if run.name == chosen), None)
        if run is None:
            run = self.watch.current()
        choices = run_choices(runs, self.watch.waiting)
        out: dict[Any, Any] = {}

        def draw(part: str, component: Any, mark: str, make: Callable[[], Any]) -> None:
            if seen.get(part) != mark:
                out[component] = make()
                seen[part] = mark

        name = run.name if run is not None else None
        if viewer is not None:
            out |= self.try_it.view(name, viewer, seen)
        draw("storage", self.storage, str(self.watch.problem), lambda: storage_card(self.watch.problem))
        draw("picker", self.picker, signature(choices, name), lambda: gr.Radio(choices=choices, value=name))
        if run is None:
            draw("head", self.head, "none", lambda: _NO_RUNS)
            for part in ("asked", "messages", "charts", "glance", "files", "samples", "course", "drift", "log"):
                draw(part, getattr(self, part), "none", lambda: "")
            if seen.get("buttons") != "none":
                out.update(dict.fromkeys(self._all_buttons(), gr.Button(visible=False)))
                seen["buttons"] = "none"
            return out
        log = self.watch.log(run)
        who = (run.name, run.created)
        silent = _silent_for(run)
        disk = self._disk_bytes(run, log)
        pending = RunDir(run.path).pending_commands() if run.alive else []
        mark = signature(
            who, run.state, run.alive, run.step, run.message, log.version, silent and round(silent / 10), disk
        )
        draw("head", self.head, mark, lambda: head(run, log, silent, disk))
        mark = signature(who, run.alive, pending, log.doing, log.doing and log.phase, log.answered)
        draw("asked", self.asked, mark, lambda: asked(run, log, pending))
        draw(
            "messages",
            self.messages,
            signature(who, run.state, run.message, log.error, list(log.warnings)),
            lambda: messages(run, log),
        )
        # A long run's curves move by less than a pixel with each step.
        drawn = log.last_step and log.last_step["step"] // max(1, (run.total_steps or 0) // _CHART_STEPS)
        draw("charts", self.charts, signature(who, run.alive, drawn, run.total_steps), lambda: charts(run, log))
        draw("glance", self.glance, signature(who, log.samples), lambda: glance(run, log, self.watch))
        draw(
            "files",
            self.files,
            signature(who, log.exported, log.saved, run.last_checkpoint),
            lambda: self._files(run, log),
        )
        draw("samples", self.samples, signature(who, log.samples), lambda: samples_grid(run, log, self.watch))
        draw("course", self.course, signature(who, log.drifts, run.total_steps), lambda: course(run, log))
        draw("drift", self.drift, signature(who, log.drifts), lambda: _latest_drift(run, log, self.watch))
        directory = RunDir(run.path)
        tail_size = directory.log_path.stat().st_size if directory.log_path.exists() else 0
        draw(
            "log",
            self.log,
            signature(who, tail_size),
            lambda: f'<pre class="rs-log">{text(directory.log_tail(120, 16_000)) if tail_size else "(empty)"}</pre>',
        )
        shown = self._shown_buttons(run, silent)
        if seen.get("buttons") != signature(who, sorted(shown)):
            seen["buttons"] = signature(who, sorted(shown))
            for key, button in self._named_buttons().items():
                out[button] = gr.Button(value=shown[key], visible=True) if key in shown else gr.Button(visible=False)
        return out

    def _disk_bytes(self, run: RunSummary, log: RunLog) -> int:
        """The size of a run's files, looked at again only when it has written more than events."""
        mark = (run.created, run.state, len(log.samples), len(log.drifts), log.saved, log.exported, log.answered)
        known = self._sizes.get(run.name)
        if known is None or known[0] != mark:
            known = self._sizes[run.name] = mark, RunDir(run.path).size_bytes()
        return known[1]

    def _named_buttons(self) -> dict[str, gr.Button]:
        return {**self.buttons, "force": self.force, "again": self.again, "clone": self.clone, "earlier": self.earlier,
                "later": self.later, "dequeue": self.dequeue, "delete": self.delete}  # fmt: skip

    def _shown_buttons(self, run: RunSummary, silent: float | None) -> dict[str, str]:
        """Button -> its words, for those that make sense now."""
        if run.alive:
            shown = {command: _COMMANDS[command][0] for command in _MAY.get(run.state, ())}
            if silent is not None or run.state == "stopping":
                shown["force"] = "Force stop"
            return shown
        if run.state == "queued":
            return {"earlier": "Earlier", "later": "Later", "dequeue": "Take out of the queue"}
        shown = {"clone": "Start again as a copy", "delete": "Delete"}
        if run.resumable:
            shown["again"] = f"Resume from step {run.last_checkpoint}"
        elif run.state == "created":
            shown["again"] = "Start"
        elif run.state in ("failed", "crashed", "stopped"):
            shown["again"] = "Retry from the start"
            del shown["clone"]  # it would do the same
        return shown

    def _files(self, run: RunSummary, log: RunLog) -> str:
        folder = RunDir(run.path).lora_path
        found = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
        if not found:
            return ""
        links = []
        for path in found:
            address = self._download(path, run.name)
            links.append(
                f'<a class="rs-file" download="{text(path.name)}" href="{text(address)}"><b>{text(path.name)}</b> {size(path.stat().st_size)}</a>'
            )
        check = log.exported.get("check") if log.exported else None
        said = ""
        if isinstance(check, Mapping):
            missing, unexpected = (
                len(v) if isinstance(v := check.get(key), list) else v for key in ("missing", "unexpected")
            )
            said = f"Loaded again in a fresh pipeline as a check: {text(missing)} missing and {text(unexpected)} unexpected keys."
        return f'<div class="rs-card rs-good"><h4>Your LoRA</h4><p>{"".join(links)}</p><p class="rs-quiet">{said} Lies in {text(folder)}</p></div>'

    def _download(self, path: Path, run: str) -> str:
        """The address of a file to download: a link (or a copy, where links are not possible) in the folder that is served."""
        stat = path.stat()
        folder = self.watch.previews.folder / "downloads" / signature(run, str(path), stat.st_mtime_ns, stat.st_size)
        target = folder / path.name
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another volume, or a file system without links
                shutil.copyfile(path, target)
        return "gradio_api/file=" + quote(target.as_posix())

    # -- acting -------------------------------------------------------------------------------------------------------------

    def wire(self, refresh: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """Connect the buttons. `refresh(request, *inputs)` draws the page again for `outputs`."""
        quick = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}

        def act(button: gr.Button, what: Callable[[str], str | tuple[str, str] | None]) -> None:
            """`what(name)` does it and returns what to say, and which run to show from then on where that is another."""

            def acted(request: gr.Request, chosen: str | None, *rest: Any) -> dict[Any, Any]:
                shown = chosen
                if chosen is not None:
                    try:
                        said = what(chosen)
                    except (RunError, ConfigError, OSError) as error:
                        gr.Warning(str(error))
                    else:
                        if isinstance(said, tuple):
                            said, shown = said
                        if said:
                            gr.Info(said)
                self.watch.runs(fresh=True)
                return refresh(request, shown, *rest)

            button.click(acted, inputs, outputs, **quick)

        for command, button in self.buttons.items():
            act(button, lambda name, command=command: self._command(name, command))
        act(self.force, self._force)
        act(self.again, self._again)
        act(self.clone, self._clone)
        act(self.earlier, lambda name: self.watch.store.move(name, -1))
        act(self.later, lambda name: self.watch.store.move(name, 1))
        act(self.dequeue, self._dequeue)
        act(self.delete_yes, self._delete)
        self.delete.click(lambda: gr.Row(visible=True), None, self.sure, **quick)
        for button in (self.delete_yes, self.delete_no):
            button.click(lambda: gr.Row(visible=False), None, self.sure, **quick)
        self.picker.input(refresh, inputs, outputs, **quick)
        self.compare.wire(self._beside, self._parts, self.picker)
        self.try_it.wire(self.picker)

    def _command(self, name: str, command: str) -> str:
        self.watch.store.send(name, command)
        when = "It is done when the current step is over." if command in ("sample", "drift") else "It is heard at once."
        return f"{_COMMANDS[command][0]}: asked. {when} {_COMMANDS[command][1]}".strip()

    def _force(self, name: str) -> str:
        return (
            "Ended. What it trained since its last checkpoint is lost."
            if self.watch.store.kill(name)
            else "It was already gone."
        )

    def _again(self, name: str) -> str | tuple[str, str]:
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

    def _clone(self, name: str) -> tuple[str, str]:
        run = self.watch.store.clone(name, self.watch.store.free_name(name))
        self.watch.store.enqueue(run.name)
        return (
            f"{run.name} has the same settings and starts as soon as the device is free. To change some first, take them over on the Train tab.",
            run.name,
        )

    def _dequeue(self, name: str) -> str:
        return "Taken out of the queue." if self.watch.store.dequeue(name) else "It has already started."

    def _delete(self, name: str) -> str:
        self.watch.store.delete(name)
        return f"{name} is deleted."


def run_choices(runs: list[RunSummary], waiting: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(what stands in the list, name) of each run. `waiting`: those in the queue, the next one first."""
    return [(_row(run, waiting), run.name) for run in runs]


def _row(run: RunSummary, waiting: Sequence[str]) -> str:
    steps = "" if not run.total_steps else f" · {run.step or 0} of {run.total_steps}"
    place = f", number {waiting.index(run.name) + 1}" if run.name in waiting else ""
    return f"{run.name}  ·  {STATE_WORDS[run.state]}{place}{steps}"


def _silent_for(run: RunSummary) -> float | None:
    """How long a run that should be training has said nothing, when that is worrying; else None."""
    if not run.alive or run.state not in ("running", "stopping"):
        return None
    try:
        silent = time.time() - RunDir(run.path).events_path.stat().st_mtime
    except FileNotFoundError:
        return None
    return silent if silent > _SILENT_S else None


def head(run: RunSummary, log: RunLog, silent: float | None, disk: int | None = None) -> str:
    """Name, state, progress, and the numbers of the moment."""
    step = log.last_step["step"] if log.last_step is not None and run.alive else run.step
    step = step if isinstance(step, int) else 0
    total = run.total_steps or 0
    share = min(100.0, 100 * step / total) if total else 0.0
    if run.state == "done":
        share = 100.0
    doing = _doing(run, log)
    device = (log.start or {}).get("device", run.device)
    facts: list[tuple[str, str]] = []
    last = log.last_step
    if last is not None:
        series = log.series.frozen()
        if run.alive and run.state in ACTIVE_STATES:  # it says its end a moment before its process is gone
            facts.append(("time left", time_left(last)))
        facts.append(("trained for", duration(series.clock()[-1])))
        if not math.isnan(log.step_s):
            facts.append(("speed", f"{quantity(log.step_s)} s a step"))
        facts.append(("loss, last step", quantity(number(last.get("loss")))))
        facts += _rolled_facts(series, last, run.alive)
        memory = number(last.get("memory_mib"))
        if not math.isnan(memory):
            facts.append(("memory, peak" if str(device).startswith("cuda") else "memory in use", size(memory * 2**20)))
    if run.last_checkpoint is not None:
        facts.append(("last checkpoint", f"step {run.last_checkpoint}"))
    if disk is not None:
        facts.append(("on the disk", size(disk)))
    facts.append(("device", str(device)))
    controls = (
        f'<p class="rs-quiet">Control of <b>{text(run.control_of)}</b>: {text(TITLES.get(run.control, run.control))}.</p>'
        if run.control_of
        else ""
    )
    shown = "".join(f"<div><span>{text(name)}</span><b>{text(value)}</b></div>" for name, value in facts)
    off = (
        f'<p class="rs-quiet" data-testid="estimate-off">{text(how_far_off(log))}</p>'
        if not run.alive and how_far_off(log)
        else ""
    )
    still = (
        f'<p class="rs-warn">No news from it for {duration(silent)}. It may be busy with something long; if it does not come back, force it to stop.</p>'
        if silent is not None
        else ""
    )
    return (
        f'<div class="rs-run"><div class="rs-run-name"><h3>{text(run.name)}</h3><span class="rs-chip rs-is-{text(run.state)}" data-testid="state">'
        f"{text(STATE_WORDS[run.state])}</span></div>"
        f'<div class="rs-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{step}" aria-label="training steps">'
        f'<i style="width:{share:.1f}%"></i></div>'
        f'<div class="rs-quiet"><span data-testid="progress">step {step} of {total}</span>{" · " + text(doing) if doing else ""}</div>'
        f'<div class="rs-facts">{shown}</div>{off}{controls}{still}</div>'
    )


def time_left(step: Mapping[str, Any]) -> str:
    """ "9 min 48 s", and how much of it samples, drift reports and checkpoints take, as the newest step event told it."""
    beside = number(step.get("beside_s"))
    apart = f", {duration(beside)} of it for samples, drift and saving" if beside >= 1 else ""
    return duration(number(step.get("eta_s"))) + apart


def how_far_off(log: RunLog) -> str:
    """What the training steps were estimated to take before the start, what they took, and how far that is off; "" where none was told."""
    if log.expected is None or not len(log.series):
        return ""
    (low, likely, high), steps = log.expected
    series = log.series.frozen()
    trained, took = series.steps[-1], series.clock()[-1]
    if not (trained > 0 and took > 0):
        return ""
    low, likely, high = (each * trained / steps for each in (low, likely, high))
    off = took / likely - 1
    exact = (
        "as estimated"
        if abs(off) < 0.005
        else f"{100 * abs(off):.0f} % {'longer' if off > 0 else 'less'} than that"
        if off < 1
        else f"{took / likely:.1f} times that"
    )
    where = "within the range" if low <= took <= high else "outside the range"
    return (
        f"Before the start {duration(low)} to {duration(high)}, most likely {duration(likely)}, were estimated for these {trained} training steps. "
        f"They took {duration(took)}: {exact}, {where}."
    )


def storage_card(problem: str | None) -> str:
    """What is wrong with the runs folder."""
    return "" if problem is None else f'<div class="rs-card rs-bad" role="alert"><p>{text(problem)}</p></div>'


def _rolled_facts(series: Series, last: Mapping[str, Any], alive: bool) -> list[tuple[str, str]]:
    """The chance of a rollout at the last step, and which share of all rows trained so far was rolled out."""
    facts = []
    chance = number(last.get("effective_probability"))
    if chance > 0:
        facts.append((f"rollout chance {'now' if alive else 'at the end'}", f"{100 * chance:.0f} %"))
    for column, words in (("rolled_rows", "rows rolled out"), ("source_noise_rows", "rows at the source's noise")):
        share = series.mean(column) / series.mean("rows") if series.mean("rows") > 0 else math.nan
        if share > 0 or (chance > 0 and column == "rolled_rows" and share == 0):
            facts.append((words, f"{100 * share:.1f} %"))
    return facts


def asked(run: RunSummary, log: RunLog, pending: Sequence[Command]) -> str:
    """What somebody asked of a live run, from the button to the answer."""
    if not run.alive:
        return ""
    lines = [
        f"<b>{text(_COMMANDS[command.name][0])}</b>: asked; the trainer hears it {'when the current step is over' if command.name in ('sample', 'drift') else 'at once'}."
        for command in pending
        if command.name in _COMMANDS and "request" not in command.args  # a drift preview is told where it was asked for
    ]
    if log.doing is not None:
        phase = log.phase if log.phase is not None else {}
        done, total = phase.get("done"), phase.get("total")
        count = f", {done} of {total} done" if isinstance(done, int) and isinstance(total, int) and total > 1 else ""
        lines.append(f"<b>{_COMMANDS[log.doing['name']][0]}</b>: heard, and under way{count}.")
    if log.answered is not None:
        command, event = log.answered
        words = _COMMANDS[command["name"]][0]
        took = number(event.get("time")) - number(command.get("time"))
        if event["event"] == "warning":
            lines.append(f"<b>{words}</b>: did not work. {text(event.get('message', ''))}")
        else:
            where = (
                ""
                if command["name"] == "save"
                else " They are on Samples and drift."
                if command["name"] == "sample"
                else " It is on Samples and drift."
            )
            lines.append(f"<b>{words}</b>: answered at step {text(event.get('step'))}, after {duration(took)}.{where}")
    return f'<div class="rs-asked" role="status">{"<br>".join(lines)}</div>' if lines else ""


def _doing(run: RunSummary, log: RunLog) -> str:
    if run.state == "queued":
        return "waits for its device; starts by itself"
    if not run.alive:
        return ""
    if run.state == "paused" and run.message:
        # it waits for room on its disk, and goes on by itself; the disk may be too full for an event
        return run.message
    if run.state == "paused":
        return "paused; press Go on"
    if log.phase is not None:
        done, total = log.phase.get("done"), log.phase.get("total")
        count = f" ({done} of {total})" if isinstance(done, int) and isinstance(total, int) and total > 1 else ""
        name = str(log.phase.get("name", ""))
        return PHASES.get(name, name) + count
    return "loading the libraries and the model" if log.last_step is None else ""


def messages(run: RunSummary, log: RunLog) -> str:
    """Why it failed and what to try; and its warnings."""
    parts = []
    if log.error is not None:
        trace = log.error.get("traceback")
        details = (
            f"<details><summary>Details for a bug report</summary><pre class='rs-log'>{text(trace)}</pre></details>"
            if trace
            else ""
        )
        parts.append(
            f'<div class="rs-card rs-bad" role="alert"><h4>{text(log.error.get("message", ""))}</h4>'
            f"<p><b>What to try:</b> {text(log.error.get('remedy') or 'see the log below')}</p>{details}</div>"
        )
    elif run.message and run.state in ("failed", "crashed"):
        parts.append(f'<div class="rs-card rs-bad" role="alert"><h4>{text(run.message)}</h4></div>')
    if log.warnings:
        told = {(event.get("message"), event.get("remedy")): None for event in log.warnings}
        items = "".join(
            f'<li>{text(message)} <span class="rs-quiet">{text(remedy or "")}</span></li>' for message, remedy in told
        )
        parts.append(
            f'<details class="rs-card rs-mild" open><summary>{len(told)} remark{"s" if len(told) > 1 else ""} of the trainer</summary><ul>{items}</ul></details>'
        )
    return "".join(parts)


def charts(run: RunSummary, log: RunLog) -> str:
    """Loss with its parts, and how much was rolled out."""
    series = log.series.frozen()
    if not len(series):
        return '<div class="rs-empty rs-card">The curves begin with the first training step.</div>' if run.alive else ""
    steps = series.steps
    weight = 0.0 if len(steps) < 20 else 0.9
    x_range = (0, run.total_steps or steps[-1])
    loss = series.column("loss")
    lines = [
        Line("each step", steps, loss, "quiet", faint=True),
        Line("loss, smoothed" if weight else "loss", steps, smoothed(loss, weight), "ink"),
    ]
    for name, words, color in (
        ("main", "denoising part", "clean"),
        ("adr", "anti-drift part", "rolled"),
        ("prior", "class pictures", "quiet"),
    ):
        values = series.column(name)
        if any(value > 0 for value in values) and not (name == "main" and _same(values, loss)):
            lines.append(Line(words, steps, smoothed(values, weight), color))
    out = [chart(lines, title="Loss", x_label="training step", x_range=x_range)]
    moved = "rolled_rows" if any(value > 0 for value in series.column("rolled_rows")) else "source_noise_rows"
    chance = series.column("effective_probability")
    if any(value > 0 for value in chance):
        rows = series.column("rows")
        share = [
            100 * some / all_ if all_ > 0 else math.nan for some, all_ in zip(series.column(moved), rows, strict=True)
        ]
        words = "rolled out" if moved == "rolled_rows" else "trained at the source's noise"
        lines = [
            Line("chance", steps, [100 * value for value in chance], "quiet", dashed=True),
            Line(words, steps, smoothed(share, weight), "rolled"),
        ]
        note = "Below the chance, because a chosen row that draws 0 steps stays where it is."
        out.append(chart(lines, title="Share of the rows", x_label="training step", y_label="%", x_range=x_range, height=110)
                   + f'<p class="rs-quiet">{note}</p>')  # fmt: skip
    if moved == "rolled_rows" and any(value > 0 for value in series.column("mean_offset")):
        offsets = [
            value if count > 0 else math.nan
            for value, count in zip(series.column("mean_offset"), series.column(moved), strict=True)
        ]
        out.append(chart([Line("mean of the rolled rows", steps, smoothed(offsets, weight), "rolled")], title="How far they walked",
                         y_range=(0, 1.15 * max(offset for offset in offsets if not math.isnan(offset))), x_label="training step", y_label="grid steps", x_range=x_range, height=110))  # fmt: skip
    return (
        f'<div class="rs-charts"><div>{out[0]}</div>'
        + (f'<div class="rs-pair">{"".join(f"<div>{each}</div>" for each in out[1:])}</div>' if len(out) > 1 else "")
        + "</div>"
    )


def _same(one: list[float], other: list[float]) -> bool:
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True)
    )


def chosen_steps(steps: list[int], most: int = _MOST_COLUMNS) -> list[int]:
    """At most `most` of the steps, the first and the last among them, evenly spread."""
    if len(steps) <= most:
        return steps
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def glance(run: RunSummary, log: RunLog, watch: Watch, most: int = 4) -> str:
    """The first prompts before training and now."""
    if len(log.samples) < 2:
        return ""
    first, last = min(log.samples), max(log.samples)
    before = {(image.get("prompt"), image.get("seed")): image for image in log.samples[first]}
    cells = []
    for image in log.samples[last]:
        old = before.get((image.get("prompt"), image.get("seed")))
        if old is not None and len(cells) < most:
            both = "".join(picture(run, each, step, watch) for each, step in ((old, first), (image, last)))
            cells.append(
                f'<figure><div class="rs-twin">{both}</div><figcaption>{text(image.get("prompt", ""))}</figcaption></figure>'
            )
    if not cells:
        return ""
    began = "before training" if first == 0 else f"at step {first}"
    return (
        f'<div class="rs-card"><h4>So far</h4><p class="rs-quiet">Each pair: {began}, and at step {last}. All of them are on Samples and drift.</p>'
        f'<div class="rs-glance">{"".join(cells)}</div></div>'
    )


def samples_grid(run: RunSummary, log: RunLog, watch: Watch) -> str:
    """Samples: a row for each prompt, a column for each step, step 0 first."""
    if not log.samples:
        return ""
    steps = chosen_steps(sorted(log.samples))
    rows: dict[tuple[str, Any], dict[int, str]] = {}
    for step in steps:
        for image in log.samples[step]:
            rows.setdefault((str(image.get("prompt", "")), image.get("seed")), {})[step] = picture(
                run, image, step, watch
            )
    head_cells = "".join(f"<th scope='col'>{'before' if step == 0 else f'step {step}'}</th>" for step in steps)
    body = "".join(
        f'<tr><th scope="row">{text(prompt)}</th>'
        + "".join(f"<td>{cells.get(step, '')}</td>" for step in steps)
        + "</tr>"
        for (prompt, _), cells in rows.items()
    )
    return (
        '<div class="rs-card"><h4>Samples</h4><p class="rs-quiet">Each row is one prompt with the same starting noise all the way: read it from left '
        f'(before training) to right.</p><div class="rs-scroll" tabindex="0" aria-label="Samples by prompt and step"><table class="rs-samples"><thead><tr><th></th>{head_cells}</tr></thead><tbody>{body}</tbody></table></div></div>'
    )


def _latest_drift(run: RunSummary, log: RunLog, watch: Watch) -> str:
    if not log.drifts:
        return ""
    return filmstrip(run, log.drifts[max(log.drifts)], watch, brief=True)
