"""The panel that compares runs: which ones, on which axis, with a button for each control that is missing."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ....core.before.controls import KINDS, Kind, controls_of, queue_control
from ....core.config import ConfigError
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts import notices
from ...parts.live_chart import live_chart
from ...parts.panel import QUICK
from ...parts.unchanged import without_unchanged
from ...parts.watch import Watch, signature
from ...parts.words import text
from ..shared import Changes
from .controls import control_card
from .drawings import curves, live_loss, samples, settings_table, strips
from .findings import comparison
from .sides import MOST, Axis, Side, default_choice, sides, subject_of

_TICK_S = 3.0
_STEPS_PER_CURVE = (
    10  # a run in training takes several steps a second: the curves and times need not follow each of them
)
_ONE_MORE = (
    '<div class="rs-card rs-mild"><h3>Choose one more run</h3><p>Comparing needs at least two. A run with rollout is best compared with its '
    "three controls above: one click each.</p></div>"
)


class ComparePanel:
    """Builds the comparison in the current layout. It is drawn only while its tab is open, by a timer of its own."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.subject = gr.HTML(elem_id="compare-subject", elem_classes="rs-maybe")
        self.cards: dict[Kind, gr.HTML] = {}
        self.buttons: dict[Kind, gr.Button] = {}
        with gr.Row(elem_classes="rs-controls", equal_height=True):
            for kind in KINDS:
                with gr.Column(min_width=220):
                    self.cards[kind] = gr.HTML(elem_id=f"control-{kind}", elem_classes="rs-control")
                    self.buttons[kind] = gr.Button(
                        "Queue this control", size="sm", interactive=False, elem_id=f"queue-{kind}"
                    )
        with gr.Row():
            self.runs = gr.Dropdown(choices=[], value=[], multiselect=True, max_choices=MOST, label="Runs to compare (2 to 4)", scale=3, min_width=300,
                                    info="The others are set against the first.", elem_id="compare-runs")  # fmt: skip
            self.axis = gr.Radio([("training steps", "steps"), ("seconds of training", "seconds")], value="steps", label="At equal", scale=2, min_width=300,
                                 info="Rollout makes a step longer: look at both.", elem_id="compare-axis")  # fmt: skip
        self.findings = gr.HTML(elem_id="compare-findings", elem_classes="rs-maybe")
        self.charts = gr.HTML(elem_id="compare-charts", elem_classes="rs-maybe")
        self.loss = live_chart("compare-loss")
        self.samples = gr.HTML(elem_id="compare-samples", elem_classes="rs-maybe")
        self.strips = gr.HTML(elem_id="compare-strips", elem_classes="rs-maybe")
        self.settings = gr.HTML(elem_id="compare-settings", elem_classes="rs-maybe")
        self.seen = gr.State({})
        self.timer = gr.Timer(_TICK_S, active=False)

    @property
    def outputs(self) -> list[Any]:
        return [
            self.subject,
            *self.cards.values(),
            *self.buttons.values(),
            self.runs,
            self.findings,
            self.charts,
            self.loss,
            self.samples,
            self.strips,
            self.settings,
            self.seen,
        ]

    def view(
        self, chosen: str | None, picked: Sequence[str] | None, axis: Axis, seen: Mapping[str, str]
    ) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `chosen`, compares `picked` (None = nothing chosen yet) and was shown `seen`."""
        changes = Changes(dict(seen))
        runs = self.watch.runs()
        names = [run.name for run in runs]
        run = next((each for each in runs if each.name == chosen), self.watch.current())
        shown, picked = picked, [name for name in (picked if picked is not None else []) if name in names]
        if run is not None:
            self._draw_controls(subject_of(run, runs), runs, changes)
            default = default_choice(run, runs)
            if changes.seen.get("default") != signature(default):  # another run, or a new control of it
                changes.seen["default"], picked = signature(default), default
        changes.draw("runs", self.runs, signature(names, picked), lambda: gr.update(choices=names, value=picked))
        self._draw_comparison(
            [next(each for each in runs if each.name == name) for name in picked[:MOST]],
            axis if axis in ("steps", "seconds") else "steps", changes, _ONE_MORE if runs else "",
        )  # fmt: skip
        updates = without_unchanged(changes.updates, {self.runs: shown})
        return {**updates, self.seen: changes.seen} if changes.updates else gr.skip()

    def _draw_comparison(self, runs: Sequence[RunSummary], axis: Axis, changes: Changes, too_few: str) -> None:
        """The comparison of `runs`; with fewer than two of them `too_few` in its place."""
        if len(runs) < 2:
            changes.draw("findings", self.findings, signature("one", too_few), lambda: too_few)
            for part in ("charts", "samples", "strips", "settings"):
                changes.draw(part, getattr(self, part), "", lambda: "")
            changes.draw("loss", self.loss, "", lambda: gr.HTML(value=None))
            return
        all_sides = sides(runs, self.watch.log)
        who = [(side.name, side.run.created, side.run.state) for side in all_sides]
        reports = [(side.log.drifts, side.log.samples) for side in all_sides]
        steps = [side.series.steps[-1] // _STEPS_PER_CURVE if len(side.series) else 0 for side in all_sides]
        mark = signature(who, axis, reports, steps)
        changes.draw("findings", self.findings, mark, lambda: comparison(all_sides, axis))
        changes.draw("charts", self.charts, mark, lambda: curves(all_sides, axis))
        changes.draw("loss", self.loss, mark, lambda: gr.HTML(value=live_loss(all_sides, axis)))
        changes.draw(
            "samples", self.samples, signature(who, axis, reports), lambda: samples(all_sides, axis, self.watch)
        )
        changes.draw("strips", self.strips, signature(who, axis, reports), lambda: strips(all_sides, axis, self.watch))
        changes.draw("settings", self.settings, signature([each[0] for each in who]), lambda: self._settings(all_sides))

    def _draw_controls(self, subject: RunSummary, runs: Sequence[RunSummary], changes: Changes) -> None:
        existing = controls_of(subject, runs)
        reading = self.watch.log(subject).behind
        who = (subject.name, subject.created, subject.state, reading)
        changes.draw("subject", self.subject, signature(subject.name), lambda: _about_controls(subject))
        for kind in KINDS:
            mine, plain = existing.get(kind), existing.get("plain-steps") if kind == "plain-time" else None
            mark = signature(who, mine and (mine.name, mine.state, mine.step), plain and (plain.name, plain.state))
            changes.draw_many(
                f"control-{kind}", mark, functools.partial(self._control_updates, kind, subject, runs, reading)
            )

    def _control_updates(
        self, kind: Kind, subject: RunSummary, runs: Sequence[RunSummary], reading: bool
    ) -> dict[Any, Any]:
        card, words, may = control_card(kind, subject, runs, reading)
        return {self.cards[kind]: card, self.buttons[kind]: gr.Button(words, interactive=may, visible=words != "")}

    @staticmethod
    def _settings(all_sides: Sequence[Side]) -> str:
        try:
            return settings_table([(side, RunDir(side.run.path).read_config()) for side in all_sides])
        except RunError as error:
            return f'<div class="rs-card rs-bad">{text(error)}</div>'

    def wire(self, mine: gr.Tab, others: Sequence[gr.Tab], picker: gr.components.Component) -> None:
        """Connect everything. `mine`: the tab that holds the panel; `picker`: which run the page shows."""
        inputs = [picker, self.runs, self.axis, self.seen]

        def shown(*given: Any) -> dict[Any, Any]:
            drawn = self.view(*given)
            return {
                **(drawn if isinstance(drawn, dict) and self.seen in drawn else {}),
                self.timer: gr.Timer(active=True),
            }

        mine.select(shown, inputs, [*self.outputs, self.timer], **QUICK)
        for other in others:
            other.select(lambda: gr.Timer(active=False), None, self.timer, **QUICK)
        gr.on(
            [self.timer.tick, self.axis.input, self.runs.input, picker.input], self.view, inputs, self.outputs, **QUICK
        )
        for kind, button in self.buttons.items():
            button.click(functools.partial(self._queue, kind), inputs, self.outputs, **QUICK)

    def _queue(self, kind: Kind, chosen: str | None, *rest: Any) -> Any:
        runs = self.watch.runs()
        run = next((each for each in runs if each.name == chosen), self.watch.current())
        if run is not None:
            try:
                made, planned = queue_control(self.watch.store, subject_of(run, runs).name, kind)
            except (RunError, ConfigError, OSError) as error:
                notices.warn(str(error))
            else:
                notices.inform(f"{made.name} waits in the queue. {planned.how}")
        self.watch.runs(fresh=True)
        return self.view(chosen, *rest)


def _about_controls(subject: RunSummary) -> str:
    return (
        '<div class="rs-quiet">What a rollout gains may come from its extra time, or from noisier training. Three controls of '
        f"<b>{text(subject.name)}</b> separate these; they wait in the queue, and differ from it in nothing else.</div>"
    )
