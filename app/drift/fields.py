"""The controls of the laboratory: made from the options, read back into a preview request, and marked where something is wrong."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from ...core.config import OPTIONS, DriftConfig, RolloutConfig
from ...core.config.options import ConfigError, Fault, Option
from ...core.look.drift.correction import CORRECTION_OPTIONS, NUMBERS
from ...core.look.preview.request import VIEW_OPTIONS, PreviewRequest
from ...core.runs.rows import RunSummary
from ...core.texts import translated
from ..parts import forms
from . import choices
from .viewers import ViewerSession

FIRST = {"target": 0.05, "offset": 18}
"""Where the first visit starts instead of the options' defaults: far enough that the demo's base model visibly loses the picture."""

STEPS_OF_A_TABLE = 100  # on the training grid, whose 1000 steps are small, the slider ends here

FIELDS: dict[str, Option] = {
    **{name: VIEW_OPTIONS[name] for name in ("target", "offset", "start")},
    **{name: OPTIONS[RolloutConfig.prefix + name] for name in ("sampler", "order", "grid", "grid_steps")},
    **{name: OPTIONS[DriftConfig.prefix + name] for name in ("guidance", "seed", "fine_factor")},
    **{name: VIEW_OPTIONS[name] for name in ("columns", "samples", *CORRECTION_OPTIONS)},
}
"""Field of a request -> the option that it is."""

_AT_FIELD = {option.name: name for name, option in FIELDS.items()} | {
    "checkpoints": "weights", "against": "against", "samplers": "solver", "prompt": "prompt",
}  # fmt: skip
"""Name in a fault -> where it is shown. `image` has no field of its own: the pictures."""

HELP = {
    "weights": "The base model, a run's LoRA or checkpoint, or a training run as it is now.",
    "against": "A second filmstrip: what did the training change?",
    "solver": "A second filmstrip with this solver. From one step away most of them are the same.",
    "prompt": "What the picture shows; the model is given it.",
}
"""Of the controls that are no options."""


class Fields:
    """The controls by their names; `components` gets those of the options with `place`, the others from the layout."""

    def __init__(self) -> None:
        self.components: dict[str, gr.components.Component] = {}

    def place(self, *names: str) -> None:
        """Make the controls of these options, in the current layout."""
        for name in names:
            option = FIELDS[name]
            if name == "offset":  # no schedule has more steps than its grid: with that bound it gets a slider
                option = dataclasses.replace(option, maximum=most_steps("inference", FIELDS["grid_steps"].default))
            made = forms.component(option, FIRST.get(name, option.default), full=False)
            made.visible = name not in CORRECTION_OPTIONS or name in (
                "correction",
                *NUMBERS[FIELDS["correction"].default],
            )
            made.elem_id = f"look-{name.replace('_', '-')}"  # the same option may stand on the Train tab
            self.components[name] = made

    def dropdown(self, name: str, options: list[tuple[str, str]], value: str, label: str) -> gr.Dropdown:
        """Make a control that is no option."""
        self.components[name] = made = gr.Dropdown(
            choices=options, value=value, label=label, info=HELP[name], elem_id=f"look-{name}"
        )
        return made

    def prompt(self, value: str) -> gr.Textbox:
        self.components["prompt"] = made = gr.Textbox(
            label="Prompt", value=value, info=HELP["prompt"], lines=1, max_lines=4, elem_id="look-prompt"
        )
        return made

    def record(
        self, given: Mapping[Any, Any], picture: choices.Picture | None, runs: Sequence[RunSummary]
    ) -> dict[str, Any]:
        """The preview request that the controls describe. Raises ConfigError with every fault; names as in `_AT_FIELD`."""
        faults: list[Fault] = []
        record: dict[str, Any] = {"what": ["strip"]}
        against, second_solver = given[self.components["against"]], given[self.components["solver"]]
        for name, option in FIELDS.items():
            try:
                record[name] = forms.from_component(option, given[self.components[name]])
            except ConfigError as error:
                faults += error.faults
        if "sampler" in record and not choices.has_order(record["sampler"]):
            record.pop("order", None)
        try:
            record["checkpoints"], record["config"] = choices.pair(given[self.components["weights"]], against, runs)
        except ConfigError as error:
            faults += error.faults
        try:
            if second_solver != choices.NOTHING:
                second = choices.solver(second_solver)
                if "sampler" in record:
                    first = {name: record.pop(name) for name in ("sampler", "order") if name in record}
                    record["samplers"] = [first, second]
        except ConfigError as error:
            faults += error.faults
        prompt = given[self.components["prompt"]]
        record["prompt"] = prompt
        if not isinstance(prompt, str) or not prompt.strip():
            faults.append(Fault("Write what the picture shows: the model is given it.", ("prompt",)))
        if picture is not None:
            record["image"], record["role"] = str(picture.path), picture.role
        if not faults:
            try:
                PreviewRequest.from_json(record)
            except ConfigError as error:  # of two weights that do not go together, the second is the one to change
                second = against != choices.NOTHING
                faults += [
                    Fault(fault.message, ("against",)) if second and "checkpoints" in fault.options else fault
                    for fault in error.faults
                ]
        if faults:
            raise ConfigError(faults)
        return record

    def dependent(self, session: ViewerSession, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Fields that follow others: how far the offset can go, whether the solver has an order, and the numbers of a correction. Sent only when it changed."""
        out: dict[Any, Any] = {}
        sampler = given[self.components["sampler"]]
        ordered = not isinstance(sampler, str) or sampler not in FIELDS["sampler"].choices or choices.has_order(sampler)
        if session.memory.setdefault("ordered", True) != ordered:
            session.memory["ordered"] = ordered
            out[self.components["order"]] = gr.update(interactive=ordered)
        correction = given[self.components["correction"]]
        if session.memory.setdefault("correction", FIELDS["correction"].default) != correction:
            session.memory["correction"] = correction
            used = NUMBERS.get(correction, ())
            out |= {
                self.components[name]: gr.update(visible=name in used)
                for name in CORRECTION_OPTIONS
                if name != "correction"
            }
        try:
            steps = forms.from_component(FIELDS["grid_steps"], given[self.components["grid_steps"]])
        except ConfigError:
            return out  # marked at its own field
        most = most_steps(given[self.components["grid"]], steps)
        if session.memory.setdefault("most", most_steps("inference", FIELDS["grid_steps"].default)) != most:
            session.memory["most"] = most
            out[self.components["offset"]] = gr.update(maximum=most)
        return out

    def marks(self, session: ViewerSession, faults: Iterable[Fault]) -> dict[Any, Any]:
        """Updates that put every fault at its field, and take the marks from fields that are right again. See `marked`."""
        wrong: dict[str, str] = {}
        for fault in faults:
            name = next((_AT_FIELD[name] for name in fault.options if name in _AT_FIELD), None)
            if name is not None:
                wrong.setdefault(name, fault.message)
        right = [name for name in self.marked(session) if name not in wrong]
        session.memory["wrong"] = list(wrong)
        return {self.components[name]: _marked(self._help(name), False) for name in right} | {
            self.components[name]: _marked(f"⚠ {translated(message)}", True) for name, message in wrong.items()
        }

    @staticmethod
    def marked(session: ViewerSession) -> list[str]:
        """The fields that are marked for this viewer."""
        return session.memory.get("wrong", [])

    @staticmethod
    def _help(name: str) -> str:
        return HELP[name] if name in HELP else forms.info(FIELDS[name], full=False)


def most_steps(grid: Any, steps: int) -> int:
    """The farthest rollout that the offset's slider has."""
    return STEPS_OF_A_TABLE if grid == "training" else min(STEPS_OF_A_TABLE, steps)


def _marked(info: str, wrong: bool) -> dict[str, Any]:
    return gr.update(info=info, elem_classes=["rs-wrong"] if wrong else [])
