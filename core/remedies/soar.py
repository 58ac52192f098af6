"""SOAR: beside each plain row the model takes one step of its own, and trains to come back to the picture from where it landed.

For a row at sigma `s` with the pair (x0, noise), on rectified flow:

    xh  = x_s + (s1 - s) u(x_s),  s1 = s - step      one Euler step without gradient, under guidance, shared by the row's states
    s'  ~ U[s1, 1],  a = (s' - s1) / (1 - s1)
    x'  = (1 - a) xh + a noise                       noised again, towards the row's own noise
    target (x' - x0) / s'                            the velocity whose clean picture is the true one

A row's loss is (plain + weight * sum over its states) / (1 + weight * states). Its control is `soar_control = plain_states`: as many states
at the same `s'`, on the true path. That is also plain training with a batch larger by the states.

Differs from the paper: `s'` is drawn above `step`, because the target grows as 1 / s' (the authors do not clamp; their nodes end there).

Source: SOAR, arXiv 2604.12617, section 3 and its appendix on the velocity target.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..families.guidance import Guidance
from ..maths.noise import Level, consistent_target, per_row, placed, target_output
from ..randomness import generator
from .base import Batch, Calls, Counts, MoreRows, Network, Plain, State

if TYPE_CHECKING:
    from ..config import RunConfig


@dataclass(frozen=True)
class SoarPlan:
    """Where each row's step ends, and at which noise its states train."""

    t: Tensor  # (B,) as drawn
    target: Level  # (B,) where the plain row trains, and the step begins
    landed: Level  # (B,) where it ends
    sigma: Tensor  # (B, P) float64: the states' noise


class Soar(Plain):
    """All rows, class rows too. Cost: one forward a row without gradient, two under guidance, and P more rows with gradient in the call of
    the plain rows, so their memory too."""

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """Also by the control, which takes no step."""
        return config.soar.is_active

    def plan(self, t: Tensor, *, step: int, seed: int) -> SoarPlan:
        options, path = self.config.soar, self.ground.path
        here = path.at(t)
        landed = path.at((here.sigma - options.step).clamp(min=0))
        share = torch.stack([
            torch.rand(options.states, generator=generator(seed, step, "soar", row), dtype=torch.float64)
            for row in range(len(t))
        ])  # fmt: skip
        least = landed.sigma.clamp(min=options.step)[:, None]
        return SoarPlan(t.detach().cpu(), here, landed, least + share * (1 - least))

    def asks(self, plan: SoarPlan) -> bool:
        return self.config.soar.acts

    def state(self, batch: Batch, plan: SoarPlan, network: Network) -> State:
        state = super().state(batch, plan, network)
        of = torch.arange(len(plan.t)).repeat_interleave(plan.sigma.shape[1])
        level, rows = self.ground.path.at(plan.sigma.flatten()), placed(of, batch.x0)  # type: ignore[arg-type]
        x0, noise = batch.x0[rows], batch.noise[rows]
        if not self.config.soar.acts:
            x = self.ground.path.noised(x0, noise, level)
            target = target_output(x0, noise, level, self.ground.prediction_type)
        else:
            start = plan.landed.sigma[of]
            towards_noise = per_row((level.sigma - start) / (1 - start), x0)
            x = (1 - towards_noise) * self._step(state, plan, network)[rows] + towards_noise * noise
            target = consistent_target(x, x0, level, self.ground.prediction_type)
        more = MoreRows(x, level, target, of, self.config.soar.weight)  # type: ignore[arg-type]
        return State(state.x, state.level, plan, more=more)

    def _step(self, state: State, plan: SoarPlan, network: Network) -> Tensor:
        """Where the model's own Euler step leads, like the states."""
        everyone = placed(torch.arange(len(state.x)), state.x)  # type: ignore[arg-type]
        with network.undisturbed():
            answer = network.predict(self.config.soar.guidance)(state.x, state.level.to(state.x), everyone)
        return state.x + per_row(plan.landed.sigma - plan.target.sigma, state.x) * answer.velocity

    def counts(self, plan: SoarPlan) -> Counts:
        rows = len(plan.t)
        return Counts(rolled=rows) if self.config.soar.acts else Counts(source_noise_rows=rows)

    def calls(self, plan: SoarPlan, guidance: Guidance) -> Calls:
        return Calls(1, guidance.calls(self.config.soar.guidance) if self.config.soar.acts else 0)
