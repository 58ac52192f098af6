"""The Drift tab: how far a model leaves the path on its own output. Measure now (`lab`), or see what runs measured."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ...core.runs.rows import RunSummary
from ..parts import notices
from ..parts.panel import SLOW, UNSEEN
from ..parts.unchanged import without_unchanged
from ..parts.watch import Watch, signature
from .choices import Shelf, weights_choices
from .lab import DriftLab
from .measured import curves, filmstrip
from .scrubber import scrubber

_INTRO = """
<div class="rs-hero"><h2>Drift: what happens when a model is fed its own output</h2>
<p>In training a model always sees a true picture with noise on it. When it draws, it sees what it made itself one step before, with its own
mistakes in it. Here the same picture goes both ways, and you see what that changes.</p></div>
"""
_NOTHING = (
    '<div class="rs-card rs-mild"><h3>No drift picture yet</h3><p>Every run measures the drift of its base, and its own at the end; while it '
    "trains, ask with <b>Drift now</b> on the Runs tab, or choose its weights of now under <b>Look now</b>.</p></div>"
)


class DriftTab:
    """Builds the tab in the current layout. `view` draws it for one viewer; the page's timer calls it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        gr.HTML(_INTRO, elem_classes="rs-drift-intro")
        with gr.Tabs(elem_id="drift-parts") as self.parts:
            with gr.Tab("Look now", id="look"):
                self.lab = DriftLab(watch)
            with gr.Tab("Measured by runs", id="measured"):
                with gr.Row():
                    self.run = gr.Dropdown(choices=[], label="Run", elem_id="drift-run", filterable=False, scale=2)
                    self.step = gr.Radio(choices=[], label="Measured at training step", elem_id="drift-step", scale=3)
                self.closer = gr.Button("Look at these weights now", elem_id="drift-closer", visible=False)
                self.picture = gr.HTML(_NOTHING, elem_id="drift-picture", js_on_load=scrubber())
                self.curves = gr.HTML(elem_id="drift-curves", elem_classes="rs-maybe")

    @property
    def inputs(self) -> list[Any]:
        """What `view` is given of the tab, in its order."""
        return [self.run, self.step, self.lab.weights, self.lab.against, self.lab.shown]

    @property
    def outputs(self) -> list[Any]:
        return [self.run, self.step, self.closer, self.picture, self.curves, *self.lab.outputs]

    def wire(self, tab: gr.Tab) -> None:
        """Connect what is answered without the page's timer. `tab`: this one, whose opening gets the preview worker ready."""
        self.lab.wire(tab)
        self.closer.click(
            self.on_closer,
            {self.run, self.step, *self.lab.inputs},
            [self.parts, *self.lab.outputs],
            **UNSEEN,
            **SLOW,
        )

    def on_closer(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """From what a run measured to the laboratory: the checkpoint of that step, else the newest weights that the run has."""
        run = self.watch.run(given[self.run])
        value = None if run is None else newest(run, given[self.step], self.lab.shelf)
        if value is None:
            notices.warn("This run has kept no weights: no checkpoint and no LoRA.")
            return {self.parts: gr.Tabs(selected="measured")}
        return {self.parts: gr.Tabs(selected="look"), **self.lab.turn_to(value, given, request)}

    def view(
        self,
        chosen: str | None,
        step: int | None,
        weights: str | None,
        against: str | None,
        applied: Any,
        seen: dict[str, str],
        viewer: str | None = None,
    ) -> dict[Any, Any]:
        """Updates for one viewer who chose a run and a step (None = the newest) and was last shown `seen` (changed in place).

        `weights`, `against`: what they chose in the laboratory; `applied`: the number of its last answer that their browser has applied;
        `viewer`: whose requests to look after, None = no viewer's.
        """
        return {**self._measured(chosen, step, seen), **self.lab.beat(viewer, weights, against, seen, applied)}

    def _measured(self, chosen: str | None, step: int | None, seen: dict[str, str]) -> dict[Any, Any]:
        runs = [run for run in self.watch.runs() if self.lab.shelf.reports(run.path)]
        names = [run.name for run in runs]
        run = next((run for run in runs if run.name == chosen), runs[0] if runs else None)
        log = self.watch.log(run) if run is not None else None
        steps, picked = (sorted(log.drifts) if log is not None else []), {self.run: chosen, self.step: step}
        if steps and (
            step not in steps or (seen.get("drift-newest") == str(step) and seen.get("drift-run") == run.name)
        ):
            step = steps[-1]  # follows the newest, unless an older one was chosen
        out: dict[Any, Any] = {}
        mark = signature(names, run and run.name, steps, step)
        if seen.get("drift-choice") != mark:
            out[self.run] = gr.Dropdown(choices=names, value=run.name if run is not None else None)
            out[self.step] = gr.Radio(
                choices=[(_step_words(each), each) for each in steps], value=step if steps else None
            )
            out[self.closer] = gr.Button(visible=bool(steps))
            seen["drift-choice"] = mark
        seen["drift-newest"], seen["drift-run"] = (
            (str(steps[-1]) if steps else ""),
            (run.name if run is not None else ""),
        )
        mark = signature(run and (run.name, run.created), step, log and log.drifts.get(step))
        if seen.get("drift-shown") != mark:
            seen["drift-shown"] = mark
            if not steps:
                out[self.picture], out[self.curves] = _NOTHING, ""
            else:
                out[self.picture] = filmstrip(run, log.drifts[step], self.watch, moves=True)
                out[self.curves] = curves(run, log, log.drifts[step], self.watch)
        return without_unchanged(out, picked)


def newest(run: RunSummary, step: Any, shelf: Shelf) -> str | None:
    """The laboratory's value for a run's checkpoint of `step`; where there is none its weights of now, its LoRA, its last checkpoint."""
    values = [value for _, value in weights_choices([run], shelf) if value.startswith("run/")]
    wanted = f"run/{run.name}/{step}"
    return wanted if wanted in values else values[0] if values else None


def _step_words(step: int) -> str:
    return "before training" if step == 0 else str(step)
