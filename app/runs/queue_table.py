"""What trains and what waits, as one table: state, step, speed, time left. Waiting runs change places by dragging or by buttons."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.runs.errors import RunError
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, number
from ...core.texts import translated
from ..parts.panel import QUICK
from ..parts.translation import translated_markup, with_words
from ..parts.watch import Watch, signature
from ..parts.words import duration, quantity
from .run_list import STATE_WORDS
from .shared import Changes

_SCRIPT = (Path(__file__).parents[1] / "js" / "queue.js").read_text(encoding="utf-8")
_WORDS = (
    "Earlier: {0}",
    "Later: {0}",
    "Take {0} out of the queue",
    "number {0}",
    "{0} of {1}",
    "{0} s a step",
    "Drag to another place",
)
_TEMPLATE = """<div class="rs-queue rs-card" hidden><h2 class="rs-list-title">Now and next</h2>
<div class="rs-scroll" tabindex="0" aria-label="Runs that train or wait"><table class="rs-table rs-numbers"><thead><tr><th scope="col">run</th><th scope="col">state</th>
<th scope="col">step</th><th scope="col">speed</th><th scope="col">time left</th><th scope="col">order</th></tr></thead><tbody data-part="rows"></tbody></table></div>
<p class="rs-quiet" role="status" data-part="told"></p></div>"""


def queue_rows(
    runs: Sequence[RunSummary], waiting: Sequence[str], log: Callable[[RunSummary], RunLog]
) -> list[dict[str, Any]]:
    """The rows of the table: live runs first, then those that wait, the next one first."""
    live = [run for run in runs if run.alive]
    by_name = {run.name: run for run in runs if run.state == "queued"}
    return [
        *(_live_row(run, log(run)) for run in live),
        *({**_row(by_name[name]), "place": place} for place, name in enumerate(waiting, 1) if name in by_name),
    ]


def _row(run: RunSummary) -> dict[str, Any]:
    return {
        "name": run.name,
        "state": translated(STATE_WORDS[run.state]),
        "step": 0 if run.step is None else run.step,
        "total": run.total_steps,
        "speed": None,
        "left": None,
        "place": None,
    }


def _live_row(run: RunSummary, log: RunLog) -> dict[str, Any]:
    last = log.last_step
    if last is None:
        return _row(run)
    return {
        **_row(run),
        "step": last["step"],
        "speed": None if math.isnan(log.step_s) else quantity(log.step_s),
        "left": duration(number(last.get("eta_s"))),
    }


class QueueTable:
    """The table in the current layout; hidden where nothing trains and nothing waits."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.component = gr.HTML(
            html_template=translated_markup(_TEMPLATE), js_on_load=with_words(_SCRIPT, _WORDS), apply_default_css=False, elem_id="run-queue",
            server_functions=self._functions(), container=False,
        )  # fmt: skip

    def draw(self, runs: Sequence[RunSummary], changes: Changes) -> None:
        """Show what there is now."""
        rows = queue_rows(runs, self.watch.waiting, self.watch.log)
        changes.draw("queue", self.component, signature(rows), lambda: gr.HTML(value=rows))

    def wire(self, refresh: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
        """A press on a run's name shows that run. `refresh` as in `RunsTab.wire`."""

        def picked(event: gr.EventData, request: gr.Request, *given: Any) -> Any:
            name = event._data.get("name") if isinstance(event._data, dict) else None
            return refresh(request, *given, turn_to=name)

        self.component.pick(picked, inputs, outputs, **QUICK)

    def _functions(self) -> list[Any]:
        def queue_move(sent: Any) -> dict[str, Any]:
            """Move a waiting run: {run, places}; -1 is one earlier. -> {rows} or {fault}."""
            places = sent.get("places") if isinstance(sent, dict) else None
            if type(places) is not int:
                return {"fault": translated("The request could not be read.")}
            return self._changed(lambda: self.watch.store.move(str(sent.get("run")), places))

        def queue_out(sent: Any) -> dict[str, Any]:
            """Take a waiting run out of the queue: {run} -> {rows} or {fault}."""
            name = str(sent.get("run")) if isinstance(sent, dict) else ""
            return self._changed(lambda: self.watch.store.dequeue(name))

        return [queue_move, queue_out]

    def _changed(self, action: Callable[[], Any]) -> dict[str, Any]:
        try:
            action()
        except (RunError, OSError) as error:
            return {"fault": translated(str(error))}
        return {"rows": queue_rows(self.watch.runs(fresh=True), self.watch.waiting, self.watch.log)}
