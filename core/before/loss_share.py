"""How the loss of rolled rows is distributed over noise levels: closed form, for the page, the remarks and `tools/loss_share.py`. No torch.

On a variance-preserving path the target `consistent` grows as 1 / sigma, so the few cleanest rolled rows would carry most of the loss;
`scheduled_sampling_snr_gamma` bounds that. Computed for Gaussian data and a model that is perfect on plain rows (`cost.rolled_loss`).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from ..config.rules import highest_chance
from ..maths.grid import sources
from .cost import offset_distribution, rolled_bound, rolled_loss
from .run_schedule import RunSchedule, schedule_of

if TYPE_CHECKING:
    from ..config import RolloutConfig, RunConfig, TrainingConfig

CLEANEST = 0.035
"""The share of rows, from the cleanest on, by which a loss is judged: 35 of the 1000 timesteps of Stable Diffusion."""
EDGES = (CLEANEST, 0.1, 0.25, 0.5, 1.0)
"""Where the bands of noise end, as shares of the rows."""
_LEVELS = 200
_OFFSETS = 12


@dataclass(frozen=True)
class Band:
    """The rows between two noise levels.

    `sigma`: the noise of the noisiest of them; `rows`: their share of the rows; `unbounded`, `bounded`: the share of the loss of all rolled
    rows that the rolled ones among them carry, without and with `snr_gamma`; `weight`: the mean weight that it leaves them.
    """

    sigma: float
    rows: float
    unbounded: float
    bounded: float
    weight: float


@dataclass(frozen=True)
class _AtLevel:
    """The rows of one noise level: the share of chosen ones that are rolled out, their part of the loss (without a bound), the loss of a plain
    row, and the weight that a rolled one is left."""

    sigma: float
    rolled: float
    loss: float
    plain: float
    weight: float


def bands(config: "RunConfig", spread: float = 1.0) -> tuple[Band, ...] | None:
    """The rolled rows' loss in bands of noise, cleanest first; None where nothing is rolled out, or `snr_gamma` has nothing to bound there.

    Args:
        spread: standard deviation of the data; 1 is about that of Stable Diffusion's latents.
    """
    rollout, schedule = config.rollout, schedule_of(config)
    if (
        schedule.path.is_flow
        or not rollout.rolls_out
        or rollout.target != "consistent"
        or predicted(config) == "sample"
    ):
        return None
    levels = _levels(rollout, config.training, schedule, predicted(config), spread)
    if not sum(each.loss for each in levels):
        return None  # no row has as much noise as a rollout needs
    free, held = _shares([each.loss for each in levels]), _shares([each.weight * each.loss for each in levels])
    found = []
    for (begin, end), unbounded, bounded in zip(_pieces(), free, held, strict=True):
        here = levels[begin:end]
        rolled = sum(each.rolled for each in here)
        weight = sum(each.rolled * each.weight for each in here) / rolled if rolled else 1.0
        found.append(Band(here[-1].sigma, (end - begin) / _LEVELS, unbounded, bounded, weight))
    return tuple(found)


def whole_step(config: "RunConfig", spread: float = 1.0, chance: float | None = None) -> dict[str, tuple[float, ...]]:
    """The shares of the bands in the loss of *all* rows, plain ones among them: unbounded, bounded, and in plain training.

    Args:
        chance: of a row to be chosen; None = the highest of the run. Only where `bands` is not None.
    """
    chance = highest_chance(config) if chance is None else chance
    levels = _levels(config.rollout, config.training, schedule_of(config), predicted(config), spread)
    plain = [(1 - chance * each.rolled) * each.plain for each in levels]
    return {
        "unbounded": _shares([p + chance * each.loss for p, each in zip(plain, levels, strict=True)]),
        "bounded": _shares([p + chance * each.weight * each.loss for p, each in zip(plain, levels, strict=True)]),
        "plain training": _shares([each.plain for each in levels]),
    }


def _pieces() -> list[tuple[int, int]]:
    ends = [round(edge * _LEVELS) for edge in EDGES]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _shares(losses: list[float]) -> tuple[float, ...]:
    return tuple(sum(losses[begin:end]) / sum(losses) for begin, end in _pieces())


def predicted(config: "RunConfig") -> str:
    """What a variance-preserving model predicts, epsilon where only the checkpoint states it."""
    known = config.model.known_prediction_type()
    return "epsilon" if known is None else known


def training_time(training: "TrainingConfig", share: float, table: int) -> float:
    """The time below which `share` of the rows train, on a variance-preserving path of `table` timesteps (`timesteps.sample_times`)."""
    if training.timestep_sampling == "logit_normal":
        logit = NormalDist(training.logit_mean, training.logit_std).inv_cdf(share)
        return (table - 1) / (1 + math.exp(-logit))
    if training.timestep_sampling == "mode":
        u = 1 - share  # the map falls
        return (table - 1) * (1 - u - training.mode_scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u))
    return float(min(math.floor(share * table), table - 1))


def representative_offsets(rollout: "RolloutConfig") -> list[tuple[int, float]]:
    """(offset above 0, its chance among chosen rows): each of them, or where there are many, about a dozen that stand for them."""
    chances = offset_distribution(rollout.strategy, rollout.max_step_offset)
    if rollout.max_step_offset <= _OFFSETS:
        return [(k, chance) for k, chance in enumerate(chances) if k > 0]
    rolled, found, passed, wanted = 1 - chances[0], [], 0.0, 0.5
    for k, chance in enumerate(chances[1:], start=1):
        passed += chance
        while passed >= wanted * rolled / _OFFSETS and len(found) < _OFFSETS:
            found.append((k, rolled / _OFFSETS))
            wanted += 1
    return found


@lru_cache(maxsize=32)
def _levels(
    rollout: "RolloutConfig", training: "TrainingConfig", schedule: RunSchedule, kind: str, spread: float
) -> list[_AtLevel]:
    """Evenly by rows, cleanest first."""
    path, grid, table = schedule.path, schedule.grid, round(schedule.path.t_max) + 1
    times = [training_time(training, (i + 0.5) / _LEVELS, table) for i in range(_LEVELS)]
    target = path.at(np.minimum(times, grid.nodes[0])[:, None])
    offsets, chances = np.array(representative_offsets(rollout)).T
    actual, source = sources(target.t, offsets.astype(int), path, grid)
    chances = np.where((actual > 0) & (target.sigma >= rollout.min_sigma), chances, 0.0)
    bounded = rollout.bounds_loss(kind)
    columns = (
        target.sigma[:, 0],
        chances.sum(1),
        (chances * rolled_loss(source, target, kind, spread)).sum(1),
        rolled_loss(target, target, kind, spread)[:, 0],
        rolled_bound(target, rollout.snr_gamma, kind)[:, 0] if bounded else np.ones(_LEVELS),
    )
    return [_AtLevel(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
