"""The controls that a run with rollout must be compared with, as configs of runs of their own. No torch.

What a rollout gains may come from other things: from the extra time it takes, or from training on noisier pictures. Three more runs separate these
(docs/mathematics.md, "Controls and first results"): plain training for the same steps, plain training for the same
time, and plain training at the noise levels from
which the rollout would have started. Everything else stays as it was: pictures, seeds, order of the rows, the drift probe.
"""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..config import RunConfig, config_from_flat
from ..runs.errors import RunError
from ..runs.folder import RunDir
from ..runs.pace import StepTime
from ..runs.rows import RunSummary
from ..runs.run_log import RunLog, follow
from ..runs.store import RunStore
from .cost import PRESERVATION_CALLS, plain_step_in_forwards, preservation_in_forwards, remedy_cost

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
    "Was it the rollout, or only the noisier training?",
}
_ENOUGH_STEPS = 8
"""Of each kind in one process, for their medians to be used."""
_SLOWER_THAN_CALLS, _FASTER_THAN_ROWS = 1.67, 0.6
"""How far the measured ratio may lie outside what the forwards explain: above, if every call of the network cost a whole batch; below,
if it cost only its rows. A plain step's own cost is known to about that (docs/mathematics.md, "Cost of a step")."""
_LEAST_RATIO = 0.9


@dataclass(frozen=True)
class PlainStep:
    """Seconds of a plain step and of one with rolled rows, and how many of each the run that is compared with had.

    `how`: where the seconds come from; `problem`: why they cannot be trusted, where that is so.
    """

    seconds: float
    rolled_seconds: float
    steps: int
    rolled_steps: int
    measured: bool
    how: str
    problem: str | None = None

    @property
    def run_seconds(self) -> float:
        """Of an average step of the run."""
        if self.rolled_steps == 0:
            return self.seconds
        return (self.rolled_steps * self.rolled_seconds + (self.steps - self.rolled_steps) * self.seconds) / self.steps

    @property
    def equal_time_steps(self) -> int:
        """Plain steps that take the time of the run's steps; never fewer than the run's own, because rolling out is extra work."""
        return max(self.steps, round(self.steps * self.run_seconds / self.seconds))


@dataclass(frozen=True)
class Control:
    """What a control changes in its run's config, and how its numbers were found."""

    kind: Kind
    changes: dict[str, Any]
    how: str


def plain_step(config: RunConfig, log: RunLog) -> PlainStep | None:
    """How long the plain and the rolled steps of this run take: medians of both, measured in the same process; else estimated. None
    without steps.

    Steps of another process are not comparable: the machine may have been faster or slower then. Only training steps count, without the first few of a
    process; loading, samples, drift reports and saving do not.
    """
    series = log.series.frozen()
    steps = series.count("seconds")
    share = series.mean("rolled_step")
    if not steps or math.isnan(share):
        return None
    rolled_steps = round(steps * share)
    known = [(list(pace.plain), list(pace.rolled)) for pace in log.paces]
    if not any(plain or rolled for plain, rolled in known):  # nothing but the first few steps
        return None
    plain, rolled = max(known, key=lambda kinds: min(map(len, kinds)))
    if min(len(plain), len(rolled)) >= _ENOUGH_STEPS:
        seconds, rolled_seconds = (statistics.median(each.seconds for each in kind) for kind in (plain, rolled))
        how = f"medians of {len(plain)} plain and {len(rolled)} rolled steps of one process of this run"
        return PlainStep(seconds, rolled_seconds, steps, rolled_steps, True, how, _implausible(config, plain, rolled))
    times = [each.seconds for kinds in known for kind in kinds for each in kind]
    ratio = remedy_cost(config).mean_ratio
    run_seconds = statistics.median(times)
    how = (
        f"estimated, not measured: fewer than {_ENOUGH_STEPS} steps of one kind were taken in one process of this run, and a rollout like this "
        f"makes a step about {ratio:.2f} times as long"
    )
    rolled_seconds = run_seconds / ratio * (1 + (ratio - 1) * steps / rolled_steps) if rolled_steps else run_seconds
    return PlainStep(run_seconds / ratio, rolled_seconds, steps, rolled_steps, False, how)


def _implausible(config: RunConfig, plain: list[StepTime], rolled: list[StepTime]) -> str | None:
    """Why the measured ratio of the two kinds cannot come from the rollout; None when it can."""
    seconds, rolled_seconds = (statistics.median(each.seconds for each in kind) for kind in (plain, rolled))
    ratio = rolled_seconds / seconds
    beside = preservation_in_forwards(config)
    c = plain_step_in_forwards(config.training.model_type, config.training.gradient_checkpointing) + beside
    rows, calls = (
        statistics.median(getattr(each, name) for each in rolled)
        - statistics.median(getattr(each, name) for each in plain)
        for name in ("forwards", "calls")
    )
    if math.isnan(rows) or math.isnan(calls):  # a run from before these were recorded
        least, most = _LEAST_RATIO, math.inf
    else:
        accumulated = statistics.median(each.calls for each in plain) / (1 + (PRESERVATION_CALLS if beside else 0))
        least = max(_LEAST_RATIO, _FASTER_THAN_ROWS * (c + rows) / c)
        most = _SLOWER_THAN_CALLS * (c + max(0.0, rows, calls / max(1.0, accumulated))) / c
    if least <= ratio <= most:
        return None
    return (
        f"Equal time cannot be computed: a rolled step of this run took {rolled_seconds:.3g} s and a plain one {seconds:.3g} s (medians), "
        f"{ratio:.2f} times as long, where its forwards explain {least:.2f} to {most:.2f} times. Something else slowed the machine meanwhile. "
        "Train the run again on a quiet machine, or compare at equal steps."
    )


def control(kind: Kind, config: RunConfig, plain: PlainStep | None = None) -> Control:
    """The changes that make this control of a run with this config.

    Args:
        plain: needed for `plain-time`.
    Raises: RunError when the run has nothing to control for, or is not far enough; the message gives the reason.
    """
    problem = why_not(kind, config, plain)
    if problem is not None:
        raise RunError(problem)
    remedy, asked = config.remedy, f"{config.training.max_train_steps} steps, as in the run"
    if kind == "plain-steps":
        return Control(kind, dict(remedy.off), f"{asked}.")
    if kind == "source-noise":
        how = (
            "the same rows are chosen" if remedy is config.rollout else "every row at the noise level that it had there"
        )
        return Control(kind, dict(remedy.noise_control), f"{asked}; {how}.")
    steps = plain.equal_time_steps
    how = (
        f"{plain.steps} steps, {plain.rolled_steps} of them with rolled rows at {plain.rolled_seconds:.3g} s and the others at {plain.seconds:.3g} s, "
        f"take as long as {steps} plain ones ({plain.how}). "
        "Only training steps are counted, not loading, samples, drift reports or saving."
    )
    if config.training.lr_scheduler not in ("constant", "constant_with_warmup"):
        how += f" Its learning rate follows the {config.training.lr_scheduler} schedule over its own {steps} steps."
    return Control(kind, {**remedy.off, "max_train_steps": steps}, how)


def why_not(kind: Kind, config: RunConfig, plain: PlainStep | None = None) -> str | None:
    """Why this control cannot be made of a run; None when it can."""
    if kind not in KINDS:
        return f"{kind!r} is not a control. Controls: {', '.join(KINDS)}."
    remedy = config.remedy
    if remedy is None or not remedy.acts:
        return "Nothing is rolled out in this run: it is a plain run itself and needs no control."
    if kind == "plain-time" and not remedy.takes_time:
        return f"{remedy.heading} takes no time of its own: the control at equal steps is the one at equal time too."
    if kind == "source-noise" and remedy.noise_control is None:
        return (
            f"{remedy.heading} trains at the noise levels that were drawn: the control at equal steps is that one too."
        )
    if kind == "plain-time" and plain is None:
        return (
            "This run must have ended first, after more than a few steps: how long they took is what this control gets."
        )
    if kind == "plain-time":
        return plain.problem
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


def measured(run: RunSummary) -> PlainStep | None:
    """`plain_step` of a run that has ended, from its files; None for any other."""
    if run.state not in ("done", "stopped"):
        return None
    directory = RunDir(run.path)
    return plain_step(config_from_flat(directory.read_config()), follow(directory))


def planned(store: RunStore, name: str, kind: Kind) -> Control:
    """The control of the run `name` as it would be queued now. Raises RunError where it cannot be."""
    run = store.summary(name)
    return control(kind, config_from_flat(store.get(name).read_config()), measured(run))


def queue_control(store: RunStore, name: str, kind: Kind) -> tuple[RunDir, Control]:
    """Make a control of the run `name` and put it into the queue; it remembers what it controls.

    Raises: RunError when there is one already that has not failed, or when it cannot be made.
    """
    run = store.summary(name)
    there = controls_of(run, store.list()).get(kind)
    if there is not None and there.state not in ("failed", "crashed"):
        raise RunError(
            f"{there.name} is this control already. Look at that run, or delete it to make the control anew."
        )
    made = planned(store, name, kind)
    stem = name[: 64 - len(kind) - 1 - 4].rstrip("-._")  # room for a number behind it
    about = {"control": kind, "control_of": name, "control_how": made.how}
    fresh = store.clone(name, store.free_name(f"{stem}-{kind}"), made.changes, about)
    store.enqueue(fresh.name)
    return fresh, made
