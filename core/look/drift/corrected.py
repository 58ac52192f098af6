"""A predictor whose answers are corrected while a rollout samples (`correction`)."""

import torch
from torch import LongTensor, Tensor

from ...maths.noise import Level, NoisePath, Prediction, PredictionType, numbers, per_row, prediction_from_output
from ...maths.rollout import Predict
from .correction import SamplingCorrection
from .states import output_of


def corrected(
    predict: Predict, correction: SamplingCorrection, path: NoisePath, prediction_type: PredictionType
) -> Predict:
    """`predict` as the correction has it; `predict` itself where that changes nothing. Each call is one call of `predict` with the same rows.

    Raises ConfigError for a kind of model that the correction is not made for.
    """
    correction.check(prediction_type)
    if not correction.acts:
        return predict
    if correction.correction == "epsilon_scaling":
        return _scaled(predict, correction.epsilon_scale, prediction_type)
    return _shifted(predict, correction, path, prediction_type)


def _scaled(predict: Predict, scale: float, prediction_type: PredictionType) -> Predict:
    """`eps / scale` in place of `eps`, guidance included; the clean picture follows from it. Source: arXiv 2308.15321, lambda(t) = b."""

    def answer(x: Tensor, level: Level, rows: LongTensor) -> Prediction:
        return prediction_from_output(predict(x, level, rows).noise_hat / scale, x, level, prediction_type)

    return answer


def _shifted(
    predict: Predict, correction: SamplingCorrection, path: NoisePath, prediction_type: PredictionType
) -> Predict:
    """The output for the told level, used at the nominal one; rows whose level is not shifted keep their bits."""

    def answer(x: Tensor, level: Level, rows: LongTensor) -> Prediction:
        told, shifted = told_level(x, level, path, correction)
        found = predict(x, told.to(x), rows)
        used = prediction_from_output(output_of(found, told, prediction_type), x, level, prediction_type)
        moved = per_row(shifted.double(), x) > 0
        pairs = ((used.x0_hat, found.x0_hat), (used.noise_hat, found.noise_hat))
        return Prediction(*(torch.where(moved, new, old.to(new)) for new, old in pairs))

    return answer


def told_level(x: Tensor, level: Level, path: NoisePath, correction: SamplingCorrection) -> tuple[Level, Tensor]:
    """(the level that the network is told at the states `x` (R, ...) of `level`, float64 on the CPU; whether it is another one, bool); both (R,).

    `argmin |Var(x) - sigma(tau)^2|` over `|tau - t| <= time_window`, where `t > time_cutoff`, in parts of the path's largest t; `Var` is the unbiased sample
    variance of a state's elements. `sigma` grows with `tau`, so the best one is where it equals the standard deviation, or the nearer end of the
    window. Source: arXiv 2305.15583, the time-shift sampler. Differs: `tau` need be no whole timestep.

    The rule takes all variance for noise. Latents are scaled to a variance near 1, and a variance-preserving path then has that variance at every level:
    there the rule always finds the noisiest level of the window.
    """
    t = torch.from_numpy(numbers(level.t))
    deviation = x.flatten(1).to(torch.float32).var(1).sqrt()
    fitting = torch.from_numpy(path.levels.time_of_sigma(numbers(deviation)))
    reach = correction.time_window * path.t_max
    near = torch.minimum(torch.maximum(fitting, t - reach), t + reach).clamp(0.0, path.t_max)
    shifted = (t > correction.time_cutoff * path.t_max) & (near != t)
    found = path.at(torch.where(shifted, near, t))
    parts = ((getattr(found, name), getattr(level, name).cpu().double()) for name in ("t", "alpha", "sigma"))
    return Level(*(torch.where(shifted, new, old) for new, old in parts)), shifted
