"""What the rollout settings of a config do, and which of them do nothing: for the page, without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import NOT_IN_PAPER_MODE, OPTIONS, RolloutConfig, RunConfig
from .cost import CALLS_PER_STEP, blur_factor, forwards_per_evaluation, offset_distribution, plain_step_in_forwards
from .plain_grid import PlainGrid, PlainLevel, grid_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = RolloutConfig.prefix
ROLLOUT_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.section == "rollout")
CAUTION = "Scheduled sampling is experimental"
"""How the remark starts that is a caution, not a setting without effect."""


def highest_chance(config: RunConfig) -> float:
    """The highest chance of a row to be rolled out at any step of the run; 0 when rollout is off."""
    rollout, last = config.rollout, config.training.max_train_steps - 1
    if not rollout.active:
        return 0.0
    # The ramp is monotonic and flat around: its extremes are at the run's first and last step.
    return max(rollout.probability_at(0), rollout.probability_at(last))


def reflexflow_on(config: RunConfig) -> bool | None:
    """Whether ReflexFlow takes part; None when only the checkpoint can say (it needs a flow model)."""
    if not config.rollout.walks or config.rollout.reflexflow is False:
        return False
    return config.model.is_flow()


def in_paper_mode(config: RunConfig) -> bool:
    """Does the run walk in ReflexFlow's `paper` mode? Also where only the checkpoint could rule it out."""
    return config.rollout.reflexflow_mode == "paper" and reflexflow_on(config) is not False


def least_noise_is_below_the_path(config: RunConfig) -> bool:
    """Is there a `min_sigma` that no row can fall below, because the model's noise path starts above it?"""
    grid = grid_of(config)
    return not grid.flow and 0 < config.rollout.min_sigma < grid.at(0).sigma


@dataclass(frozen=True)
class Walk:
    """What the longest walk of a rolled row takes, in forwards of the network.

    `evaluations`: of each solver step; `forwards`: of each evaluation (2 with guidance); `clean`: ReflexFlow's look at the clean
    state; `second_pass`: of `paper` mode, a forward and backward counted in forwards; 0 where there is none. (Its single step is made
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


def longest_walk(config: RunConfig) -> Walk:
    """The walk from the farthest start. ReflexFlow is counted where only the checkpoint could rule it out."""
    rollout, training = config.rollout, config.training
    if not rollout.walks:
        return Walk(0, 0, 0, 0, 0.0)
    forwards, reflexflow = forwards_per_evaluation(rollout), reflexflow_on(config) is not False
    if in_paper_mode(config):
        return Walk(1, 0, 1, 1, plain_step_in_forwards(training.model_type, training.gradient_checkpointing))
    return Walk(rollout.max_step_offset, CALLS_PER_STEP[rollout.sampler], forwards, 1 if reflexflow else 0, 0.0)


def idle_settings(config: RunConfig) -> dict[str, str]:
    """Rollout options that do nothing in this config, whether they were changed or not, each with the reason in plain words."""
    why: dict[str, str] = {}
    for names, reason in _idle(config):
        for name in names:
            why.setdefault(PREFIX + name, reason)
    return why


def _idle(config: RunConfig) -> "Iterator[tuple[tuple[str, ...], str]]":
    rollout = config.rollout
    fields = tuple(name.removeprefix(PREFIX) for name in ROLLOUT_OPTIONS)
    ramped = rollout.ramp_steps > 0

    def all_but(*names: str) -> tuple[str, ...]:
        return tuple(each for each in fields if each not in names)

    if rollout.max_step_offset == 0:
        yield all_but("max_step_offset"), "nothing is rolled out: the farthest start is 0"
        return
    if not rollout.active:
        causes = ("prob_start", "prob_end") if ramped else ("probability", "ramp_steps")
        yield all_but(*causes), "nothing is rolled out: the chance is 0"
        return
    if highest_chance(config) == 0:
        yield all_but("start_step", *(("prob_start", "ramp_steps") if ramped else ())), "nothing is rolled out: it starts after the run"
        return
    if rollout.min_sigma >= 1 and not in_paper_mode(config):
        yield all_but("min_sigma"), "nothing is rolled out: no row carries that much noise"
        return
    if ramped:
        yield ("probability",), "the ramp decides (its length is above 0)"
        if rollout.prob_start == rollout.prob_end:
            yield ("ramp_shape",), "both ends of the ramp are alike"
    else:
        yield ("prob_start", "prob_end", "ramp_shape"), "there is no ramp (its length is 0)"
    if rollout.grid == "training":
        yield ("grid_steps",), "the training grid has its own steps"
    if rollout.control == "source_noise":
        nobody = "nobody walks: this run is a control"
        yield ("sampler", "order", "guidance", "target", *(each for each in fields if each.startswith("reflexflow"))), nobody
        return
    if reflexflow_on(config) is False:
        off = "ReflexFlow is switched off" if rollout.reflexflow is False else "ReflexFlow needs a flow model"
        yield tuple(each for each in fields if each.startswith("reflexflow_")), off
    elif rollout.reflexflow_mode == "paper":
        yield ("sampler", "order", "target", "guidance"), "the paper's mode takes one Euler step and its own target"
        yield NOT_IN_PAPER_MODE, "the paper's mode takes a step of any length"
    else:
        yield ("reflexflow_step_gradient",), "the mode is single-pass"
    if rollout.sampler in ("euler", "rk4"):
        yield ("order",), f"{rollout.sampler} has no order"
    elif rollout.max_step_offset == 1:
        yield ("order",), "over a single step every order is the same"
    if rollout.reflexflow_alpha == 0:
        yield ("reflexflow_norm",), "the frequency weight is 1 everywhere"
    if rollout.target != "consistent":
        yield ("snr_gamma",), "the target original does not grow towards clean pictures"
    elif config.model.is_flow():
        yield ("snr_gamma",), "a flow model's cleanest rows are left out by the least noise for a rollout"
    elif config.model.known_prediction_type() == "sample":
        yield ("snr_gamma",), "this model predicts the picture itself, whose target does not grow"
    if least_noise_is_below_the_path(config):
        yield ("min_sigma",), "even the cleanest rows of this model carry more noise"


# One row as an example, and how much a walk blurs ---------------------------------------------------------------------------

EXAMPLE_SIGMA = 0.75
BLUR_SIGMAS = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Offset:
    """One offset that a chosen row may draw: its chance, the offset that is left of it here, and the level where it starts."""

    k: int
    chance: float
    actual: int
    start: PlainLevel


@dataclass(frozen=True)
class Example:
    """A row at one target level: the offsets that it may draw, on the grid of the config. `floor`: the least noise for a rollout; None
    where no row has less."""

    grid: PlainGrid
    target: PlainLevel
    floor: PlainLevel | None
    offsets: tuple[Offset, ...]

    @property
    def farthest(self) -> Offset:
        return self.offsets[-1]


def example_row(config: RunConfig, sigma: float | None = None) -> Example:
    """A row whose target carries `sigma` of noise (unset: 0.75, or above `min_sigma` where that is higher)."""
    rollout, grid = config.rollout, grid_of(config)
    if sigma is None:
        sigma = EXAMPLE_SIGMA if rollout.min_sigma <= EXAMPLE_SIGMA else (1 + rollout.min_sigma) / 2
    t = min(grid.time_of_sigma(sigma), grid.nodes[0])
    chances = offset_distribution(rollout.strategy, rollout.max_step_offset)
    most, _ = grid.source(t, rollout.max_step_offset)
    here = grid.index(t)

    def level(k: int) -> PlainLevel:
        return grid.at(grid.time(here - k)) if k else grid.at(t)

    offsets = tuple(Offset(k, chance, min(k, most), level(min(k, most))) for k, chance in enumerate(chances))
    floor = grid.at(grid.time_of_sigma(rollout.min_sigma)) if rollout.min_sigma > grid.at(0).sigma else None
    return Example(grid, grid.at(t), floor, offsets)


@dataclass(frozen=True)
class Blur:
    """How much contrast a perfect model can still show after a walk to one level: offset -> (offset that is left, factor)."""

    sigma: float
    factors: dict[int, tuple[int, float]]


def shown_offsets(most: int) -> list[int]:
    """Up to six offsets from 1 to `most`, the last among them."""
    return list(range(1, most + 1)) if most <= 6 else sorted({*(k for k in (1, 2, 3, 5, 10) if k < most), most})


def blur_table(config: RunConfig) -> list[Blur] | None:
    """The blur factor (rollout.md section 4) at a few target levels; None where it is not known (`original` outside flow models)
    or does not apply (nobody walks; `paper` takes its ordinary loss at the source)."""
    rollout, grid = config.rollout, grid_of(config)
    if not rollout.walks or longest_walk(config).second_pass or (rollout.target == "original" and not grid.flow):
        return None
    table = []
    for sigma in BLUR_SIGMAS:
        if sigma < rollout.min_sigma:
            continue
        t = grid.time_of_sigma(sigma)
        factors = {}
        for k in shown_offsets(rollout.max_step_offset):
            actual, source = grid.source(t, k)
            factors[k] = (actual, blur_factor(source, grid.at(t), rollout.target) if actual else 1.0)
        table.append(Blur(sigma, factors))
    return table
