"""Rollout: the training state is replaced by one that the model itself has reached.

A *plan* states which rows are rolled out and from where; the *rollout* integrates from there. Sources, target and every state between lie on a
grid of times; the target is the row's own `t`, exactly as the training sampler drew it.
Source: docs/mathematics.md, "Which rows are rolled out" and "Solvers".
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor, Tensor, nn

from ..randomness import generator, kept_random_state
from .grid import ROUNDING, Grid, sources
from .grid import Level as LevelArrays
from .noise import (
    Level,
    NoisePath,
    Prediction,
    PredictionType,
    consistent_target,
    numbers,
    per_row,
    placed,
    target_output,
)
from .reflexflow import starts_at_the_drawn_time
from .solvers import make_solver, most_steps
from .solvers.base import Course, Solver

if TYPE_CHECKING:
    from ..config import RolloutConfig

# The network as the rollout sees it: (x (R, ...), level (R,), rows (R,)) -> Prediction. `rows` are the places in the batch of the
# rows in flight: conditioning is indexed by them. All three are on the device of the batch.
Predict = Callable[[Tensor, Level, LongTensor], Prediction]


@dataclass(frozen=True)
class Plan:
    """Who is rolled out, from where. Everything per row (B,), on the CPU, so that reading it waits for no device."""

    t: Tensor  # the target time, as drawn
    index: Tensor  # its fractional index on the grid
    drawn_k: LongTensor  # what the strategy drew; 0 where the row was not chosen
    k: LongTensor  # the actual offset: reduced at the noisy end, 0 under min_sigma
    source: Level  # where the row starts; the target where k = 0
    target: Level
    probability: float  # the chance that was in force

    @cached_property
    def rolled(self) -> Tensor:
        """(B,) bool: the rows with k > 0. All others are plain rows."""
        return self.k > 0

    @cached_property
    def rows(self) -> LongTensor:
        """The places of the rolled rows in the batch, (R,)."""
        return self.rolled.nonzero().reshape(-1)

    @property
    def at_source_noise(self) -> Tensor:
        """(B,) bool: the plain rows that train at another level than the one drawn for them (`at_source`)."""
        return (self.drawn_k > 0) & ~self.rolled & (self.target.t != self.t)

    @property
    def mean_offset(self) -> float:
        """Mean actual offset of the rolled rows, in grid steps; 0 when there are none."""
        return float(self.k[self.rolled].double().mean()) if bool(self.rolled.any()) else 0.0

    def level_before(self, steps: int, path: NoisePath, grid: Grid, rows: Tensor) -> Level:
        """The level `steps` grid steps before (noisier than) the target of `rows`; at 0 the target itself, unrounded."""
        if steps == 0:
            return self.target[rows]
        return Level.of(path.levels.at(grid.time(numbers(self.index[rows] - steps))))


def draw_offsets(
    strategy: Literal["uniform", "biased_early", "biased_late"], maximum: int, rows: int, draws
) -> LongTensor:
    """(rows,) offsets in 0..maximum from the generator `draws`; distributions:
    docs/mathematics.md, "Which rows are rolled out"."""
    if strategy == "uniform":
        return torch.randint(0, maximum + 1, (rows,), generator=draws)
    short = torch.rand(rows, generator=draws, dtype=torch.float64).square()
    if strategy == "biased_early":
        return (short * maximum).round().long()
    if strategy == "biased_late":
        return ((1 - short) * maximum).round().long()
    raise ValueError(f"strategy = {strategy!r}: must be uniform, biased_early or biased_late.")


def plan_offsets(t: Tensor, k: Tensor, path: NoisePath, grid: Grid, *, probability: float = 1.0) -> Plan:
    """The plan with given offsets; nothing is drawn.

    An offset that would start beyond the noisiest node, or at less signal than alpha = 0.02, is reduced until it does not.

    Args:
        t: (B,) target times in the path's coordinate; k: (B,) whole offsets, at least 0, in grid steps.
    """
    drawn = k.detach().cpu().long()
    if bool((drawn < 0).any()):
        raise ValueError(
            f"offsets {drawn.tolist()}: must be at least 0 grid steps; a source is noisier than its target."
        )
    times = numbers(t)
    actual, source = sources(times, drawn.numpy(), path.levels, grid)
    index = torch.from_numpy(grid.index(times))
    return Plan(t.detach().cpu(), index, drawn, torch.from_numpy(actual), Level.of(source), path.at(t), probability)


def plan_from_noise(t: Tensor, path: NoisePath, grid: Grid) -> Plan:
    """The plan that starts every row at the noisiest node that is a whole number of steps away (previews, drift pictures)."""
    times = numbers(t)
    index, target = grid.index(times), path.levels.at(times)
    k = np.floor(index + ROUNDING).astype(np.int64)
    source = path.levels.at(np.where(k > 0, grid.time(index - k), target.t))
    whole = torch.from_numpy(k)
    return Plan(t.detach().cpu(), torch.from_numpy(index), whole, whole, Level.of(source), Level.of(target), 1.0)


def plan_from_drawn_time(
    t: Tensor, chosen: Tensor, ways: Tensor, path: NoisePath, grid: Grid, *, probability: float = 1.0
) -> Plan:
    """The plan of ReflexFlow's `paper` mode: a chosen row starts at the time that it drew and takes one step (k = 1) to
    `t * (1 - way)`, wherever that lies between the grid's nodes.

    Args:
        t: (B,) drawn times of a flow; chosen: (B,) bool; ways: (B,) which part of the way to the picture each goes, in [0, 1).
    """
    source = path.at(t)
    target = path.at(torch.where(chosen, source.t * (1 - ways), source.t))
    k = chosen.long()
    index = torch.from_numpy(grid.index(numbers(target.t)))
    return Plan(t.detach().cpu(), index, k, k, source, target, probability)


def make_plan(
    rollout: "RolloutConfig",
    t: Tensor,
    path: NoisePath,
    grid: Grid,
    *,
    step: int,
    seed: int,
    index: int = 0,
    batch_size: int | None = None,
) -> Plan:
    """Draw who is rolled out at this optimizer step, and from where.

    Args:
        rollout: the scheduled sampling options; t: (B,) as the training sampler drew it; never changed here.
        step, seed, index: name the streams "mask", "k" and "step_length"; `index` distinguishes micro-steps of one optimizer step.
        batch_size: instance rows of a batch, of which t holds several one after the other (`shared_slots`); None = t is one batch.
    Returns: the plan (with `control` source_noise: `at_source` of it); all rows plain where scheduled sampling is inactive or has probability 0 at this step. Uses no global
        random state, so such a step is bit for bit the plain trainer's.
    """
    batch, is_paper = len(t), starts_at_the_drawn_time(rollout, path)
    shared = 0 if is_paper else rollout.shared_offsets
    draws = shared if shared > 0 else batch
    probability = rollout.probability_at(step) if rollout.is_active else 0.0
    chosen = _chosen(draws, probability, generator(seed, step, "mask", index), exactly=rollout.exact_share)
    if is_paper:
        ways = torch.rand(batch, generator=generator(seed, step, "step_length", index), dtype=torch.float64)
        plan = plan_from_drawn_time(t, chosen, ways, path, grid, probability=probability)
        return at_source(plan) if rollout.control == "source_noise" else plan
    offsets = draw_offsets(rollout.strategy, rollout.max_step_offset, draws, generator(seed, step, "k", index))
    drawn = torch.where(chosen, offsets, 0)
    if shared > 0:
        drawn = drawn[shared_slots(batch, batch if batch_size is None else batch_size, shared)]
    deep_enough = path.at(t).sigma >= rollout.min_sigma
    plan = plan_offsets(t, torch.where(deep_enough, drawn, 0), path, grid, probability=probability)
    plan = replace(plan, drawn_k=drawn)
    return at_source(plan) if rollout.control == "source_noise" else plan


def shared_slots(rows: int, batch_size: int, shared: int) -> LongTensor:
    """(rows,) which of `shared` draws each row of a step has: every batch of `batch_size` rows is cut into as many runs of neighbours.

    So every `world_size`-th row of a batch has all draws, equally often, where `shared * world_size` divides the batch: each rank has
    the same ones, whatever their number.
    """
    return torch.arange(rows) % batch_size * shared // batch_size  # type: ignore[return-value]


def _chosen(rows: int, probability: float, draws: torch.Generator, *, exactly: bool) -> Tensor:
    """(rows,) bool: who is rolled out. `exactly`: `probability * rows` of them, rounded up or down so that this is their mean; those that
    draw the lowest numbers, so mostly the same ones."""
    drawn = torch.rand(rows, generator=draws, dtype=torch.float64)
    if not exactly:
        return drawn < probability
    number = int(probability * rows + float(torch.rand(1, generator=draws, dtype=torch.float64)))
    return drawn.argsort().argsort() < number


def at_source(plan: Plan) -> Plan:
    """The control of `scheduled_sampling_control = source_noise`: the same rows as plain rows at the level they would have started
    from; nothing is rolled out. Shows how much of a rollout's effect is only its noisier training."""
    return replace(plan, k=torch.zeros_like(plan.k), target=plan.source)


@dataclass(frozen=True)
class Moment:
    """One state of a rollout: (R, ...) at a level (R,), for the places `rows` of the batch. `prediction` is what the network predicted
    there; None at the target, where it is not evaluated."""

    x: Tensor
    level: Level
    rows: LongTensor
    prediction: Prediction | None


@dataclass(frozen=True)
class RolledState:
    """What a rollout gives. `x` (B, ...): the states at `plan.target`, float32 or wider; rows with k = 0 are the plain `x_t`."""

    x: Tensor
    rows_evaluated: int  # items that went through the network, guidance not counted
    calls: int
    trajectory: tuple[Moment, ...] = field(default=())


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """No gradients, evaluation mode in `modules`; afterwards every submodule's train flag and the random state are as before.

    Cost: one walk over the modules, which looks only at those that train (`nn.Module.eval` and `modules` take several times as long).
    """
    with torch.no_grad(), kept_random_state():
        training = _training(modules)
        for part in training:
            part.__dict__["training"] = False
        try:
            yield
        finally:
            for part in training:
                part.__dict__["training"] = True


def _training(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules, and all within them, that are in train mode; one that stands in several places may be named several times."""
    waiting: list[nn.Module | None] = [*modules]
    found = []
    while waiting:
        module = waiting.pop()
        if module is not None:
            if module.training:
                found.append(module)
            waiting += module._modules.values()
    return found


class _Counted:
    """The network with its calls and rows counted, its answers in state precision, and the first answer of a step at hand."""

    def __init__(self, predict: Predict):
        self.predict, self.calls, self.rows = predict, 0, 0

    def on(self, places: LongTensor) -> Callable[[Tensor, Level], Prediction]:
        self.first: Prediction | None = None

        def evaluate(x: Tensor, level: Level) -> Prediction:
            self.calls += 1
            self.rows += x.shape[0]
            answer = self.predict(x, level, places)
            if answer.x0_hat.dtype != x.dtype:
                answer = Prediction(answer.x0_hat.to(x.dtype), answer.noise_hat.to(x.dtype))
            self.first = self.first or answer
            return answer

        return evaluate


def _course(plan: Plan, number: NDArray, order: NDArray, path: NoisePath, grid: Grid) -> Course:
    """The steps of all rolled rows, who stand first in `order`, the one with most steps first, all ending together: `number` (B,) equal
    parts of each row's k grid steps."""
    steps = number[order]
    lefts = np.arange(steps.max(initial=0), 0, -1)
    sizes = np.searchsorted(-steps, -lefts, side="right")
    rows = np.concatenate([order[:size] for size in sizes] or [order[:0]])
    left = np.repeat(lefts, sizes)
    index, k, parts_of, ends = plan.index.numpy()[rows], plan.k.numpy()[rows], number[rows], left == 1
    both = path.levels.at(grid.time(index - k * np.stack([left, left - 1]) / parts_of))
    here, there = zip(both.t, both.alpha, both.sigma, strict=True)
    target = (each.numpy()[rows] for each in (plan.target.t, plan.target.alpha, plan.target.sigma))
    there = tuple(
        np.where(ends, *each) for each in zip(target, there, strict=True)
    )  # the last step ends there, unrounded
    return Course(LevelArrays(*here), LevelArrays(*there), tuple(sizes.tolist()))


def rollout(
    predict: Predict,
    x0: Tensor,
    noise: Tensor,
    plan: Plan,
    grid: Grid,
    path: NoisePath,
    solver: Solver,
    *,
    modules: Sequence[nn.Module] = (),
    trajectory: bool = False,
    start: Literal["source", "noise"] = "source",
    on_moment: Callable[[Moment], None] | None = None,
    most_steps: int | None = None,
) -> RolledState:
    """Integrate each row from its source to its target on the network's own predictions.

    Rows that go farther start earlier and all finish together; the network is called on the rows in flight only:
    rows = calls_per_step * sum(k), calls = calls_per_step * max(k), exactly (of min(k, most_steps)). No gradient, no random numbers.

    Args:
        predict: the network (`Predict`). Its precision is its own affair; the state stays in float32 (or wider if x0 is).
        x0, noise: (B, ...) clean latents and the row's own noise; plan, grid, path: of the same batch.
        modules: put into evaluation mode meanwhile and restored.
        trajectory: keep every state with its level and prediction, from the source to the target.
        on_moment: called with each state but the last, as soon as the network has answered there (to show it while the rest is computed).
        start: "noise" starts from `noise` alone in place of `alpha_s * x0 + sigma_s * noise` (with `plan_from_noise`).
        most_steps: a row that is farther away goes the same way in so many equal parts; None = every step is a grid step.
    """
    number = plan.k.numpy() if most_steps is None else np.minimum(plan.k.numpy(), most_steps)
    course = _course(plan, number, by_number := np.argsort(-number, kind="stable"), path, grid)
    order: LongTensor = torch.from_numpy(by_number)  # type: ignore[assignment]
    home = placed(order, x0)
    states = path.noised(x0, noise, plan.source)
    if start == "noise":
        states = torch.where(per_row(plan.k, states) > 0, noise.to(states), states)
    network, past, moments, begin, end = _Counted(predict), None, [], 0, 0
    waiting = states[home]
    x, flying = waiting[:0], 0

    with undisturbed(*modules):
        for step, size in zip(solver.steps(path, course, waiting), course.sizes, strict=True):
            if size > flying:
                past = past.joined_by(size - flying) if past is not None else None
                x = torch.cat([x, waiting[flying:size]])
                flying, rows = size, home[:size]
            begin, end, before = end, end + size, x
            x, past = step.take(network.on(rows), x, past)
            if trajectory or on_moment is not None:
                moment = Moment(before, Level.of(course.here)[begin:end], order[:size], network.first)
            if on_moment is not None:
                on_moment(moment)
            if trajectory:
                moments.append(moment)
    if trajectory:
        moments.append(Moment(x, plan.target[order[:flying]], order[:flying], None))

    states = states.index_copy(0, home[:flying], x)
    return RolledState(states, network.rows, network.calls, tuple(moments))


def roll_out(
    config: "RolloutConfig",
    predict: Predict,
    x0: Tensor,
    noise: Tensor,
    plan: Plan,
    grid: Grid,
    path: NoisePath,
    *,
    modules: Sequence[nn.Module] = (),
) -> RolledState:
    """The rollout that training does under `config`: its solver, order and most evaluations. Guidance belongs to `predict`. When no row
    rolls, no call is made and `x` is the plain `x_t`. (ReflexFlow's `paper` mode steps in `remedies/rollout.py`, on the answer of a training
    pass.)"""
    solver, most = make_solver(config.sampler, config.order), most_steps(config.sampler, config.max_evaluations)
    return rollout(predict, x0, noise, plan, grid, path, solver, modules=modules, most_steps=most)


def training_target(
    config: "RolloutConfig", x: Tensor, x0: Tensor, noise: Tensor, plan: Plan, prediction_type: PredictionType
) -> Tensor:
    """What each row regresses to at its state `x` (B, ...): plain rows the pair's own output, rolled rows as `target` states.

    Args: x: `RolledState.x`; in ReflexFlow's `paper` mode, where the loss is taken at the source, use `target_output` instead.
    """
    plain = target_output(x0, noise, plan.target, prediction_type)
    if config.target == "original" or not len(plan.rows):
        return plain
    rows = placed(plan.rows, x0)
    target = plain.clone()
    target[rows] = consistent_target(x[rows], x0[rows], plan.target[plan.rows], prediction_type).to(target)
    return target
