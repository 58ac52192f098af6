"""diffusers' methods for LoRA, for the pipelines and networks that were left without them."""

from typing import Any

from torch import nn


def with_lora_methods(pipe: Any, component: str) -> Any:
    """The same pipeline, able to add, load, save and remove LoRAs on its `component`.

    Most of diffusers' classes inherit this. Those that do not (PixArt's), or read LoRAs and write none, become, in place, a subclass of the
    same name and module that does: what it saves and how it computes stays as it was, and the rest of the core needs no second way.

    Raises: NotImplementedError for a pipeline without a loader whose component is not a transformer.
    """
    from diffusers.loaders import CogVideoXLoraLoaderMixin, PeftAdapterMixin
    from diffusers.loaders.lora_base import LoraBaseMixin

    if not isinstance(pipe, LoraBaseMixin):
        if component != "transformer":
            raise NotImplementedError(
                f"{type(pipe).__name__} has no LoRA loader, and there is none to lend for its {component}."
            )
        # Of the loaders for a single transformer it is the one that others are copied from; nothing in it is about films.
        _inherit(pipe, CogVideoXLoraLoaderMixin)
    elif (
        type(pipe).save_lora_weights.__func__ is LoraBaseMixin.save_lora_weights.__func__
    ):  # it only raises NotImplementedError
        _inherit(pipe, CogVideoXLoraLoaderMixin)
    network = getattr(pipe, component)
    if isinstance(network, nn.Module) and not isinstance(network, PeftAdapterMixin):
        _inherit(network, PeftAdapterMixin)
    return pipe


def _inherit(one: Any, methods: type) -> None:
    kind = type(one)
    one.__class__ = type(kind.__name__, (kind, methods), {"__module__": kind.__module__, "__doc__": kind.__doc__})
