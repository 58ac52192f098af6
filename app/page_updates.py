"""What the page sends to each viewer, and when: everything at arrival, then only what changed since."""

import time
from typing import Any

import gradio as gr

from .drift.tab import DriftTab
from .graph.tab import GraphTab
from .parts.panel import QUICK
from .parts.pulse import Pulse
from .parts.watch import Watch
from .runs.notify import endings
from .runs.shared import Peek
from .runs.tab import RunsTab


class PageUpdates:
    """Draws the tabs that follow the runs folder. Made inside the page's Blocks: `seen` and `news` are states of the viewer."""

    def __init__(self, watch: Watch, tabs: gr.Tabs, runs: RunsTab, drift: DriftTab, graph: GraphTab) -> None:
        self.watch, self.tabs, self.runs, self.drift, self.graph = watch, tabs, runs, drift, graph
        self.seen, self.news = gr.State({}), gr.State(0)
        self.inputs = [runs.picker, *drift.inputs, self.seen]
        self.outputs = [*runs.outputs, *drift.outputs, *graph.outputs, self.seen]
        self.lively = {*runs.lively, *graph.outputs, drift.lab.timer, self.seen}
        self._held: dict[str, dict[Any, Any]] = {}  # viewer -> updates that wait to be fetched
        self._given: dict[str, tuple[Any, ...]] = {}  # viewer -> what they chose and were sent, as of their last update
        self.pulse = Pulse(self.has_news, lambda known: endings(watch, known))

    def wire(self, demo: gr.Blocks) -> None:
        """Connect the page's own events: arriving, leaving, news, and the choice of a report on the Drift tab."""
        demo.unload(self.leave)
        gr.on([self.drift.run.input, self.drift.step.input], self.view, self.inputs, self.outputs, **QUICK)
        demo.load(self.arrive, None, [*self.outputs, self.tabs, self.pulse.component], **QUICK)
        self.pulse.component.news(self.tick, self.inputs, [*self.lively, self.news], **QUICK)
        self.news.change(self.follow, None, self.outputs, **QUICK)

    def changed(self, viewer: str | None, chosen: str | None, *rest: Any) -> dict[Any, Any]:
        """Updates of everything that changed since this viewer's last update; empty when nothing did. The last input is `seen`."""
        *choices, last = rest
        last = dict(last)
        out = {
            **self.runs.view(chosen, last, viewer),
            **self.drift.view(*choices, last, viewer),
            **self.graph.view(last),
        }
        if viewer is not None:
            self._given[viewer] = (chosen, choices, last)
        return {**out, self.seen: last} if out else {}

    def has_news(self, viewer: Any) -> bool:
        """Whether an update would have something for this viewer. Their choices are as old as their last update: a choice that matters here
        makes an update by itself. Costs what an update costs the server, and the browser nothing."""
        if viewer not in self._given or viewer in self._held:
            return True
        chosen, choices, last = self._given[viewer]
        if self.drift.lab.waits(viewer, choices[-1]):
            return True
        unseen = Peek(last)
        return bool(
            self.runs.view(chosen, unseen, viewer) or self.drift.view(*choices, unseen) or self.graph.view(unseen)
        )

    def view(self, request: gr.Request, *given: Any) -> dict[Any, Any]:
        """For handlers: everything that changed."""
        out = self.changed(request.session_hash, *given)
        return out if out else gr.skip()

    def tick(self, request: gr.Request, *given: Any) -> dict[Any, Any]:
        """The update where there is news. Gradio makes every output of a handler anew, changed or not, which costs more than drawing: so the tick has
        only the few that change with every step; where others changed too, all of it is held for `follow`, which comes at once."""
        out = self.changed(request.session_hash, *given)
        if set(out) <= self.lively:
            return out if out else gr.skip()
        # What an earlier tick held and was not fetched yet stays: the tabs give each update only once.
        self._held[request.session_hash] = {**self._held.get(request.session_hash, {}), **out}
        return {self.news: time.monotonic_ns()}

    def follow(self, request: gr.Request) -> dict[Any, Any]:
        """What the last tick held."""
        out = self._held.pop(request.session_hash, None)
        return out if out is not None else gr.skip()

    def leave(self, request: gr.Request) -> None:
        """A viewer has closed or reloaded the page."""
        self._held.pop(request.session_hash, None)
        self._given.pop(request.session_hash, None)
        self.drift.lab.closed(request)

    def arrive(self, request: gr.Request) -> dict[Any, Any]:
        """A fresh or reloaded page: everything is drawn, and a live run or graph is opened."""
        self.watch.runs(fresh=True)
        last: dict[str, str] = {}
        out = {
            **self.runs.view(None, last),
            **self.drift.view(None, None, None, None, 0, last),
            **self.graph.view(last),
        }
        current = self.watch.current()
        if current is not None and current.alive:
            out[self.tabs] = gr.Tabs(selected="runs")
        if self.graph.running:
            out[self.tabs] = gr.Tabs(selected="graph")
        return {**out, **self.pulse.known(request.session_hash), self.seen: last}
