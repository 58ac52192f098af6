"""Rollout drift: how far a model strays when it is fed its own output, on the same picture, prompt and noise.

Two measurements, both without gradient and leaving random state and modes as found:

- *short*: what training does. From a source `k` grid steps noisier, made of the true picture and its noise, the model
  walks to the target level; there its state `xr` is compared with the true noisy state `x_t`. Walked a second time with
  `fine_factor` times finer steps by the same model, the difference splits into `solver` (coarse minus fine) and `floor
  + model` (fine minus true): never "model" alone, because even an exact flow leaves its pair (the floor). Only where
  the exact flow is known (oracles) are `floor` and `model` told apart.
- *trajectory*: the sampler from pure noise, or from a chosen level, to its last step, beside the true noisy state at
  every level: the
  filmstrip, and what is free of a floor over many pictures because an exact flow keeps marginals: spread, output norm,
      power spectrum.

Source: rollout.md section 6, where the papers of the single measures are named. Differs: the effective noise level and
    the effective
signal-to-noise ratio refer to the pair, and a test shows on paper that an exact flow moves them too; they are reported
as measures with a floor.
"""

import dataclasses
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import LongTensor, Tensor, nn

from ...maths.noise import Level, NoisePath, Prediction, PredictionType, consistent_target, state_dtype, target_output
from ...maths.rollout import Grid, Plan, Predict, plan_from_noise, plan_offsets, rollout, undisturbed
from ...maths.solvers import Solver, make_solver
from ...randomness import row_noise
from . import pictures as drift_pictures
from .comparison import compare
from .files import REPORT_FILE, read_report, report_from_json, report_to_csv, report_to_json
from .report import Curve, DriftReport, Measure, Point, ReportError, Role, Spectrum, Weights
from .words import summary, words

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...families.base import Conditioning, Model

__all__ = [
    "DriftReport",
    "ProbeSet",
    "ReportError",
    "Settings",
    "Stopped",
    "compare",
    "effective_t",
    "expected_rows",
    "measure",
    "measure_samples",
    "probe",
    "read_report",
    "report_from_json",
    "report_to_csv",
    "report_to_json",
    "save",
    "summary",
    "t_at_share",
    "words",
]

MOST_VALUES = 64  # per-sample values kept of one measure; more samples are averaged in groups
ELEMENTS_AT_ONCE = (
    131_072  # latent elements in one network call: 64 rows of the demo, 8 of SD at 512 pixels, 1 of SD 3 at 1024
)


class Stopped(Exception):
    """`should_stop` said so; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and how.

    Levels are noise shares `sigma / (alpha + sigma)`: the flow's sigma, and the level of the same signal-to-noise ratio
    elsewhere.

    Attributes:
        sampler, order, grid, grid_steps, guidance: the rollout under test. `trajectory` walks the inference grid,
            except where `walk` is set.
        levels, offsets: targets and distances of the short rollouts. loss_levels: where else the clean loss is taken.
        fine_factor: the reference walks this many times finer steps.
        samples: pictures x noise draws; with fewer pictures each gets several noises. seed: of the noise.
        fine_samples, trajectory_samples: how many of them get the fine rollout and the trajectory. fine_offsets: which
            offsets get the fine rollout; None = all.
        start: level at which the trajectory starts; None = pure noise.
        end: level at which it ends; None = the schedule's last step.
        walk: so many steps of `grid` before its end it starts, in place of at `start` (previews of one short rollout).
        shown: columns of the filmstrip. strips: so many pictures get one.
        rows_at_once: rows of a network call; None = by the size of the latents.
    """

    sampler: str = "unipc"
    order: int = 2
    grid: Literal["inference", "training"] = "inference"
    grid_steps: int = 30
    guidance: float = 1.0
    seed: int = 42
    levels: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    offsets: tuple[int, ...] = (1, 3, 5)
    loss_levels: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    fine_factor: int = 4
    samples: int = 8
    fine_samples: int = 2
    fine_offsets: tuple[int, ...] | None = None
    trajectory_samples: int = 8
    start: float | None = 0.8
    end: float | None = None
    walk: int | None = None
    shown: int = 9
    strips: int = 1
    rows_at_once: int | None = None

    def __post_init__(self):
        shares = [*self.levels, *self.loss_levels, *(each for each in (self.start, self.end) if each is not None)]
        faults = [f"level {share}: must lie between 0 and 1." for share in shares if not 0 < share < 1]
        faults += [f"offset {k}: must be at least 1 grid step." for k in self.offsets if k < 1]
        least = {
            "fine_factor": 2,
            "samples": 1,
            "fine_samples": 0,
            "trajectory_samples": 0,
            "shown": 2,
            "strips": 0,
            "grid_steps": 2,
        }
        faults += [
            f"{name} = {getattr(self, name)}: must be at least {low}."
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        unknown = sorted(set(self.fine_offsets or ()) - set(self.offsets))
        if unknown:
            faults.append(f"fine_offsets {unknown}: must be among the offsets {list(self.offsets)}.")
        if self.walk is not None and self.walk < 1:
            faults.append(f"walk = {self.walk}: must be at least 1 grid step.")
        if self.guidance < 1:
            faults.append(f"guidance = {self.guidance}: must be at least 1.0 (none).")
        if faults:
            raise ValueError("\n".join(faults))

    @classmethod
    def from_config(cls, config: "RunConfig", **changes: Any) -> "Settings":
        """The run's own solver and grid, and its drift section. `changes` win."""
        rollout, drift = config.rollout, config.drift
        asked = {
            "sampler": rollout.sampler,
            "order": rollout.order,
            "grid": rollout.grid,
            "grid_steps": rollout.grid_steps,
            "guidance": drift.guidance,
            "seed": drift.seed,
            "offsets": drift.offsets,
            "fine_factor": drift.fine_factor,
            "samples": drift.num_images,
        }
        return cls(**{**asked, **changes})

    @classmethod
    def between_steps(cls, config: "RunConfig", **changes: Any) -> "Settings":
        """What a training run can afford between two steps: about half the forwards of `from_config`, most of them
        saved on levels.

        With the default offsets and 8 samples on a 30-step grid that is 564 rows, and about 90 for the training
        pictures.
        """
        light = {
            "levels": (0.25, 0.5, 0.75),
            "loss_levels": (0.05, 0.25, 0.5, 0.75, 0.95),
            "fine_offsets": (max(config.drift.offsets),),
            "trajectory_samples": 4,
        }
        return cls.from_config(config, **{**light, **changes})

    def for_training_pictures(self) -> "Settings":
        """What the second curve gets: it is there to compare with, not to explain."""
        return dataclasses.replace(
            self,
            samples=max(1, self.samples // 2),
            offsets=(max(self.offsets),),
            fine_samples=0,
            fine_offsets=None,
            trajectory_samples=0,
            strips=0,
        )


@dataclass(frozen=True)
class ProbeSet:
    """The pictures to measure on.

    `latents`: one (C, H, W) each, clean and scaled; sizes may differ. `conditioning`: the prompts', as the family
    encodes them.
    """

    latents: tuple[Tensor, ...]
    conditioning: tuple["Conditioning", ...]
    captions: tuple[str, ...]
    role: Role = "held-out"

    def __post_init__(self):
        if not self.latents or not len(self.latents) == len(self.conditioning) == len(self.captions):
            raise ValueError(
                f"{len(self.latents)} latents, {len(self.conditioning)} prompts, {len(self.captions)} captions: "
                "a drift probe needs one of "
                "each per picture, and at least one picture."
            )


# Levels and measures of one state ------------------------------------------------------------------------------------


def t_at_share(path: NoisePath, share: float) -> float:
    """The path's t where `sigma / (alpha + sigma) = share`; the nearest there is where the path does not reach it."""
    low, high = 0.0, path.t_max
    for _ in range(60):  # sigma / alpha grows with t
        middle = (low + high) / 2
        level = path.at(torch.tensor([middle], dtype=torch.float64))
        if float(level.sigma / (level.alpha + level.sigma)) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def output_of(prediction: Prediction, level: Level, prediction_type: PredictionType) -> Tensor:
    """The network's canonical output again, from the pair that it implies."""
    return target_output(prediction.x0_hat, prediction.noise_hat, level, prediction_type)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per row, (R,) float64 on the CPU."""
    return (a.flatten(1) * b.flatten(1)).sum(1).cpu().double()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()


def effective_t(x: Tensor, x0: Tensor, noise: Tensor, path: NoisePath) -> Tensor:
    """The t whose state of the pair is nearest to x: `argmin_tau ||x - alpha(tau) x0 - sigma(tau) noise||`, (R,)
    float64, in 0..t_max.

    Exact for flow, where the square is a parabola in t; else to about 1e-4 of the path. Source: MixFlow (2512.19311).
    Has a floor.
    """
    taus = torch.linspace(0, path.t_max, 2001, dtype=torch.float64)
    level = path.at(taus)
    a, b, p, q, n = (dot(*pair)[:, None] for pair in ((x, x0), (x, noise), (x0, x0), (x0, noise), (noise, noise)))
    square = (
        level.alpha**2 * p
        + 2 * level.alpha * level.sigma * q
        + level.sigma**2 * n
        - 2 * (level.alpha * a + level.sigma * b)
    )
    at = square.argmin(1).clamp(1, len(taus) - 2)
    left, middle, right = (square.gather(1, (at + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = torch.where(bend > 0, (left - right) / (2 * bend), 0.0).clamp(-1, 1)
    return taus[at] + shift * (taus[1] - taus[0])


def signal_to_noise_db(x: Tensor, x0: Tensor) -> Tensor:
    """Least squares `x = a x0 + rest`: 10 log10 of the powers' ratio, (R,). Source: DCW (2604.16044). Has a floor."""
    a = dot(x, x0) / dot(x0, x0)
    signal = a.square() * dot(x0, x0)
    return 10 * (signal / (dot(x, x) - signal).clamp_min(1e-12)).log10()


@dataclass(frozen=True)
class Rings:
    """Rings of spatial frequency of an (H, W) grid, and its three bands. The mean (frequency 0) belongs to none."""

    frequencies: Tensor  # (n,) share of the Nyquist frequency
    members: Tensor  # (n + 3, H * W): weights of each ring's and each band's mean; NaN where it is empty

    @classmethod
    def of(cls, height: int, width: int, number: int) -> "Rings":
        f = (
            torch.stack(torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij"))
            .norm(dim=0)
            .flatten()
            / 0.5
        )
        ring = (
            (f * number).round().long().clamp(1, number)
        )  # what lies beyond Nyquist (the corners) counts with the last ring
        chosen = [(ring == i + 1) & (f > 0) for i in range(number)]
        chosen += [(f > 0) & (f < 1 / 3), (f >= 1 / 3) & (f < 2 / 3), f >= 2 / 3]
        members = torch.stack(chosen).double()
        return cls(torch.arange(1, number + 1, dtype=torch.float64) / number, members / members.sum(1, keepdim=True))

    def power(self, x: Tensor) -> Tensor:
        """Mean power per ring, then low, mid, high: (R, n + 3) float64; averaged over channels."""
        power = torch.fft.fft2(x.cpu().double(), norm="ortho").abs().square().mean(1).flatten(1)
        # an empty ring has weights 0 / 0: NaN in its own column only
        return torch.stack([power @ weights for weights in self.members], dim=1)


Row = dict[str, Tensor]  # name -> (R,) or (R, n) float64: what is kept of each sample at one level


def state_row(xr: Tensor, x_t: Tensor, x0: Tensor, noise: Tensor, level: Level, path: NoisePath, rings: Rings) -> Row:
    """What two states at the same level say by themselves."""
    spread = {
        name: x.cpu().double().var((-2, -1), correction=0).mean(1)
        for name, x in (("var_rolled", xr), ("var_clean", x_t))
    }
    return {
        "distance": (dot(xr - x_t, xr - x_t) / dot(x_t, x_t)).sqrt(),
        "noise_shift": effective_t(xr, x0, noise, path) - level.t,
        "snr_shift_db": signal_to_noise_db(xr, x0) - signal_to_noise_db(x_t, x0),
        **spread,
        "power_rolled": rings.power(xr),
        "power_clean": rings.power(x_t),
    }


def output_row(rolled: Tensor, clean: Tensor, truth: Tensor) -> Row:
    """What the network's outputs at the two states say; `truth`: the output at the rolled state that leads to the true
    picture."""
    return {
        "cos_clean": cosine(rolled, clean),
        "cos_truth": cosine(rolled, truth),
        "norm_rolled": dot(rolled, rolled),
        "norm_clean": dot(clean, clean),
    }


# One set of samples of one shape -------------------------------------------------------------------------------------


@dataclass
class Table:
    """Raw rows by place, of the samples of one shape, in the order of their numbers."""

    numbers: list[int]
    short: dict[tuple[float, int], tuple[float, Row]] = field(default_factory=dict)  # (share, offset) -> t, row
    loss: dict[float, tuple[float, Row]] = field(default_factory=dict)  # share -> t, row
    trajectory: list[tuple[Level, int, Row]] = field(default_factory=list)
    frequencies: Tensor | None = None
    frames: dict[int, list[tuple[int, float, float, Tensor, Tensor]]] = field(
        default_factory=dict
    )  # sample -> step, t, sigma, clean, rolled


class _Network:
    """`predict` with its rows counted, progress told, and a way out between two calls."""

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


ExactFlow = Callable[[Tensor, Level, Level], Tensor]
"""(x (R, ...), here (R,), there (R,)) -> the state that the exact probability flow reaches; known for oracles."""


def refined(grid: Grid, factor: int) -> Grid:
    """The grid with every step cut into `factor` equal parts of t: fractional indices are multiplied by it."""
    return Grid(grid.time(torch.arange(grid.steps * factor + 1, dtype=torch.float64) / factor))


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
    numbers: Sequence[int] | None = None,
    rings: int | None = None,
    exact_flow: ExactFlow | None = None,
    modules: Sequence[nn.Module] = (),
    tick: Callable[[int], None] = lambda rows: None,
) -> tuple[Table, int, int]:
    """Measure samples of one shape; the model-free heart of this file.

    Args:
        predict: the network; its `rows` are places in x0. x0, noise: (S, C, H, W).
        grid: of the short rollouts. trajectory_grid: of the trajectory; None = the same.
        numbers: the samples' global numbers; those below `fine_samples` get the fine rollout. The first
            `trajectory_samples` rows of x0 get the trajectory.
        rings: of the spectrum; None = as many as the shape resolves, at most 16.
        exact_flow: known for oracles: the fine rollout's part is then split into `floor` and `model` as well.
        modules: put into evaluation mode meanwhile. tick: called with the rows of every network call before it is made.
    Returns: the raw table, network rows, network calls.
    Cost: for S samples and no reduced offsets, S * (levels * (sum(offsets) + offsets) + levels and loss levels) rows,
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
    network = _Network(predict, 2 if settings.guidance > 1 else 1, tick)
    number = max(1, min(16, min(x0.shape[-2:]) // 2)) if rings is None else rings
    bench = _Bench(
        network,
        x0,
        noise,
        path,
        prediction_type,
        settings,
        numbers,
        Rings.of(*x0.shape[-2:], number),
        settings.rows_at_once
        if settings.rows_at_once is not None
        else max(1, min(64, ELEMENTS_AT_ONCE // x0[0].numel())),
    )
    table = Table(numbers, frequencies=bench.rings.frequencies)
    with undisturbed(*modules):
        _measure_short(bench, table, grid, exact_flow)
        _measure_trajectory(bench, table, grid if trajectory_grid is None else trajectory_grid)
    return table, network.rows, network.calls


@dataclass(frozen=True)
class _Bench:
    network: _Network
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


def _measure_short(bench: _Bench, table: Table, grid: Grid, exact_flow: ExactFlow | None) -> None:
    settings, path, everyone = bench.settings, bench.path, torch.arange(len(bench.x0))
    solver, fine_grid = make_solver(settings.sampler, settings.order), refined(grid, settings.fine_factor)
    fine_places = bench.first(settings.fine_samples)
    for share in sorted({*settings.levels, *settings.loss_levels}):
        t = t_at_share(path, share)
        clean = []
        for places in bench.chunks(everyone):
            x0, noise, level = bench.x0[places], bench.noise[places], bench.level(t, len(places))
            output = bench.output(bench.network.at(path.noised(x0, noise, level), level, places), level)
            clean.append(output)
            error = (output - target_output(x0, noise, level, bench.prediction_type)).flatten(1)
            _put(table.loss, share, t, {"loss": error.square().mean(1).cpu().double()})
        if share not in settings.levels:
            continue
        clean = torch.cat(clean)
        # All offsets of a level go together: the rollout calls the network on every row in flight.
        jobs = torch.cartesian_prod(everyone, torch.arange(len(settings.offsets))).reshape(-1, 2)
        for chunk in bench.chunks(jobs):
            places, which = chunk[:, 0], chunk[:, 1]
            x0, noise, level = bench.x0[places], bench.noise[places], bench.level(t, len(places))
            plan = plan_offsets(level.t, torch.tensor(settings.offsets)[which], path, grid)
            x_t = path.noised(x0, noise, level)
            xr = rollout(bench.network.of(places), x0, noise, plan, grid, path, solver).x
            output = bench.output(bench.network.at(xr, level, places), level)
            row = state_row(xr, x_t, x0, noise, level, path, bench.rings)
            row |= output_row(output, clean[places], consistent_target(xr, x0, level, bench.prediction_type))
            row["steps"] = plan.k.double()
            if settings.fine_samples > 0:
                wanted = settings.offsets if settings.fine_offsets is None else settings.fine_offsets
                chosen = torch.isin(places, fine_places) & torch.isin(
                    torch.tensor(settings.offsets)[which], torch.tensor(wanted)
                )
                chosen = chosen.nonzero().reshape(-1)
                row |= _fine(bench, plan, x0, noise, xr, x_t, places, chosen, fine_grid, solver, exact_flow)
            for offset in which.unique().tolist():
                _put(
                    table.short,
                    (share, settings.offsets[offset]),
                    t,
                    {name: values[which == offset] for name, values in row.items()},
                )


def _fine(
    bench: _Bench,
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
    """The same walk by the same model with finer steps, for the rows `chosen`: the solver's part, and what it leaves.
    NaN elsewhere."""
    path, factor = bench.path, bench.settings.fine_factor
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
        reference = rollout(bench.network.of(places[chosen]), x0, noise, fine, grid, path, solver).x
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


def _measure_trajectory(bench: _Bench, table: Table, grid: Grid) -> None:
    settings, path = bench.settings, bench.path
    chosen = torch.arange(min(settings.trajectory_samples, len(bench.x0)))
    solver = make_solver(settings.sampler, settings.order)
    # the 0 behind the last node is where nothing is left to predict
    t_end = float(grid.nodes[-2]) if settings.end is None else t_at_share(path, settings.end)
    for places in bench.chunks(chosen):
        x0, noise = bench.x0[places], bench.noise[places]
        end = bench.level(t_end, len(places))
        if settings.walk is not None:
            plan = plan_offsets(end.t, torch.full((len(places),), settings.walk), path, grid)
        elif settings.start is None:
            plan = plan_from_noise(end.t, path, grid)
        else:
            from_index = grid.index(torch.tensor([t_at_share(path, settings.start)]))
            plan = plan_offsets(end.t, (grid.index(end.t) - from_index).round().clamp_min(1).long(), path, grid)
        walked = rollout(
            bench.network.of(places),
            x0,
            noise,
            plan,
            grid,
            path,
            solver,
            trajectory=True,
            start="noise" if settings.start is None and settings.walk is None else "source",
        )
        last = len(walked.trajectory) - 1
        shown = {round(i * last / (settings.shown - 1)) for i in range(settings.shown)}
        for step, moment in enumerate(walked.trajectory):
            level = moment.level
            x_t = path.noised(x0, noise, level)
            row = state_row(moment.x, x_t, x0, noise, level, path, bench.rings)
            if step in shown:
                clean = bench.network.at(x_t, level, places)
                rolled = (
                    moment.prediction if moment.prediction is not None else bench.network.at(moment.x, level, places)
                )
                truth = consistent_target(moment.x, x0, level, bench.prediction_type)
                row |= output_row(bench.output(rolled, level), bench.output(clean, level), truth)
                for i, place in enumerate(places.tolist()):
                    if place < settings.strips:
                        frame = (
                            step,
                            float(level.t[i]),
                            float(level.sigma[i]),
                            clean.x0_hat[i].cpu(),
                            rolled.x0_hat[i].cpu(),
                        )
                        table.frames.setdefault(bench.numbers[place], []).append(frame)
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


# From rows to a curve ------------------------------------------------------------------------------------------------


def _joined(rows: Sequence[Row], numbers: Sequence[Sequence[int]]) -> Row:
    """The rows of several tables, in the order of the samples' numbers."""
    order = torch.tensor([n for part in numbers for n in part]).argsort()
    return {name: torch.cat([row[name] for row in rows])[order] for name in rows[0]}


def _mean(values: Tensor) -> Measure:
    """Mean, its standard error, and the values, (R,) with NaN where a sample has none."""
    known = values[~values.isnan()]
    if not len(known):
        return Measure(None)
    error = float(known.std() / len(known) ** 0.5) if len(known) > 1 else None
    groups = known.tensor_split(min(len(known), MOST_VALUES))
    return Measure(float(known.mean()), error, tuple(float(group.mean()) for group in groups))


def _ratio(above: Tensor, below: Tensor, finish: Callable[[Tensor], Tensor]) -> Measure:
    """`finish(mean above / mean below)`, pooled over the samples, with its jackknife standard error."""
    value = finish(above.mean() / below.mean())
    if not bool(value.isfinite()):
        return Measure(None)
    n = len(above)
    if n < 2:
        return Measure(float(value))
    without = finish((above.sum() - above) / (below.sum() - below))
    error = ((n - 1) / n * (without - without.mean()).square().sum()).sqrt()
    return Measure(float(value), float(error) if bool(error.isfinite()) else None)


def decibels(ratio: Tensor) -> Tensor:
    return 10 * ratio.log10()


def _measures(row: Row) -> dict[str, Measure]:
    """The named measures of the rows at one level."""
    paired = (
        "distance",
        "solver",
        "floor_model",
        "floor",
        "model",
        "cos_clean",
        "cos_truth",
        "noise_shift",
        "snr_shift_db",
    )
    measures = {name: _mean(row[name]) for name in paired if name in row}
    for name in ("solver", "floor_model", "floor", "model"):
        if name in measures and measures[name].value is None:
            del measures[name]  # no sample had the fine rollout at this offset
    measures["std_ratio"] = _ratio(row["var_rolled"], row["var_clean"], torch.sqrt)
    if "norm_rolled" in row:
        measures["norm_ratio"] = _ratio(row["norm_rolled"], row["norm_clean"], torch.sqrt)
    for column, name in zip((-3, -2, -1), ("low_db", "mid_db", "high_db"), strict=True):
        measures[name] = _ratio(row["power_rolled"][:, column], row["power_clean"][:, column], decibels)
    return measures


def _point(level: Level, offset: int, steps: float, measures: dict[str, Measure]) -> Point:
    return Point(float(level.t[0]), float(level.alpha[0]), float(level.sigma[0]), offset, steps, measures)


def _curve(
    tables: Sequence[Table],
    path: NoisePath,
    *,
    label: str,
    weights: Weights,
    role: Role,
    pictures: int,
    network_rows: int,
    network_calls: int,
) -> Curve:
    """The tables of all shapes as one curve. The trajectory is that of the table that has one (`measure` gives it to
    one shape)."""
    numbers = [table.numbers for table in tables]
    short, fine = [], 0
    for key in tables[0].short:
        row = _joined([table.short[key][1] for table in tables], numbers)
        if "solver" in row:
            fine = max(fine, int((~row["solver"].isnan()).sum()))
        level = path.at(torch.tensor([tables[0].short[key][0]], dtype=torch.float64))
        short.append(_point(level, key[1], float(row["steps"].mean()), _measures(row)))
    losses = []
    for share, (t, _) in tables[0].loss.items():
        row = _joined([table.loss[share][1] for table in tables], numbers)
        losses.append(_point(path.at(torch.tensor([t], dtype=torch.float64)), 0, 0, {"loss": _mean(row["loss"])}))
    main = max(tables, key=lambda table: len(table.trajectory))
    walked = [_point(level, step, step, _measures(row)) for level, step, row in main.trajectory]
    spectrum = None
    if walked:
        db = [
            decibels(row["power_rolled"].mean(0) / row["power_clean"].mean(0))[:-3].tolist()
            for _, _, row in main.trajectory
        ]
        spectrum = Spectrum(
            tuple(point.sigma for point in walked),
            tuple(point.log_snr for point in walked),
            tuple(main.frequencies.tolist()),
            tuple(tuple(value if math.isfinite(value) else None for value in column) for column in db),
        )
    return Curve(
        label,
        weights,
        role,
        pictures,
        sum(map(len, numbers)),
        fine,
        len(main.trajectory[0][2]["distance"]) if walked else 0,
        tuple(short),
        tuple(walked),
        tuple(losses),
        spectrum,
        network_rows,
        network_calls,
    )


# A model on its probe pictures ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """The samples of one latent shape. `pictures`: which picture of the probe set each sample shows."""

    numbers: list[int]
    pictures: list[int]
    x0: Tensor
    noise: Tensor


def _groups(probe_set: ProbeSet, settings: Settings) -> list[_Group]:
    """The samples by shape, the largest group first. Sample n is picture n modulo the pictures, with noise number n of
    the seed."""
    pictures = min(len(probe_set.latents), settings.samples)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number in range(pictures * (settings.samples // pictures)):
        by_shape.setdefault(tuple(probe_set.latents[number % pictures].shape), []).append(number)
    groups = []
    for shape, numbers in sorted(by_shape.items(), key=lambda item: -len(item[1])):
        shown = [number % pictures for number in numbers]
        x0 = torch.stack([probe_set.latents[picture].detach().float() for picture in shown])
        noise = torch.cat([row_noise((1, *shape), settings.seed, 0, number) for number in numbers])
        groups.append(_Group(numbers, shown, x0, noise))
    return groups


def expected_rows(settings: Settings, samples: int, trajectory_steps: int) -> int:
    """An upper bound of the network rows of one curve, for a progress bar; offsets that are reduced near pure noise
    cost less."""
    evaluations = make_solver(settings.sampler, settings.order).calls_per_step
    levels, walked = len(settings.levels), sum(settings.offsets)
    rows = samples * (
        len({*settings.levels, *settings.loss_levels}) + levels * (evaluations * walked + len(settings.offsets))
    )
    fine = sum(settings.offsets if settings.fine_offsets is None else settings.fine_offsets)
    rows += min(samples, settings.fine_samples) * levels * evaluations * fine * settings.fine_factor
    rows += min(samples, settings.trajectory_samples) * (evaluations * (trajectory_steps - 1) + settings.shown + 1)
    return rows * (2 if settings.guidance > 1 else 1)


def measure(
    model: "Model",
    probe_sets: Sequence[ProbeSet],
    settings: Settings,
    *,
    base: Callable[[], AbstractContextManager] | None = None,
    weights: Weights = "tuned",
    step: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> DriftReport:
    """The drift of `model` with its current weights.

    Draws nothing from global random state, needs no gradient, restores the modes of the denoiser and the VAE.

    Args:
        probe_sets: held-out pictures, and training pictures as a second, cheaper curve
            (`Settings.for_training_pictures`).
        base: a context in which the model is its base (`model.adapters_disabled`); then everything is measured again
            inside it, with the same noise. None = no comparison.
        weights: what the current weights are called.
        step: the training step, for the record.
        progress: called as (rows done, rows in all, what) before every network call.
        should_stop: asked at the same places.
    Raises: Stopped; ValueError for a probe without pictures.
    Cost: `expected_rows` for every set and each of tuned and base, and 2 * `shown` + 1 decoded pictures a strip.
    """
    if not probe_sets:
        raise ValueError(
            "probe_sets is empty: a drift report needs at least one set of pictures; name drift_data_dir or "
            "hold pictures out."
        )
    began, done, curves, strips = time.monotonic(), 0, [], []
    kinds: list[tuple[Weights, Callable[[], AbstractContextManager]]] = [(weights, nullcontext)]
    if base is not None:
        kinds.append(("base", base))

    work, print_of_probe = [], hashlib.sha256()
    alone = not any(
        probe_set.role == "held-out" for probe_set in probe_sets
    )  # then the training pictures are all there is to show
    for probe_set in probe_sets:
        own = settings if probe_set.role == "held-out" or alone else settings.for_training_pictures()
        groups = _groups(probe_set, own)
        shapes = [tuple(group.x0.shape[1:]) for group in groups]
        walks = [Grid(model.inference_times(settings.grid_steps, shape)) for shape in shapes]
        grids = walks if settings.grid == "inference" else [Grid(model.training_times(shape)) for shape in shapes]
        work.append((probe_set, own, groups, grids, walks))
        for group, grid in zip(groups, grids, strict=True):
            print_of_probe.update(
                repr((model.source.name, model.prediction_type, own, probe_set.role, probe_set.captions)).encode()
            )
            print_of_probe.update(repr(group.numbers).encode())
            print_of_probe.update(group.x0.cpu().contiguous().numpy().tobytes() + grid.nodes.numpy().tobytes())
    total = len(kinds) * sum(
        expected_rows(own, sum(len(g.numbers) for g in groups), walks[0].steps) for _, own, groups, _, walks in work
    )

    for kind, context in kinds:

        def tick(rows: int, what: str = f"drift, {kind} model") -> None:
            nonlocal done
            if should_stop is not None and should_stop():
                raise Stopped("The drift measurement was stopped.")
            if progress is not None:
                progress(min(done, total), total, what)
            done += rows

        with context(), undisturbed(model.denoiser, model.vae):
            for probe_set, own, groups, grids, walks in work:
                tables, rows, calls = [], 0, 0
                rings = max(1, min(16, *(min(group.x0.shape[-2:]) // 2 for group in groups)))
                for number, (group, grid, walk) in enumerate(zip(groups, grids, walks, strict=True)):
                    walk = walk if own.walk is None else grid  # a short rollout is walked as training does
                    mine = own if number == 0 else dataclasses.replace(own, trajectory_samples=0, strips=0)
                    table, more_rows, more_calls = measure_samples(
                        _predictor(model, probe_set, group, settings),
                        group.x0.to(model.device),
                        group.noise.to(model.device),
                        path=model.noise_path,
                        prediction_type=model.prediction_type,
                        grid=grid,
                        trajectory_grid=walk,
                        settings=mine,
                        numbers=group.numbers,
                        rings=rings,
                        tick=tick,
                    )
                    tables.append(table)
                    rows, calls = rows + more_rows, calls + more_calls
                    strips += _strips(model, probe_set, group, table, kind, settings)
                curves.append(
                    _curve(
                        tables,
                        model.noise_path,
                        label=kind,
                        weights=kind,
                        role=probe_set.role,
                        pictures=len({p for g in groups for p in g.pictures}),
                        network_rows=rows,
                        network_calls=calls,
                    )
                )
    if progress is not None:
        progress(total, total, "drift")
    return DriftReport(
        model=model.source.name,
        prediction_type=model.prediction_type,
        path=model.noise_path.name,
        probe=print_of_probe.hexdigest()[:16],
        settings=_plain(settings),
        curves=tuple(curves),
        step=step,
        seconds=time.monotonic() - began,
        strips=tuple(strips),
    )


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON will give them back."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(settings).items()
    }


def _predictor(model: "Model", probe_set: ProbeSet, group: _Group, settings: Settings) -> Predict:
    """The model's predict for the samples of a group; each prompt is held once, however many noises it has."""
    pictures = sorted(set(group.pictures))
    place = torch.tensor([pictures.index(picture) for picture in group.pictures], device=model.device)
    predict = model.predict(model.collate([probe_set.conditioning[picture] for picture in pictures]), settings.guidance)
    return lambda x, level, rows: predict(x, level, place[rows.to(place.device)])


def _strips(
    model: "Model", probe_set: ProbeSet, group: _Group, table: Table, kind: Weights, settings: Settings
) -> list["drift_pictures.Strip"]:
    """The decoded pictures of the table's frames."""
    strips = []
    for place, frames in table.frames.items():
        latents = torch.stack([group.x0[place], *(x for frame in frames for x in frame[3:])])
        # one at a time where pictures are large: a VAE's decoder needs far more memory than the denoiser
        pixels = torch.cat([model.decode(part).cpu() for part in latents.split(max(1, 65_536 // latents[0].numel()))])
        pictures = (pixels.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        shown = [
            drift_pictures.Frame(step, t, sigma, pictures[1 + 2 * i], pictures[2 + 2 * i])
            for i, (step, t, sigma, *_) in enumerate(frames)
        ]
        strips.append(
            drift_pictures.Strip(
                kind, probe_set.captions[group.pictures[place]], pictures[0], tuple(shown), _plain(settings)
            )
        )
    return strips


# Files ---------------------------------------------------------------------------------------------------------------


def save(report: DriftReport, folder: Path | str, *, frames: bool = False) -> list[Path]:
    """Write report.json, curves.png and, where there is what they show, spectrum.png and filmstrip.png
    (filmstrip-base.png, and -2, -3 ... for further pictures) into `folder`; with `frames` also every picture of the
    strips by itself, for a scrubber.

    An older report there is replaced as a whole; a kill leaves the old one or the new one. Returns the files,
    report.json first.
    """
    folder = Path(folder)
    part = folder.with_name(f".{folder.name}.part")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (part, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    part.mkdir(parents=True)
    (part / REPORT_FILE).write_text(report_to_json(report), encoding="utf-8")
    names = [REPORT_FILE, *drift_pictures.draw(report, part, frames=frames)]
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    if old.exists():
        shutil.rmtree(old)
    return [folder / name for name in names]


BASE_FILE = "base.json"


def probe(
    model: "Model",
    probe_sets: Sequence[ProbeSet],
    config: "RunConfig",
    folder: Path | str,
    *,
    step: int,
    progress: Callable[[int, int, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Measure the current weights between two training steps and write `folder`/step-000123/.

    The base is measured once a run: at step 0, or when first needed, with the adapter off; its numbers stay in
        `folder`/base.json and
    serve every later report of the same probe. A full fine-tune's base is what was there at step 0; a report without it
    says so.

    Args:
        folder: the run's drift folder; step: the optimizer step of the weights. changes: of
            `Settings.between_steps(config)`.
    Returns: the fields of the `drift` event: step, path of report.json relative to the folder above `folder`, summary.
    Raises: Stopped, and then nothing was written.
    """
    folder = Path(folder)
    settings = Settings.between_steps(config, **changes)
    options = {"step": step, "progress": progress, "should_stop": should_stop}
    if step == 0:
        with model.adapters_disabled() if model.has_adapter else nullcontext():
            report = measure(model, probe_sets, settings, weights="base", **options)
        known = report
    else:
        known = _known_base(folder / BASE_FILE)
        report = measure(model, probe_sets, settings, **options)
        if known is not None and known.probe == report.probe:
            free = [
                dataclasses.replace(curve, network_rows=0, network_calls=0) for curve in known.curves
            ]  # measured in an earlier report
            report = report.with_curves(*free)
        elif model.has_adapter:
            with model.adapters_disabled():
                known = measure(model, probe_sets, settings, weights="base", **options)
            report = dataclasses.replace(
                report.with_curves(*known.curves),
                strips=report.strips + known.strips,
                seconds=report.seconds + known.seconds,
            )
    folder.mkdir(parents=True, exist_ok=True)
    if known is not None:
        _write(folder / BASE_FILE, report_to_json(dataclasses.replace(known, strips=())))
    files = save(report, folder / f"step-{step:06d}")
    return {"step": step, "path": files[0].relative_to(folder.parent).as_posix(), "summary": summary(report)}


def _known_base(path: Path) -> DriftReport | None:
    """The base's report of this run; None when there is none. One that cannot be read is measured again."""
    try:
        return read_report(path)
    except (FileNotFoundError, ReportError):
        return None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
