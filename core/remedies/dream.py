"""DREAM: the model's own error of the noise goes into the input and into the target, so that it learns to correct it.

    d = noise - eps(x_t)  without gradient,   lambda = sigma^p
    input x_t + sigma lambda d,   target noise + lambda d,   time t

The pair is consistent: the input is the state of x0 and the target. It has no control of its own beside plain training at equal steps and
at equal time, because the noise levels are the drawn ones.

Source: Zhou et al., "DREAM: Diffusion Rectification and Estimation-Adaptive Models", arXiv 2312.00210, algorithm 2; diffusers'
`--dream_training`.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..families.guidance import Guidance
from ..maths.noise import per_row, state_dtype
from .base import Batch, Calls, Counts, Network, Plain, PlainPlan, State

if TYPE_CHECKING:
    from ..config import RunConfig


class Dream(Plain):
    """All rows, class rows too, of models that predict the noise. Cost: one forward a row without gradient."""

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        return config.dream.is_active

    def asks(self, plan: PlainPlan) -> bool:
        return True

    def state(self, batch: Batch, plan: PlainPlan, network: Network) -> State:
        state = super().state(batch, plan, network)
        with network.undisturbed():
            answer = network.denoise(state.x, state.level).to(state_dtype(state.x))
        state = replace(state, clean=answer)
        return replace(state, x=state.x + per_row(state.level.sigma, state.x) * self._added(batch, state))

    def target(self, batch: Batch, state: State) -> Tensor:
        return super().target(batch, state) + self._added(batch, state)

    def _added(self, batch: Batch, state: State) -> Tensor:
        """`lambda d`, like x0."""
        share = per_row(state.level.sigma**self.config.dream.detail_preservation, state.x)
        return share * (batch.noise.to(state.x) - state.clean)

    def counts(self, plan: PlainPlan) -> Counts:
        return Counts(rolled=len(plan.t))

    def calls(self, plan: PlainPlan, guidance: Guidance) -> Calls:
        return Calls(1, 1)
