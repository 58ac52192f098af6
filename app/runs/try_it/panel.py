"""The panel that draws a prompt with a run's weights, and the untrained model beside it from the same noise.

How a tab places it (the Runs tab does):

    self.try_it = TryPanel(watch)                          # where it should stand, in the current layout
    ... [*others, *self.try_it.outputs]                    # among the outputs of the tab's `view`
    out |= self.try_it.view(run_name, viewer, seen)        # in the tab's `view`; run_name None = no run. `viewer`: the session_hash of the request, or None
    self.try_it.wire(self.picker)                          # picker: the component that holds the chosen run's name
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ....core.config import ConfigError, config_from_flat
from ....core.config.options import Fault
from ....core.errors import Trouble
from ....core.look.sample_request import DRAWING_OPTIONS
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts import notices
from ...parts.panel import QUICK
from ...parts.preview_client import PreviewState
from ...parts.watch import Watch, signature
from ...parts.words import quantity, text
from ..shared import Changes
from .cards import now_card, tries_card
from .companions import SLIDER
from .fields import Controls
from .matrix import first_columns
from .picture_drop import Restored, refused_card, restored, restored_card
from .recent import Recent
from .request import matrix_record, request_record
from .tries import TryStore, tries
from .weights import ChosenWeights, weights_choices

_TICK_S = 0.4

_NEW_SEED = "() => Math.floor(Math.random() * 4294967296)"
_SEED_UNLESS_KEPT = "(seed, kept) => (kept ? seed : Math.floor(Math.random() * 4294967296))"


class TryPanel(Controls):
    """Builds the panel in the current layout."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(watch)
        self._requests: Recent[str, tuple[tuple[str, float], str]] = Recent()  # viewer -> (run's name and age, ticket)
        self._suggested: Recent[str, None] = Recent()  # prompts that were put in by us and may be replaced
        self._chosen = ChosenWeights()
        self._store = TryStore()
        self._pictures: Recent[str, Restored] = Recent()  # viewer -> settings that wait until their run is shown
        self.timer = gr.Timer(_TICK_S, active=False)

    @property
    def outputs(self) -> list[Any]:
        """What `view` may change."""
        return [self.weights, self.matrix.columns, *self.others.files, self.now, self.earlier, self.stop]

    def view(self, run_name: str | None, viewer: str | None, seen: dict[str, str]) -> dict[Any, Any]:
        """Updates for one viewer who looks at the run `run_name` and was last shown `seen` (changed in place)."""
        run = self.watch.run(run_name)
        state = self.state(run, viewer)
        changes, previews = Changes(seen), self.watch.previews
        mark = signature(run_name, weights_choices(run))
        changes.draw("try weights", self.weights, mark, lambda: self._chosen.dropdown(run, viewer))
        changes.draw("try columns", self.matrix.columns, mark, lambda: gr.Dropdown(choices=weights_choices(run)))
        others = self.others.choices(run)
        changes.draw_many(
            "try others",
            signature(run_name, others),
            lambda: {file: gr.Dropdown(choices=others) for file in self.others.files},
        )
        if state is not None and state.status == "done" and run is not None:
            self._keep(run, state)
        busy = state is not None and not state.ended
        mark = signature(run_name, state)
        changes.draw("try now", self.now, mark, lambda: "" if state is None else now_card(state, previews))
        changes.draw("try stop", self.stop, signature(busy), lambda: gr.Button(visible=busy))
        folders = [] if run is None else tries(run.path)
        mark = signature(run_name, [folder.name for folder in folders])
        changes.draw("try earlier", self.earlier, mark, lambda: "" if run is None else tries_card(folders, previews))
        return changes.updates

    def state(self, run: RunSummary | None, viewer: str | None) -> PreviewState | None:
        """How far the viewer's last request for this run is; None when there is none."""
        requested = self._requests.get(viewer) if viewer is not None else None
        if run is None or requested is None or requested[0] != (run.name, run.created):
            return None
        state = self.watch.preview_client.state(requested[1])
        return None if state.status == "unknown" else state

    def _keep(self, run: RunSummary, state: PreviewState) -> None:
        try:
            self._store.keep(run.path, Path(state.result["folder"]))
        except OSError as error:
            notices.warn(f"The pictures could not be kept with the run: {error}")

    # -- handlers ---------------------------------------------------------------------------------------------------------

    def wire(self, picker: gr.components.Component) -> None:
        """Connect everything. `picker` holds the name of the run."""
        inputs = {picker, *self._given}
        outputs = [
            *self._marked,
            self.keep_seed,
            *self.others.fields,
            self.now,
            self.earlier,
            self.stop,
            self.note,
            self.timer,
        ]

        def on_draw(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self.draw_pictures(given[picker], given, request.session_hash)

        def on_matrix(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self.draw_matrix(given[picker], given, request.session_hash)

        def on_run(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            return self.show_run(given[picker], given[self.prompt], request.session_hash)

        def on_tick(name: str | None, request: gr.Request) -> dict[Any, Any]:
            return self.redraw(name, request.session_hash)

        def on_weights(name: str | None, value: str | None, request: gr.Request) -> None:
            self.choose_weights(name, value, request.session_hash)

        def on_cancel(name: str | None, request: gr.Request) -> dict[Any, Any]:
            self.cancel(request.session_hash)
            return self.redraw(name, request.session_hash)

        def on_picture(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
            out = self.take_picture(given[self.picture], given[picker], request.session_hash)
            found = self._pictures.get(request.session_hash or "")
            return out if found is None else out | {picker: gr.update(value=found.run)}

        seed = self.fields["seed"]
        for event in (self.draw.click, self.prompt.submit):
            event(None, [seed, self.keep_seed], seed, js=_SEED_UNLESS_KEPT, **QUICK).then(
                on_draw, inputs, outputs, **QUICK
            )
        self.matrix.draw.click(on_matrix, inputs, outputs, **QUICK)
        self.dice.click(None, None, seed, js=_NEW_SEED, **QUICK).then(on_draw, inputs, outputs, **QUICK)
        self.stop.click(on_cancel, picker, outputs, **QUICK)
        self.timer.tick(on_tick, picker, outputs, **QUICK)
        self.weights.input(on_weights, [picker, self.weights], None, **QUICK)
        self.picture.upload(on_picture, {picker, self.picture}, [*outputs, picker], **QUICK)
        picker.change(on_run, {picker, self.prompt}, outputs, **QUICK)

    def show_run(self, run_name: str | None, prompt: str | None, viewer: str | None) -> dict[Any, Any]:
        """Another run was chosen: its usual settings are put in, but a prompt that was written stays."""
        out = self.redraw(run_name, viewer)
        run = self.watch.run(run_name)
        if run is None:
            return out
        try:
            config = config_from_flat(RunDir(run.path).read_config())
        except (RunError, ConfigError):
            return out  # the run's own page says what is wrong with it
        self._chosen.choose(run, viewer, None)  # another run: the best of it is chosen
        out[self.weights] = self._chosen.dropdown(run, viewer)
        choices = weights_choices(run)
        out[self.matrix.columns] = gr.update(choices=choices, value=first_columns([value for _, value in choices]))
        out |= dict.fromkeys(self.others.files, gr.Dropdown(choices=self.others.choices(run), value=""))
        out[self.fields["steps"]] = min(config.validation.num_inference_steps, int(DRAWING_OPTIONS["steps"].maximum))
        out[self.fields["guidance"]] = (
            "" if config.validation.guidance is None else quantity(config.validation.guidance, 6)
        )
        out[self.fields["negative_prompt"]] = config.validation.negative_prompt
        if not (prompt or "").strip() or prompt in self._suggested:
            known = (
                *config.validation.prompts,
                *(thing.instance_prompt for thing in config.data.things),
                *config.data.trigger_words,
            )
            suggestion = next((each for each in known if each), "")
            self._suggested[suggestion] = None
            out[self.prompt] = suggestion
        waiting = self._pictures.get(viewer or "")
        if waiting is None or waiting.run != run.name:
            return out | {self.note: ""}
        self._pictures.discard(viewer or "")  # a picture brought the viewer here
        return out | self._put_in(waiting, run, viewer)

    def take_picture(self, file: str | None, run_name: str | None, viewer: str | None) -> dict[Any, Any]:
        """The settings of a picture, into the fields; where another run drew it, they wait until that one is shown (`show_run`)."""
        self._pictures.discard(viewer or "")
        if file is None:
            return {}
        try:
            found = restored(Path(file), self.watch)
        except Trouble as error:
            return {self.note: refused_card(error)}
        note = {self.note: restored_card(found, Path(file).name)}
        if found.run is not None and found.run != run_name:
            self._pictures[viewer or ""] = found
        return self._put_in(found, self.watch.run(run_name), viewer) | note

    def _put_in(self, found: Restored, run: RunSummary | None, viewer: str | None) -> dict[Any, Any]:
        """The fields with a picture's settings."""
        out: dict[Any, Any] = {self.fields[name]: value for name, value in found.values.items()}
        out |= {self.prompt: found.settings.prompt, self.keep_seed: True}
        if run is not None and found.run == run.name and found.weights is not None:
            self._chosen.choose(run, viewer, found.weights)
            out[self.weights] = gr.Dropdown(choices=weights_choices(run), value=found.weights)
            out[self.strength] = _reaching(found.strength)
            rows = [*found.others, *[("", 1.0)] * len(self.others.rows)]
            for (file, weight), (value, strength) in zip(self.others.rows, rows, strict=False):
                out |= {file: gr.Dropdown(choices=self.others.choices(run), value=value), weight: _reaching(strength)}
        return out

    def choose_weights(self, run_name: str | None, value: str | None, viewer: str | None) -> None:
        """The viewer has chosen what to draw with."""
        self._chosen.choose(self.watch.run(run_name), viewer, value)

    def draw_pictures(self, run_name: str | None, given: Mapping[Any, Any], viewer: str | None) -> dict[Any, Any]:
        """Request what the fields say; everything wrong is shown at its field and below, and then nothing is requested."""
        run, (beside, wrong) = self.watch.run(run_name), self._beside(given)
        record, faults = request_record(
            run, given[self.prompt], given[self.weights], given[self.base], self._drawing(given), strength=given[self.strength], beside=beside
        )  # fmt: skip
        return self._request(run, record, [*wrong, *faults], viewer)

    def draw_matrix(self, run_name: str | None, given: Mapping[Any, Any], viewer: str | None) -> dict[Any, Any]:
        """As `draw_pictures`, a matrix."""
        run, (beside, wrong) = self.watch.run(run_name), self._beside(given)
        columns, rows = given[self.matrix.columns], given[self.matrix.rows]
        record, faults = matrix_record(run, given[self.prompt], columns, rows, self._drawing(given), beside=beside)
        named = [
            Fault(each.message, tuple("columns" if name == "checkpoints" else name for name in each.options))
            for each in faults
        ]
        return self._request(run, record, [*wrong, *named], viewer)

    def _request(
        self, run: RunSummary | None, record: Mapping[str, Any], faults: Sequence[Fault], viewer: str | None
    ) -> dict[Any, Any]:
        marks = self.fault_marks(faults) | {self.note: ""}
        if faults or run is None:
            items = "".join(f"<li>{text(fault.message)}</li>" for fault in faults)
            return {
                **marks,
                self.now: f'<div class="rs-card rs-bad" role="alert"><h3>Please mend this first</h3><ul>{items}</ul></div>',
            }
        who = viewer if viewer is not None else uuid.uuid4().hex
        ticket = self.watch.preview_client.request(record, viewer=f"try-{who}")
        self._requests[who] = (run.name, run.created), ticket
        state = self.watch.preview_client.state(ticket)
        if state.status == "done" and state.result is not None:  # the same request as before is answered at once
            self._store.renew(run.path, Path(state.result["folder"]))
        return {**marks, **self.redraw(run.name, who)}

    def cancel(self, viewer: str | None) -> None:
        """Draw no further for this viewer."""
        requested = self._requests.get(viewer) if viewer is not None else None
        if requested is not None:
            self.watch.preview_client.cancel(requested[1])

    def redraw(self, run_name: str | None, viewer: str | None) -> dict[Any, Any]:
        """Everything drawn anew for one viewer; the timer runs while something is being drawn."""
        state = self.state(self.watch.run(run_name), viewer)
        return {**self.view(run_name, viewer, {}), self.timer: gr.Timer(active=state is not None and not state.ended)}


def _reaching(strength: float) -> gr.Slider:
    """A weight's slider at this strength, which may lie beyond its usual ends."""
    low, high = min(SLIDER["minimum"], strength), max(SLIDER["maximum"], strength)
    return gr.Slider(minimum=low, maximum=high, value=strength)
