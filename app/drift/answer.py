"""What becomes of a viewer's request on the laboratory's right side: progress, filmstrip, curves, and everything to take away."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config.options import Fault
from ...core.look.drift.files import curves_of, read_report
from ...core.look.drift.report import ReportError
from ...core.runs.errors import RunError
from ..parts.preview_jobs import PreviewState
from ..parts.watch import Watch
from ..parts.words import duration, text
from .example import example_film
from .growing import growing_film, pictures_in
from .picture import curve_charts, downloads, film, numbers_table, report_charts, words_list
from .report import write_drift_report
from .scrubber import scrubber
from .viewers import RequestStatus, ViewerSession, is_live

_EMPTY = """<div class="rs-card rs-look-empty"><h3>How far does it drift?</h3>
<p>Two predictions from one picture are compared. First, noise is added to the picture and the model predicts it: that is <b class="rs-t-clean">what it should see</b>.
Then the model samples from there, step by step: <b class="rs-t-rolled">what it sees after its own rollout</b>. Where the two differ is <b>drift</b>.</p>
</div>"""


class Answer:
    """Builds its components in the current layout; `stop` is the button that stands elsewhere and is shown while something is made.
    `take`, under the picture, leads to the Train tab (`see_rollout`)."""

    def __init__(self, watch: Watch, stop: gr.Button) -> None:
        self.watch, self.stop = watch, stop
        self.progress = gr.HTML(elem_id="look-progress", elem_classes="rs-maybe")
        self.film = gr.HTML(example_film(watch.previews) + _EMPTY, elem_id="look-film", js_on_load=scrubber())
        with gr.Row(elem_classes="rs-lab-next"):
            self.measure = gr.Button("Measure the curves too", visible=False, elem_id="look-measure")
            self.take = gr.Button("Train with this", elem_id="look-take")
        self.curves = gr.HTML(elem_id="look-curves", elem_classes="rs-maybe")
        self.export = gr.HTML(elem_id="look-export", elem_classes="rs-maybe")
        self.parts = [self.progress, self.film, self.measure, self.curves, self.export, self.stop]
        """What is drawn of an answer; its newest is kept in the viewer's scene."""

    def drawn(self, session: ViewerSession, status: RequestStatus) -> dict[Any, Any]:
        """Updates for what changed since this viewer was last drawn something; nothing when nothing did. Under `ViewerSession.drawing`."""
        if not self.is_new(session, status):
            return {}
        memory, out, state = session.memory, {}, status.state
        memory["progress"] = _mark(status)
        out[self.stop] = gr.Button(visible=not state.ended)
        if state.status == "failed" and state.faults:
            out[self.progress] = refusal_card(state.faults, state.remedy)
        else:
            out |= self._progress(session, state, status.request)
        if state.result is not None:
            out |= self._answered(session, state, status.request)
        elif state.growing is not None and not state.ended and memory.get("film") != _without_what(status.request):
            out[self.film] = growing_film(state.growing, self._address, status.request)
            memory.setdefault("before", (memory.pop("film", None), memory.pop("folder", None)))
        elif state.ended and "before" in memory:  # it was stopped half-way: what stood there comes back
            out[self.film] = memory.get("drawn", self.film.value)
            memory["film"], memory["folder"] = memory.pop("before")
        return out

    def is_new(self, session: ViewerSession, status: RequestStatus) -> bool:
        """Whether the request has come further than what this viewer was last drawn."""
        return status.state is not None and session.memory.get("progress") != _mark(status)

    def _progress(self, session: ViewerSession, state: PreviewState, request: dict[str, Any]) -> dict[Any, Any]:
        """The progress where the eye is: above the filmstrip, or, for the curves of a filmstrip that is there, in their place."""
        card, memory = progress_card(state, request), session.memory
        below = not state.ended and "curves" in request["what"] and memory.get("film") == _without_what(request)
        out: dict[Any, Any] = {self.progress: "" if below else card}
        if below:
            out[self.curves], out[self.measure] = card + self._curves_so_far(session, state), gr.Button(visible=False)
            memory["below"] = True
        elif (
            memory.pop("below", False) and state.status != "done"
        ):  # the card goes; the curves themselves come with the answer
            out[self.curves], out[self.measure] = "", gr.Button(visible=True)
        return out

    def _answered(self, session: ViewerSession, state: PreviewState, request: dict[str, Any]) -> dict[Any, Any]:
        """The filmstrip as soon as it is there; curves and numbers as they come."""
        memory, result, out = session.memory, state.result, {}
        measured = state.status == "done" and "curves" in result
        film_of = _without_what(request)
        try:
            if memory.get("film") != film_of or is_live(request):
                if memory.get("folder") != result["folder"]:
                    out[self.film] = memory["drawn"] = film(result, self._address, request)
                    memory.pop("before", None)
                memory["film"] = film_of
            mark = (result["folder"], measured)
            if memory.get("export") != mark:
                out[self.export] = self._export(result, measured)
                if measured or state.status == "done":
                    out[self.curves] = self._curves(result) if measured else ""
                memory["export"] = mark
            memory["folder"] = result["folder"]
        # a run's answer comes from its files
        except (KeyError, IndexError, TypeError, ValueError, OSError, ReportError, RunError) as error:
            out[self.progress] = (
                f'<div class="rs-card rs-bad" role="alert"><h3>The answer cannot be drawn</h3><p>{text(f"{type(error).__name__}: {error}")}</p><p>Ask again.</p></div>'
            )
            return out
        if state.status == "done":
            out[self.measure] = gr.Button(visible=not measured)
        return out

    def _curves_so_far(self, session: ViewerSession, state: PreviewState) -> str:
        """The curves as far as they are measured; drawn anew when a noise level has come."""
        if not state.curves:
            return ""
        of, drawn = session.memory.get("so-far", (None, ""))
        if of is not state.curves:
            drawn = f'<div class="rs-card"><h3>The curves so far</h3>{curve_charts(curves_of(state.curves))}</div>'
            session.memory["so-far"] = state.curves, drawn
        return drawn

    def _curves(self, result: Mapping[str, Any]) -> str:
        charts = report_charts(read_report(Path(result["report"])))
        return f'<div class="rs-card"><h3>The curves</h3>{charts}</div>'

    def _export(self, result: Mapping[str, Any], measured: bool) -> str:
        """What the numbers say in words, all of them in a table, and everything to take away."""
        stem, strips = f"drift-{Path(str(result['picture'])).stem}", result["strips"]
        files: list[tuple[str, str, str]] = []  # (what it is, name to take it away under, file)
        for number, strip in enumerate(strips):
            of = f" ({strip['label']})" if len(strips) > 1 else ""
            files.append((f"Filmstrip{of}, PNG", f"{stem}{f'-{number + 1}' if number else ''}.png", strip["filmstrip"]))
        if measured:
            files += [
                (f"{kind.capitalize()}, PNG", f"{stem}-{kind}.png", result[kind])
                for kind in ("curves", "spectrum")
                if kind in result
            ]
        files += [("Report, JSON", f"{stem}.json", result["report"]), ("Numbers, CSV", f"{stem}.csv", result["csv"])]
        folder = Path(result["folder"])
        taken = folder / "take"  # goes with the result, when the client forgets it
        numbers = f'<div class="rs-card"><h3>At the last step</h3>{numbers_table(result)}</div>'
        page = write_drift_report(folder, taken / f"{stem}-report.html", result["words"], [numbers])
        links = [("Report to share, HTML", page.name, self.watch.previews.own(page))]
        links += [(words, name, self.watch.previews.named(Path(file), name, taken)) for words, name, file in files]
        return (
            f'<div class="rs-card"><h3>In words and numbers</h3>{words_list(result["words"])}'
            f"<details><summary>All numbers</summary>{numbers_table(result)}</details>{downloads(links)}</div>"
        )

    def _address(self, path: str) -> str:
        return self.watch.previews.own(Path(path))


def _mark(status: RequestStatus) -> tuple[Any, ...]:
    """How far a request is, as coarse as it is drawn."""
    state = status.state
    seconds = 0 if state.ended else round(state.seconds)
    far = round(state.share, 2), seconds, _levels_in(state)
    return status.ticket, state.status, state.what, *far, *progress_of(status)


def _levels_in(state: PreviewState) -> int:
    """How many points the curves have so far."""
    return sum(len(curve["short"]) + len(curve["clean_loss"]) for curve in state.curves or ())


def progress_of(status: RequestStatus) -> tuple[bool, int]:
    """(whether the filmstrips are there, the pictures of them that are there before)."""
    state = status.state
    return (False, 0) if state is None else (state.result is not None, pictures_in(state.growing))


def refusal_card(faults: Sequence[Fault], remedy: str = "") -> str:
    """Everything that is wrong with a request, above the filmstrip, which stays."""
    items = "".join(f"<li>{text(fault.message)}</li>" for fault in faults)
    more = f"<p>{text(remedy)}</p>" if remedy else ""
    return f'<div class="rs-card rs-bad" role="alert"><h3>This cannot be shown yet</h3><ul>{items}</ul>{more}</div>'


def progress_card(state: PreviewState, request: Mapping[str, Any] | None) -> str:
    """How far it is, in a share and in words; or what went wrong and what to do."""
    if state.status in ("done", "cancelled"):
        return ""
    if state.status in ("failed", "unknown"):
        return f'<div class="rs-card rs-bad" role="alert"><h3>No picture this time</h3><p>{text(state.message)}</p><p>{text(state.remedy)}</p></div>'
    live = is_live(request)
    if state.result is not None:
        what = f"The filmstrip is there. Measuring the curves ({state.what})"
    elif state.status == "waiting":
        what = state.what.capitalize() if live else "Getting ready: the first time this takes a few seconds"
    else:
        what = state.what.capitalize()
    more = " The run answers between two training steps, with its weights of that moment." if live else ""
    return (
        f'<div class="rs-card rs-look-busy" role="status"><div class="rs-busy-words"><span>{text(what)} …{more}</span><b>{100 * state.share:.0f} % · {duration(max(1.0, state.seconds))}</b></div>'
        f'<div class="rs-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * state.share:.0f}">'
        f'<i style="width:{max(2.0, 100 * state.share):.0f}%"></i></div></div>'
    )  # fmt: skip


def _without_what(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request shows, however much of it is measured."""
    return {name: value for name, value in request.items() if name != "what"}
