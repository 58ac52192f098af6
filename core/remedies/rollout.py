"""Scheduled sampling: a row trains at a state that the model itself sampled; on flow models ReflexFlow corrects the direction.

The mathematics is in `maths/rollout.py` and `maths/reflexflow.py`; this puts it into the steps of a remedy. Its control is
`scheduled_sampling_control = source_noise` (`at_source`), its cost `before.cost.rollout_cost`, its blur `before.cost.blur_factor`.

Sources: Bengio et al., arXiv 1506.03099; Deng et al., 2210.05147; ReflexFlow, 2512.04904.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import LongTensor, Tensor

from ..families.guidance import Guidance
from ..maths import reflexflow
from ..maths.noise import Level, Prediction, PredictionType, per_row, placed, prediction_from_output
from ..maths.reflexflow import Reflex
from ..maths.rollout import Plan, make_plan, roll_out, training_target
from ..maths.row_loss import Terms
from ..maths.solvers import SOLVERS, most_steps
from .base import Batch, Calls, Counts, Ground, Network, Plain, State

if TYPE_CHECKING:
    from ..config import RunConfig


class ScheduledSampling(Plain):
    """Rolled rows train at the end of their rollout; in ReflexFlow's `paper` mode at their source, where the answer also makes one step
    to the target, and a second pass with gradient there gives the anti-drift term. A batch in which no row rolls is a plain batch.

    Cost: the rollout's rows; under ReflexFlow the rolled rows once more without gradient, in the same call as the first step of the
    rollout (one of its own with guidance, and in `paper` mode), and in `paper` mode once with gradient in place of a rollout.
    """

    def __init__(self, config: "RunConfig", ground: Ground) -> None:
        super().__init__(config, ground)
        self.options = config.rollout
        self.reflexflow = reflexflow.is_on(self.options, ground.path)
        self.two_pass = reflexflow.is_two_pass(self.options, ground.path)
        self.asks_clean = self.reflexflow and self.options.reflexflow_alpha != 0
        """Without a frequency weight the clean prediction is not needed."""
        self.joins_clean = self.asks_clean and not self.two_pass and self.options.guidance == 1
        """Is it asked together with the first step of the rollout? Not under guidance, of which it has none."""

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """True also in a control of such a run, which rolls out no row."""
        return config.rollout.is_active

    def plan(self, t: Tensor, *, step: int, seed: int) -> Plan:
        batch_size = self.config.training.train_batch_size
        return make_plan(
            self.options, t, self.ground.path, self.ground.grid, step=step, seed=seed, batch_size=batch_size
        )

    def asks(self, plan: Plan) -> bool:
        return not self.two_pass and bool(len(plan.rows))

    def state(self, batch: Batch, plan: Plan, network: Network) -> State:
        path = self.ground.path
        if self.two_pass:  # a plain row's source is its target
            return State(path.noised(batch.x0, batch.noise, plan.source), plan.source, plan)
        if not len(plan.rows):
            return super().state(batch, plan, network)
        joined = self._beside_the_clean(batch, plan, network) if self.joins_clean else None
        predict = network.predict(self.options.guidance) if joined is None else joined
        with network.undisturbed():
            rolled = roll_out(self.options, predict, batch.x0, batch.noise, plan, self.ground.grid, path)
        return State(rolled.x, plan.target, plan, None if joined is None else joined.of_all(len(batch.x0)))

    def _beside_the_clean(self, batch: Batch, plan: Plan, network: Network) -> "Beside":
        rows = placed(plan.rows, batch.x0)
        level = plan.target[plan.rows].to(batch.x0)
        x = self.ground.path.noised(batch.x0[rows], batch.noise[rows], level)
        return Beside(network, self.ground.prediction_type, x, level, rows)

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
        rows, here = placed(plan.rows, batch.x0), plan.target[plan.rows]
        x0, noise, xr, u_rolled = batch.x0[rows], batch.noise[rows], state.x[rows], output[rows]
        if self.two_pass:
            xr = one_euler_step(
                xr, u_rolled, plan.source[plan.rows], here, with_gradient=options.reflexflow_step_gradient
            )
            u_rolled = network.denoise(xr, here, rows)
        u_clean = u_rolled if state.clean is None else state.clean[rows]
        if self.asks_clean and state.clean is None:
            with network.undisturbed():
                u_clean = network.denoise(self.ground.path.noised(x0, noise, here), here, rows)
        return Reflex.of(options, rows, u_rolled=u_rolled, u_clean=u_clean, xr=xr, x0=x0)

    def _bound(self, state: State) -> Tensor | None:
        """(B,) what `scheduled_sampling_snr_gamma` allows the weight of a rolled row; inf for a plain one. None: nothing is bounded."""
        kind, rolled = self.ground.prediction_type, state.plan.rolled
        if not self.options.bounds_loss(kind) or not len(state.plan.rows):
            return None
        bound = rolled_bound(state.level, self.options.snr_gamma, kind)
        return torch.where(rolled, bound, torch.inf)

    def counts(self, plan: Plan) -> Counts:
        k = plan.k.numpy()
        return Counts(int((k > 0).sum()), int(k.sum()), int(plan.at_source_noise.sum()), plan.probability)

    def calls(self, plan: Plan, guidance: Guidance) -> Calls:
        if not len(plan.rows):
            return Calls(1, 0)
        if self.two_pass:
            return Calls(2, int(self.asks_clean))
        options, steps = self.options, int(plan.k.max())
        most = most_steps(options.sampler, options.max_evaluations)
        evaluations = SOLVERS[options.sampler].calls_per_step * (steps if most is None else min(steps, most))
        alone = self.asks_clean and not self.joins_clean
        return Calls(1, evaluations * guidance.calls(options.guidance) + int(alone))


class Beside:
    """The network as a rollout asks it, without guidance; its first call also answers at states of its own: `x` (R, ...) at `level` (R,), of
    the batch's `rows` (R,), all on the device. `answer`: the raw output there, None before that call.

    The answers are those of two calls up to the rounding of a larger batch.
    """

    def __init__(self, network: Network, kind: PredictionType, x: Tensor, level: Level, rows: LongTensor) -> None:
        self.network, self.kind, self.x, self.level, self.rows = network, kind, x, level, rows
        self.answer: Tensor | None = None

    def of_all(self, count: int) -> Tensor | None:
        """(count, ...) the answers in the places of their rows, 0 in the others."""
        if self.answer is None:
            return None
        return self.answer.new_zeros(count, *self.answer.shape[1:]).index_copy_(0, self.rows, self.answer)

    def __call__(self, x: Tensor, level: Level, rows: LongTensor) -> Prediction:
        if self.answer is None:
            places: LongTensor = torch.cat([rows, self.rows])  # type: ignore[assignment]
            both = self.network.denoise(torch.cat([x, self.x]), Level.joined((level, self.level)), places)
            output, self.answer = both[: len(x)], both[len(x) :]
        else:
            output = self.network.denoise(x, level, rows)
        return prediction_from_output(output, x, level, self.kind)


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
