"""Scheduled sampling and ReflexFlow, and the plot of the ramp."""

from ...core.config import config_from_flat, probability_at
from ..execute import pictures
from ..graph import values
from ..graph.declaration import Output, Socket, node
from ..graph.parts import INPUT_PERTURBATION_OPTIONS, REFLEXFLOW_OPTIONS, SAMPLING_OPTIONS, picked, widgets
from ..graph.values import Images


@node(
    "ScheduledSampling", "Scheduled Sampling", "Rollout",
    inputs=widgets(SAMPLING_OPTIONS),
    outputs=(Output("rollout", values.ROLLOUT, "How rows are rolled out."),),
    aliases=("rollout", "exposure bias"),
)  # fmt: skip
def scheduled_sampling(context, **given):
    """How often, how far and with which solver a training row starts from the model's own output. On flow models ReflexFlow is on
    by itself as soon as rows are rolled out; a ReflexFlow node sets it otherwise."""
    return (picked(SAMPLING_OPTIONS, given),)


@node(
    "ReflexFlow", "ReflexFlow", "Rollout",
    inputs=(Socket("rollout", values.ROLLOUT, "The rollout that it corrects."), *widgets(REFLEXFLOW_OPTIONS)),
    outputs=(Output("rollout", values.ROLLOUT, "The rollout with ReflexFlow's settings."),),
    aliases=("anti-drift", "frequency"),
)  # fmt: skip
def reflexflow(context, rollout, **given):
    """Flow models: correct the direction of the drift, and weight the frequencies that it damages."""
    return (rollout.with_(picked(REFLEXFLOW_OPTIONS, given)),)


@node(
    "InputPerturbation", "Input Perturbation", "Rollout",
    inputs=(
        Socket("rollout", values.ROLLOUT, "Settings that it is added to; a rollout that is on is refused.", True),
        *widgets(INPUT_PERTURBATION_OPTIONS),
    ),
    outputs=(Output("rollout", values.ROLLOUT, "The settings with input perturbation."),),
    aliases=("exposure bias", "ip noise gamma"),
)  # fmt: skip
def input_perturbation(context, rollout, **given):
    """The input of every row carries a little more noise than its target knows of, as the model's own states do when it samples. No
    extra time; in place of scheduled sampling."""
    own = picked(INPUT_PERTURBATION_OPTIONS, given)
    return (own if rollout is None else rollout.with_(own),)


@node(
    "ProbabilityRampPlot", "Probability Ramp Plot", "Rollout",
    inputs=(
        Socket("rollout", values.ROLLOUT, "The rollout whose chance is drawn."),
        Socket("settings", values.TRAINING, "How long the run is; without it: the default length.", True),
    ),
    outputs=(Output("picture", values.IMAGE, "The chance over the steps."),),
    lane="files",
    shows=True,
)  # fmt: skip
def probability_ramp_plot(context, rollout, settings):
    """The chance that a row is rolled out, over the steps of the run."""
    flat = rollout.flat | ({} if settings is None else {"max_train_steps": settings.flat["max_train_steps"]})
    config = config_from_flat(flat)
    steps = config.training.max_train_steps
    xs = sorted({round(i * steps / 400) for i in range(401)})
    ys = [probability_at(config.rollout, x) if config.rollout.is_active else 0.0 for x in xs]
    title = "Chance that a row is rolled out" + ("" if config.rollout.is_active else " (off: nothing is rolled out)")
    path = pictures.line_plot(
        xs, ys, context.work / "ramp.png", title=title, x_label="optimizer step", y_label="chance"
    )
    return (Images((values.file_at(path),), (title,)),)
