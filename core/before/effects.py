"""What the rollout settings of a config do, and which settings do nothing: for the page, without torch."""

from dataclasses import dataclass

from ..config import RunConfig
from ..config.rules import PREFIX, idle_rules, in_paper_mode, reflexflow_on
from ..maths.grid import Level, sources
from ..maths.solvers import SOLVERS
from .cost import blur_factor, guidance_of, offset_distribution, plain_step_in_forwards, steps_of
from .run_schedule import RunSchedule, schedule_of

CAUTION = "Scheduled sampling is experimental"
"""How the remark starts that is a caution, not a setting without effect."""


def least_noise_is_below_the_path(config: RunConfig) -> bool:
    """Is there a `min_sigma` that no row can fall below, because the model's noise path starts above it?"""
    path = schedule_of(config).path
    return not path.is_flow and 0 < config.rollout.min_sigma < path.at(0).sigma


@dataclass(frozen=True)
class RolloutForwards:
    """The cost of a row's longest rollout, in forwards of the network.

    `evaluations`: of each solver step; `forwards`: of each evaluation (2 with classifier-free guidance); `clean`: ReflexFlow's evaluation of the
    clean state; `second_pass`: of `paper` mode, a forward and backward counted in forwards; 0 where there is none. (Its single step is made
    by the training pass itself, so `evaluations` is 0 there.)
    """

    steps: int
    evaluations: int
    forwards: int
    clean: int
    second_pass: float

    @property
    def total(self) -> float:
        return self.steps * self.evaluations * self.forwards + self.clean + self.second_pass


def longest_rollout(config: RunConfig) -> RolloutForwards:
    """The rollout from the farthest start. ReflexFlow is counted where only the checkpoint could rule it out."""
    rollout, training = config.rollout, config.training
    if not rollout.rolls_out:
        return RolloutForwards(0, 0, 0, 0, 0.0)
    forwards, reflexflow = guidance_of(config).evaluations(rollout.guidance), reflexflow_on(config) is not False
    if in_paper_mode(config):
        return RolloutForwards(1, 0, 1, 1, plain_step_in_forwards(training.model_type, training.gradient_checkpointing))
    return RolloutForwards(
        steps_of(rollout, rollout.max_step_offset),
        SOLVERS[rollout.sampler].calls_per_step,
        forwards,
        1 if reflexflow else 0,
        0.0,
    )


def idle_settings(config: RunConfig) -> dict[str, str]:
    """Options of any section that do nothing in this config, whether they were changed or not, each with the reason in plain words."""
    why: dict[str, str] = {}
    for rule in idle_rules(config):
        for name in rule.options:
            why.setdefault(name, rule.why)
    if config.rollout.rolls_out and least_noise_is_below_the_path(config):  # `cautions` warns with the numbers
        why.setdefault(PREFIX + "min_sigma", "even the cleanest rows of this model carry more noise")
    return why


# One row as an example, and how much a rollout blurs ------------------------------------------------------------------------

EXAMPLE_SIGMA = 0.75
BLUR_SIGMAS = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Offset:
    """One offset that a chosen row may draw: its chance, the offset that is left of it here, and the level where it starts."""

    k: int
    chance: float
    actual: int
    start: Level


@dataclass(frozen=True)
class Example:
    """A row at one target level: the offsets that it may draw, on the schedule of the config. `floor`: the least noise for a rollout; None
    where no row has less."""

    schedule: RunSchedule
    target: Level
    floor: Level | None
    offsets: tuple[Offset, ...]

    @property
    def farthest(self) -> Offset:
        return self.offsets[-1]


def example_row(config: RunConfig, sigma: float | None = None) -> Example:
    """A row whose target carries `sigma` of noise (unset: 0.75, or above `min_sigma` where that is higher)."""
    rollout, schedule = config.rollout, schedule_of(config)
    if sigma is None:
        sigma = EXAMPLE_SIGMA if rollout.min_sigma <= EXAMPLE_SIGMA else (1 + rollout.min_sigma) / 2
    path, t = schedule.path, schedule.time_of_sigma(sigma)
    chances = offset_distribution(rollout.strategy, rollout.max_step_offset)
    left, starts = sources(t, range(len(chances)), path, schedule.grid)
    offsets = tuple(
        Offset(k, chance, actual, path.at(start))
        for k, (chance, actual, start) in enumerate(zip(chances, left.tolist(), starts.t.tolist(), strict=True))
    )
    floor = path.at(path.time_of_sigma(rollout.min_sigma)) if rollout.min_sigma > path.at(0).sigma else None
    return Example(schedule, path.at(t), floor, offsets)


@dataclass(frozen=True)
class Blur:
    """How much contrast a perfect model can still show after a rollout to one level: offset -> (offset that is left, factor)."""

    sigma: float
    factors: dict[int, tuple[int, float]]


def shown_offsets(most: int) -> list[int]:
    """Up to six offsets from 1 to `most`, the last among them."""
    return list(range(1, most + 1)) if most <= 6 else sorted({*(k for k in (1, 2, 3, 5, 10) if k < most), most})


def blur_table(config: RunConfig) -> list[Blur] | None:
    """The blur factor (docs/mathematics.md, "Blur limit") at a few target levels; None where it is not known
    (`original` outside flow models)
    or does not apply (nothing is rolled out; `paper` takes its ordinary loss at the source)."""
    rollout, schedule = config.rollout, schedule_of(config)
    if (
        not rollout.rolls_out
        or longest_rollout(config).second_pass
        or (rollout.target == "original" and not schedule.path.is_flow)
    ):
        return None
    table = []
    for sigma in BLUR_SIGMAS:
        if sigma < rollout.min_sigma:
            continue
        t = schedule.path.time_of_sigma(sigma)
        factors = {}
        for k in shown_offsets(rollout.max_step_offset):
            actual, source = schedule.source(t, k)
            factors[k] = (actual, blur_factor(source, schedule.path.at(t), rollout.target) if actual else 1.0)
        table.append(Blur(sigma, factors))
    return table
