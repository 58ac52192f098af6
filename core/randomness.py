"""Random numbers that depend on where they are used and on nothing else.

Every draw of a run comes from a stream named by (seed, step, name, index): drawing more or less in one stream, resuming, or
rolling out changes nothing in another. Draws are made on the CPU in float32, whatever the device and the precision.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

Stream = Literal[
    "data",
    "noise",
    "t",
    "mask",
    "k",
    "step_length",
    "perturbation",
    "soar",
    "mixflow",
    "dropout",
    "caption_dropout",
    "sample",
    "concepts",
]


def stream_seed(seed: int, step: int, stream: Stream, index: int = 0) -> int:
    """A 63-bit seed for one stream. `index`: whatever tells draws of a step apart (micro-step, global row).

    Raises: ValueError for a name that is no stream (a typing slip would otherwise be a stream of its own).
    """
    if stream not in get_args(Stream):
        raise ValueError(f"stream = {stream!r}: must be one of {', '.join(get_args(Stream))}.")
    digest = hashlib.blake2b(f"{int(seed)}/{int(step)}/{stream}/{int(index)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # torch takes signed 64-bit seeds on every device


def generator(seed: int, step: int, stream: Stream, index: int = 0) -> torch.Generator:
    """A fresh CPU generator for one stream of one step."""
    return torch.Generator("cpu").manual_seed(stream_seed(seed, step, stream, index))


def row_noise(shape: tuple[int, ...], seed: int, step: int, first_row: int = 0, stream: Stream = "noise") -> Tensor:
    """N(0, I) noise of `shape` (B, ...), float32 on the CPU; row i depends on its global number `first_row + i` alone.

    So the same rows get the same noise however they are split over micro-steps or ranks.
    """
    rows = [torch.randn(shape[1:], generator=generator(seed, step, stream, first_row + i)) for i in range(shape[0])]
    return torch.stack(rows) if rows else torch.empty(shape)


def seed_global(seed: int, device: torch.device) -> None:
    """Seed torch's global generators for what is computed on `device`. On a CPU its generator alone: `torch.manual_seed` also leaves word for a
    GPU that is never used, with a traceback each time."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """torch's global random state (CPU, CUDA, MPS) is the same after the block as before it, whatever is drawn inside."""
    cpu = torch.get_rng_state()
    # Asking for the state of a device that was not used yet would initialise it.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's global generators start from `seed` (a network's dropout); after it they are as before."""
    with kept_random_state():
        torch.manual_seed(seed)
        yield
