"""Scheduled sampling on the Train tab: its levels, its options, the ramp drawn, and what it costs."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..core.config import ROLLOUT_LEVELS, RunConfig, probability_at, rollout_level, rollout_level_of, with_changes
from ..core.cost import rollout_cost
from ..core.options import ConfigError
from .charts import Line, chart
from .forms import Form
from .panel import QUICK, FormPage
from .words import quantity, text

OWN = "own numbers"
_LEVEL_CHOICES = [("Off", "off"), ("Gentle", "gentle"), ("Strong", "strong"), ("Own numbers", OWN)]


class RolloutPanel:
    """Builds the panel in the current layout."""

    def __init__(self, form: Form, config: RunConfig) -> None:
        self.level = gr.Radio(
            choices=_LEVEL_CHOICES, value=level_of(config), label="Rollout: practise on its own output", elem_id="level",
            info="Some rows of a batch start farther out in the noise; the model walks them back by itself and learns from where "
            "it arrives. Gentle and strong are starting points; every number behind them is under All settings.",
        )  # fmt: skip
        self.ramp = gr.HTML(ramp_panel(config), elem_id="ramp")

    @property
    def inputs(self) -> list[Any]:
        return [self.level]

    @property
    def outputs(self) -> list[Any]:
        return [self.level, self.ramp]

    def drawn(self, config: RunConfig, preset: str) -> dict[Any, Any]:
        return {self.level: level_of(config), self.ramp: ramp_panel(config)}

    def reread(self, config: RunConfig) -> dict[Any, Any]:
        return {}

    def wire(self, page: FormPage) -> None:
        def on_level(given: Mapping[Any, Any]) -> dict[Any, Any]:
            """A level writes its numbers into the form; "own numbers" leaves them as they are."""
            level = given[self.level]
            try:
                config = page.form.read(given)
                changes = rollout_level(level, config.training.max_train_steps) if level in ROLLOUT_LEVELS else {}
                changed = with_changes(config, changes)
            except ConfigError as error:
                return page.refused(given, error)
            return {**page.filled(given, changed, changes), self.level: level}

        self.level.input(on_level, page.inputs, page.outputs, **QUICK)


def level_of(config: RunConfig) -> str:
    """The named level of a config, or `OWN`."""
    level = rollout_level_of(config)
    return OWN if level is None else level


def cost_sentence(config: RunConfig) -> str:
    """What the rollout costs, in one sentence; an honest one when it is off."""
    if not config.rollout.active:
        return "No rollout: nothing is practised on the model's own output, and a step costs what a plain step costs."
    cost = rollout_cost(config)
    return (
        f"Rollout costs {quantity(cost.mean_forwards, 2)} extra forwards per row on average, up to {cost.most_forwards} for one row: about "
        f"{quantity(cost.mean_ratio, 3)} times the time of a plain step ({quantity(cost.peak_ratio, 3)} times at its highest chance). It is experimental."
    )


def ramp_panel(config: RunConfig) -> str:
    """The chance of a rollout over the run, drawn, and its cost."""
    cost = f'<p class="rs-quiet">{text(cost_sentence(config))}</p>'
    if not config.rollout.active:
        return cost
    steps = config.training.max_train_steps
    marks = {0, steps, config.rollout.start_step, config.rollout.start_step + config.rollout.ramp_steps}
    xs = sorted({round(index * steps / 100) for index in range(101)} | {mark for mark in marks if mark <= steps})
    line = Line("chance that a row is rolled out", xs, [probability_at(config.rollout, x) for x in xs], "rolled")
    top = max(0.1, 1.15 * max(line.ys))
    return chart([line], title="The ramp", x_label="training step", y_range=(0, min(1.0, top)), x_range=(0, steps), height=90) + cost
