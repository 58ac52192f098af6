"""Input perturbation: every row's input carries a little more noise than its target knows of, as the model's own states do in sampling.

    x_t = alpha x0 + sigma (noise + gamma xi),   xi ~ N(0, I),   target: that of the *unperturbed* noise,   the network's level: t

On the variance-preserving path this is the paper's algorithm 2 (`sqrt(abar)`, `sqrt(1 - abar)`, epsilon; v and sample in the same
reading). For flow models the paper has no formula; the path-consistent reading is taken: `alpha = 1 - sigma`, target `noise - x0`.
Perturbing the target too is another method and not this one.

Its control is `input_perturbation_control = input_noise`, its cost nothing, its slope on Gaussian data `before.cost.perturbed_slope`.

Source: Ning et al., "Input Perturbation Reduces Exposure Bias in Diffusion Models", arXiv 2301.11706, section 4; kohya's
`ip_noise_gamma` and diffusers' `--input_perturbation` are the same.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import LongTensor, Tensor

from ..maths.noise import Level
from ..randomness import row_noise
from .base import Batch, Counts, Network, Plain, State

if TYPE_CHECKING:
    from ..config import RunConfig


@dataclass(frozen=True)
class PerturbedPlan:
    """Which noise each row gets on top: not the noise itself but its address, so that only rows that train draw it."""

    t: Tensor  # (B,) as drawn
    target: Level  # (B,) where the row trains; in the control noisier than drawn
    row: LongTensor  # (B,) the row's number in the optimizer step
    step: int
    seed: int


class InputPerturbation(Plain):
    """All rows, class rows too. Cost: none beyond the draw of `xi`, B rows of N(0, I) on the CPU."""

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """Also by the control, which perturbs nothing."""
        return config.input_perturbation.is_active

    def plan(self, t: Tensor, *, step: int, seed: int) -> PerturbedPlan:
        options, path, level = self.config.input_perturbation, self.ground.path, self.ground.path.at(t)
        if options.control == "input_noise":
            level = path.at_ratio(math.sqrt(1 + options.gamma**2) * level.sigma / level.alpha)
        return PerturbedPlan(t.detach().cpu(), level, torch.arange(len(t)), step, seed)

    def state(self, batch: Batch, plan: PerturbedPlan, network: Network) -> State:
        options = self.config.input_perturbation
        if not options.acts:
            return super().state(batch, plan, network)
        xi = [
            row_noise((1, *batch.x0.shape[1:]), plan.seed, plan.step, int(row), stream="perturbation")
            for row in plan.row
        ]
        noise = batch.noise + options.gamma * torch.cat(xi).to(batch.noise)
        return super().state(replace(batch, noise=noise), plan, network)

    def counts(self, plan: PerturbedPlan) -> Counts:
        rows = 0 if self.config.input_perturbation.acts else len(plan.t)
        return Counts(source_noise_rows=rows)
