"""From the Train tab's rollout to the Drift tab and back: see what a rollout with these settings does, change it there, take it along.

The two tabs have fields for the same options; here is which belong together. A rolled row starts at most `max_step_offset` steps away:
that longest rollout is shown. The noise level where it ends, the picture and the prompt stay as the Drift tab has them; training draws them.
"""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..core.before.effects import longest_rollout
from ..core.config import OPTIONS, RolloutConfig, RunConfig, config_to_flat, differences, with_changes
from ..core.config.options import ConfigError, shown
from ..core.config.rules import in_paper_mode
from .drift import choices
from .drift.fields import FIELDS, most_steps
from .drift.lab import DriftLab
from .drift.tab import DriftTab
from .parts import notices
from .parts.forms import from_component, label, to_component
from .parts.panel import QUICK
from .train.tab import TrainTab

PAIRS = {
    "offset": "max_step_offset", "sampler": "sampler", "order": "order", "grid": "grid", "grid_steps": "grid_steps", "guidance": "guidance",
}  # fmt: skip
"""Field of the Drift tab -> option of scheduled sampling."""


def wire(train: TrainTab, drift: DriftTab, tabs: gr.Tabs) -> None:
    """Connect both buttons. Neither asks anything of the other tab's panels that a person could not do there by hand."""
    lab = drift.lab

    def on_see(given: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        try:
            config = train.form.read(given)
        except ConfigError as error:
            notices.warn(f"The settings cannot be used yet: {error}")
            return train.refused(given, error)
        reason = why_not(config)
        if reason is not None:
            notices.warn(reason)
            return {tabs: gr.skip()}
        values, cut = fields_of(config)
        if cut is not None:
            notices.inform(cut)
        weights, missing = weights_of(config, given[lab.weights], lab)
        if missing is not None:
            notices.warn(missing)
        return {
            tabs: gr.Tabs(selected="drift"),
            drift.parts: gr.Tabs(selected="look"),
            **lab.put(values, weights, given, request),
        }

    def on_take(given: Mapping[Any, Any]) -> dict[Any, Any]:
        try:
            config = train.form.read(given)
            changed = taken(config, {name: given[lab.fields.components[name]] for name in PAIRS})
        except ConfigError as error:
            notices.warn(f"Nothing was applied to the Train tab: {error}", duration=None)
            return {tabs: gr.skip()}
        changes = differences(changed, config)
        notices.inform(change_message(changes, config))
        return {**train.filled(given, changed, changes), tabs: gr.Tabs(selected="train")}

    inputs = {*train.inputs, *lab.inputs}
    train.rollout.see.click(on_see, inputs, [*train.outputs, tabs, drift.parts, *lab.outputs], **QUICK)
    lab.take.click(on_take, inputs, [*train.outputs, tabs], **QUICK)


def why_not(config: RunConfig) -> str | None:
    """Why this config has no rollout that the Drift tab could show; None when it has one."""
    rollout = config.rollout
    if not rollout.is_active:
        return (
            "No rollout is set, so there is nothing to see: choose a level, or a farthest start and a chance above 0."
        )
    if not rollout.rolls_out:
        return f"No row is rolled out with the control {rollout.control}: set it to none to see the rollout."
    if in_paper_mode(config):
        return "ReflexFlow's mode paper takes one step of any length, and the Drift tab steps along the grid: take the mode single-pass to see it there."
    return None


def fields_of(config: RunConfig) -> tuple[dict[str, Any], str | None]:
    """What the Drift tab's fields hold for the longest rollout of this config; and what could not be put there, in a sentence, or None."""
    rollout = config.rollout
    values = {name: to_component(FIELDS[name], getattr(rollout, option)) for name, option in PAIRS.items()}
    most = most_steps(rollout.grid, rollout.grid_steps)
    cut = None
    if values["offset"] > most:
        cut = f"The farthest start is {rollout.max_step_offset} steps; the Drift tab shows a rollout of {most}."
        values["offset"] = most
    if longest_rollout(config).steps < rollout.max_step_offset:
        fewer = f"Training takes it in {longest_rollout(config).steps} larger steps (max_evaluations); the Drift tab in one for each grid step."
        cut = fewer if cut is None else f"{cut} {fewer}"
    return {**values, "start": "picture"}, cut


def weights_of(config: RunConfig, current: Any, lab: DriftLab) -> tuple[str | None, str | None]:
    """(the weights to turn to, None = those that are chosen; why they are not this config's model, or None)."""
    try:
        if choices.same_model(choices.chosen(current, lab.watch.runs()).config, config_to_flat(config)):
            return None, None  # a run's weights of the same model may stay
    except ConfigError:
        pass  # they are gone: the base model's are taken
    base = choices.base_of(config)
    if base is not None:
        return base, None
    name = config.model.pretrained_model_name_or_path
    return (
        None,
        f"The Drift tab knows {name} only from a run that was made with it, so it uses the weights that are chosen there.",
    )


def taken(config: RunConfig, raw: Mapping[str, Any]) -> RunConfig:
    """`config` with the rollout that the Drift tab's fields hold. Raises ConfigError with every fault."""
    values, faults = {}, []
    for name, option in PAIRS.items():
        try:
            values[RolloutConfig.prefix + option] = from_component(FIELDS[name], raw[name])
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    order = OPTIONS[RolloutConfig.prefix + "order"]
    if not choices.has_order(values[RolloutConfig.prefix + "sampler"]):
        values[order.name] = order.default  # the field is switched off there
    return with_changes(config, values)


def change_message(changes: Mapping[str, Any], before: RunConfig) -> str:
    """The message about the options that changed."""
    if not changes:
        return "The Train tab has these settings already."
    old = config_to_flat(before)
    return (
        "Applied to the Train tab: "
        + "; ".join(f"{label(OPTIONS[name])} {shown(old[name])} → {shown(value)}" for name, value in changes.items())
        + "."
    )
