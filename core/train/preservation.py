"""Output preservation: without the trigger word the tuned network should answer what the untrained one answers, without a class picture.

For an instance row at the state `x` and level to which its remedy led it, with `c` in place of its caption: the caption without its trigger
word, or the class prompt (`output_preservation_prompt`):

    weight * w(level) * mean(distance(tuned(x, c), untrained(x, c)))

`distance` and `w` are those of the main loss (`loss_type`, Min-SNR and the like; no remedy's weight and no bound on rolled rows: the target is an
answer of the network itself and does not grow). Nothing is drawn and nothing rolled out a second time. The whole picture counts, also
where a mask leaves part of it out of the main loss: what the untrained model answers is known everywhere.

Cost, for R instance rows: one call of R rows without gradient, one with it (`before.cost.PRESERVATION_CALLS`).
Source: Li and Hoiem, Learning without Forgetting, arXiv 1606.09282, for a denoiser; other trainers call it differential output preservation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import LongTensor, Tensor

from ..maths.noise import Level
from ..maths.row_loss import squared_error
from ..remedies.base import Batch, Network, State

if TYPE_CHECKING:
    from ..families.base import Model


@dataclass(frozen=True)
class Preserved:
    """What the untrained network answers, and where.

    Attributes:
        network: the model under the class prompt, R rows; it counts what is asked.
        rows: (R,) the places of the instance rows in the batch.
        x, level: their states, (R, ...) and (R,).
        answers: (R, ...) float32, without gradient.
    """

    network: Network
    rows: LongTensor
    x: Tensor
    level: Level
    answers: Tensor

    def loss(
        self,
        count: int,
        *,
        weight: float,
        elementwise: Callable[[Tensor, Tensor], Tensor] = squared_error,
        timestep_weight: Tensor | None = None,
    ) -> Tensor:
        """(count,) with gradient: the tuned network's distance from the answers; 0 in rows that are not among `rows`.

        Args:
            count: rows of the batch.
            timestep_weight: (R,), by the level of each of `rows`; None = 1.
        Cost: a call of R rows with gradient.
        """
        found = elementwise(self.network.denoise(self.x, self.level), self.answers).flatten(1).mean(1)
        if timestep_weight is not None:
            found = found * timestep_weight.to(found)
        return found.new_zeros(count).index_put((self.rows.to(found.device),), weight * found)


def untrained_answers(model: "Model", batch: Batch, state: State) -> Preserved:
    """Ask the network with its adapter switched off, all instance rows in one call.

    Before the training forward, so that no adapter is switched while its graph waits for the backward. The random state, training
    mode and gradients are afterwards what they were.

    Raises: ValueError for a batch without the class prompt's conditioning; RuntimeError where nothing can be switched off (`model_type = full`).
    """
    if batch.class_conditioning is None:
        raise ValueError("output preservation: the batch has no conditioning of the class prompt.")
    places = torch.arange(len(batch.x0))
    rows = places if batch.is_class is None else places[~batch.is_class.cpu()]
    if batch.class_conditioning.count != len(rows):
        raise ValueError(
            f"output preservation: {batch.class_conditioning.count} rows of the class prompt for {len(rows)} instance rows."
        )
    network = Network(model, batch.class_conditioning)
    x, level = state.x[rows.to(state.x.device)], state.level[rows]
    with network.undisturbed(), model.adapters_disabled():
        answers = network.denoise(x, level)
    return Preserved(network, rows, x, level, answers)
