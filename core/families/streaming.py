"""Blocks of a network whose frozen weights lie in main memory and visit the device only while they compute: for cards that are too small.

Each streamed block checkpoints itself. For its forward, copies of its weights on the device take their places, and only the block's
inputs are kept. In the backward pass the block is computed again with new copies, which autograd holds until the block's own gradient is
done. What trains in it (the adapter) stays on the device all the time. Without gradient (rollouts, pictures) the block just computes.

diffusers' own group offloading is made for inference: it moves the adapter's weights away with their block, and takes the layers outside
the blocks off the device after the forward, where the backward pass, which finds the parameter and not a copy, looks for them.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import blocks_of
from .source import ModelError


def stream_blocks(network: nn.Module, device: torch.device, count: int) -> nn.Module:
    """Put a network on a device, without the last `count` of its blocks, whose weights stay in main memory (pinned for CUDA).

    Args:
        network: on the CPU, every weight frozen; adapters may be added later, and live on the device.
        count: 1 to the number of blocks (`blocks.blocks_of`).

    Raises: ModelError where the network has fewer blocks.
    Cost: a pass copies the streamed weights to the device once, a training step twice and computes these blocks twice; on the device there
    are the weights of one of them at a time.
    """
    blocks = list(blocks_of(name for name, _ in network.named_parameters()))
    if count > len(blocks):
        raise ModelError(
            f"streamed_blocks = {count}, but this network has {len(blocks)} blocks.",
            f"Set streamed_blocks to at most {len(blocks)}; 0 = all weights stay on the device.",
        )
    streamed = [network.get_submodule(name) for name in blocks[len(blocks) - count :]]
    away = {id(module) for block in streamed for module in block.modules()}
    for module in network.modules():
        if id(module) not in away:
            _bring(module, device)
    for block in streamed:
        block.forward = _Streamed(block, device)  # type: ignore[method-assign, assignment]
    return network


def checkpoint_blocks(network: Any) -> None:
    """Switch gradient checkpointing on for a network: diffusers' for the blocks that do not stream; the others do it themselves."""
    streamed = [module for module in network.modules() if isinstance(module.forward, _Streamed)]
    within = {id(module) for block in streamed for module in block.modules()}

    def run(module: nn.Module, *given: Any) -> Any:
        # A part of a streamed block that is computed again on its own would find no weights on the device.
        return module(*given) if id(module) in within else checkpoint(module, *given, use_reentrant=False)

    network.enable_gradient_checkpointing(*((run,) if within else ()))


@dataclass(frozen=True)
class _Place:
    """Where a frozen parameter or buffer belongs: a table of its module, and its name there. `kept`: what lies there between the calls."""

    table: dict[str, Any]
    name: str
    kept: Tensor

    def fetch(self, device: torch.device) -> None:
        copy = self.kept.detach().to(device, non_blocking=True, copy=True)
        is_parameter = isinstance(self.kept, nn.Parameter)
        self.table[self.name] = nn.Parameter(copy, requires_grad=False) if is_parameter else copy

    def restore(self) -> None:
        self.table[self.name] = self.kept


class _Streamed:
    """The forward of one block."""

    def __init__(self, block: nn.Module, device: torch.device):
        self.block, self.device, self.forward = block, device, block.forward
        tables: list[dict[str, Any]] = [
            table for module in block.modules() for table in (module._parameters, module._buffers)
        ]
        self.places = [
            _Place(table, name, _pinned(tensor, device))
            for table in tables
            for name, tensor in table.items()
            if tensor is not None and not tensor.requires_grad
        ]
        self.known = {id(place.kept) for place in self.places}
        self._bring_others()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return checkpoint(self._visit, *args, use_reentrant=False, **kwargs)
        return self._visit(*args, **kwargs)

    def _visit(self, *args: Any, **kwargs: Any) -> Any:
        self._bring_others()
        try:
            for place in self.places:
                place.fetch(self.device)
            return self.forward(*args, **kwargs)
        finally:
            for place in self.places:
                place.restore()

    def _bring_others(self) -> None:
        """Adapters, also those that were loaded later, beside layers in main memory: they stay on the device."""
        for module in self.block.modules():
            own = [one for one in module.parameters(recurse=False) if id(one) not in self.known]
            if any(one.device != self.device for one in own):
                _bring(module, self.device)


def _bring(module: nn.Module, device: torch.device) -> None:
    """A module's own tensors, without those of the modules in it."""
    module._apply(lambda tensor: tensor.to(device), recurse=False)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Pinned pages reach a CUDA device several times as fast; where the system has no more of them, or the tensor is of a kind of its
    own (quantised), plain ones do."""
    if device.type == "cuda" and type(tensor) in (Tensor, nn.Parameter):
        with suppress(RuntimeError):
            tensor.data = tensor.data.pin_memory()
    return tensor
