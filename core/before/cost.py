"""What rollout costs, how its offsets fall, and how much it blurs: closed forms for the page, the command line and the docs.

Importing this costs no torch. Sources: docs/mathematics.md, "Cost of a step",
"Which rows are rolled out" and "Blur limit".
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..families.guidance import CLASSIFIER_FREE, Guidance
from ..families.known import known_family
from ..maths.solvers import SOLVERS, most_steps

if TYPE_CHECKING:
    from ..config import RolloutConfig, RunConfig
    from ..maths.grid import Level, Values

Strategy = Literal["uniform", "biased_early", "biased_late"]


def offset_distribution(strategy: Strategy, maximum: int) -> list[float]:
    """The chance of each offset 0..maximum that a chosen row draws.

    uniform: all alike; biased_early: round(U^2 K), mean about K/3; biased_late: round((1 - U^2) K), mean about 2K/3.
    """
    if strategy not in ("uniform", "biased_early", "biased_late"):
        raise ValueError(f"strategy = {strategy!r}: must be uniform, biased_early or biased_late.")
    if strategy == "uniform" or maximum == 0:
        return [1 / (maximum + 1)] * (maximum + 1)

    def below(edge: float) -> float:  # chance that U^2 K < edge
        return math.sqrt(min(max(edge / maximum, 0.0), 1.0))

    early = [below(k + 0.5) - below(k - 0.5) for k in range(maximum + 1)]
    return early if strategy == "biased_early" else early[::-1]


def steps_of(rollout: "RolloutConfig", k: int) -> int:
    """Solver steps of a rollout from `k` grid steps away: one each, or what `max_evaluations` leaves."""
    most = most_steps(rollout.sampler, rollout.max_evaluations)
    return k if most is None else min(k, most)


def guidance_of(config: "RunConfig") -> Guidance:
    """How the config's model is guided; where its family is not known, the way that costs most."""
    family = known_family(config.model)
    return CLASSIFIER_FREE if family is None else family.guidance


def plain_step_in_forwards(model_type: Literal["lora", "full"], gradient_checkpointing: bool) -> float:
    """`c`: what a plain training step costs, in forwards of the network (measured 1.94, 2.82 and 2.65;
    docs/mathematics.md, "Cost of a step")."""
    return {"lora": 2.0, "full": 3.0}[model_type] + (1.0 if gradient_checkpointing else 0.0)


PRESERVATION_CALLS = 2
"""Of output preservation for each batch, all instance rows in each: the untrained network's answer, and the tuned one's with gradient."""


def preserved_share(weight: float, with_prior_preservation: bool) -> float:
    """The share of a batch's rows in which output preservation of this weight has a part: all but the class rows; 0 where it is off.

    So a plain step asks the network for `1 + PRESERVATION_CALLS * share` rows for each of its rows.
    """
    return 0.0 if weight == 0 else 0.5 if with_prior_preservation else 1.0


def preservation_in_forwards(config: "RunConfig") -> float:
    """What output preservation adds to a step, in forwards per row of its batch."""
    data, training = config.data, config.training
    share = preserved_share(data.output_preservation_weight, data.with_prior_preservation)
    return share * (1 + plain_step_in_forwards(training.model_type, training.gradient_checkpointing))


@dataclass(frozen=True)
class Cost:
    """What rollout adds to a training step, in forwards per row: on average, and for the unluckiest row.

    `relative_time`: average time of a step over that of a plain step.
    """

    forwards_mean: float
    forwards_max: float
    relative_time: float

    def __str__(self) -> str:
        if self.forwards_max == 0:
            return "no extra forwards"
        return f"up to {self.forwards_max:g} extra forwards per row, about {self.relative_time:.2f} times a plain step"


def expected_cost(
    rollout: "RolloutConfig",
    c: float = 2.0,
    reflexflow: bool = False,
    probability: float | None = None,
    guidance: Guidance = CLASSIFIER_FREE,
    beside: float = 0.0,
) -> Cost:
    """The cost that the options imply, before any offset is reduced at the noisy end of the grid (so an upper estimate).

    Args:
        c: a plain step in forwards (`plain_step_in_forwards`).
        reflexflow: is it on? `rollout.reflexflow` may be None: then the model decides.
        probability: at which chance of a row to be rolled; None = the highest of the run (the end of a rising ramp).
        beside: what every step takes beside c whether it rolls out or not (`preservation_in_forwards`).

    `paper` mode steps on the training pass's own answer and makes a forward at the clean state and a second gradient pass: 1 + c
    forwards for every chosen row.
    """
    if not rollout.rolls_out:
        return Cost(0.0, 0.0, 1.0)
    if probability is None:
        probability = max(rollout.prob_start, rollout.prob_end) if rollout.ramp_steps > 0 else rollout.probability
    chances = offset_distribution(rollout.strategy, rollout.max_step_offset)
    rolled = 1 - chances[0]
    if reflexflow and rollout.reflexflow_mode == "paper":
        most = 1 + c
        mean = probability * most
    else:
        each = SOLVERS[rollout.sampler].calls_per_step * guidance.evaluations(rollout.guidance)
        steps = [steps_of(rollout, k) for k in range(len(chances))]
        most = each * steps[-1] + (1 if reflexflow else 0)
        mean = probability * (
            each * sum(number * chance for number, chance in zip(steps, chances, strict=True))
            + (rolled if reflexflow else 0)
        )
    return Cost(mean, float(most if probability > 0 else 0), (c + beside + mean) / (c + beside))


@dataclass(frozen=True)
class RunCost:
    """What rollout adds over a whole run: forwards per row on average and for the unluckiest row, and the time of a step over that of
    a plain one, on average and at the highest chance. `peak_forwards`: the average at the highest chance."""

    mean_forwards: float
    peak_forwards: float
    most_forwards: int
    mean_ratio: float
    peak_ratio: float


def rollout_cost(config: "RunConfig") -> RunCost:
    """The cost that a config implies, its ramp averaged over `max_train_steps` (at up to 1000 evenly spaced steps). A plain step is one
    without rollout; output preservation belongs to it.

    Where only the checkpoint can say whether ReflexFlow is on, the dearer case is given.
    """
    training, rollout = config.training, config.rollout
    reflexflow = rollout.reflexflow is not False and config.model.is_flow() is not False
    c = plain_step_in_forwards(training.model_type, training.gradient_checkpointing)
    count = min(training.max_train_steps, 1000)
    chances = [rollout.probability_at(i * training.max_train_steps // count) for i in range(count)]
    guidance, beside = guidance_of(config), preservation_in_forwards(config)
    mean = expected_cost(rollout, c, reflexflow, sum(chances) / count, guidance, beside)
    peak = expected_cost(rollout, c, reflexflow, max(chances), guidance, beside)
    return RunCost(
        mean.forwards_mean, peak.forwards_mean, round(peak.forwards_max), mean.relative_time, peak.relative_time
    )


@dataclass(frozen=True)
class Waiting:
    """Evaluations of the network in the longest rollout of a batch, on average at the highest chance of the run. `of_one`: of the rows of one
    process; `of_all`: of all, for which the processes wait."""

    of_one: float
    of_all: float


def waiting(config: "RunConfig") -> Waiting:
    """How long the longest rollout of a batch is, before any offset is reduced at the noisy end of the grid (so an upper estimate). In `paper`
    mode it is one step, with gradient, that is not counted here.

    With F the distribution of a rollout's steps and n rows that draw by themselves, the longest one takes at most x steps with a chance of
    `(1 - p + p F(x))^n`; of an exact share, where c of all N rows are chosen, `sum_m C(n, m) C(N - n, c - m) / C(N, c) F(x)^m`.
    """
    rollout, training = config.rollout, config.training
    if not rollout.rolls_out or (rollout.reflexflow_mode == "paper" and rollout.reflexflow is not False):
        return Waiting(0.0, 0.0)
    chances = offset_distribution(rollout.strategy, rollout.max_step_offset)
    steps = [steps_of(rollout, k) for k in range(len(chances))]
    below = [
        sum(chance for number, chance in zip(steps, chances, strict=True) if number <= x) for x in range(steps[-1])
    ]
    kinds = 2 if config.data.with_prior_preservation else 1
    batch, shared = training.train_batch_size, rollout.shared_offsets
    everyone = shared if shared else kinds * batch * training.gradient_accumulation_steps
    each = SOLVERS[rollout.sampler].calls_per_step

    def longest(instance_rows: int) -> float:
        drawn = min(instance_rows, shared) if shared else kinds * instance_rows
        return each * sum(1 - _all_below(rollout, share, drawn, everyone) for share in below)

    return Waiting(longest(math.ceil(batch / training.num_processes)), longest(batch))


def _all_below(rollout: "RolloutConfig", share: float, rows: int, everyone: int) -> float:
    """The chance that none of `rows` rows goes farther than a chosen row does with a chance of `1 - share`."""
    p = max(rollout.prob_start, rollout.prob_end) if rollout.ramp_steps > 0 else rollout.probability
    if not rollout.exact_share:
        return (1 - p + p * share) ** rows
    number, chance = int(p * everyone), p * everyone - int(p * everyone)

    def of(chosen: int) -> float:
        return sum(
            math.comb(rows, m) * math.comb(everyone - rows, chosen - m) / math.comb(everyone, chosen) * share**m
            for m in range(min(rows, chosen) + 1)
            if chosen - m <= everyone - rows
        )

    return (1 - chance) * of(number) + (chance * of(number + 1) if chance else 0.0)


def waiting_sentence(config: "RunConfig") -> str:
    """What the processes wait for, in words; "" for one process, and where nothing is rolled out."""
    found, count = waiting(config), config.training.num_processes
    if count == 1 or found.of_all == 0:
        return ""
    if found.of_all == found.of_one:
        return f"The longest rollout of a batch takes {found.of_all:.1f} evaluations on average, in each of the {count} processes alike."
    return (
        f"The longest rollout of a batch takes {found.of_all:.1f} evaluations on average, where that of one process alone takes {found.of_one:.1f}: so "
        f"much do the {count} processes wait for each other. scheduled_sampling_shared_offsets has them roll out alike."
    )


def remedy_cost(config: "RunConfig") -> RunCost:
    """The cost of whatever remedy a config has, per row: `rollout_cost`; SOAR's step and the gradient of its states; DREAM's forward."""
    c = plain_step_in_forwards(config.training.model_type, config.training.gradient_checkpointing)
    beside, soar = preservation_in_forwards(config), config.soar
    if soar.is_active:
        step = guidance_of(config).evaluations(soar.guidance) if soar.acts else 0
        more = step + c * soar.states
    elif config.dream.is_active:
        more = 1.0
    else:
        return rollout_cost(config)
    ratio = (c + beside + more) / (c + beside)
    return RunCost(more, more, round(more), ratio, ratio)


def remedy_sentence(config: "RunConfig") -> str | None:
    """What a remedy other than a rollout costs, in words; None where there is none."""
    remedy = config.remedy
    if remedy is None or remedy is config.rollout:
        return None
    cost = remedy_cost(config)
    if cost.mean_forwards == 0:
        return f"{remedy.heading} takes no extra forward: a step costs what a plain step costs."
    return f"{remedy.name}: what {cost.mean_forwards:g} more forwards per row take, so about {cost.mean_ratio:.2f} times a plain step."


def blur_factor(
    source: "Level", target: "Level", regression: Literal["consistent", "original"] = "consistent"
) -> float:
    """How much of the clean image's contrast a perfectly trained model still predicts at a rolled state: 1 = all, less = blur.

    On unit Gaussian data the slope of the predicted clean image, over that at a plain state of the target's level. It is a limit of
    rollout itself: a deterministic rollout carries no more about x0 than its source did.

    Args:
        source, target: one level each, source noisier.
        regression: the `target` option; `original` is given for rectified flow (alpha + sigma = 1) only.
    Raises: ValueError for `original` on another path.
    Source: docs/mathematics.md, "Blur limit"; with v = alpha^2 + sigma^2, `(alpha_s / alpha_t) sqrt(v_t / v_s)`.
    """
    alpha_s, sigma_s, alpha_t, sigma_t = (
        float(value) for value in (source.alpha, source.sigma, target.alpha, target.sigma)
    )
    v_s, v_t = alpha_s**2 + sigma_s**2, alpha_t**2 + sigma_t**2
    if regression == "consistent":
        return alpha_s / alpha_t * math.sqrt(v_t / v_s)
    if not (math.isclose(alpha_s + sigma_s, 1, abs_tol=1e-6) and math.isclose(alpha_t + sigma_t, 1, abs_tol=1e-6)):
        raise ValueError("blur of the original target: given for rectified flow only (alpha + sigma = 1).")
    # The exact flow takes the source to xr = sqrt(v_t / v_s) x_s; the best velocity there is E[noise - x0 | xr], a multiple of xr.
    velocity = (sigma_s - alpha_s) / math.sqrt(v_t * v_s)
    return (1 - sigma_t * velocity) * v_t / alpha_t


def perturbed_slope(level: "Level", gamma: float, prediction_type: str, spread: float = 1.0) -> float:
    """What a model that is perfect under input perturbation makes of a *plain* state: the slope of its clean image, over the true one.

    On Gaussian data of standard deviation `spread` the best output is a multiple of x, found at the variance of the perturbed input,
    `v_g = alpha^2 spread^2 + sigma^2 (1 + gamma^2)` in place of `v`; for epsilon `sigma / v_g`. 1: nothing changes. Below 1 (sample): the
    picture is blurred. Above 1 (epsilon, flow): less noise is seen than there is, and the rest of it stays in the picture.

    Source: derived here for the target of arXiv 2301.11706.
    """
    alpha, sigma = float(level.alpha), float(level.sigma)
    of_noise, of_picture = {
        "epsilon": (1, 0),
        "v_prediction": (alpha, -sigma),
        "flow_matching": (1, -1),
        "sample": (0, 1),
    }[prediction_type]
    perturbed = alpha**2 * spread**2 + sigma**2 * (1 + gamma**2)
    output = (of_noise * sigma + of_picture * alpha * spread**2) / perturbed
    picture = {
        "epsilon": (1 - sigma * output) / alpha,
        "v_prediction": alpha - sigma * output,
        "flow_matching": 1 - sigma * output,
    }
    return picture.get(prediction_type, output) * (alpha**2 * spread**2 + sigma**2) / (alpha * spread**2)


def picture_weight(level: "Level", prediction_type: str) -> "Values":
    """How much an error of the clean image counts in the plain loss: SNR (epsilon), 1 / sigma^2 (v, flow), 1 (sample)."""
    if prediction_type == "sample":
        return 1.0
    return (level.alpha / level.sigma) ** 2 if prediction_type == "epsilon" else 1 / level.sigma**2


def rolled_bound(level: "Level", gamma: float, prediction_type: Literal["epsilon", "v_prediction"]) -> "Values":
    """The weight of a rolled row that `scheduled_sampling_snr_gamma` leaves it: `remedies.rollout.rolled_bound`, where torch is not at hand."""
    snr = (level.alpha / level.sigma) ** 2
    more = 0 if prediction_type == "epsilon" else 1
    return np.minimum(1.0, (gamma + more) / np.maximum(snr + more, 1e-12))


def rolled_loss(source: "Level", target: "Level", prediction_type: str, spread: float = 1.0) -> "Values":
    """Mean squared error of a model that is perfect on plain rows, at a state that it rolled out to, with the target `consistent`.

    On Gaussian data of standard deviation `spread`, for the exact flow from source to target; with source = target the plain loss.
    With `v = alpha^2 spread^2 + sigma^2` the model's picture is `c xr`, `c = alpha_t spread^2 / v_t`, and `xr = sqrt(v_t / v_s) x_s`.
    The levels' shapes are broadcast.
    """
    v_s, v_t = ((level.alpha * spread) ** 2 + level.sigma**2 for level in (source, target))
    answer = target.alpha * spread**2 / (v_t * v_s) ** 0.5  # of the picture, per unit of the source's state
    error = spread**2 - 2 * answer * source.alpha * spread**2 + answer**2 * v_s
    return picture_weight(target, prediction_type) * error
