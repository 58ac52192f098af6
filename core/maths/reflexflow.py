"""ReflexFlow: anti-drift rectification and frequency compensation, as terms of the loss of a training row.

Flow models only; every velocity here is noise-ward (`u = noise - x0`, diffusers' sign). Everything is per row and unreduced: the
trainer takes one mean at the end. Source: arXiv 2512.04904 (re-issued as DEFAR, 2606.28226); differences:
docs/mathematics.md, "ReflexFlow".
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import LongTensor, Tensor

from .noise import NoisePath, per_row, placed
from .row_loss import Terms

if TYPE_CHECKING:
    from ..config import RolloutConfig

Norm = Literal["max", "mean", "l2", "l1"]


def is_on(rollout: "RolloutConfig", path: NoisePath) -> bool:
    """Is ReflexFlow part of this run? Unset means: on for flow models when rows are rolled out.

    Raises: ValueError when it is asked for (true) on a model that is not a flow model.
    """
    return _wanted(rollout, path) and rollout.rolls_out


def _wanted(rollout: "RolloutConfig", path: NoisePath) -> bool:
    is_flow = "flow_matching" in path.prediction_types
    if rollout.reflexflow and not is_flow:
        raise ValueError(
            f"scheduled_sampling_reflexflow = true: the model is on a {path.name} path, ReflexFlow is defined for flow models only; "
            "leave the option unset, or take a flow model."
        )
    return is_flow if rollout.reflexflow is None else rollout.reflexflow


def is_two_pass(rollout: "RolloutConfig", path: NoisePath) -> bool:
    """Does ReflexFlow run in the paper's mode: a gradient pass at the source, whose answer also makes one Euler step, and another where
    that arrives?"""
    return is_on(rollout, path) and rollout.reflexflow_mode == "paper"


def starts_at_the_drawn_time(rollout: "RolloutConfig", path: NoisePath) -> bool:
    """Is the time that a row draws the start of its rollout (the paper's mode) rather than its end? Also of a control of such a run."""
    return rollout.is_active and _wanted(rollout, path) and rollout.reflexflow_mode == "paper"


def unit(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each row scaled to length 1 over all its elements (masked ones are 0); a row of zeros stays zeros, with zero gradient."""
    if mask is not None:
        values = values * mask
    length = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return values / per_row(torch.where(length > 0, length, torch.ones_like(length)), values)


def anti_drift(u: Tensor, xr: Tensor, x0: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared distance between the directions of `u` and `xr - x0`: (B,), 0 (same) .. 4 (opposite) = 2 (1 - cos).

    Noise-ward sign: the paper's data-ward `x0 - xr` here would give a loss near 4. The gradient flows through `u` only.

    Args:
        u: (B, ...) the predicted velocity at `xr`; xr, x0: like u; mask: broadcastable to u, 1 where the loss counts.
    """
    return (unit(u, mask) - unit((xr - x0).detach(), mask)).square().flatten(1).sum(1)


def frequency_weight(u_rolled: Tensor, u_clean: Tensor, alpha: float, norm: Norm, mask: Tensor | None = None) -> Tensor:
    """Weights of the elements of a rolled row, like u, detached: `1 + alpha * d / norm(d)`, at least 0.

    `d = u_clean - u_rolled` is the exposure bias in the paper's data-ward sign. A row without bias has weight 1.
    With `max` the weights lie in 1 +- alpha; `mean` keeps its strength at every size; `l2` and `l1` fade with the number of
    elements n, like n^-1/2 and n^-1.

    mask: like u, 0..1, what each element counts in the loss. The norm is over what counts, each element by its share (`max`: over all
    that count at all), so that nothing outside the mask changes a weight inside; elements that do not count have weight 1.
    """
    bias = (u_clean - u_rolled).detach()
    if mask is not None:
        bias = torch.where(mask > 0, bias, torch.zeros_like(bias))
        return _weights(bias, alpha, _masked_size(bias, norm, mask.to(bias)))
    flat = bias.flatten(1).abs()
    match norm:
        case "max":
            size = flat.amax(1)
        case "mean":
            size = flat.mean(1)
        case "l2":
            size = flat.square().sum(1).sqrt()
        case "l1":
            size = flat.sum(1)
        case _:
            raise ValueError(f"reflexflow_norm = {norm!r}: must be max, mean, l2 or l1.")
    return _weights(bias, alpha, size)


def _weights(bias: Tensor, alpha: float, size: Tensor) -> Tensor:
    size = torch.where(size > 0, size, torch.ones_like(size))
    return (1 + alpha * bias / per_row(size, bias)).clamp_min(0.0)


def _masked_size(bias: Tensor, norm: Norm, mask: Tensor) -> Tensor:
    """(B,) the norm of the bias, 0 where the mask is, over what counts."""
    flat, counts = bias.flatten(1).abs(), mask.flatten(1)
    match norm:
        case "max":
            return flat.amax(1)
        case "mean":
            return (flat * counts).sum(1) / counts.sum(1).clamp_min(1e-12)
        case "l2":
            return (flat.square() * counts).sum(1).sqrt()
        case "l1":
            return (flat * counts).sum(1)
    raise ValueError(f"reflexflow_norm = {norm!r}: must be max, mean, l2 or l1.")


def _reported(weight: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """For the log, on the device: how much the weights of the elements that count differ, and the share of them that is 0."""
    if mask is None:
        return {
            "frequency_weight_std": weight.flatten(1).std(1, correction=0).mean(),
            "frequency_weight_clamped": (weight == 0).to(weight).mean(),
        }
    flat, counts = weight.flatten(1), (mask > 0).to(weight).flatten(1)
    share = counts / counts.sum(1, keepdim=True).clamp_min(1)
    mean = (flat * share).sum(1, keepdim=True)
    return {
        "frequency_weight_std": ((flat - mean).square() * share).sum(1).sqrt().mean(),
        "frequency_weight_clamped": ((flat == 0) * share).sum(1).mean(),
    }


@dataclass(frozen=True)
class Reflex:
    """What ReflexFlow needs of the rolled rows, R of B. `u_rolled` carries the gradient of the anti-drift term.

    `u_clean` is a prediction at the clean state of the target's level, without gradient. single-pass: `u_rolled` are the rolled rows of
    the training output; paper: a second pass with gradient (the training output is made at the source there).
    """

    rows: LongTensor  # (R,) their places in the batch
    u_rolled: Tensor  # (R, ...)
    u_clean: Tensor  # (R, ...)
    xr: Tensor  # (R, ...) the rolled states
    x0: Tensor  # (R, ...)
    alpha: float
    beta1: float
    beta2: float
    norm: Norm

    @classmethod
    def of(
        cls, config: "RolloutConfig", rows: LongTensor, *, u_rolled: Tensor, u_clean: Tensor, xr: Tensor, x0: Tensor
    ) -> "Reflex":
        """With the strengths from the options. All tensors hold the R rolled rows only; rows (R,) on their device."""
        return cls(
            rows, u_rolled, u_clean, xr, x0,
            config.reflexflow_alpha, config.reflexflow_beta1, config.reflexflow_beta2, config.reflexflow_norm,
        )  # fmt: skip

    def terms(self, batch: int, mask: Tensor | None = None) -> Terms:
        """The two terms for a batch of `batch` rows: `beta2 * mean(W * loss) + beta1 * anti_drift` on the rolled rows, nothing on the
        others. With alpha = 0, beta1 = 0, beta2 = 1 the loss is bit for bit the plain one.

        Args:
            mask: (batch, ...) broadcastable to the output, 1 where the loss counts.
        """
        if not len(self.rows):
            return Terms()
        u = self.u_rolled
        rows = placed(self.rows, u)
        rows_mask = None if mask is None else mask.expand(batch, *u.shape[1:])[rows].to(u.device)
        weight = frequency_weight(u, self.u_clean, self.alpha, self.norm, rows_mask)
        extra = None
        if self.beta1 != 0:  # 0 x NaN would not be 0
            drifted = self.beta1 * anti_drift(u, self.xr, self.x0, rows_mask)
            extra = drifted.new_zeros(batch).index_put((rows,), drifted)
        return Terms(
            weight=weight.new_ones(batch, *weight.shape[1:]).index_put((rows,), weight),
            main=weight.new_ones(batch).index_fill(0, rows, self.beta2),
            extra=extra,
            reported=_reported(weight, rows_mask),
        )
