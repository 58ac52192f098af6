"""The Runs tab: every run, and one of them in full: how far it is, its loss, its samples, its drift, its files, its log.

A run is a process of its own. This tab reads its files and leaves commands for it; it never waits for it.
"""

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from ..core.run_log import RunLog, number
from ..core.runs import RunDir, RunError, RunSummary
from .charts import Line, chart, smoothed
from .watch import Watch
from .words import duration, quantity, size, text

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
PHASE_WORDS = {
    "model": "loading the model",
    "pictures": "reading the pictures",
    "class pictures": "drawing class pictures",
    "samples": "drawing samples",
    "drift": "measuring the drift",
    "export": "writing the LoRA and loading it again as a check",
}
_SILENT_S = 60
_MOST_COLUMNS = 12
_NO_RUNS = '<div class="rs-card rs-mild"><h4>No runs yet</h4><p>Start one on the Train tab; it will appear here by itself.</p></div>'
_COMMANDS = {
    "pause": ("Pause", "Waits after the current step; nothing is lost."),
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


def signature(*parts: Any) -> str:
    """A short mark of what a panel was drawn from: equal marks, nothing to send."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class RunsTab:
    """Builds the tab in the current layout. `view` draws it for one viewer; the page's timer calls it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        with gr.Row(elem_classes="rs-two"):
            with gr.Column(scale=3, min_width=260, elem_classes="rs-list"):
                gr.HTML('<h3 class="rs-step">Runs</h3>')
                self.picker = gr.Radio(choices=[], show_label=False, label="Run", container=False, elem_id="run-picker", elem_classes="rs-cards rs-runs")
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
                self.messages = gr.HTML(elem_id="run-messages", elem_classes="rs-maybe")
                self.charts = gr.HTML(elem_id="run-charts", elem_classes="rs-maybe")
                self.files = gr.HTML(elem_id="run-files", elem_classes="rs-maybe")
                self.samples = gr.HTML(elem_id="run-samples", elem_classes="rs-maybe")
                self.drift = gr.HTML(elem_id="run-drift", elem_classes="rs-maybe")
                with gr.Accordion("Log", open=False):
                    self.log = gr.HTML(elem_id="run-log", max_height=320, autoscroll=True)

    @property
    def outputs(self) -> list[Any]:
        return [self.picker, self.head, self.messages, self.charts, self.files, self.samples, self.drift, self.log, *self._all_buttons()]

    def _all_buttons(self) -> list[gr.Button]:
        return [*self.buttons.values(), self.force, self.again, self.clone, self.earlier, self.later, self.dequeue, self.delete]

    # -- drawing ----------------------------------------------------------------------------------------------------------

    def view(self, chosen: str | None, seen: dict[str, str]) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `chosen` and was last shown `seen` (changed in place)."""
        runs = self.watch.runs()
        run = next((run for run in runs if run.name == chosen), None)
        if run is None:
            run = self.watch.current()
        choices = run_choices(runs)
        out: dict[Any, Any] = {}

        def draw(part: str, component: Any, mark: str, make: Callable[[], Any]) -> None:
            if seen.get(part) != mark:
                out[component] = make()
                seen[part] = mark

        name = run.name if run is not None else None
        draw("picker", self.picker, signature(choices, name), lambda: gr.Radio(choices=choices, value=name))
        if run is None:
            draw("head", self.head, "none", lambda: _NO_RUNS)
            for part in ("messages", "charts", "files", "samples", "drift", "log"):
                draw(part, getattr(self, part), "none", lambda: "")
            if seen.get("buttons") != "none":
                out.update(dict.fromkeys(self._all_buttons(), gr.Button(visible=False)))
                seen["buttons"] = "none"
            return out
        log = self.watch.log(run)
        who = (run.name, run.created)
        silent = _silent_for(run)
        draw("head", self.head, signature(who, run.state, run.step, run.message, log.version, silent and round(silent / 10)), lambda: head(run, log, silent))
        draw("messages", self.messages, signature(who, run.state, run.message, log.error, list(log.warnings)), lambda: messages(run, log))
        draw("charts", self.charts, signature(who, len(log.series), log.last_step, run.total_steps), lambda: charts(run, log))
        draw("files", self.files, signature(who, log.exported, log.saved, run.last_checkpoint), lambda: self._files(run, log))
        draw("samples", self.samples, signature(who, log.samples), lambda: samples_grid(run, log, self.watch))
        draw("drift", self.drift, signature(who, log.drifts), lambda: _latest_drift(run, log, self.watch))
        directory = RunDir(run.path)
        tail_size = directory.log_path.stat().st_size if directory.log_path.exists() else 0
        draw("log", self.log, signature(who, tail_size), lambda: f'<pre class="rs-log">{text(directory.log_tail(120, 16_000)) if tail_size else "(empty)"}</pre>')
        shown = self._shown_buttons(run, silent)
        if seen.get("buttons") != signature(who, sorted(shown)):
            seen["buttons"] = signature(who, sorted(shown))
            for key, button in self._named_buttons().items():
                out[button] = gr.Button(value=shown[key], visible=True) if key in shown else gr.Button(visible=False)
        return out

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
        return shown

    def _files(self, run: RunSummary, log: RunLog) -> str:
        folder = RunDir(run.path).lora_path
        found = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
        if not found:
            return ""
        links = []
        for path in found:
            address = self._download(path, run.name)
            links.append(f'<a class="rs-file" download="{text(path.name)}" href="{text(address)}"><b>{text(path.name)}</b> {size(path.stat().st_size)}</a>')
        check = log.exported.get("check") if log.exported else None
        said = ""
        if isinstance(check, Mapping):
            missing, unexpected = (len(v) if isinstance(v := check.get(key), list) else v for key in ("missing", "unexpected"))
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
        """Connect the buttons. `refresh(*inputs)` draws the page again for `outputs`."""
        quick = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}

        def act(button: gr.Button, what: Callable[[str], str | None]) -> None:
            def acted(chosen: str | None, *rest: Any) -> dict[Any, Any]:
                if chosen is not None:
                    try:
                        said = what(chosen)
                    except (RunError, OSError) as error:
                        gr.Warning(str(error))
                    else:
                        if said:
                            gr.Info(said)
                self.watch.runs(fresh=True)
                return refresh(chosen, *rest)

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

    def _command(self, name: str, command: str) -> str:
        self.watch.store.send(name, command)
        return f"{_COMMANDS[command][0]}: asked. It is done after the current step. {_COMMANDS[command][1]}".strip()

    def _force(self, name: str) -> str:
        return "Ended. What it trained since its last checkpoint is lost." if self.watch.store.kill(name) else "It was already gone."

    def _again(self, name: str) -> str:
        run = self.watch.store.summary(name)
        self.watch.store.enqueue(name, resume=run.state != "created")
        return "It starts as soon as its device is free."

    def _clone(self, name: str) -> str:
        run = self.watch.store.clone(name)
        self.watch.store.enqueue(run.name)
        return f"{run.name} has the same settings and starts as soon as the device is free."

    def _dequeue(self, name: str) -> str:
        return "Taken out of the queue." if self.watch.store.dequeue(name) else "It has already started."

    def _delete(self, name: str) -> str:
        self.watch.store.delete(name)
        return f"{name} is deleted."


def run_choices(runs: list[RunSummary]) -> list[tuple[str, str]]:
    """(what stands in the list, name) of each run."""
    return [(_row(run), run.name) for run in runs]


def _row(run: RunSummary) -> str:
    steps = "" if not run.total_steps else f" · {run.step or 0} of {run.total_steps}"
    return f"{run.name}  ·  {STATE_WORDS[run.state]}{steps}"


def _silent_for(run: RunSummary) -> float | None:
    """How long a run that should be training has said nothing, when that is worrying; else None."""
    if not run.alive or run.state not in ("running", "stopping"):
        return None
    try:
        silent = time.time() - RunDir(run.path).events_path.stat().st_mtime
    except FileNotFoundError:
        return None
    return silent if silent > _SILENT_S else None


def head(run: RunSummary, log: RunLog, silent: float | None) -> str:
    """Name, state, progress, and the numbers of the moment."""
    step = log.last_step["step"] if log.last_step is not None and run.alive else run.step
    step = step if isinstance(step, int) else 0
    total = run.total_steps or 0
    share = min(100.0, 100 * step / total) if total else 0.0
    if run.state == "done":
        share = 100.0
    doing = _doing(run, log)
    facts = []
    last = log.last_step
    if last is not None:
        seconds = number(last.get("seconds"))
        if run.alive:
            facts.append(("left", duration(number(last.get("eta_s")))))
        if seconds > 0:
            facts.append(("speed", f"{quantity(1 / seconds)} steps/s" if seconds < 1 else f"{quantity(seconds)} s a step"))
        facts.append(("loss", quantity(number(last.get("loss")))))
        if number(last.get("effective_probability")) > 0:
            facts.append(("rollout chance", f"{100 * number(last.get('effective_probability')):.0f} %"))
        memory = number(last.get("memory_mib"))
        if not math.isnan(memory):
            facts.append(("memory", size(memory * 2**20)))
    if run.last_checkpoint is not None:
        facts.append(("last checkpoint", f"step {run.last_checkpoint}"))
    facts.append(("device", (log.start or {}).get("device", run.device)))
    shown = "".join(f"<div><span>{text(name)}</span><b>{text(value)}</b></div>" for name, value in facts)
    still = f'<p class="rs-warn">No news from it for {duration(silent)}. It may be busy with something long; if it does not come back, force it to stop.</p>' if silent is not None else ""
    return (
        f'<div class="rs-run"><div class="rs-run-name"><h3>{text(run.name)}</h3><span class="rs-chip rs-is-{text(run.state)}" data-testid="state">'
        f'{text(STATE_WORDS[run.state])}</span></div>'
        f'<div class="rs-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{step}" aria-label="training steps">'
        f'<i style="width:{share:.1f}%"></i></div>'
        f'<div class="rs-quiet"><span data-testid="progress">step {step} of {total}</span>{" · " + text(doing) if doing else ""}</div>'
        f'<div class="rs-facts">{shown}</div>{still}</div>'
    )


def _doing(run: RunSummary, log: RunLog) -> str:
    if run.state == "queued":
        return "waits for its device; starts by itself"
    if not run.alive:
        return ""
    if log.paused and log.pause_reason:
        return f"paused: {log.pause_reason}; goes on by itself when that is mended"
    if run.state == "paused":
        return "paused; press Go on"
    if log.phase is not None:
        done, total = log.phase.get("done"), log.phase.get("total")
        count = f" ({done} of {total})" if isinstance(done, int) and isinstance(total, int) and total > 1 else ""
        name = str(log.phase.get("name", ""))
        return PHASE_WORDS.get(name, name.replace("_", " ")) + count
    return "loading the libraries and the model" if log.last_step is None else ""


def messages(run: RunSummary, log: RunLog) -> str:
    """Why it failed and what to try; and its warnings."""
    parts = []
    if log.error is not None:
        trace = log.error.get("traceback")
        details = f"<details><summary>Details for a bug report</summary><pre class='rs-log'>{text(trace)}</pre></details>" if trace else ""
        parts.append(
            f'<div class="rs-card rs-bad" role="alert"><h4>{text(log.error.get("message", ""))}</h4>'
            f'<p><b>What to try:</b> {text(log.error.get("remedy") or "see the log below")}</p>{details}</div>'
        )
    elif run.message and run.state in ("failed", "crashed"):
        parts.append(f'<div class="rs-card rs-bad" role="alert"><h4>{text(run.message)}</h4></div>')
    if log.warnings:
        told = {(event.get("message"), event.get("remedy")): None for event in log.warnings}
        items = "".join(f'<li>{text(message)} <span class="rs-quiet">{text(remedy or "")}</span></li>' for message, remedy in told)
        parts.append(f'<details class="rs-card rs-mild" open><summary>{len(told)} remark{"s" if len(told) > 1 else ""} of the trainer</summary><ul>{items}</ul></details>')
    return "".join(parts)


def charts(run: RunSummary, log: RunLog) -> str:
    """Loss with its parts, and how much was rolled out."""
    series = log.series
    if not len(series):
        return '<div class="rs-empty rs-card">The curves begin with the first training step.</div>' if run.alive else ""
    steps = series.steps
    weight = 0.0 if len(steps) < 20 else 0.9
    x_range = (0, run.total_steps or steps[-1])
    loss = series.column("loss")
    lines = [Line("each step", steps, loss, "quiet", faint=True), Line("loss, smoothed" if weight else "loss", steps, smoothed(loss, weight), "ink")]
    for name, words, color in (("main", "denoising part", "clean"), ("adr", "anti-drift part", "rolled"), ("prior", "class pictures", "quiet")):
        values = series.column(name)
        if any(value > 0 for value in values) and not (name == "main" and _same(values, loss)):
            lines.append(Line(words, steps, smoothed(values, weight), color))
    out = [chart(lines, title="Loss", x_label="training step", x_range=x_range)]
    rolled = series.column("rolled_rows")
    if any(value > 0 for value in rolled):
        chance = series.column("effective_probability")
        top = max((value for value in chance if not math.isnan(value)), default=0)
        out.append(chart([Line("chance", steps, chance, "rolled")], title="Chance of a rollout", x_label="training step", x_range=x_range,
                         y_range=(0, max(0.1, 1.15 * top)), height=110))  # fmt: skip
        out.append(chart([Line("rolled rows per step", steps, smoothed(rolled, weight), "rolled"),
                          Line("mean offset in grid steps", steps, smoothed(series.column("mean_offset"), weight), "clean")],
                         title="Rolled out", x_label="training step", x_range=x_range, height=110))  # fmt: skip
    return f'<div class="rs-charts"><div>{out[0]}</div>' + (f'<div class="rs-pair">{"".join(out[1:])}</div>' if len(out) > 1 else "") + "</div>"


def _same(one: list[float], other: list[float]) -> bool:
    return all(a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True))


def chosen_steps(steps: list[int], most: int = _MOST_COLUMNS) -> list[int]:
    """At most `most` of the steps, the first and the last among them, evenly spread."""
    if len(steps) <= most:
        return steps
    return [steps[round(index * (len(steps) - 1) / (most - 1))] for index in range(most)]


def samples_grid(run: RunSummary, log: RunLog, watch: Watch) -> str:
    """Samples: a row for each prompt, a column for each step, step 0 first."""
    if not log.samples:
        return ""
    steps = chosen_steps(sorted(log.samples))
    rows: dict[tuple[str, Any], dict[int, str]] = {}
    for step in steps:
        for image in log.samples[step]:
            address = watch.previews.address(run.path / str(image.get("path", "")), run.path)
            cell = f'<a href="{text(address)}" target="_blank" rel="noopener"><img loading="lazy" src="{text(address)}" alt="{text(image.get("prompt", ""))}, step {step}"></a>' if address else '<div class="rs-gone">gone</div>'
            rows.setdefault((str(image.get("prompt", "")), image.get("seed")), {})[step] = cell
    head_cells = "".join(f"<th scope='col'>{'before' if step == 0 else f'step {step}'}</th>" for step in steps)
    body = "".join(
        f'<tr><th scope="row">{text(prompt)}</th>' + "".join(f"<td>{cells.get(step, '')}</td>" for step in steps) + "</tr>"
        for (prompt, _), cells in rows.items()
    )
    return (
        '<div class="rs-card"><h4>Samples</h4><p class="rs-quiet">Each row is one prompt with the same starting noise all the way: read it from left '
        f'(before training) to right.</p><div class="rs-scroll" tabindex="0" aria-label="Samples by prompt and step"><table class="rs-samples"><thead><tr><th></th>{head_cells}</tr></thead><tbody>{body}</tbody></table></div></div>'
    )


def _latest_drift(run: RunSummary, log: RunLog, watch: Watch) -> str:
    if not log.drifts:
        return ""
    from .drift_tab import filmstrip

    return filmstrip(run, log.drifts[max(log.drifts)], watch, brief=True)
