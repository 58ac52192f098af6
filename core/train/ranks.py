"""Which process of a training this is. Several processes may train one run together; one process is world size 1 of the same code.

Whatever decides a step is a function of (seed, step, row number in the global batch): the rank says only which of the rows are its own.
Rank 0 alone writes journal, checkpoints and samples. What ends or pauses a run is agreed between steps (`Ranks.any`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

BUCKET_NUMBERS = 1 << 24
"""Numbers of one reduction of gradients: 64 MiB in float32 beside the gradients themselves."""

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Ranks:
    """`rank`: the number of this process, from 0; `world_size`: how many there are."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank = {self.rank}, world_size = {self.world_size}: ranks count from 0 to {self.world_size - 1}."
            )

    @classmethod
    def here(cls) -> "Ranks":
        """As torchrun and `accelerate launch` say in RANK and WORLD_SIZE, which accelerate's state reads, too; alone without them."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ.get("RANK", "0")) if world_size > 1 else 0, world_size)

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """This rank's rows of any list of rows: every `world_size`-th, so that no rank has two more than another."""
        return slice(self.rank, None, self.world_size)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on any rank; the same answer on every rank. Every rank must call it at the same place.

        Cost: nothing in one process, else one reduction of a number over torch's process group.
        """
        if self.world_size == 1:
            return flag
        return bool(self._reduced(torch.tensor([int(flag)]), torch.distributed.ReduceOp.MAX)[0])

    def gather(self, mine: Thing) -> list[Thing]:
        """What every rank gives here, in their order; the same list on every rank, each of which must call it at the same place.

        `mine` must pickle. Cost: nothing in one process, else two rounds of small messages.
        """
        if self.world_size == 1:
            return [mine]
        everyone: list[Thing | None] = [None] * self.world_size
        torch.distributed.all_gather_object(everyone, mine)
        return everyone  # type: ignore[return-value]  # filled

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by the sum over the ranks, bit for bit the same on all of them.

        A sum, not a mean: every rank divides its loss by the rows of the global batch. Done once for an optimizer step, behind its last
        backward, so that nothing in a forward or a rollout waits for another rank and their numbers of network calls may differ.
        What has no gradient on any rank keeps none. Cost: one reduction of the gradients.
        """
        if self.world_size == 1:
            return
        has = torch.tensor([int(parameter.grad is not None) for parameter in parameters])
        wanted = self._reduced(has, torch.distributed.ReduceOp.MAX).tolist()
        together = [parameter for parameter, there in zip(parameters, wanted, strict=True) if there]
        for parameter in together:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in together if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            torch.distributed.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def start_alike(self, parameters: Sequence[Tensor]) -> None:
        """Give every rank the values of rank 0, so that equal gradients keep the weights equal on unlike devices, too."""
        if self.world_size > 1:
            with torch.no_grad():
                for parameter in parameters:
                    value = parameter.detach().contiguous()
                    torch.distributed.broadcast(value, 0)
                    parameter.copy_(value)

    @staticmethod
    def _reduced(numbers: Tensor, how: "torch.distributed.ReduceOp.RedOpType") -> Tensor:
        distributed = torch.distributed
        numbers = numbers.to("cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(numbers, op=how)
        return numbers.cpu()


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Of one number format each, and of `BUCKET_NUMBERS` numbers at most unless one alone has more; the same order on every rank."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        if not buckets or gradient.numel() > room or gradient.dtype != buckets[-1][0].dtype:
            buckets.append([])
            room = BUCKET_NUMBERS
        buckets[-1].append(gradient)
        room -= gradient.numel()
    return buckets
