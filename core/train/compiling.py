"""The network's blocks compiled by torch, in place: names, files and adapters stay what they are.

By block, because a block is compiled once for all of its kind, and what varies between calls lies outside of them. diffusers says for some
networks which modules repeat; for the others it is the blocks that are quantised or streamed (`families.blocks`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..data import Batch
from ..families.base import Model
from ..families.blocks import blocks_of
from ..maths.rollout import undisturbed
from ..randomness import kept_random_state
from .outcome import Leave, Refused

BACKEND = "inductor"
VARIANTS = 64
"""Of one block that may be compiled: with and without gradient, for one row and for several, for pictures of several shapes. Beyond torch's
own limit (8) it would go on uncompiled without a word."""


def repeated_blocks(network: Any) -> list[nn.Module]:
    """The modules that are compiled."""
    kinds = getattr(network, "_repeated_blocks", None)
    if kinds:
        return [module for module in network.modules() if type(module).__name__ in kinds]
    return [network.get_submodule(name) for name in blocks_of(name for name, _ in network.named_parameters())]


def compile_network(
    model: Model,
    batch: Batch,
    *,
    rolls_out: bool,
    autocast: Callable[[], AbstractContextManager[Any]],
    progress: Callable[[str, int, int], None],
) -> None:
    """Compile the network's blocks and make the calls of which a training consists once, so that its first steps find them compiled: with
    gradient, and for a rollout without it, for all rows, some and one.

    Weights and the random state are afterwards as before, gradients are none. Cost: minutes, where nothing is in torch's cache.
    Raises: Refused where torch cannot compile them; what `progress` raises where the run must end, also where a signal ended the compiler.
    """
    from torch._dynamo.exc import TorchDynamoException

    rows = len(batch.latents)
    without = sorted({rows, max(1, rows - 1), 2, 1}, reverse=True) if rolls_out else []
    steps = 1 + len(without)
    t = torch.full((rows,), 0.5 * model.noise_path.t_max, device=batch.latents.device)
    progress("compile", 0, steps)
    compile_blocks(model.denoiser)
    try:
        with kept_random_state(), autocast():
            model.denoise(batch.latents, t, batch.conditioning).square().mean().backward()
            for done, size in enumerate(without, start=1):
                progress("compile", done, steps)
                places = torch.arange(size, device=t.device) % rows
                with undisturbed(model.denoiser):
                    model.denoise(batch.latents[places], t[places], batch.conditioning.select(places))
    except Leave:
        raise
    except Exception as error:
        # A signal to all processes of a terminal or a group ends the compiler's as well, and that is no fault of the network.
        progress("compile", steps, steps)
        if not isinstance(error, TorchDynamoException):
            raise
        raise Refused(
            f"compile = true: torch could not compile this network: {type(error).__name__}: {str(error).splitlines()[0]}",
            "Set compile to false.",
        ) from error
    for parameter in model.denoiser.parameters():
        parameter.grad = None
    progress("compile", steps, steps)


def compile_blocks(network: nn.Module) -> int:
    """Have each block compiled at its first call; returns how many. The whole network where it has no blocks."""
    from torch._dynamo import config

    config.recompile_limit = max(VARIANTS, config.recompile_limit)
    blocks = repeated_blocks(network) or [network]
    for block in blocks:
        block.compile(backend=BACKEND)
    return len(blocks)
