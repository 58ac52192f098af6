"""Scheduled sampling: a row trains at a state that the model itself sampled; on flow models ReflexFlow corrects the direction.

The mathematics is in `maths/rollout.py` and `maths/reflexflow.py`; this puts it into the steps of a remedy. Its control is
`scheduled_sampling_control = source_noise` (`at_source`), its cost `before.cost.rollout_cost`, its blur `before.cost.blur_factor`.

Sources: Bengio et al., arXiv 1506.03099; Deng et al., 2210.05147; ReflexFlow, 2512.04904.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..maths import reflexflow
from ..maths.noise import Level, PredictionType, per_row
from ..maths.reflexflow import Reflex
from ..maths.rollout import Plan, make_plan, roll_out, training_target
from ..maths.row_loss import Terms
from .base import Batch, Counts, Ground, Network, Plain, State

if TYPE_CHECKING:
    from ..config import RunConfig


class ScheduledSampling(Plain):
    """Rolled rows train at the end of their rollout; in ReflexFlow's `paper` mode at their source, where the answer also makes one step
    to the target, and a second pass with gradient there gives the anti-drift term. A batch in which no row rolls is a plain batch.

    Cost: the rollout's rows; under ReflexFlow one more forward of the rolled rows without gradient, and in `paper` mode one with it in
    place of a rollout.
    """

    def __init__(self, config: "RunConfig", ground: Ground) -> None:
        super().__init__(config, ground)
        self.options = config.rollout
        self.reflexflow = reflexflow.is_on(self.options, ground.path)
        self.two_pass = reflexflow.is_two_pass(self.options, ground.path)

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """True also in a control of such a run, which rolls out no row."""
        return config.rollout.is_active

    def plan(self, t: Tensor, *, step: int, seed: int) -> Plan:
        return make_plan(self.options, t, self.ground.path, self.ground.grid, step=step, seed=seed)

    def state(self, batch: Batch, plan: Plan, network: Network) -> State:
        path = self.ground.path
        if self.two_pass:  # a plain row's source is its target
            return State(path.noised(batch.x0, batch.noise, plan.source), plan.source, plan)
        if not len(plan.rows):
            return super().state(batch, plan, network)
        predict = network.predict(self.options.guidance)
        with network.undisturbed():
            rolled = roll_out(self.options, predict, batch.x0, batch.noise, plan, self.ground.grid, path)
        return State(rolled.x, plan.target, plan)

    def target(self, batch: Batch, state: State) -> Tensor:
        if self.two_pass:
            return super().target(batch, state)
        return training_target(self.options, state.x, batch.x0, batch.noise, state.plan, self.ground.prediction_type)

    def terms(self, batch: Batch, state: State, output: Tensor, network: Network) -> Terms:
        terms = Terms()
        if self.reflexflow and len(state.plan.rows):
            terms = self._reflex(batch, state, output, network).terms(len(output), batch.mask)
        return replace(terms, at_most=self._bound(state))

    def _reflex(self, batch: Batch, state: State, output: Tensor, network: Network) -> Reflex:
        """The predictions at the rolled and at the clean state of the target's level, for the rolled rows only."""
        plan, options = state.plan, self.options
        rows, here = plan.rows.to(batch.x0.device), plan.target[plan.rows]
        x0, noise, xr, u_rolled = batch.x0[rows], batch.noise[rows], state.x[rows], output[rows]
        if self.two_pass:
            xr = one_euler_step(
                xr, u_rolled, plan.source[plan.rows], here, with_gradient=options.reflexflow_step_gradient
            )
            u_rolled = network.denoise(xr, here, rows)
        u_clean = u_rolled
        if options.reflexflow_alpha != 0:  # without a frequency weight the clean prediction is not needed
            with network.undisturbed():
                u_clean = network.denoise(self.ground.path.noised(x0, noise, here), here, rows)
        return Reflex.of(options, rows, u_rolled=u_rolled, u_clean=u_clean, xr=xr, x0=x0)

    def _bound(self, state: State) -> Tensor | None:
        """(B,) what `scheduled_sampling_snr_gamma` allows the weight of a rolled row; inf for a plain one. None: nothing is bounded."""
        kind, rolled = self.ground.prediction_type, state.plan.rolled
        if not self.options.bounds_loss(kind) or not bool(rolled.any()):
            return None
        bound = rolled_bound(state.level, self.options.snr_gamma, kind)
        return torch.where(rolled, bound, torch.inf)

    def counts(self, plan: Plan) -> Counts:
        return Counts(int(plan.rolled.sum()), int(plan.k.sum()), int(plan.at_source_noise.sum()), plan.probability)


def one_euler_step(x: Tensor, u: Tensor, here: Level, there: Level, *, with_gradient: bool) -> Tensor:
    """`x + (sigma' - sigma) * u` of a flow, like x: the step from `here` to `there` (both (R,)) on a velocity that is at hand.

    with_gradient: let what is made of the result also move `u`; the paper leaves it open.
    """
    step = per_row(there.sigma - here.sigma, x)
    return x + step * (u if with_gradient else u.detach()).to(x.dtype)


def rolled_bound(level: Level, gamma: float, prediction_type: PredictionType) -> Tensor:
    """(B,) the weight, at most 1, with which an error of the clean image counts no more than it does at SNR `gamma`.

    In the plain loss an error of the clean image counts SNR times (epsilon) or SNR + 1 times (v: `1 / sigma^2`). At an SNR up to
    `gamma` the weight is 1. `cost.rolled_bound` is the same in plain numbers. Differs from `min_snr_weight` for v, which also takes
    from noisy rows.
    """
    snr = (level.alpha / level.sigma).square()
    match prediction_type:
        case "epsilon":
            return (gamma / snr).clamp(max=1)
        case "v_prediction":
            return ((gamma + 1) / (snr + 1)).clamp(max=1)
    raise ValueError(
        f"prediction_type = {prediction_type!r}: rolled rows are bounded for epsilon and v_prediction only."
    )
