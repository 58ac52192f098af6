"""The loss of one batch, from clean latents to one number per row: where it trains, forward, target, weights.

Nothing here touches a weight of the network: who is led where, at which time and with which noise is decided before
(`window.draw_window`), and `step.Stepper` reduces and updates afterwards.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from ..maths.noise import Level, PredictionType, placed
from ..maths.row_loss import LossParts, row_losses, squared_error
from ..remedies.base import Batch, Counts, MoreRows, Network, Plan, Remedy, State
from .preservation import untrained_answers

if TYPE_CHECKING:
    from ..config import RunConfig, TrainingConfig
    from ..families.base import Model


@dataclass(frozen=True)
class BatchLoss:
    """Per-row losses with gradient, what the log says of the batch's plan, and what they cost: rows and calls of every network
    evaluation, guidance counted twice.
    """

    parts: LossParts
    counts: Counts
    network_rows: int
    network_calls: int
    largest_state: Tensor
    """The largest absolute value of the states that the rows trained at, a number on the device: not finite where its remedy led a row too far."""


def batch_loss(model: "Model", config: "RunConfig", remedy: Remedy, batch: Batch, plan: Plan) -> BatchLoss:
    """The loss of every row of a batch at the state to which its remedy leads it; a plain row's state is `x_t`.

    Args:
        remedy: the config's (`remedies.remedy_for`), for latents of this shape; plan: its plan for these rows.
    Cost: B rows with gradient, what the remedy asks of the network beside, and what output preservation does.
    """
    network = Network(model, batch.conditioning, batch.portions)
    state = remedy.state(batch, plan, network) if batch.state is None else batch.state
    weight = config.data.output_preservation_weight
    has_instances = batch.is_class is None or not bool(batch.is_class.all())
    preserved = untrained_answers(model, batch, state) if weight > 0 and has_instances else None
    output, beside = _answers(network, state)
    parts = row_losses(
        output,
        remedy.target(batch, state),
        elementwise=elementwise_loss(config.training),
        timestep_weight=timestep_weight(config.training, state.level, model.prediction_type),
        prior_weight=prior_weights(config.data.prior_loss_weight, batch.is_class),
        mask=batch.mask,
        terms=remedy.terms(batch, state, output, network),
    )
    if state.more is not None:
        parts = _with_states(parts, beside, state.more, model, config, batch)
    rows, calls = network.rows, network.calls
    if preserved is not None:
        by_level = timestep_weight(config.training, preserved.level, model.prediction_type)
        kept = preserved.loss(
            len(output), weight=weight, elementwise=elementwise_loss(config.training), timestep_weight=by_level
        )
        parts = replace(parts, preservation=kept)
        rows, calls = rows + preserved.network.rows, calls + preserved.network.calls
    return BatchLoss(parts, remedy.counts(plan), rows, calls, state.x.detach().abs().amax())


def _answers(network: Network, state: State) -> tuple[Tensor, Tensor]:
    """What the network answers, with gradient: (B, ...) for the batch's rows, (R, ...) for the states beside them; one call for both."""
    if state.more is None:
        output = network.denoise(state.x, state.level)
        return output, output[:0]
    rows = len(state.x)
    places: LongTensor = torch.cat([torch.arange(rows), state.more.of])  # type: ignore[assignment]
    output = network.denoise(
        torch.cat([state.x, state.more.x]), Level.joined((state.level, state.more.level)), placed(places, state.x)
    )
    return output[:rows], output[rows:]


def _with_states(
    parts: LossParts, output: Tensor, more: MoreRows, model: "Model", config: "RunConfig", batch: Batch
) -> LossParts:
    """The rows' losses as the weighted means of their own and those of the states beside them; `output` (R, ...) is the states'."""
    of, prior = placed(more.of, output), prior_weights(config.data.prior_loss_weight, batch.is_class)
    states = row_losses(
        output,
        more.target,
        elementwise=elementwise_loss(config.training),
        timestep_weight=timestep_weight(config.training, more.level, model.prediction_type),
        prior_weight=None if prior is None else prior[more.of.to(prior.device)],
        mask=None if batch.mask is None else batch.mask[of],
    )
    summed = torch.zeros_like(parts.main).index_add(0, of, states.main)
    each = len(output) // len(parts.main)
    return replace(parts, main=(parts.main + more.weight * summed) / (1 + more.weight * each))


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
    """(B,) weights by noise level that hold for every row, or None where all are 1: Min-SNR, or one of `loss_weighting`.

    Raises: ValueError where a weighting is asked for that is not defined for the model.
    """
    if training.snr_gamma is not None:
        return min_snr_weight(level, training.snr_gamma, prediction_type).float()
    if not training.weighs_by_noise:
        return None
    is_flow = prediction_type == "flow_matching"
    wrong = training.not_for(is_flow=is_flow)
    if wrong:
        only = "not defined for flow models" if is_flow else "defined for flow models only"
        raise ValueError(f"{wrong[0]}: is {only}, this one predicts {prediction_type}.")
    if not is_flow:
        return picture_weight(level, training.loss_weighting, prediction_type).float()
    return flow_weight(level.sigma, training.loss_weighting, training.precondition_outputs).float()


def flow_weight(
    sigma: Tensor, weighting: Literal["none", "sigma_sqrt", "cosmap"], precondition_outputs: bool
) -> Tensor:
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


LEAST_SNR = 1e-4
"""Below it `debiased` weighs no more: at the zero terminal SNR of some schedules its weight of an epsilon would be infinite."""


def picture_weight(
    level: Level, weighting: Literal["debiased", "noise_error"], prediction_type: PredictionType
) -> Tensor:
    """(B,) weights that count an error of the clean image, whatever the output is, by sqrt(SNR) (debiased) or by SNR (noise_error, that is
    the error of the noise). See `min_snr_weight` for how an error of the output moves the clean image.

    Source: debiased: Yu et al., arXiv 2310.08442, 1 / sqrt(SNR) on epsilon. Differs: sd-scripts has 1 / (SNR + 1) there for v.
    """
    snr = (level.alpha / level.sigma).square()
    match prediction_type:
        case "epsilon":
            return torch.ones_like(snr) if weighting == "noise_error" else snr.clamp(min=LEAST_SNR).rsqrt()
        case "v_prediction":
            return (snr if weighting == "noise_error" else snr.sqrt()) * level.sigma.square()
        case _:
            return snr if weighting == "noise_error" else snr.sqrt()


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
