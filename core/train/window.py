"""What one optimizer step draws: noise, times and the remedy's plans, by the number of each row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

from ..config import RunConfig
from ..families.base import Model
from ..maths.rollout import Grid
from ..maths.timesteps import sample_times
from ..randomness import generator, row_noise
from ..remedies import remedy_for
from ..remedies.base import Ground, Plan, Remedy, rows_of


@dataclass(frozen=True)
class Draw:
    """A micro-step's share of its window: noise (B, C, h, w) float32 on the CPU, the remedy for latents of its shape, and the remedy's
    plan of its B rows.
    """

    noise: Tensor
    plan: Plan
    remedy: Remedy


def draw_window(
    model: Model,
    config: RunConfig,
    shapes: Sequence[Sequence[int]],
    is_class: Sequence[Tensor],
    step: int,
    grid_of: Callable[[tuple[int, ...]], Grid],
) -> list[Draw]:
    """Noise, times and the remedy's plans of one optimizer step, for every row of every micro-step at once.

    Rows are numbered over the whole window, instance rows first, and a row's draws depend on its number alone: four
    micro-steps of one row get what one micro-step of four rows gets.

    Args:
        shapes: (C, h, w) of each micro-step; is_class: (B,) bool of each micro-step, the rows of prior preservation.
    """
    seed, flow = config.training.seed, model.is_flow
    places = _row_numbers(is_class)
    rows = sum(len(part) for part in is_class)
    plans: dict[tuple[int, ...], tuple[Plan, Remedy]] = {}
    draws = []
    for shape, mine in zip(map(tuple, shapes), places, strict=True):
        if shape not in plans:  # shift and grid may depend on the shape, what is drawn does not
            t = sample_times(
                config.training,
                rows,
                generator(seed, step, "t"),
                is_flow=flow,
                shift=model.training_shift(shape),
                training_times=round(model.noise_path.t_max) + 1,
            )
            remedy = remedy_for(config, Ground(model.noise_path, model.prediction_type, grid_of(shape)))
            plans[shape] = remedy.plan(t, step=step, seed=seed), remedy
        plan, remedy = plans[shape]
        noise = torch.cat([row_noise((1, *shape), seed, step, first_row=int(number)) for number in mine])
        draws.append(Draw(noise, rows_of(plan, mine), remedy))
    return draws


def _row_numbers(is_class: Sequence[Tensor]) -> list[LongTensor]:
    """The number of each row in the window: instance rows of all micro-steps first, then class rows."""
    instance, of_class = 0, sum(int((~part).sum()) for part in is_class)
    numbers = []
    for part in is_class:
        mine = torch.where(part, of_class + part.cumsum(0) - 1, instance + (~part).cumsum(0) - 1)
        instance, of_class = instance + int((~part).sum()), of_class + int(part.sum())
        numbers.append(mine)
    return numbers
