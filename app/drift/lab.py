"""The laboratory of the Drift tab. Choose a picture and weights, press the button, see the drift; change a slider, see it again.

The preview worker (`preview_client`) measures; `viewers` holds each viewer's request. Here are the events; `fields` are the controls,
`gallery` the pictures, `answer` what is drawn.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config.options import ConfigError, Fault
from ...core.look.drift.correction import CORRECTION_OPTIONS
from ...core.runs.errors import RunError
from ..parts import notices
from ..parts.panel import QUICK, SLOW, UNSEEN
from ..parts.watch import Watch
from . import choices
from .answer import Answer, progress_of, refusal_card
from .fields import Fields
from .gallery import PICK, Gallery
from .viewers import Viewers, ViewerSession

# delay of a request after an edit, and after a typed prompt; polling interval; longest wait of one poll, and for further pictures of a filmstrip
EDIT_S, TYPED_S, POLL_S, HOLD_S, GROW_S = 0.05, 0.9, 0.05, 0.4, 0.15

_SCROLL = (
    "() => { if (window.innerWidth < 1000) document.querySelector('#look-progress').scrollIntoView({block: 'start'}); }"
)


class DriftLab:
    """Builds the laboratory in the current layout. `beat` draws what became of a viewer's request; the page's timers call it."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.shelf = watch, choices.Shelf()
        self.viewers = Viewers(lambda: watch.preview_client)
        self.gallery, self.fields = Gallery(watch), Fields()
        with gr.Row(elem_classes="rs-lab"):
            with gr.Column(scale=4, min_width=300, elem_classes="rs-lab-controls"):
                self._build_controls()
            with gr.Column(scale=11, min_width=320, elem_classes="rs-lab-result"):
                self.answer = Answer(watch, self.stop)
        self.take = self.answer.take
        self.timer = gr.Timer(POLL_S, active=False)
        # the number of the newest answer that the browser has applied
        self.shown = gr.Number(0, precision=0, visible=False, elem_id="look-shown")
        edited = self.fields.components.values()
        self.inputs = {*edited, self.shown}
        self.quick_outputs = [*self.answer.parts, self.timer, self.shown]
        self.outputs = [*edited, self.pictures, *self.quick_outputs]

    def _build_controls(self) -> None:
        runs, fields = self.watch.runs(), self.fields
        self.pictures = gr.HTML(self.gallery.first_markup(), elem_id="look-pictures", js_on_load=PICK)
        self.upload = gr.UploadButton("Use a picture of mine", file_types=["image"], size="sm", elem_id="look-upload")
        base = f"{choices.BASE}/{choices.FIRST_MODEL}"
        listed = choices.weights_choices(runs, self.shelf)
        self.weights = fields.dropdown("weights", listed, base, "Weights to measure")
        listed = choices.against_choices(runs, self.shelf)
        self.against = fields.dropdown("against", listed, choices.NOTHING, "Compare with")
        with gr.Row(elem_classes="rs-lab-go"):
            self.show = gr.Button("Show the drift", variant="primary", size="lg", elem_id="look-show")
            self.stop = gr.Button("Stop", size="lg", visible=False, elem_id="look-stop", min_width=80)
        self.prompt = fields.prompt("" if self.gallery.first is None else self.gallery.first.caption)
        fields.place("offset", "target")
        with gr.Accordion("More", open=False, elem_id="look-more"):
            fields.place("sampler", "order")
            fields.dropdown("solver", choices.solver_choices(), choices.NOTHING, "Compare with another solver")
            fields.place("start", "grid", "grid_steps", "guidance", "seed", "columns", "samples", "fine_factor")
            fields.place(*CORRECTION_OPTIONS)

    def wire(self, tab: gr.Tab) -> None:
        """Connect everything. `tab`: opening it gets the worker ready."""
        tab.select(self.opened, None, None, **QUICK)
        edits = [each.input for name, each in self.fields.components.items() if name not in ("prompt", "weights")]
        edit = {"trigger_mode": "always_last", **QUICK}
        gr.on(edits, self.on_edit, self.inputs, self.outputs, **edit)
        self.prompt.input(self.on_prompt, self.inputs, self.outputs, **edit)
        slow = {**UNSEEN, **SLOW}
        self.weights.input(self.on_weights, self.inputs, self.outputs, **slow)
        self.pictures.pick(self.on_pick, self.inputs, self.outputs, **edit)
        self.upload.upload(self.on_upload, {self.upload, *self.inputs}, self.outputs, **slow)
        self.show.click(self.on_show, self.inputs, self.outputs, **QUICK).then(None, js=_SCROLL)
        self.answer.measure.click(self.on_measure, self.shown, self.outputs, **QUICK)
        self.stop.click(self.on_stop, self.shown, self.outputs, **QUICK)
        self.timer.tick(self.on_tick, self.shown, self.quick_outputs, **QUICK)

    # -- what a viewer does ---------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The tab was opened: a request will follow soon."""
        self.watch.preview_client.warm_up()

    def on_show(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        session = self.viewers.session(viewer)
        try:
            record = self.record(given, session)
        except ConfigError as error:
            faults = error.faults
            return self._sent(session, given[self.shown], lambda: self._refused(session, faults, card=True))
        session.memory["follows"] = True  # from now on an edit is an answer's due
        self.viewers.ask(viewer, record)
        out = self._sent(session, given[self.shown], lambda: {**self._accepted(session), **self._drawn(viewer)})
        return {**out, self.timer: gr.Timer(active=True)}

    def on_edit(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Something was changed: say at once what is wrong with it; after a first picture ask again, a moment later."""
        return self._edited_by(_viewer(request), given, EDIT_S)

    def on_prompt(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        return self._edited_by(_viewer(request), given, TYPED_S)

    def _edited_by(self, viewer: str, given: Mapping[Any, Any], delay_s: float) -> dict[Any, Any]:
        session = self.viewers.session(viewer)
        follow = self.fields.dependent(session, given)
        try:
            record = self.record(given, session)
        except ConfigError as error:
            self.viewers.plan(viewer, None, 0)
            faults = error.faults
            return _merged(
                follow, self._sent(session, given[self.shown], lambda: self._refused(session, faults, card=False))
            )
        if session.memory.get("follows"):
            self.viewers.plan(viewer, record, delay_s)
            follow[self.timer] = gr.Timer(active=True)
        return _merged(follow, self._sent(session, given[self.shown], lambda: self._accepted(session)))

    def on_weights(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Other weights: their run's pictures are offered too, and a run is compared with its base unless something else is chosen."""
        viewer = _viewer(request)
        session, value = self.viewers.session(viewer), given[self.weights]
        given, out = dict(given), {}
        was_run = str(session.memory.get("weights", choices.BASE)).startswith("run/")
        is_run = isinstance(value, str) and value.startswith("run/")
        if is_run and not was_run and given[self.against] == choices.NOTHING:
            given[self.against] = out[self.against] = choices.BASE
        elif not is_run and given[self.against] == choices.BASE:
            given[self.against] = out[self.against] = choices.NOTHING
        session.memory["weights"] = value
        try:
            self.gallery.offer_those_of(session, value)
        except RunError as error:
            notices.warn(str(error))
        out[self.pictures] = self.gallery.markup(session)
        return _merged(out, self._edited_by(viewer, given, EDIT_S))

    def turn_to(self, weights: str, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Updates that choose these weights for a viewer, as if they had done it themselves."""
        given = {**given, self.weights: weights}
        listed = choices.weights_choices(self.watch.runs(), self.shelf, weights)
        return _merged({self.weights: gr.update(value=weights, choices=listed)}, self.on_weights(given, request))

    def put(
        self, values: Mapping[str, Any], weights: str | None, given: Mapping[Any, Any], request: gr.Request
    ) -> dict[Any, Any]:
        """Updates that put `values` into fields and choose these weights (None: those that are chosen) for a viewer, and ask for the drift."""
        out: dict[Any, Any] = {self.fields.components[name]: gr.update(value=value) for name, value in values.items()}
        given = {**given, **{self.fields.components[name]: value for name, value in values.items()}}
        if weights is not None:
            given |= {self.against: choices.NOTHING, self.weights: weights}
            out = _merged(
                {self.against: gr.update(value=choices.NOTHING), **self.turn_to(weights, given, request)}, out
            )
        follow = self.fields.dependent(self.viewers.session(_viewer(request)), given)
        return _merged(_merged(out, follow), self.on_show(given, request))

    def on_pick(self, given: Mapping[Any, Any], event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        """Another picture: its caption becomes the prompt."""
        viewer = _viewer(request)
        session = self.viewers.session(viewer)
        key = event._data.get("key") if isinstance(event._data, dict) else None
        picture = next((each for each in self.gallery.offered(session) if each.key == key), None)
        if picture is None:
            notices.warn("This picture is not offered any more; choose another one.")
            return {self.pictures: self.gallery.markup(session)}
        return self._picked(viewer, given, picture)

    def on_upload(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        session, file = self.viewers.session(viewer), given[self.upload]
        path = Path(str(file))
        if self.watch.previews.thumbnail(path) is None:
            notices.warn(f"{path.name} cannot be read as a picture. Choose a PNG, JPEG or WebP file.")
            return {self.prompt: gr.skip()}
        picture = choices.Picture(path, "", "held-out", "Yours")
        self.gallery.add(session, picture)
        return _merged({self.pictures: self.gallery.markup(session, picture.key)}, self._picked(viewer, given, picture))

    def _picked(self, viewer: str, given: Mapping[Any, Any], picture: choices.Picture) -> dict[Any, Any]:
        self.viewers.session(viewer).memory["picture"] = picture
        given = {**given, self.prompt: picture.caption}
        return _merged({self.prompt: gr.update(value=picture.caption)}, self._edited_by(viewer, given, EDIT_S))

    def on_measure(self, applied: Any, request: gr.Request) -> dict[Any, Any]:
        """The curves of the filmstrip that is shown."""
        viewer = _viewer(request)
        session = self.viewers.session(viewer)
        film_shown = session.memory.get("film")
        if film_shown is None:
            return self._sent(session, applied, lambda: {self.answer.measure: gr.Button(visible=False)})
        self.viewers.ask(viewer, {**film_shown, "what": ["strip", "curves", "spectrum"]})
        return {**self._sent(session, applied, lambda: self._drawn(viewer)), self.timer: gr.Timer(active=True)}

    def on_stop(self, applied: Any, request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        self.viewers.cancel(viewer)
        return {
            **self._sent(self.viewers.session(viewer), applied, lambda: self._drawn(viewer)),
            self.timer: gr.Timer(active=True),
        }

    def on_tick(self, applied: Any, request: gr.Request) -> Any:
        """`applied`: the number of the last answer that the browser has applied."""
        viewer = _viewer(request)
        until = time.monotonic() + HOLD_S
        status = self.viewers.status(viewer)
        session = self.viewers.session(viewer)
        shown, wait = session.memory.get("came", (False, 0)), time.monotonic() + GROW_S
        # An answer is worth waiting for: held for a moment, it comes without another turn of browser and server; progress comes at the end.
        while status.busy and time.monotonic() < until:
            whole, pictures = progress_of(status)
            if whole != shown[0] or (pictures > shown[1] and (not shown[1] or time.monotonic() > wait)):
                break
            time.sleep(0.02)
            status = self.viewers.status(viewer)
        session.memory["came"] = progress_of(status)
        with session.drawing:
            out = self._sent(session, applied, lambda: self._drawn(viewer))
            # Every output of a handler is made anew and checked by the browser: the quick timer has only those of an answer. Marks at fields wait.
            late = {component: out.pop(component) for component in set(out) - set(self.quick_outputs)}
            if late:
                session.memory["late"] = late
            if not self.viewers.status(viewer).busy:
                # What is final is sent whole, and again until the browser says that nothing older came after it.
                if applied == session.scene.number and session.memory.get("final") == session.scene.number:
                    return {self.timer: gr.Timer(active=False)}
                session.memory["final"], parts = session.scene.whole()
                out |= {**parts, self.shown: session.memory["final"]}
        return out if out else gr.skip()

    def _sent(self, session: ViewerSession, applied: Any, made: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
        """The updates that `made` gives, with everything that is newer than what the browser has applied, and the number of all this."""
        with session.drawing:
            out = made()
            session.scene.put({part: out.pop(part) for part in self.answer.parts if part in out})
            number, parts = session.scene.news(applied)
        return {**out, **parts, self.shown: number} if number != applied else out

    def closed(self, request: gr.Request) -> None:
        """A viewer has closed or reloaded the page."""
        self.viewers.leave(_viewer(request))

    # -- the request and its answer ----------------------------------------------------------------------------------------

    def record(self, given: Mapping[Any, Any], session: ViewerSession) -> dict[str, Any]:
        """The preview request of a viewer. Raises ConfigError with every fault; see `Fields.record`."""
        return self.fields.record(given, self.gallery.picture(session), self.watch.runs())

    def _refused(self, session: ViewerSession, faults: Sequence[Fault], card: bool) -> dict[Any, Any]:
        """Every fault at its field; what has no field, and after a click (`card`) all of it, in a card above the filmstrip, which stays."""
        out = self.fields.marks(session, faults)
        if card or not self.fields.marked(session):
            out[self.answer.progress] = refusal_card(faults)
        return out

    def _accepted(self, session: ViewerSession) -> dict[Any, Any]:
        """Updates that take the marks from fields that are right again, and the card about them."""
        was_marked = bool(self.fields.marked(session))
        out = self.fields.marks(session, ())
        return {**out, self.answer.progress: ""} if was_marked else out

    def _drawn(self, viewer: str) -> dict[Any, Any]:
        """What the answer changes for this viewer, with the faults that only the worker found at their fields."""
        session, status = self.viewers.session(viewer), self.viewers.status(viewer)
        out = self.answer.drawn(session, status)
        if out and status.state.status == "failed" and status.state.faults:
            out |= self.fields.marks(session, status.state.faults)
        return out

    def beat(
        self, viewer: str | None, weights: str | None, against: str | None, seen: dict[str, str], applied: Any = 0
    ) -> dict[Any, Any]:
        """What the page's own timer sends: new runs and checkpoints in the lists. Of answers it draws nothing, so that they come one after
        the other: it starts the quick timer, where that has something to report."""
        runs = self.watch.runs()
        out: dict[Any, Any] = {}
        lists = choices.weights_choices(runs, self.shelf, weights), choices.against_choices(runs, self.shelf, against)
        mark = repr(lists)
        if seen.get("look-lists") != mark:
            seen["look-lists"] = mark
            out[self.weights], out[self.against] = (gr.update(choices=each) for each in lists)
        if viewer is not None:
            out |= self.viewers.session(viewer).memory.pop("late", {})
            if self.waits(viewer, applied):
                out[self.timer] = gr.Timer(active=True)
        return out

    def waits(self, viewer: str, applied: Any) -> bool:
        """Whether `beat` has something for this viewer of what they requested. `applied`: the number of the last answer in their browser."""
        session, status = self.viewers.session(viewer), self.viewers.status(viewer)
        # An answer may have come before anything drew it: a quick one, while the quick timer was being stopped for the one before.
        undrawn = status.busy or self.answer.is_new(session, status)
        return undrawn or bool(session.memory.get("late")) or applied != session.scene.number


def _viewer(request: gr.Request | None) -> str:
    """The viewer: the browser page's session."""
    session = None if request is None else request.session_hash
    return "" if session is None else session


def _merged(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    """Updates of both; where both change one component, its properties of both (the second's win)."""
    out = dict(first)
    for component, update in second.items():
        before = out.get(component)
        if isinstance(before, dict) and isinstance(update, dict):
            out[component] = {**before, **update}
        elif isinstance(update, dict) and component in out:
            out[component] = {**gr.update(value=before), **update}
        else:
            out[component] = update
    return out
