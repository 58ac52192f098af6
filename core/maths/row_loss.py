"""The loss of every row of a batch, from the network's output, its target, weights and a remedy's terms. One mean is taken later.

Everything is per row and unreduced. Nothing here knows a remedy: what it adds arrives as `Terms`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .noise import placed, sent


@dataclass(frozen=True)
class Terms:
    """What a remedy adds to the loss of a batch's rows; the defaults add nothing, bit for bit.

    A row's loss is `min(timestep weight, at_most) * main * mean(weight * elementwise loss) + extra`, times its prior weight.
    """

    weight: Tensor | None = None  # (B, ...) like the output, at least 0, detached: of every element
    main: Tensor | None = None  # (B,) factor of the mean
    at_most: Tensor | None = None  # (B,) bound on the weight by noise level; inf where there is none
    extra: Tensor | None = None  # (B,) more loss, with gradient
    reported: Mapping[str, Tensor] = field(default_factory=dict)
    """For the log, by name: means over the rows that the remedy acted on, each a number on the device."""


@dataclass(frozen=True)
class LossParts:
    """The loss of each row, (B,) with gradient, and what the log wants to know. Reduce once: `parts.total.mean()`."""

    main: Tensor  # weighted by noise level, the remedy's factor and the prior weight
    extra: Tensor  # the remedy's own term, times prior weight; 0 for plain rows
    reported: Mapping[str, Tensor]
    preservation: Tensor | None = None  # of output preservation, weighted; 0 for class rows. None: it is off

    @property
    def total(self) -> Tensor:
        """(B,)"""
        return self.main + self.extra if self.preservation is None else self.main + self.extra + self.preservation

    def logged(self, is_class: Tensor | None = None) -> dict[str, Tensor]:
        """The parts as they add up to the mean loss, numbers on the device: {main, adr} of the instance rows, prior: all of the class rows;
        where it is on, preservation: of the instance rows, what output preservation adds. `is_class`: (B,) bool on the CPU.

        `adr` is the name of the extra term in the events of all versions (anti-drift rectification, so far the only one).
        """
        batch = len(self.main)
        share = torch.zeros(batch, dtype=torch.bool) if is_class is None else is_class.cpu()
        own, of_class = (placed(rows.nonzero().reshape(-1), self.main) for rows in (~share, share))
        parts = {
            "main": self.main.detach()[own].sum() / batch,
            "adr": self.extra.detach()[own].sum() / batch,
            "prior": self.total.detach()[of_class].sum() / batch,
        }
        if self.preservation is not None:
            parts["preservation"] = self.preservation.detach()[own].sum() / batch
        return parts


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Unreduced squared error, like output."""
    return (output - target).square()


def row_losses(
    output: Tensor,
    target: Tensor,
    *,
    elementwise: Callable[[Tensor, Tensor], Tensor] = squared_error,
    timestep_weight: Tensor | None = None,
    prior_weight: Tensor | None = None,
    mask: Tensor | None = None,
    terms: Terms | None = None,
) -> LossParts:
    """The loss of every row of a batch, plain or led elsewhere by a remedy.

    Args:
        output, target: (B, ...) the network's output with gradient, and what it should have been.
        elementwise: unreduced loss (output, target) -> like output.
        timestep_weight, prior_weight: (B,), for example min-SNR and prior preservation; None = 1. The first multiplies the main part
            only, the second whole rows.
        mask: broadcastable to output, 1 where the loss counts; the mean is over those elements (a row without any counts 0).
        terms: the remedy's; None = none.
    """
    terms = Terms() if terms is None else terms
    losses = elementwise(output, target)
    if terms.weight is not None:
        losses = losses * terms.weight.to(losses)
    if mask is None:
        main = losses.flatten(1).mean(1)
    else:
        counted = mask.expand_as(losses).to(losses.dtype)
        main = (losses * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1e-12)
    for weight_of_row in (terms.main, bounded(timestep_weight, terms.at_most)):
        if weight_of_row is not None:
            main = main * sent(weight_of_row, main)
    extra = torch.zeros_like(main) if terms.extra is None else terms.extra.to(main)
    if prior_weight is not None:
        prior_weight = sent(prior_weight, main)
        main, extra = main * prior_weight, extra * prior_weight
    return LossParts(main, extra, terms.reported)


def bounded(weight: Tensor | None, at_most: Tensor | None) -> Tensor | None:
    """(B,) the weight by noise level, no larger than a bound; None, for either, means 1 without a bound."""
    if at_most is None:
        return weight
    weight = torch.ones(len(at_most)) if weight is None else weight
    return torch.minimum(weight, at_most.to(weight))
