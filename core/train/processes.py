"""Several processes on one run: how they find each other, and which device each has. In one process everything here does nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch

from ..config import RunConfig
from ..families.devices import resolve_device
from .outcome import Refused
from .ranks import Ranks

PATIENCE = timedelta(days=30)
"""How long a rank waits for the others: rank 0 may be paused by a person, or wait for room on the disk. A rank that is gone is noticed at once."""


def local_rank(ranks: Ranks) -> tuple[int, int]:
    """(number of this process on its computer, how many there are on it), as the launcher says; all of them where it does not."""
    here = int(os.environ.get("LOCAL_RANK", ranks.rank))
    return here, int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))


def of_this_rank(config: RunConfig, ranks: Ranks) -> RunConfig:
    """The config with the device of this process: with GPUs cuda:N, counted from the one that `device` names.

    Raises: Refused where the processes are not those of `num_processes`, or have no device or no row each.
    """
    count, asked = ranks.world_size, config.training.num_processes
    if count == 1:
        return config
    if asked not in (1, count):
        raise Refused(
            f"num_processes = {asked}, but this run was started as {count} processes (WORLD_SIZE).",
            f"Start it without torchrun or accelerate launch, or set num_processes to {count} or 1.",
        )
    if count > config.training.train_batch_size:
        raise Refused(
            f"WORLD_SIZE = {count}: the processes divide the {config.training.train_batch_size} rows of train_batch_size, and each needs one.",
            f"Set train_batch_size to {count} or more, or start fewer processes.",
        )
    device = resolve_device(config.model.device)
    if device.type == "cpu":
        return config
    if device.type != "cuda":
        raise Refused(
            f"{count} processes on {device}: a run of several processes needs NVIDIA GPUs, or the CPU.",
            "Set num_processes to 1, or device to cpu.",
        )
    mine, there = local_rank(ranks)
    first, gpus = device.index or 0, torch.cuda.device_count()
    if first + there > gpus:
        raise Refused(
            f"{there} processes from cuda:{first} on: CUDA shows {gpus} GPU{'s' if gpus != 1 else ''} here, and each process needs one.",
            f"Set num_processes to {gpus - first}, or device to cpu.",
        )
    return replace(config, model=replace(config.model, device=f"cuda:{first + mine}"))


@contextmanager
def joined(config: RunConfig, ranks: Ranks) -> Iterator[None]:
    """Inside, the processes of a run can talk to each other: over NCCL with GPUs, over gloo on the CPU. Blocks until all are there.

    Args:
        config: of this rank (`of_this_rank`). A group that is there already is used, and left.
    """
    distributed = torch.distributed
    if ranks.world_size == 1 or distributed.is_initialized():
        yield
        return
    device = resolve_device(config.model.device)
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    # Started again, the processes meet at the same place, where the addresses of those before them still stand.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
    store = distributed.PrefixStore(f"attempt-{attempt}", store)
    backend = "nccl" if is_cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield
    finally:
        if distributed.is_initialized():  # accelerate may have ended it
            distributed.destroy_process_group()
