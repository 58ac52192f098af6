"""Look now: the laboratory of the Drift tab. Choose a picture and weights, press the button, see the drift; change a slider, see it again.

The preview worker (`preview_client`) measures; `desk` knows who asked for what; here are the controls and what the answers change.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.config import OPTIONS, DriftConfig, RolloutConfig
from ...core.config.options import ConfigError, Fault, Option
from ...core.look.drift.files import read_report
from ...core.look.drift.report import ReportError
from ...core.look.preview.request import VIEW_OPTIONS, PreviewRequest
from ...core.runs.errors import RunError
from ..parts import forms, notices
from ..parts.panel import QUICK, SLOW
from ..parts.preview_client import PreviewState
from ..parts.watch import Watch
from ..parts.words import duration, text
from . import choices
from .desk import Desk, Look, Place, is_live
from .picture import downloads, film, numbers_table, report_charts, words_list

FIRST = {"target": 0.05, "offset": 18}
"""Where the first visit starts instead of the options' defaults: far enough that the demo's base model visibly loses the picture."""

# an edit is asked for after this; a typed prompt after that; and how often an answer is looked for
EDIT_S, TYPED_S, LOOK_S, HOLD_S = (
    0.05,
    0.9,
    0.05,
    0.4,
)
STEPS_OF_A_TABLE = 100  # on the training grid, whose 1000 steps are small, the slider ends here

FIELDS: dict[str, Option] = {
    **{name: VIEW_OPTIONS[name] for name in ("target", "offset", "start")},
    **{name: OPTIONS[RolloutConfig.prefix + name] for name in ("sampler", "order", "grid", "grid_steps")},
    **{name: OPTIONS[DriftConfig.prefix + name] for name in ("guidance", "seed", "fine_factor")},
    **{name: VIEW_OPTIONS[name] for name in ("columns", "samples")},
}
"""Field of a request -> the option that it is."""

_AT_FIELD = {option.name: name for name, option in FIELDS.items()} | {
    "checkpoints": "weights", "against": "against", "samplers": "solver", "prompt": "prompt",
}  # fmt: skip
"""Name in a fault -> where it is told. `image` has no field of its own: the pictures."""

_WEIGHTS_HELP = "The base model, a run's LoRA or checkpoint, or a training run as it is now."
_AGAINST_HELP = "A second filmstrip: what did the training change?"
_SOLVER_HELP = "A second filmstrip with this solver. From one step away most of them are the same."
_PROMPT_HELP = "What the picture shows; the model is told it."

_EMPTY = """<div class="rs-card rs-look-empty"><h4>How far does it stray?</h4>
<p>One picture goes two ways. First, noise is put on it and the model says what it sees: that is <b class="rs-t-clean">what it should see</b>. Then the model
walks from there on its own steps: <b class="rs-t-rolled">what it sees after walking alone</b>. Where the two differ is <b>drift</b>.</p>
<p class="rs-quiet">The demo's picture and model are chosen already: press <b>Show the drift</b>.</p></div>"""
_SCROLL = (
    "() => { if (window.innerWidth < 1000) document.querySelector('#look-progress').scrollIntoView({block: 'start'}); }"
)
_PICK = """
element.addEventListener('change', event => {
  if (event.target.matches('input[name=rs-picture]')) trigger('pick', {key: event.target.value});
});
// After a new list: what the page says is chosen, not what was clicked before in the old one.
watch('value', () => element.querySelectorAll('input').forEach(input => { input.checked = input.hasAttribute('checked'); }));
"""
_JS = (Path(__file__).parents[1] / "js" / "drift.js").read_text(encoding="utf-8")


class DriftLab:
    """Builds the laboratory in the current layout. `beat` draws what became of a viewer's request; the page's timers call it."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.shelf = watch, choices.Shelf()
        self.desk = Desk(lambda: watch.preview_client)
        self._built_in = choices.built_in()
        runs = watch.runs()
        with gr.Row(elem_classes="rs-lab"):
            with gr.Column(scale=4, min_width=300, elem_classes="rs-lab-controls"):
                self.pictures = gr.HTML(
                    self._gallery(self._built_in, self._first_key()), elem_id="look-pictures", js_on_load=_PICK
                )
                self.upload = gr.UploadButton(
                    "Use a picture of mine", file_types=["image"], size="sm", elem_id="look-upload"
                )
                self.weights = gr.Dropdown(
                    choices=choices.weights_choices(runs, self.shelf), value=f"{choices.BASE}/{choices.FIRST_MODEL}", label="Whose drift: weights",
                    info=_WEIGHTS_HELP, elem_id="look-weights",
                )  # fmt: skip
                self.against = gr.Dropdown(
                    choices=choices.against_choices(runs, self.shelf), value=choices.NOTHING, label="Compare with", info=_AGAINST_HELP, elem_id="look-against",
                )  # fmt: skip
                with gr.Row(elem_classes="rs-lab-go"):
                    self.show = gr.Button("Show the drift", variant="primary", size="lg", elem_id="look-show")
                    self.stop = gr.Button("Stop", size="lg", visible=False, elem_id="look-stop", min_width=80)
                first = self._built_in[0].caption if self._built_in else ""
                self.prompt = gr.Textbox(
                    label="Prompt", value=first, info=_PROMPT_HELP, lines=1, max_lines=4, elem_id="look-prompt"
                )
                self.fields: dict[str, gr.components.Component] = {}
                self._place("offset", "target")
                with gr.Accordion("More", open=False, elem_id="look-more"):
                    self._place("sampler", "order")
                    self.solver = gr.Dropdown(
                        choices=choices.solver_choices(), value=choices.NOTHING, label="Compare with another solver", info=_SOLVER_HELP, elem_id="look-solver",
                    )  # fmt: skip
                    self._place("start", "grid", "grid_steps", "guidance", "seed", "columns", "samples", "fine_factor")
                self.take = gr.Button("Take this walk to the Train tab", size="sm", elem_id="look-take")
            with gr.Column(scale=11, min_width=320, elem_classes="rs-lab-result"):
                self.progress = gr.HTML(elem_id="look-progress", elem_classes="rs-maybe")
                self.film = gr.HTML(_EMPTY, elem_id="look-film", js_on_load=_JS)
                self.measure = gr.Button("Measure the curves too", visible=False, elem_id="look-measure")
                self.curves = gr.HTML(elem_id="look-curves", elem_classes="rs-maybe")
                self.export = gr.HTML(elem_id="look-export", elem_classes="rs-maybe")
        self.timer = gr.Timer(LOOK_S, active=False)
        # the number of the newest answer that the browser has applied
        self.shown = gr.Number(0, precision=0, visible=False, elem_id="look-shown")
        self._edited: dict[str, gr.components.Component] = {
            **self.fields, "prompt": self.prompt, "weights": self.weights, "against": self.against, "solver": self.solver,
        }  # fmt: skip
        self.inputs = {*self._edited.values(), self.shown}
        self.parts = [self.progress, self.film, self.measure, self.curves, self.export, self.stop]
        """What is drawn of an answer; its newest is kept in the viewer's scene."""
        self.quick_outputs = [*self.parts, self.timer, self.shown]
        self.outputs = [*self._edited.values(), self.pictures, *self.quick_outputs]

    def _place(self, *names: str) -> None:
        for name in names:
            option = FIELDS[name]
            value = FIRST.get(name, option.default)
            made = forms.component(
                _narrowed(name, option, self.most_steps("inference", FIELDS["grid_steps"].default)),
                value,
                full=False,
            )
            made.elem_id = f"look-{name.replace('_', '-')}"  # the same option may stand on the Train tab
            self.fields[name] = made

    def wire(self, tab: gr.Tab) -> None:
        """Connect everything. `tab`: opening it gets the worker ready."""
        tab.select(self.opened, None, None, **QUICK)
        edits = [each.input for name, each in self._edited.items() if name not in ("prompt", "weights")]
        edit = {"trigger_mode": "always_last", **QUICK}
        gr.on(edits, self.on_edit, self.inputs, self.outputs, **edit)
        self.prompt.input(self.on_prompt, self.inputs, self.outputs, **edit)
        slow = {"show_progress": "hidden", **SLOW}
        self.weights.input(self.on_weights, self.inputs, self.outputs, **slow)
        self.pictures.pick(self.on_pick, self.inputs, self.outputs, **edit)
        self.upload.upload(self.on_upload, {self.upload, *self.inputs}, self.outputs, **slow)
        self.show.click(self.on_show, self.inputs, self.outputs, **QUICK).then(None, js=_SCROLL)
        self.measure.click(self.on_measure, self.shown, self.outputs, **QUICK)
        self.stop.click(self.on_stop, self.shown, self.outputs, **QUICK)
        self.timer.tick(self.on_tick, self.shown, self.quick_outputs, **QUICK)

    # -- what a viewer does ---------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The tab was opened: whoever looks at it will ask soon."""
        self.watch.preview_client.warm_up()

    def on_show(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        place = self.desk.place(viewer)
        try:
            record = self.record(given, place)
        except ConfigError as error:
            faults = error.faults
            return self._sent(place, given[self.shown], lambda: self._told(place, faults, "", card=True))
        place.memory["follows"] = True  # from now on an edit is an answer's due
        self.desk.ask(viewer, record)
        out = self._sent(place, given[self.shown], lambda: {**self._unmarked(place), **self._drawn(viewer)})
        return {**out, self.timer: gr.Timer(active=True)}

    def on_edit(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Something was changed: say at once what is wrong with it; after a first picture ask again, a moment later."""
        return self._edited_by(_viewer(request), given, EDIT_S)

    def on_prompt(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        return self._edited_by(_viewer(request), given, TYPED_S)

    def _edited_by(self, viewer: str, given: Mapping[Any, Any], delay_s: float) -> dict[Any, Any]:
        place = self.desk.place(viewer)
        follow = self._dependent(place, given)
        try:
            record = self.record(given, place)
        except ConfigError as error:
            self.desk.plan(viewer, None, 0)
            faults = error.faults
            return _merged(
                follow, self._sent(place, given[self.shown], lambda: self._told(place, faults, "", card=False))
            )
        if place.memory.get("follows"):
            self.desk.plan(viewer, record, delay_s)
            follow[self.timer] = gr.Timer(active=True)
        return _merged(follow, self._sent(place, given[self.shown], lambda: self._unmarked(place)))

    def on_weights(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Other weights: their run's pictures are offered too, and a run is compared with its base unless something else is chosen."""
        viewer = _viewer(request)
        place, value = self.desk.place(viewer), given[self.weights]
        given, out = dict(given), {}
        was_run = str(place.memory.get("weights", choices.BASE)).startswith("run/")
        is_run = isinstance(value, str) and value.startswith("run/")
        if is_run and not was_run and given[self.against] == choices.NOTHING:
            given[self.against] = out[self.against] = choices.BASE
        elif not is_run and given[self.against] == choices.BASE:
            given[self.against] = out[self.against] = choices.NOTHING
        place.memory["weights"] = value
        try:
            place.memory["of_run"] = self._pictures_of(value)
        except RunError as error:
            notices.warn(str(error))
        out[self.pictures] = self._gallery(self._offered(place), self._key(place))
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
        out: dict[Any, Any] = {self.fields[name]: gr.update(value=value) for name, value in values.items()}
        given = {**given, **{self.fields[name]: value for name, value in values.items()}}
        if weights is not None:
            given |= {self.against: choices.NOTHING, self.weights: weights}
            out = _merged(
                {self.against: gr.update(value=choices.NOTHING), **self.turn_to(weights, given, request)}, out
            )
        follow = self._dependent(self.desk.place(_viewer(request)), given)
        return _merged(_merged(out, follow), self.on_show(given, request))

    def on_pick(self, given: Mapping[Any, Any], event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        """Another picture: its caption becomes the prompt."""
        viewer = _viewer(request)
        place = self.desk.place(viewer)
        picture = next((each for each in self._offered(place) if each.key == event._data.get("key")), None)
        if picture is None:
            notices.warn("This picture is not offered any more; choose another one.")
            return {self.pictures: self._gallery(self._offered(place), self._key(place))}
        return self._picked(viewer, given, picture)

    def on_upload(self, given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        place, file = self.desk.place(viewer), given[self.upload]
        path = Path(str(file))
        if self.watch.previews.thumbnail(path) is None:
            notices.warn(f"{path.name} cannot be read as a picture. Choose a PNG, JPEG or WebP file.")
            return {self.prompt: gr.skip()}
        picture = choices.Picture(path, "", "held-out", "Yours")
        place.memory["mine"] = choices.without_copies([picture, *place.memory.get("mine", ())])[: choices.MOST_PICTURES]
        return _merged(
            {self.pictures: self._gallery(self._offered(place), picture.key)}, self._picked(viewer, given, picture)
        )

    def _picked(self, viewer: str, given: Mapping[Any, Any], picture: choices.Picture) -> dict[Any, Any]:
        self.desk.place(viewer).memory["picture"] = picture
        given = {**given, self.prompt: picture.caption}
        return _merged({self.prompt: gr.update(value=picture.caption)}, self._edited_by(viewer, given, EDIT_S))

    def on_measure(self, applied: Any, request: gr.Request) -> dict[Any, Any]:
        """The curves of the filmstrip that is shown."""
        viewer = _viewer(request)
        place = self.desk.place(viewer)
        film_shown = place.memory.get("film")
        if film_shown is None:
            return self._sent(place, applied, lambda: {self.measure: gr.Button(visible=False)})
        self.desk.ask(viewer, {**film_shown, "what": ["strip", "curves", "spectrum"]})
        return {**self._sent(place, applied, lambda: self._drawn(viewer)), self.timer: gr.Timer(active=True)}

    def on_stop(self, applied: Any, request: gr.Request) -> dict[Any, Any]:
        viewer = _viewer(request)
        self.desk.cancel(viewer)
        return {
            **self._sent(self.desk.place(viewer), applied, lambda: self._drawn(viewer)),
            self.timer: gr.Timer(active=True),
        }

    def on_tick(self, applied: Any, request: gr.Request) -> Any:
        """`applied`: the number of the last answer that the browser has applied."""
        viewer = _viewer(request)
        until = time.monotonic() + HOLD_S
        look = self.desk.look(viewer)
        shown = _has_result(look)
        # An answer is worth waiting for: held for a moment, it comes without another turn of browser and server; progress comes at the end.
        while look.busy and _has_result(look) == shown and time.monotonic() < until:
            time.sleep(0.02)
            look = self.desk.look(viewer)
        place = self.desk.place(viewer)
        with place.drawing:
            out = self._sent(place, applied, lambda: self._drawn(viewer))
            # Every output of a handler is made anew and looked at by the browser: the quick timer has only those of an answer. Marks at fields wait.
            late = {component: out.pop(component) for component in set(out) - set(self.quick_outputs)}
            if late:
                place.memory["late"] = late
            if not self.desk.look(viewer).busy:
                # What is final is sent whole, and again until the browser says that nothing older came after it.
                if applied == place.scene.number and place.memory.get("final") == place.scene.number:
                    return {self.timer: gr.Timer(active=False)}
                place.memory["final"], parts = place.scene.whole()
                out |= {**parts, self.shown: place.memory["final"]}
        return out if out else gr.skip()

    def _sent(self, place: Place, applied: Any, made: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
        """The updates that `made` gives, with everything that is newer than what the browser has applied, and the number of all this."""
        with place.drawing:
            out = made()
            place.scene.put({part: out.pop(part) for part in self.parts if part in out})
            number, parts = place.scene.news(applied)
        return {**out, **parts, self.shown: number} if number != applied else out

    def left(self, request: gr.Request) -> None:
        """A viewer has closed or reloaded the page."""
        self.desk.leave(_viewer(request))

    # -- the request -------------------------------------------------------------------------------------------------------

    def record(self, given: Mapping[Any, Any], place: Place) -> dict[str, Any]:
        """The preview request that the controls describe. Raises ConfigError with every fault; names as in `_AT_FIELD`."""
        faults: list[Fault] = []
        record: dict[str, Any] = {"what": ["strip"]}
        for name, option in FIELDS.items():
            try:
                record[name] = forms.from_component(option, given[self.fields[name]])
            except ConfigError as error:
                faults += error.faults
        if "sampler" in record and not choices.has_order(record["sampler"]):
            record.pop("order", None)
        runs = self.watch.runs()
        try:
            record["checkpoints"], record["config"] = choices.pair(given[self.weights], given[self.against], runs)
        except ConfigError as error:
            faults += error.faults
        try:
            if given[self.solver] != choices.NOTHING:
                second = choices.solver(given[self.solver])
                if "sampler" in record:
                    first = {name: record.pop(name) for name in ("sampler", "order") if name in record}
                    record["samplers"] = [first, second]
        except ConfigError as error:
            faults += error.faults
        prompt, picture = given[self.prompt], self._picture(place)
        record["prompt"] = prompt
        if not isinstance(prompt, str) or not prompt.strip():
            faults.append(Fault("Write what the picture shows: the model is told it.", ("prompt",)))
        if picture is not None:
            record["image"], record["role"] = str(picture.path), picture.role
        if not faults:
            try:
                PreviewRequest.from_json(record)
            except ConfigError as error:  # of two weights that do not go together, the second is the one to change
                second = given[self.against] != choices.NOTHING
                faults += [
                    Fault(fault.message, ("against",)) if second and "checkpoints" in fault.options else fault
                    for fault in error.faults
                ]
        if faults:
            raise ConfigError(faults)
        return record

    def _dependent(self, place: Place, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Fields that follow others: how far the offset can go, and whether the solver has an order. Sent only when it changed."""
        out: dict[Any, Any] = {}
        sampler = given[self.fields["sampler"]]
        ordered = not isinstance(sampler, str) or sampler not in FIELDS["sampler"].choices or choices.has_order(sampler)
        if place.memory.setdefault("ordered", True) != ordered:
            place.memory["ordered"] = ordered
            out[self.fields["order"]] = gr.update(interactive=ordered)
        try:
            steps = forms.from_component(FIELDS["grid_steps"], given[self.fields["grid_steps"]])
        except ConfigError:
            return out  # told at its own field
        most = self.most_steps(given[self.fields["grid"]], steps)
        if place.memory.setdefault("most", self.most_steps("inference", FIELDS["grid_steps"].default)) != most:
            place.memory["most"] = most
            out[self.fields["offset"]] = gr.update(maximum=most)
        return out

    @staticmethod
    def most_steps(grid: Any, steps: int) -> int:
        """The farthest walk that the offset's slider has."""
        return STEPS_OF_A_TABLE if grid == "training" else min(STEPS_OF_A_TABLE, steps)

    # -- what is told at the fields ------------------------------------------------------------------------------------------

    def _told(self, place: Place, faults: tuple[Fault, ...], remedy: str, card: bool) -> dict[Any, Any]:
        """Every fault at its field; what has no field, and after a click (`card`) all of it, in a card above the filmstrip, which stays."""
        wrong: dict[str, str] = {}
        for fault in faults:
            name = next((_AT_FIELD[name] for name in fault.options if name in _AT_FIELD), None)
            if name is not None:
                wrong.setdefault(name, fault.message)
        out = {
            **self._unmarked(place, wrong),
            **{self._edited[name]: _marked(f"⚠ {message}", True) for name, message in wrong.items()},
        }
        place.memory["wrong"] = list(wrong)
        if card or not wrong:
            items = "".join(f"<li>{text(fault.message)}</li>" for fault in faults)
            more = f"<p>{text(remedy)}</p>" if remedy else ""
            out[self.progress] = (
                f'<div class="rs-card rs-bad" role="alert"><h4>This cannot be shown yet</h4><ul>{items}</ul>{more}</div>'
            )
        return out

    def _unmarked(self, place: Place, still: Mapping[str, str] | None = None) -> dict[Any, Any]:
        """Updates that take the marks from fields that are right again, and the card about them."""
        before = place.memory.pop("wrong", [])
        out: dict[Any, Any] = {
            self._edited[name]: _marked(self._help(name), False)
            for name in before
            if still is None or name not in still
        }
        if before and not still:
            out[self.progress] = ""
        return out

    def _help(self, name: str) -> str:
        helps = {"weights": _WEIGHTS_HELP, "against": _AGAINST_HELP, "solver": _SOLVER_HELP, "prompt": _PROMPT_HELP}
        return helps[name] if name in helps else forms.info(FIELDS[name], full=False)

    # -- pictures ------------------------------------------------------------------------------------------------------------

    def _first_key(self) -> str:
        return self._built_in[0].key if self._built_in else ""

    def _picture(self, place: Place) -> choices.Picture | None:
        return place.memory.get("picture", self._built_in[0] if self._built_in else None)

    def _key(self, place: Place) -> str:
        picture = self._picture(place)
        return picture.key if picture is not None else ""

    def _offered(self, place: Place) -> list[choices.Picture]:
        return choices.without_copies([*place.memory.get("mine", ()), *place.memory.get("of_run", ()), *self._built_in])

    def _pictures_of(self, value: Any) -> list[choices.Picture]:
        name = value.split("/")[1] if isinstance(value, str) and value.startswith("run/") else None
        run = self.watch.run(name)
        return [] if run is None else choices.pictures_of_run(run.name, self.watch.store.get(run.name).read_config())

    def _gallery(self, pictures: list[choices.Picture], picked: str) -> str:
        """The pictures as radio buttons: arrow keys move, and a reader hears the captions."""
        groups: dict[str, list[str]] = {}
        for picture in pictures:
            address = self.watch.previews.thumbnail(picture.path)
            if address is None:
                continue  # it went away, or is no picture
            says = picture.caption if picture.caption else picture.path.name
            groups.setdefault(picture.group, []).append(
                f'<label title="{text(says)}"><input type="radio" name="rs-picture" value="{text(picture.key)}"{" checked" if picture.key == picked else ""}>'
                f'<img src="{text(address)}" alt="{text(says)}"></label>'
            )
        drawn = "".join(
            f'<div class="rs-thumbs-name">{text(group)}</div><div class="rs-thumbs">{"".join(items)}</div>'
            for group, items in groups.items()
        )
        return (
            f'<fieldset class="rs-picks"><legend>Picture</legend>{drawn}</fieldset>'
            if drawn
            else '<div class="rs-gone">No built-in pictures; use one of yours.</div>'
        )

    # -- drawing -------------------------------------------------------------------------------------------------------------

    def beat(
        self, viewer: str | None, weights: str | None, against: str | None, seen: dict[str, str], applied: Any = 0
    ) -> dict[Any, Any]:
        """What the page's own timer sends: new runs and checkpoints in the lists. Of answers it draws nothing, so that they come one after
        the other: it wakes the quick timer, where that has something to tell."""
        runs = self.watch.runs()
        out: dict[Any, Any] = {}
        lists = choices.weights_choices(runs, self.shelf, weights), choices.against_choices(runs, self.shelf, against)
        mark = repr(lists)
        if seen.get("look-lists") != mark:
            seen["look-lists"] = mark
            out[self.weights], out[self.against] = (gr.update(choices=each) for each in lists)
        if viewer is not None:
            place = self.desk.place(viewer)
            out |= place.memory.pop("late", {})
            if self.desk.look(viewer).busy or applied != place.scene.number:
                out[self.timer] = gr.Timer(active=True)
        return out

    def _drawn(self, viewer: str) -> dict[Any, Any]:
        """Updates for what changed since this viewer was last drawn something; nothing when nothing did. Under `Place.drawing`."""
        place, look = self.desk.place(viewer), self.desk.look(viewer)
        if look.state is None:
            return {}
        memory, out, state = place.memory, {}, look.state
        mark = (
            look.ticket,
            state.status,
            state.what,
            round(state.share, 2),
            round(state.seconds) if not state.ended else 0,
            state.result is not None,
        )
        if memory.get("progress") == mark:
            return {}
        memory["progress"] = mark
        out[self.stop] = gr.Button(visible=not state.ended)
        if state.status == "failed" and state.faults:
            out |= self._told(place, state.faults, state.remedy, card=True)
        else:
            out |= self._progress(place, state, look.asked)
        if state.result is not None:
            out |= self._answered(place, state, look.asked)
        return out

    def _progress(self, place: Place, state: PreviewState, asked: dict[str, Any]) -> dict[Any, Any]:
        """The progress where the eye is: above the filmstrip, or, for the curves of a filmstrip that is there, in their place."""
        card, memory = progress_card(state, asked), place.memory
        below = not state.ended and "curves" in asked["what"] and memory.get("film") == _without_what(asked)
        out: dict[Any, Any] = {self.progress: "" if below else card}
        if below:
            out[self.curves], out[self.measure] = card, gr.Button(visible=False)
            memory["below"] = True
        elif (
            memory.pop("below", False) and state.status != "done"
        ):  # the card goes; the curves themselves come with the answer
            out[self.curves], out[self.measure] = "", gr.Button(visible=True)
        return out

    def _answered(self, place: Place, state: PreviewState, asked: dict[str, Any]) -> dict[Any, Any]:
        """The filmstrip as soon as it is there; curves and numbers as they come."""
        memory, result, out = place.memory, state.result, {}
        measured = state.status == "done" and "curves" in result
        film_of = _without_what(asked)
        try:
            if memory.get("film") != film_of or is_live(asked):
                if memory.get("folder") != result["folder"]:
                    out[self.film] = film(result, self._address, asked)
                memory["film"] = film_of
            mark = (result["folder"], measured)
            if memory.get("export") != mark:
                out[self.export] = self._export(result, measured)
                if measured or state.status == "done":
                    out[self.curves] = self._curves(result) if measured else ""
                memory["export"] = mark
            memory["folder"] = result["folder"]
        # a run's answer comes from its files
        except (KeyError, IndexError, TypeError, ValueError, OSError, ReportError) as error:
            out[self.progress] = (
                f'<div class="rs-card rs-bad" role="alert"><h4>The answer cannot be drawn</h4><p>{text(f"{type(error).__name__}: {error}")}</p><p>Ask again.</p></div>'
            )
            return out
        if state.status == "done":
            out[self.measure] = gr.Button(visible=not measured)
        return out

    def _curves(self, result: Mapping[str, Any]) -> str:
        charts = report_charts(read_report(Path(result["report"])))
        return f'<div class="rs-card"><h4>The curves</h4>{charts}</div>'

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
        taken = Path(result["folder"]) / "take"  # goes with the result, when the client forgets it
        links = [(words, name, self.watch.previews.named(Path(file), name, taken)) for words, name, file in files]
        return (
            f'<div class="rs-card"><h4>In words and numbers</h4>{words_list(result["words"])}'
            f"<details><summary>All numbers</summary>{numbers_table(result)}</details>{downloads(links)}</div>"
        )

    def _address(self, path: str) -> str:
        return self.watch.previews.own(Path(path))


def progress_card(state: PreviewState, asked: Mapping[str, Any] | None) -> str:
    """How far it is, in a share and in words; or what went wrong and what to do."""
    if state.status in ("done", "cancelled"):
        return ""
    if state.status in ("failed", "unknown"):
        return f'<div class="rs-card rs-bad" role="alert"><h4>No picture this time</h4><p>{text(state.message)}</p><p>{text(state.remedy)}</p></div>'
    live = is_live(asked)
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


def _narrowed(name: str, option: Option, most: int) -> Option:
    """The option with the bounds that make sense here, so that it gets a slider: no schedule has more steps than its grid."""
    return dataclasses.replace(option, maximum=most) if name == "offset" else option


def _without_what(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a request shows, however much of it is measured."""
    return {name: value for name, value in asked.items() if name != "what"}


def _marked(info: str, wrong: bool) -> dict[str, Any]:
    return gr.update(info=info, elem_classes=["rs-wrong"] if wrong else [])


def _has_result(look: Look) -> bool:
    return look.state is not None and look.state.result is not None


def _viewer(request: gr.Request | None) -> str:
    """Who asks: the browser page's session."""
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
