"""The loss of one batch, from clean latents to one number per row: rollout, forward, ReflexFlow, weights.

Nothing here draws a random number or touches a weight: who rolls, from where, at which time and with which noise is
decided before (`trainer.Window`), and the trainer reduces and steps afterwards.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..maths import reflexflow
from ..maths.noise import Level, PredictionType, per_row, target_output
from ..maths.reflexflow import LossParts, Reflex, row_losses, squared_error
from ..maths.rollout import Grid, Plan, roll_out, training_target, undisturbed

if TYPE_CHECKING:
    from ..config import RunConfig, TrainingConfig
    from ..families.base import Conditioning, Model


@dataclass(frozen=True)
class BatchLoss:
    """Per-row losses with gradient, and what they cost: rows and calls of every network evaluation, guidance counted
    twice.
    """

    parts: LossParts
    network_rows: int
    network_calls: int


def batch_loss(
    model: "Model",
    config: "RunConfig",
    x0: Tensor,
    noise: Tensor,
    cond: "Conditioning",
    plan: Plan,
    grid: Grid,
    *,
    is_class: Tensor | None = None,
) -> BatchLoss:
    """The loss of every row of a batch at the state to which the plan leads it.

    A batch in which no row rolls takes exactly the plain trainer's path: one forward at `x_t`, no further call, no
    ReflexFlow. In ReflexFlow's `paper` mode the forward that trains is made at each row's *source*; its answer there also makes the
    one step to the target, where a second pass with gradient gives the anti-drift term.

    Args:
        x0, noise: (B, C, h, w) scaled latents and N(0, I), float32, on the model's device.
        cond: a collated batch of B rows; is_class: (B,) bool, the rows of prior preservation.
        plan, grid: of the same batch.
    Cost: B rows with gradient; the rollout's rows; under ReflexFlow one more forward of the rolled rows without gradient, and in
        `paper` mode one with it in place of a rollout.
    """
    rollout, path = config.rollout, model.noise_path
    rows = plan.rows.to(x0.device)
    reflex_on = len(rows) > 0 and reflexflow.is_on(rollout, path)
    one_pass = not (reflex_on and reflexflow.is_two_pass(rollout, path))

    # The rollout, and the forward that trains: where the rows arrived, or (paper) where they start. Without a rolled row the state
    # is the plain x_t and the network is called once.
    network_rows = network_calls = 0
    if one_pass and len(rows):
        predict = model.predict(cond, guidance=rollout.guidance)
        rolled = roll_out(rollout, predict, x0, noise, plan, grid, path, modules=[model.denoiser])
        evaluations = 2 if rollout.guidance > 1 else 1
        network_rows, network_calls = evaluations * rolled.rows_evaluated, evaluations * rolled.calls
        x, level = rolled.x, plan.target
    else:
        level = plan.target if one_pass else plan.source
        x = path.noised(x0, noise, level)
    output = model.denoise(x, level.to(x0).t, cond)
    network_rows, network_calls = network_rows + len(x0), network_calls + 1
    if one_pass:
        target = training_target(rollout, x, x0, noise, plan, model.prediction_type)
    else:
        target = target_output(x0, noise, level, model.prediction_type)

    # ReflexFlow: the predictions at the rolled and at the clean state of the target's level, for the rolled rows only.
    reflex = None
    if reflex_on:
        chosen, here = {key: value[rows] for key, value in cond.items()}, plan.target[plan.rows]
        t = here.to(x0).t
        if one_pass:
            xr, u_rolled = x[rows], output[rows]  # outside the block below: it carries the anti-drift term's gradient
        else:
            xr = one_euler_step(x[rows], output[rows], plan.source[plan.rows], here, with_gradient=rollout.reflexflow_step_gradient)
            u_rolled = model.denoise(xr, t, chosen)
            network_rows, network_calls = network_rows + len(rows), network_calls + 1
        if rollout.reflexflow_alpha == 0:  # no frequency weight: nobody needs the clean prediction
            u_clean = u_rolled
        else:
            with undisturbed(model.denoiser):
                u_clean = model.denoise(path.noised(x0[rows], noise[rows], here), t, chosen)
            network_rows, network_calls = network_rows + len(rows), network_calls + 1
        reflex = Reflex.of(rollout, rows, u_rolled=u_rolled, u_clean=u_clean, xr=xr, x0=x0[rows])

    parts = row_losses(
        output,
        target,
        elementwise=elementwise_loss(config.training),
        timestep_weight=row_weight(config, plan, level, model.prediction_type),
        prior_weight=prior_weights(config.data.prior_loss_weight, is_class),
        reflex=reflex,
    )
    return BatchLoss(parts, network_rows, network_calls)


def one_euler_step(x: Tensor, u: Tensor, here: Level, there: Level, *, with_gradient: bool) -> Tensor:
    """`x + (sigma' - sigma) * u` of a flow, like x: the step from `here` to `there` (both (R,)) on a velocity that is at hand.

    with_gradient: let what is made of the result also move `u`; the paper leaves it open.
    """
    step = per_row(there.sigma - here.sigma, x)
    return x + step * (u if with_gradient else u.detach()).to(x.dtype)


def elementwise_loss(training: "TrainingConfig") -> Callable[[Tensor, Tensor], Tensor]:
    """The unreduced distance that `loss_type` names."""
    if training.loss_type == "huber":
        return partial(huber, delta=training.huber_delta)
    return squared_error


def huber(output: Tensor, target: Tensor, delta: float) -> Tensor:
    """Square up to `delta`, then straight: `e^2`, `delta * (2 |e| - delta)`. Like output; for small errors the same as
    mse.
    """
    return 2 * F.huber_loss(output, target, reduction="none", delta=delta)


def timestep_weight(training: "TrainingConfig", level: Level, prediction_type: PredictionType) -> Tensor | None:
    """(B,) weights by noise level that hold for every row, or None where all are 1: Min-SNR, or a flow model's own.

    Raises: ValueError where a flow model's weighting is asked for on another model.
    """
    if training.snr_gamma is not None:
        return min_snr_weight(level, training.snr_gamma, prediction_type).float()
    if not training.weighs_by_noise:
        return None
    if prediction_type != "flow_matching":
        raise ValueError(f"{training.weighs_by_noise[0]}: is defined for flow models only, this one predicts {prediction_type}.")
    return flow_weight(level.sigma, training.loss_weighting, training.precondition_outputs).float()


def flow_weight(sigma: Tensor, weighting: Literal["none", "sigma_sqrt", "cosmap"], precondition_outputs: bool) -> Tensor:
    """(B,) weights of the velocity's squared error, as diffusers' SD 3 DreamBooth script has them.

    `precondition_outputs`: there the error is that of the implied clean image, which is sigma times the velocity's.
    """
    match weighting:
        case "sigma_sqrt":
            weight = sigma**-2
        case "cosmap":
            weight = 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
        case _:
            weight = torch.ones_like(sigma)
    return weight * sigma**2 if precondition_outputs else weight


def row_weight(config: "RunConfig", plan: Plan, level: Level, prediction_type: PredictionType) -> Tensor | None:
    """(B,) the weight of each row by its noise level, or None where all are 1: `timestep_weight`, and on rolled rows at most
    what `scheduled_sampling_snr_gamma` allows. A plain row never feels the latter. `level`: (B,) where the loss is taken.
    """
    weight, rollout = timestep_weight(config.training, level, prediction_type), config.rollout
    if not rollout.bounds_loss(prediction_type) or not bool(plan.rolled.any()):
        return weight
    weight = torch.ones(len(plan.t)) if weight is None else weight
    bound = rolled_bound(level, rollout.snr_gamma, prediction_type).to(weight)
    return torch.where(plan.rolled, torch.minimum(weight, bound), weight)


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
    raise ValueError(f"prediction_type = {prediction_type!r}: rolled rows are bounded for epsilon and v_prediction only.")


def min_snr_weight(level: Level, gamma: float, prediction_type: PredictionType) -> Tensor:
    """(B,) weights that make every kind of output count `min(SNR, gamma)` times its error in the clean image.

    An error `e` of the output moves the implied clean image by `e / sqrt(SNR)` (epsilon), `sigma * e` (v; flow
    velocity) or `e` (sample), so the weight is `min(SNR, gamma)` times `1 / SNR`, `sigma^2` or 1.

    Source: Hang et al., arXiv 2303.09556; flow: the same derivation, ours.
    """
    snr = (level.alpha / level.sigma).square()
    match prediction_type:
        case "epsilon":
            return (gamma / snr).clamp(max=1)  # finite at zero terminal SNR, where min(SNR, gamma) / SNR is 0 / 0
        case "v_prediction" | "flow_matching":
            return snr.clamp(max=gamma) * level.sigma.square()
        case "sample":
            return snr.clamp(max=gamma)
    raise ValueError(f"prediction_type = {prediction_type!r}: must be epsilon, v_prediction, sample or flow_matching.")


def prior_weights(weight: float, is_class: Tensor | None) -> Tensor | None:
    """(B,) weights of prior preservation: `weight` on class rows, 1 on the others; None where there is no class row."""
    if is_class is None or not bool(is_class.any()):
        return None
    return torch.where(is_class, weight, 1.0)
