"""What the page sends to each viewer, and when: everything at arrival, then only what changed since."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from .drift.tab import DriftTab
from .graph.tab import GraphTab
from .parts.panel import QUICK
from .parts.pulse import Pulse
from .parts.unchanged import without_unchanged
from .parts.watch import Watch
from .runs.notify import endings
from .runs.shared import Peek
from .runs.tab import RunsTab


@dataclass
class _Viewer:
    """One browser page. `drawing` is held while something is drawn for it: a click and a tick are answered by two threads, and each must know what the other sent."""

    seen: dict[str, str] = field(default_factory=dict)
    """Part -> mark of what was last sent."""
    held: dict[Any, Any] = field(default_factory=dict)
    """Updates that wait to be fetched."""
    given: tuple[Any, ...] | None = None
    """What was chosen there, as of the last update; None before the first."""
    drawing: Any = field(default_factory=threading.RLock)


class PageUpdates:
    """Draws the tabs that follow the runs folder. Made inside the page's Blocks: `news` is a state of the viewer."""

    def __init__(self, watch: Watch, tabs: gr.Tabs, runs: RunsTab, drift: DriftTab, graph: GraphTab) -> None:
        self.watch, self.tabs, self.runs, self.drift, self.graph = watch, tabs, runs, drift, graph
        self.news = gr.State(0)
        self.inputs = [*runs.inputs, *drift.inputs]
        self.outputs = [*runs.outputs, *drift.outputs, *graph.outputs]
        self.lively = {*runs.lively, *graph.outputs, drift.lab.timer}
        self._viewers: dict[str | None, _Viewer] = {}
        self.pulse = Pulse(self.has_news, lambda known: endings(watch, known))

    def wire(self, demo: gr.Blocks) -> None:
        """Connect the page's own events: arriving, leaving, news, and the choice of a report on the Drift tab."""
        demo.unload(self.leave)
        gr.on([self.drift.run.input, self.drift.step.input], self.view, self.inputs, self.outputs, **QUICK)
        demo.load(self.arrive, None, [*self.outputs, self.tabs, self.pulse.component], **QUICK)
        self.pulse.component.news(self.tick, self.inputs, [*self.lively, self.news], **QUICK)
        self.news.change(self.follow, None, self.outputs, **QUICK)

    def _changed(
        self, viewer: _Viewer, name: str | None, given: tuple[Any, ...], turn_to: str | None = None
    ) -> dict[Any, Any]:
        """Updates of everything that changed since this viewer's last update. Under `drawing`."""
        viewer.given, viewer.seen["picked"] = given, given[0]
        drawn = self._drawn(given if turn_to is None else (turn_to, *given[1:]), viewer.seen, name)
        return without_unchanged(drawn, dict(zip(self.inputs, given, strict=True)))

    def _drawn(self, given: tuple[Any, ...], seen: dict[str, str], viewer: str | None) -> dict[Any, Any]:
        run, thrown, study, *choices = given
        of_runs = self.runs.view(run, seen, viewer, thrown, study)
        return {**of_runs, **self.drift.view(*choices, seen, viewer), **self.graph.view(seen)}

    def has_news(self, name: Any) -> bool:
        """Whether an update would have something for this viewer. Their choices are as old as their last update: a choice that matters here
        makes an update by itself. Costs what an update costs the server, and the browser nothing."""
        if name is None:  # its arrival is under way, and brings everything
            return False
        viewer = self._viewers.get(name)
        if viewer is None or viewer.given is None or viewer.held:
            return True
        if self.drift.lab.waits(name, viewer.given[-1]):
            return True
        run, thrown, study, *choices = viewer.given
        unseen = Peek(viewer.seen)
        return bool(
            self.runs.view(run, unseen, name, thrown, study)
            or self.drift.view(*choices, unseen)
            or self.graph.view(unseen)
        )

    def view(self, request: gr.Request, *given: Any, turn_to: str | None = None) -> dict[Any, Any]:
        """For handlers: everything that changed, with what a tick held, so that nothing older comes after it. `turn_to`: the run to show in place
        of the one that is chosen in the browser."""
        viewer = self._viewer(request)
        with viewer.drawing:
            out = {**viewer.held, **self._changed(viewer, request.session_hash, given, turn_to)}
            viewer.held = {}
        return out if out else gr.skip()

    def tick(self, request: gr.Request, *given: Any) -> dict[Any, Any]:
        """The update where there is news. Gradio makes every output of a handler anew, changed or not, which costs more than drawing: so the tick has
        only the few that change with every step; where others changed too, all of it is held for `follow`, which comes at once."""
        viewer = self._viewer(request)
        with viewer.drawing:
            out = self._changed(viewer, request.session_hash, given)
            if set(out) <= self.lively:
                return out if out else gr.skip()
            # What an earlier tick held and was not fetched yet stays: the tabs give each update only once.
            viewer.held = {**viewer.held, **out}
        return {self.news: time.monotonic_ns()}

    def follow(self, request: gr.Request) -> dict[Any, Any]:
        """What the last tick held."""
        viewer = self._viewer(request)
        with viewer.drawing:
            out, viewer.held = viewer.held, {}
        return out if out else gr.skip()

    def leave(self, request: gr.Request) -> None:
        """A viewer has closed or reloaded the page."""
        self._viewers.pop(request.session_hash, None)
        self.drift.lab.closed(request)

    def arrive(self, request: gr.Request) -> dict[Any, Any]:
        """A fresh or reloaded page: everything is drawn, and a live run or graph is opened."""
        self.watch.runs(fresh=True)
        viewer = self._viewers[request.session_hash] = _Viewer()
        with viewer.drawing:
            nothing = (None, None, None, None, None, None, None, 0)
            out = self._drawn(nothing, viewer.seen, None)
        current = self.watch.current()
        if current is not None and current.alive:
            out[self.tabs] = gr.Tabs(selected="runs")
        if self.graph.running:
            out[self.tabs] = gr.Tabs(selected="graph")
        return {**out, **self.pulse.known(request.session_hash)}

    def _viewer(self, request: gr.Request) -> _Viewer:
        return self._viewers.setdefault(request.session_hash, _Viewer())
