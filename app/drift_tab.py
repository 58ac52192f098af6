"""The Drift tab: how far a model leaves the path when it walks on its own output, in one picture, a few curves and plain words."""

from typing import Any

import gradio as gr

from ..core.drift_report import DriftReport, ReportError, read_report, words
from ..core.run_log import RunLog
from ..core.runs import RunSummary
from .charts import Line, chart
from .runs_tab import signature
from .watch import Watch
from .words import text

HOW_TO_READ = (
    "Top: what the model would draw from the true noisy picture at each noise level. Below: what it draws after walking there by itself. The heat "
    "map shows where the two differ: dark is the same, bright is drift."
)
_INTRO = """
<div class="rs-hero rs-small"><h2>Drift: what happens when a model is fed its own output</h2>
<p>In training a model always sees a true picture with noise on it. When it draws, it sees what it made itself one step before, with its own
mistakes in it. Here the same picture goes both ways, and you see what that changes.</p></div>
"""
_NOTHING = '<div class="rs-card rs-mild"><h4>No drift picture yet</h4><p>Every run measures its drift before the first step and at its end; while it trains, ask with <b>Drift now</b> on the Runs tab.</p></div>'


class DriftTab:
    """Builds the tab in the current layout. `view` draws it for one viewer; the page's timer calls it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        gr.HTML(_INTRO)
        with gr.Row():
            self.run = gr.Dropdown(choices=[], label="Run", elem_id="drift-run", filterable=False, scale=2)
            self.step = gr.Radio(choices=[], label="Measured at training step", elem_id="drift-step", scale=3)
        self.picture = gr.HTML(_NOTHING, elem_id="drift-picture")
        self.curves = gr.HTML(elem_id="drift-curves")

    @property
    def outputs(self) -> list[Any]:
        return [self.run, self.step, self.picture, self.curves]

    def view(self, chosen: str | None, step: int | None, seen: dict[str, str]) -> dict[Any, Any]:
        """Updates for one viewer who chose a run and a step (None = the newest) and was last shown `seen` (changed in place)."""
        runs = [run for run in self.watch.runs() if self.watch.log(run).drifts] if self._any() else []
        names = [run.name for run in runs]
        run = next((run for run in runs if run.name == chosen), runs[0] if runs else None)
        log = self.watch.log(run) if run is not None else None
        steps = sorted(log.drifts) if log is not None else []
        if steps and (step not in steps or (seen.get("drift-newest") == str(step) and seen.get("drift-run") == run.name)):
            step = steps[-1]  # follows the newest, unless an older one was chosen
        out: dict[Any, Any] = {}
        mark = signature(names, run and run.name, steps, step)
        if seen.get("drift-choice") != mark:
            out[self.run] = gr.Dropdown(choices=names, value=run.name if run is not None else None)
            out[self.step] = gr.Radio(choices=[(_step_words(each), each) for each in steps], value=step if steps else None)
            seen["drift-choice"] = mark
        seen["drift-newest"], seen["drift-run"] = (str(steps[-1]) if steps else ""), (run.name if run is not None else "")
        mark = signature(run and (run.name, run.created), step, log and log.drifts.get(step))
        if seen.get("drift-shown") != mark:
            seen["drift-shown"] = mark
            if run is None:
                out[self.picture], out[self.curves] = _NOTHING, ""
            else:
                out[self.picture] = filmstrip(run, log.drifts[step], self.watch)
                out[self.curves] = curves(run, log, log.drifts[step], self.watch)
        return out

    def _any(self) -> bool:
        return bool(self.watch.runs())


def _step_words(step: int) -> str:
    return "before training" if step == 0 else str(step)


def _folder(run: RunSummary, event: dict[str, Any]):
    """The report's folder; None when the event leads outside the run."""
    path = (run.path / str(event.get("path", ""))).resolve()
    return path.parent if path.is_relative_to(run.path.resolve()) else None


def _report(run: RunSummary, event: dict[str, Any]) -> DriftReport | str:
    folder = _folder(run, event)
    if folder is None:
        return "The report lies outside the run and is not shown."
    try:
        return read_report(folder)
    except (OSError, ReportError, UnicodeDecodeError) as error:
        return f"The report cannot be read: {error}"


def filmstrip(run: RunSummary, event: dict[str, Any], watch: Watch, brief: bool = False) -> str:
    """The drift picture with its one sentence, and what the numbers say in words."""
    folder, report = _folder(run, event), _report(run, event)
    address = watch.previews.address(folder / "filmstrip.png", run.path) if folder is not None else None
    step = event.get("step", 0)
    title = "Drift " + ("before training" if step == 0 else f"at step {step}")
    image = (
        f'<div class="rs-scroll" tabindex="0" aria-label="Filmstrip"><a href="{text(address)}" target="_blank" rel="noopener"><img class="rs-strip" src="{text(address)}" '
        f'alt="Filmstrip of {text(title)}: clean states above, rolled-out states below, their difference as a heat map"></a></div>'
        if address else '<div class="rs-gone">The picture is not there (yet).</div>'
    )  # fmt: skip
    told = [report] if isinstance(report, str) else words(report)
    told = told[:2] if brief else told
    said = "".join(f"<li>{text(sentence)}</li>" for sentence in told)
    more = ' <span class="rs-quiet">More on the Drift tab.</span>' if brief else ""
    return f'<div class="rs-card"><h4>{text(title)}</h4>{image}<p><b>How to read it.</b> {text(HOW_TO_READ)}</p><ul class="rs-remarks">{said}</ul>{more}</div>'


def curves(run: RunSummary, log: RunLog, event: dict[str, Any], watch: Watch) -> str:
    """Drift by noise level, its two parts, the held-out clean loss, and the map of frequencies."""
    report = _report(run, event)
    if isinstance(report, str):
        return ""
    drawn = []
    pairs = [(curve, color, dashed) for weights, color, dashed in (("base", "clean", True), ("tuned", "rolled", False))
             if (curve := report.find(weights)) is not None]  # fmt: skip
    if not pairs:
        pairs = [(curve, "rolled", False) for curve in report.curves[:1]]
    x = "noise level (0 = picture, 1 = noise)"

    def line(name, points, measure, color, dashed=False):
        points = sorted((point for point in points if measure in point.measures), key=lambda point: point.share)
        values = [point.measures[measure].value for point in points]
        return Line(name, [point.share for point in points], [float("nan") if v is None else v for v in values], color, dashed=dashed)

    farthest = max((point.offset for curve, _, _ in pairs for point in curve.short), default=0)
    if farthest:
        def far(curve):
            return [point for point in curve.short if point.offset == farthest]

        drawn.append(chart([line(curve.label, far(curve), "distance", color, dashed) for curve, color, dashed in pairs],
                           title=f"Distance from the true path after {farthest} steps alone", x_label=x, x_range=(0, 1))
                     + _sentence("Higher is farther off. Even a perfect model leaves the path a little, so compare the two lines, not a line with zero."))  # fmt: skip
        curve = pairs[-1][0]
        parts = [line("solver", far(curve), "solver", "quiet"), line("floor + model", far(curve), "floor_model", "rolled")]
        drawn.append(chart(parts, title=f"Where it comes from ({curve.label})", x_label=x, x_range=(0, 1))
                     + _sentence("Solver: what coarse steps lose; more steps cure it. Floor + model: what stays with very fine steps, part of it unavoidable."))  # fmt: skip
    losses = [line(curve.label, curve.clean_loss, "loss", color, dashed) for curve, color, dashed in pairs if curve.clean_loss]
    if losses:
        drawn.append(chart(losses, title="Held-out clean loss", x_label=x, x_range=(0, 1))
                     + _sentence("How well it still denoises pictures it never trained on. If drift falls while this rises, the model has become blurry, not better."))  # fmt: skip
    folder = _folder(run, event)
    spectrum = watch.previews.address(folder / "spectrum.png", run.path) if folder is not None else None
    if spectrum:
        drawn.append(f'<div class="rs-chart"><div class="rs-chart-head"><b>Which details drift</b></div><a href="{text(spectrum)}" target="_blank" rel="noopener">'
                     f'<img class="rs-wide" loading="lazy" src="{text(spectrum)}" alt="Map of power by frequency and noise level, rolled over clean"></a></div>'
                     + _sentence("Colour tells whether coarse shapes (low frequencies) or fine detail (high) came out too strong or too weak."))  # fmt: skip
    cells = "".join(f'<div{" class=rs-whole" if "rs-wide" in each else ""}>{each}</div>' for each in drawn)
    return f'<div class="rs-card"><h4>The numbers</h4><div class="rs-grid2">{cells}</div></div>' if cells else ""


def _sentence(words_: str) -> str:
    return f'<p class="rs-quiet">{text(words_)}</p>'
