"""The controls that a run with rollout must be compared with, as configs of runs of their own. No torch.

What a rollout gains may come from other things: from the extra time it takes, or from training on noisier pictures. Three more runs tell
(rollout.md section 7): plain training for the same steps, plain training for the same time, and plain training at the noise levels from
which the rollout would have started. Everything else stays as it was: pictures, seeds, order of the rows, the drift probe.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .config import RolloutConfig, RunConfig, config_from_flat
from .cost import rollout_cost
from .run_log import RunLog, follow
from .runs import RunDir, RunError, RunStore, RunSummary

Kind = Literal["plain-steps", "plain-time", "source-noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: dict[Kind, str] = {
    "plain-steps": "Plain, equal steps",
    "plain-time": "Plain, equal time",
    "source-noise": "Plain, noise of the source",
}
MEANING: dict[Kind, str] = {
    "plain-steps": "The same run without rollout. Does the rollout change anything at all?",
    "plain-time": "No rollout, but as many steps as fit into the same time. Is the rollout worth its time?",
    "source-noise": "No rollout, but the same rows trained at the noise level their rollout would have started from. "
    "Was it the walking, or only the noisier training?",
}
_ENOUGH_PLAIN_STEPS = 8  # of a run's own, to believe their mean
_OFF = {
    f"{RolloutConfig.prefix}max_step_offset": 0
}  # and nothing else: solver and grid also set the drift probe, which must stay


@dataclass(frozen=True)
class PlainStep:
    """Seconds of one plain step, and of one average step of the run that it is compared with; `how` says where they come from."""

    seconds: float
    run_seconds: float
    steps: int
    measured: bool
    how: str

    @property
    def equal_time_steps(self) -> int:
        """Plain steps that take the time of the run's steps."""
        return max(1, round(self.steps * self.run_seconds / self.seconds))


@dataclass(frozen=True)
class Control:
    """What a control changes in its run's config, and how its numbers were found."""

    kind: Kind
    changes: dict[str, Any]
    how: str


def plain_step(config: RunConfig, log: RunLog, plain: RunLog | None = None) -> PlainStep | None:
    """How long a plain step of this run takes: measured in the run, else in its plain control, else estimated. None without steps.

    Only training steps count, without the first few of a process; loading, samples, drift reports and saving do not.

    Args:
        log: of the run; plain: of its control `plain-steps`, where that has trained.
    """
    series = log.series.frozen()
    steps = series.count("seconds")
    run_seconds = series.mean("settled_seconds")
    if not steps or not run_seconds > 0:  # also when NaN: nothing but the first few steps
        return None
    own = series.count("plain_seconds")
    if own >= _ENOUGH_PLAIN_STEPS:
        seconds = series.mean("plain_seconds")
        how = f"measured in this run: the {own} steps in which no row was rolled out took {seconds:.3g} s on average"
        return PlainStep(seconds, run_seconds, steps, True, how)
    others = plain.series.frozen() if plain is not None else None
    if others is not None and others.count("settled_seconds") >= _ENOUGH_PLAIN_STEPS:
        seconds = others.mean("settled_seconds")
        how = f"measured in its plain control: {others.count('settled_seconds')} steps took {seconds:.3g} s on average"
        return PlainStep(seconds, run_seconds, steps, True, how)
    ratio = rollout_cost(config).mean_ratio
    seconds = run_seconds / ratio
    how = f"estimated, not measured: a rollout like this makes a step about {ratio:.2f} times as long, so a plain one takes {seconds:.3g} s; once the control of equal steps has run, that is measured"
    return PlainStep(seconds, run_seconds, steps, False, how)


def control(kind: Kind, config: RunConfig, plain: PlainStep | None = None) -> Control:
    """The changes that make this control of a run with this config.

    Args:
        plain: needed for `plain-time`.
    Raises: RunError when the run has nothing to control for, or is not far enough; the message says which.
    """
    problem = why_not(kind, config, plain)
    if problem is not None:
        raise RunError(problem)
    if kind == "plain-steps":
        return Control(kind, dict(_OFF), f"{config.training.max_train_steps} steps, as in the run.")
    if kind == "source-noise":
        changes = {f"{RolloutConfig.prefix}control": "source_noise"}
        return Control(
            kind, changes, f"{config.training.max_train_steps} steps, as in the run; the same rows are chosen."
        )
    steps = plain.equal_time_steps
    how = (
        f"{plain.steps} steps of {plain.run_seconds:.3g} s take as long as {steps} plain steps of {plain.seconds:.3g} s ({plain.how}). "
        "Only training steps are counted, not loading, samples, drift reports or saving."
    )
    if config.training.lr_scheduler not in ("constant", "constant_with_warmup"):
        how += f" Its learning rate follows the {config.training.lr_scheduler} schedule over its own {steps} steps."
    return Control(kind, {**_OFF, "max_train_steps": steps}, how)


def why_not(kind: Kind, config: RunConfig, plain: PlainStep | None = None) -> str | None:
    """Why this control cannot be made of a run; None when it can."""
    if kind not in KINDS:
        return f"{kind!r} is no control. Controls: {', '.join(KINDS)}."
    if not config.rollout.walks:
        return "Nothing is rolled out in this run: it is a plain run itself and needs no control."
    if kind == "plain-time" and plain is None:
        return (
            "This run must have ended first, after more than a few steps: how long they took is what this control gets."
        )
    return None


def controls_of(run: RunSummary, runs: Iterable[RunSummary]) -> dict[Kind, RunSummary]:
    """The newest control of each kind among `runs`, one that did not fail before one that did."""
    found: dict[Kind, RunSummary] = {}
    # Oldest first, failed ones before all others: what comes later replaces what came before.
    for each in sorted(runs, key=lambda each: (each.state not in ("failed", "crashed"), each.created)):
        # Made later than the run: else it is the control of a deleted one of the same name.
        if each.control_of == run.name and each.control in KINDS and each.created >= run.created:
            found[each.control] = each
    return {kind: found[kind] for kind in KINDS if kind in found}


def measured(run: RunSummary, controls: dict[Kind, RunSummary]) -> PlainStep | None:
    """`plain_step` of a run that has ended, from its files; None for any other."""
    if run.state not in ("done", "stopped"):
        return None
    directory, plain = RunDir(run.path), controls.get("plain-steps")
    config = config_from_flat(directory.read_config())
    return plain_step(config, follow(directory), follow(RunDir(plain.path)) if plain is not None else None)


def planned(store: RunStore, name: str, kind: Kind) -> Control:
    """The control of the run `name` as it would be queued now. Raises RunError where it cannot be."""
    run = store.summary(name)
    return control(kind, config_from_flat(store.get(name).read_config()), measured(run, controls_of(run, store.list())))


def queue_control(store: RunStore, name: str, kind: Kind) -> tuple[RunDir, Control]:
    """Make a control of the run `name` and put it into the queue; it remembers what it controls.

    Raises: RunError when there is one already that has not failed, or when it cannot be made.
    """
    run = store.summary(name)
    there = controls_of(run, store.list()).get(kind)
    if there is not None and there.state not in ("failed", "crashed"):
        raise RunError(f"{there.name} is this control already.")
    made = planned(store, name, kind)
    stem = name[: 64 - len(kind) - 1 - 4].rstrip("-._")  # room for a number behind it
    about = {"control": kind, "control_of": name, "control_how": made.how}
    fresh = store.clone(name, store.free_name(f"{stem}-{kind}"), made.changes, about)
    store.enqueue(fresh.name)
    return fresh, made
