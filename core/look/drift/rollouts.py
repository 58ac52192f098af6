"""The rollouts of a drift measurement, on samples of one latent shape: a predictor in, raw rows out. Independent of the family.

- *short*: what training does. From a source `k` grid steps noisier, made of the true picture and its noise, the model
  is rolled out to the target level; there its state `xr` is compared with the true noisy state `x_t`. Rolled out a second time with
  `fine_factor` times finer steps by the same model, the difference splits into `solver` (coarse minus fine) and `floor
  + model` (fine minus true): never "model" alone, because even an exact flow leaves its pair (the floor). Only where
  the exact flow is known (oracles) are `floor` and `model` separated.
- *trajectory*: the sampler from pure noise, or from a chosen level, to its last step, beside the true noisy state at
  every level: the filmstrip, and what is free of a floor over many pictures because an exact flow keeps marginals:
  spread, output norm, power spectrum.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import LongTensor, Tensor, nn

from ...maths.grid import Grid
from ...maths.noise import Level, NoisePath, Prediction, PredictionType, consistent_target, state_dtype, target_output
from ...maths.rollout import Moment, Plan, Predict, plan_from_noise, plan_offsets, rollout, undisturbed
from ...maths.solvers import make_solver
from ...maths.solvers.base import Solver
from .corrected import corrected
from .settings import Settings
from .states import Rings, Row, dot, output_of, output_row, state_row, t_at_share

ELEMENTS_AT_ONCE = (
    131_072  # latent elements in one network call: 64 rows of the demo, 8 of SD at 512 pixels, 1 of SD 3 at 1024
)


@dataclass
class Table:
    """Raw rows by place, of the samples of one shape, in the order of their numbers."""

    numbers: list[int]
    short: dict[tuple[float, int], tuple[float, Row]] = field(default_factory=dict)  # (share, offset) -> t, row
    loss: dict[float, tuple[float, Row]] = field(default_factory=dict)  # share -> t, row
    trajectory: list[tuple[Level, int, Row]] = field(default_factory=list)
    frequencies: Tensor | None = None
    # sample -> step, t, sigma, clean, rolled
    frames: dict[int, list[tuple[int, float, float, Tensor, Tensor]]] = field(default_factory=dict)


class _Network:
    """`predict` with its rows counted; reports progress and may stop between two calls."""

    def __init__(self, predict: Predict, forwards: int, tick: Callable[[int], None]):
        self.predict, self.forwards, self.tick, self.rows, self.calls = predict, forwards, tick, 0, 0

    def __call__(self, x: Tensor, level: Level, rows: LongTensor) -> Prediction:
        self.tick(len(x) * self.forwards)
        self.rows += len(x) * self.forwards
        self.calls += self.forwards
        return self.predict(x, level, rows)

    def at(self, x: Tensor, level: Level, samples: LongTensor) -> Prediction:
        answer = self(x, level.to(x), samples.to(x.device))
        return Prediction(answer.x0_hat.to(x.dtype), answer.noise_hat.to(x.dtype))

    def of(self, samples: LongTensor) -> Predict:
        """For a batch whose row i is the sample `samples[i]`."""
        return lambda x, level, rows: self(x, level, samples.to(rows.device)[rows])


@dataclass(frozen=True)
class Sight:
    """One picture of a filmstrip, as soon as the model has answered: what it predicts at a state of the true path (row "clean") or of its own ("rolled").
    `column` of `columns`; `x0_hat`: latents (C, H, W)."""

    row: Literal["clean", "rolled"]
    column: int
    columns: int
    step: int
    t: float
    sigma: float
    x0_hat: Tensor


OnSight = Callable[[Sight], None]

ExactFlow = Callable[[Tensor, Level, Level], Tensor]
"""(x (R, ...), here (R,), there (R,)) -> the state that the exact probability flow reaches; known for oracles."""


def refined(grid: Grid, factor: int) -> Grid:
    """The grid with every step cut into `factor` equal parts of t: fractional indices are multiplied by it."""
    return Grid(grid.time(np.arange(grid.steps * factor + 1) / factor))


def measure_samples(
    predict: Predict,
    x0: Tensor,
    noise: Tensor,
    *,
    path: NoisePath,
    prediction_type: PredictionType,
    grid: Grid,
    trajectory_grid: Grid | None = None,
    settings: Settings,
    evaluations: int,
    numbers: Sequence[int] | None = None,
    rings: int | None = None,
    exact_flow: ExactFlow | None = None,
    modules: Sequence[nn.Module] = (),
    tick: Callable[[int], None] = lambda rows: None,
    on_sight: OnSight = lambda sight: None,
    on_level: Callable[[Table], None] = lambda table: None,
) -> tuple[Table, int, int]:
    """Measure samples of one shape; needs a predictor only.

    Args:
        predict: the network; its `rows` are places in x0. x0, noise: (S, C, H, W).
        evaluations: network rows that `predict` takes for each of its rows (`Guidance.evaluations`).
        grid: of the short rollouts. trajectory_grid: of the trajectory; None = the same.
        numbers: the samples' global numbers; those below `fine_samples` get the fine rollout. The first
            `trajectory_samples` rows of x0 get the trajectory.
        rings: of the spectrum; None = as many as the shape resolves, at most 16.
        exact_flow: known for oracles: the fine rollout's part is then split into `floor` and `model` as well.
        modules: put into evaluation mode meanwhile. tick: called with the rows of every network call before it is made.
        on_sight: called with every picture of the first sample's filmstrip when it is known: the true path first, then the own one, step by step.
        on_level: called with the table so far after every noise level of the short rollouts.
    Returns: the raw table, network rows, network calls.
    Raises: ConfigError for a correction that is not made for this kind of model.
    Cost: with a correction as without; for S samples and no reduced offsets, S * (levels * (sum(offsets) + offsets) + levels and loss levels) rows,
        fine samples `fine_factor * levels * sum(offsets)` more, trajectory samples their steps and `shown` more (times
        4 for rk4's steps).
    Memory: states of one call, and one trajectory of the rows of a call.
    """
    if x0.ndim != 4:
        raise ValueError(
            f"latents of shape {tuple(x0.shape)}: drift measures pictures, (samples, channels, height, width)."
        )
    x0, noise = x0.to(state_dtype(x0)), noise.to(x0.device, state_dtype(x0))
    numbers = list(range(len(x0))) if numbers is None else list(numbers)
    network = _Network(predict, evaluations, tick)
    own = _Network(corrected(predict, settings.correction, path, prediction_type), evaluations, tick)
    number = max(1, min(16, min(x0.shape[-2:]) // 2)) if rings is None else rings
    fitting = max(1, min(64, ELEMENTS_AT_ONCE // x0[0].numel()))
    at_once = fitting if settings.rows_at_once is None else settings.rows_at_once
    rings_of = Rings.of(*x0.shape[-2:], number)
    setup = _Setup(network, own, x0, noise, path, prediction_type, settings, numbers, rings_of, at_once)
    table = Table(numbers, frequencies=setup.rings.frequencies)
    with undisturbed(*modules):
        _measure_short(setup, table, grid, exact_flow, on_level)
        _measure_trajectory(setup, table, grid if trajectory_grid is None else trajectory_grid, on_sight)
    return table, network.rows + own.rows, network.calls + own.calls


@dataclass(frozen=True)
class _Setup:
    """`network` answers at true states, `own` at those that the model has reached itself."""

    network: _Network
    own: _Network
    x0: Tensor
    noise: Tensor
    path: NoisePath
    prediction_type: PredictionType
    settings: Settings
    numbers: list[int]
    rings: Rings
    rows_at_once: int

    def level(self, t: float, rows: int) -> Level:
        return self.path.at(torch.full((rows,), t, dtype=torch.float64))

    def output(self, prediction: Prediction, level: Level) -> Tensor:
        return output_of(prediction, level, self.prediction_type)

    def chunks(self, places: LongTensor) -> Iterable[LongTensor]:
        return places.split(self.rows_at_once) if len(places) else ()

    def first(self, number: int) -> LongTensor:
        """Places of the samples whose global number is below `number`."""
        return torch.tensor([place for place, n in enumerate(self.numbers) if n < number], dtype=torch.long)


def _measure_short(
    setup: _Setup, table: Table, grid: Grid, exact_flow: ExactFlow | None, on_level: Callable[[Table], None]
) -> None:
    settings, path, everyone = setup.settings, setup.path, torch.arange(len(setup.x0))
    solver, fine_grid = make_solver(settings.sampler, settings.order), refined(grid, settings.fine_factor)
    fine_places = setup.first(settings.fine_samples)
    # The noisiest first: few steps are left before it, so whoever watches sees its points soon.
    for share in sorted({*settings.levels, *settings.loss_levels}, reverse=True):
        t = t_at_share(path, share)
        clean = []
        for places in setup.chunks(everyone):
            x0, noise, level = setup.x0[places], setup.noise[places], setup.level(t, len(places))
            output = setup.output(setup.network.at(path.noised(x0, noise, level), level, places), level)
            clean.append(output)
            error = (output - target_output(x0, noise, level, setup.prediction_type)).flatten(1)
            _put(table.loss, share, t, {"loss": error.square().mean(1).cpu().double()})
        if share not in settings.levels:
            continue
        clean = torch.cat(clean)
        # All offsets of a level go together: the rollout calls the network on every row in flight.
        jobs = torch.cartesian_prod(everyone, torch.arange(len(settings.offsets))).reshape(-1, 2)
        for chunk in setup.chunks(jobs):
            places, which = chunk[:, 0], chunk[:, 1]
            x0, noise, level = setup.x0[places], setup.noise[places], setup.level(t, len(places))
            plan = plan_offsets(level.t, torch.tensor(settings.offsets)[which], path, grid)
            x_t = path.noised(x0, noise, level)
            xr = rollout(setup.own.of(places), x0, noise, plan, grid, path, solver).x
            output = setup.output(setup.own.at(xr, level, places), level)
            row = state_row(xr, x_t, x0, noise, level, path, setup.rings)
            row |= output_row(output, clean[places], consistent_target(xr, x0, level, setup.prediction_type))
            row["steps"] = plan.k.double()
            if settings.fine_samples > 0:
                wanted = settings.offsets if settings.fine_offsets is None else settings.fine_offsets
                chosen = torch.isin(places, fine_places) & torch.isin(
                    torch.tensor(settings.offsets)[which], torch.tensor(wanted)
                )
                chosen = chosen.nonzero().reshape(-1)
                row |= _fine(setup, plan, x0, noise, xr, x_t, places, chosen, fine_grid, solver, exact_flow)
            for offset in which.unique().tolist():
                _put(
                    table.short,
                    (share, settings.offsets[offset]),
                    t,
                    {name: values[which == offset] for name, values in row.items()},
                )
        on_level(table)


def _fine(
    setup: _Setup,
    plan: Plan,
    x0: Tensor,
    noise: Tensor,
    xr: Tensor,
    x_t: Tensor,
    places: LongTensor,
    chosen: LongTensor,
    grid: Grid,
    solver: Solver,
    exact_flow: ExactFlow | None,
) -> Row:
    """The same rollout by the same model with finer steps, for the rows `chosen`: the solver's part, and what it leaves.
    NaN elsewhere."""
    path, factor = setup.path, setup.settings.fine_factor
    measured: Row = {}
    if len(chosen):
        fine = Plan(
            plan.t[chosen],
            plan.index[chosen] * factor,
            plan.drawn_k[chosen] * factor,
            plan.k[chosen] * factor,
            plan.source[chosen],
            plan.target[chosen],
            plan.probability,
        )
        x0, noise, xr, x_t = x0[chosen], noise[chosen], xr[chosen], x_t[chosen]
        reference = rollout(setup.own.of(places[chosen]), x0, noise, fine, grid, path, solver).x
        differences = {"solver": xr - reference, "floor_model": reference - x_t}
        if exact_flow is not None:
            exact = exact_flow(path.noised(x0, noise, fine.source), fine.source, fine.target)
            differences |= {"floor": exact - x_t, "model": reference - exact}
        measured = {name: (dot(part, part) / dot(x_t, x_t)).sqrt() for name, part in differences.items()}
    names = ("solver", "floor_model", *(("floor", "model") if exact_flow is not None else ()))
    row = {name: torch.full((len(places),), math.nan, dtype=torch.float64) for name in names}
    for name, values in measured.items():
        row[name][chosen] = values
    return row


class _Sights:
    """Reports the pictures of the first sample's filmstrip; `shown`: the steps that have a column."""

    def __init__(self, on_sight: OnSight, shown: Sequence[int], wanted: bool) -> None:
        self._on_sight, self._shown, self._wanted, self._passed = on_sight, shown, wanted, 0

    def clean(self, step: int, level: Level, answer: Prediction) -> None:
        self._report("clean", step, level, answer)

    def rolled(self, moment: Moment) -> None:
        """The next state of the rollout, whose prediction is known."""
        self._report("rolled", self._passed, moment.level, moment.prediction)
        self._passed += 1

    def _report(self, row: Literal["clean", "rolled"], step: int, level: Level, answer: Prediction) -> None:
        if self._wanted and step in self._shown:
            t, sigma, column = float(level.t[0]), float(level.sigma[0]), self._shown.index(step)
            self._on_sight(Sight(row, column, len(self._shown), step, t, sigma, answer.x0_hat[0]))


def _trajectory_plan(setup: _Setup, rows: int, grid: Grid) -> Plan:
    """Where the trajectory starts and ends, the same for all its rows."""
    settings, path = setup.settings, setup.path
    # the 0 behind the last node is where nothing is left to predict
    t_end = float(grid.nodes[-2]) if settings.end is None else t_at_share(path, settings.end)
    end = setup.level(t_end, rows)
    if settings.steps_back is not None:
        return plan_offsets(end.t, torch.full((rows,), settings.steps_back), path, grid)
    if settings.start is None:
        return plan_from_noise(end.t, path, grid)
    steps = grid.index(t_end) - grid.index(t_at_share(path, settings.start))
    return plan_offsets(end.t, torch.full((rows,), max(round(steps), 1)), path, grid)


def _measure_trajectory(setup: _Setup, table: Table, grid: Grid, on_sight: OnSight) -> None:
    settings, path = setup.settings, setup.path
    chosen = torch.arange(min(settings.trajectory_samples, len(setup.x0)))
    solver = make_solver(settings.sampler, settings.order)
    for places in setup.chunks(chosen):
        x0, noise = setup.x0[places], setup.noise[places]
        plan = _trajectory_plan(setup, len(places), grid)
        last, everyone = int(plan.k.max()), torch.arange(len(places))
        shown = sorted({round(i * last / (settings.shown - 1)) for i in range(settings.shown)})
        sights = _Sights(on_sight, shown, wanted=bool((places == 0).any()) and settings.strips > 0)
        # The true path needs no rollout, so whoever watches sees it first.
        clean_at: dict[int, Prediction] = {}
        for step in shown:
            level = plan.level_before(last - step, path, grid, everyone)
            clean_at[step] = setup.network.at(path.noised(x0, noise, level), level, places)
            sights.clean(step, level, clean_at[step])
        rolled_out = rollout(
            setup.own.of(places),
            x0,
            noise,
            plan,
            grid,
            path,
            solver,
            trajectory=True,
            start="noise" if settings.start is None and settings.steps_back is None else "source",
            on_moment=sights.rolled,
        )
        for step, moment in enumerate(rolled_out.trajectory):
            level = moment.level
            x_t = path.noised(x0, noise, level)
            row = state_row(moment.x, x_t, x0, noise, level, path, setup.rings)
            if step in shown:
                clean, rolled = clean_at[step], moment.prediction
                if rolled is None:
                    rolled = setup.own.at(moment.x, level, places)
                    sights.rolled(Moment(moment.x, level, moment.rows, rolled))
                truth = consistent_target(moment.x, x0, level, setup.prediction_type)
                row |= output_row(setup.output(rolled, level), setup.output(clean, level), truth)
                for i, place in enumerate(places.tolist()):
                    if place < settings.strips:
                        frame = (
                            step,
                            float(level.t[i]),
                            float(level.sigma[i]),
                            clean.x0_hat[i].cpu(),
                            rolled.x0_hat[i].cpu(),
                        )
                        table.frames.setdefault(setup.numbers[place], []).append(frame)
            if step == len(table.trajectory):
                table.trajectory.append((level[:1], step, row))
            else:
                before = table.trajectory[step]
                table.trajectory[step] = (
                    before[0],
                    step,
                    {name: torch.cat([before[2][name], row[name]]) for name in row},
                )


def _put(table: dict, key: Any, t: float, row: Row) -> None:
    """Append the rows of a chunk to what is there already."""
    before = table[key][1] if key in table else None
    table[key] = (t, row if before is None else {name: torch.cat([before[name], row[name]]) for name in row})
