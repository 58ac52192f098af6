"""Networks in evaluation mode, or without their adapters, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every sub-module is in the mode in which it was."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def without_adapters(*modules: Any) -> Iterator[None]:
    """Their LoRA layers are passed by inside; afterwards they act, and train, as before."""
    trained = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]

    def as_trained() -> None:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)

    for module in modules:
        module.disable_adapters()
    as_trained()  # peft would have them train no longer, and a checkpoint that is asked for meanwhile would lack them
    try:
        yield
    finally:
        for module in modules:
            module.enable_adapters()
        as_trained()
