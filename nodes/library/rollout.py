"""Scheduled sampling and ReflexFlow, and the plot of the ramp."""

from ...core.config import config_from_flat, probability_at
from ..execute import pictures
from ..graph import values
from ..graph.declaration import Output, Socket, node
from ..graph.parts import OTHER_REMEDIES, REFLEXFLOW_OPTIONS, SAMPLING_OPTIONS, picked, widgets
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


def _in_place_of_a_rollout(section, title, aliases):
    """Declares the node of a remedy that takes the place of scheduled sampling; its docstring is the node's description."""
    kind, options = OTHER_REMEDIES[section]
    return node(
        kind, title, "Rollout",
        inputs=(
            Socket("rollout", values.ROLLOUT, "Settings that it is added to; a rollout that is on is refused.", True),
            *widgets(options),
        ),
        outputs=(Output("rollout", values.ROLLOUT, f"The settings with {title}."),),
        aliases=("exposure bias", *aliases),
    )  # fmt: skip


def _added(section, rollout, given):
    own = picked(OTHER_REMEDIES[section][1], given)
    return (own if rollout is None else rollout.with_(own),)


@_in_place_of_a_rollout("input_perturbation", "Input Perturbation", ("ip noise gamma",))
def input_perturbation(context, rollout, **given):
    """The input of every row carries a little more noise than its target knows of, as the model's own states do when it samples. No
    extra time; in place of scheduled sampling."""
    return _added("input_perturbation", rollout, given)


@_in_place_of_a_rollout("soar", "SOAR", ("self correction",))
def soar(context, rollout, **given):
    """Flow models: beside each row the model takes one step of its own and trains to come back from there, at several noise levels. Each such
    state costs a forward and a backward; in place of scheduled sampling."""
    return _added("soar", rollout, given)


@_in_place_of_a_rollout("mixflow", "MixFlow", ("slowed interpolation",))
def mixflow(context, rollout, **given):
    """Flow models: the input of every row is noisier than the time that the network is told. No extra time; in place of scheduled sampling."""
    return _added("mixflow", rollout, given)


@_in_place_of_a_rollout("dream", "DREAM", ("rectification",))
def dream(context, rollout, **given):
    """Models that predict the noise: the model's own error of the noise goes into the input and the target of every row. One more forward; in
    place of scheduled sampling."""
    return _added("dream", rollout, given)


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
