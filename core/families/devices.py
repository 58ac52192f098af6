"""Where a network runs and in which number format its frozen weights are."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from ..platform_calls import device_name
from .source import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device of the option `device`. Raises ModelError for one that this machine lacks."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return torch.device(choose_device(name, [*gpus, *mps, "cpu"]))


def choose_device(name: str, available: Sequence[str]) -> str:
    """The one of the `available` devices (cuda:0, mps, cpu; best first) that `name` means: "auto" the first, "cuda" cuda:0.

    Raises: ModelError where it is not among them.
    """
    chosen = available[0] if name == "auto" else device_name(name)
    if chosen not in available:
        raise ModelError(
            f"device = {name}, but torch sees no {name} device here.",
            f"Set device to auto or {' or '.join(available)}; CUDA needs a CUDA build of torch.",
        )
    return chosen


def current(device: torch.device) -> AbstractContextManager[object]:
    """Inside, libraries that allocate on "the" GPU take this one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
