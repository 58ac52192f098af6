"""What one optimizer step draws: noise, times and the remedy's plans, by the number of each row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import LongTensor, Tensor

from ..config import RunConfig
from ..families.base import Model
from ..maths.grid import Grid
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
    numbers: Sequence[LongTensor],
    rows: int,
    step: int,
    grid_of: Callable[[tuple[int, ...]], Grid],
) -> list[Draw]:
    """Noise, times and the remedy's plans of one optimizer step, for the rows of this process.

    Times and plans are drawn for the whole global batch, and a row's draws depend on its number in it alone: four micro-steps
    of one row get what one micro-step of four rows gets, and two ranks get between them what one process gets.

    Args:
        shapes: (C, h, w) of each micro-step.
        numbers: (B,) of each micro-step, its rows' places in the global batch (`data.Batch.numbers`).
        rows: of the global batch (`data.Prepared.rows_per_step`).
        step: counted from 0; grid_of: the rollout's grid for latents of a shape.
    """
    seed, flow = config.training.seed, model.is_flow
    plans: dict[tuple[int, ...], tuple[Plan, Remedy]] = {}
    draws = []
    for shape, mine in zip(map(tuple, shapes), numbers, strict=True):
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
