"""Which process of a training this is. Several processes may train one run together; one process is world size 1 of the same code.

Whatever decides a step is a function of (seed, step, row number in the global batch): the rank says only which of the rows are its own.
Rank 0 alone writes journal, checkpoints and samples. What ends or pauses a run is agreed between steps (`Ranks.any`).
"""

import os
from dataclasses import dataclass

import torch


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
        distributed = torch.distributed
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        votes = torch.tensor(int(flag), device=device)
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        return bool(votes)
