"""How an adapter begins: without effect, and reproducibly."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..randomness import kept_random_state
from .kinds import MAGNITUDE

ADAPTER = "default"
"""Name of the adapter that trains."""


def add_adapter(module: Any, settings: Any, device: torch.device, seed: int, name_of: Callable[[str], str]) -> None:
    """Put a LoRA, or another kind of adapter, on a module; its weights are float32 and the only ones that train.

    It starts without effect (one of its factors is 0): the others depend on the seed and the parameter's name alone, not on what was drawn before
    nor on which other layers have an adapter. Draws no global random numbers.

    Args:
        settings: peft's config. name_of: a parameter's name in the module -> the one that its draws depend on.
    """
    module.requires_grad_(False)
    with kept_random_state():
        module.add_adapter(settings, adapter_name=ADAPTER)
    with torch.no_grad():
        start_lengths(module, ADAPTER)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.data = parameter.data.to(device, torch.float32)  # beside a streamed layer it came in main memory
            if ".lora_A." in name or (".lora_" not in name and bool(parameter.any())):
                start = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=_named_generator(seed, name_of(name)))
                parameter.copy_(start)


def start_lengths(network: nn.Module, adapter: str) -> None:
    """The rows' own lengths as a DoRA's start, in the 32 bits that it computes in; of a 16-bit base peft takes them rounded."""
    for module in network.modules():
        lengths = getattr(module, MAGNITUDE, {})
        if adapter in lengths:
            one, weight = lengths[adapter], module.base_layer.weight.float()
            one.weight.data = one.get_weight_norm(weight, torch.zeros((), device=weight.device), 1.0)


def _named_generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/lora/{name}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
