"""MixFlow: a row's input is noisier than the time that the network is told, as the states of its own sampling are.

    told  s  = 1 - sqrt(U)                          or as the training sampler drew it (`mixflow_times`)
    input x at s_in = s + V gamma (1 - s),  V ~ U[0, 1]     the exact interpolant there
    target noise - x0                               unchanged

Its control is `mixflow_control = input_noise`: the same inputs, and the network is told s_in. It costs nothing.

Source: MixFlow, arXiv 2512.19311 ("slowed interpolation"; gamma 0.8, density of the times 2 (1 - s)).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..maths.noise import Level
from ..randomness import generator
from .base import Batch, Counts, Network, Plain, State

if TYPE_CHECKING:
    from ..config import RunConfig


@dataclass(frozen=True)
class SlowedPlan:
    """What the network is told of each row, and where its input really lies."""

    t: Tensor  # (B,) as drawn
    target: Level  # (B,) told
    input: Level  # (B,) at least as noisy


class MixFlow(Plain):
    """All rows, class rows too. Cost: none."""

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """Also by the control."""
        return config.mixflow.is_active

    def plan(self, t: Tensor, *, step: int, seed: int) -> SlowedPlan:
        options, path = self.config.mixflow, self.ground.path
        drawn = torch.stack([
            torch.rand(2, generator=generator(seed, step, "mixflow", row), dtype=torch.float64) for row in range(len(t))
        ])  # fmt: skip
        told = path.at(1 - drawn[:, 0].sqrt() if options.times == "paper" else t)
        return SlowedPlan(t.detach().cpu(), told, path.at(told.sigma + drawn[:, 1] * options.gamma * (1 - told.sigma)))

    def state(self, batch: Batch, plan: SlowedPlan, network: Network) -> State:
        told = plan.target if self.config.mixflow.acts else plan.input
        return State(self.ground.path.noised(batch.x0, batch.noise, plan.input), told, plan)

    def counts(self, plan: SlowedPlan) -> Counts:
        return Counts(source_noise_rows=0 if self.config.mixflow.acts else len(plan.t))
