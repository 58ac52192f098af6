"""Text encoders that train: the captions of a batch encoded in the step, and the rates at which encoders learn."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..adapters.text_encoders import is_encoders, is_tokens
from ..config import RunConfig
from ..data import Batch
from ..families.base import Model
from ..families.conditioning import Conditioning
from .optimizers import OwnRate


def conditioning_of(model: Model, config: RunConfig, batch: Batch, step: int) -> Conditioning:
    """What the rows of a batch are conditioned on at optimizer step `step`, counted from 0.

    Where text encoders train: their encoding of now, once for all that the step asks of the network. With gradient while they train; a
    rollout, which has none, uses the same. Otherwise what is in the cache.
    """
    text = config.text_encoder
    if not text.is_on:
        return batch.conditioning
    with nullcontext() if text.trains_layers(step) or text.trains_tokens(step) else torch.no_grad():
        encode: Any = model.encode_captions  # type: ignore[attr-defined] # of the families that have `trained_encoders`
        return batch.conditioning.with_rows(**encode(batch.captions))


def let_rest(config: RunConfig, names: Sequence[str], parameters: Sequence[Tensor], step: int) -> None:
    """Take the gradient from what does not train at this step, so that the optimizer leaves it and its moments alone."""
    text = config.text_encoder
    if not text.is_on:
        return
    for name, parameter in zip(names, parameters, strict=True):
        trains = step >= text.begins
        if is_tokens(name):
            trains = text.trains_tokens(step)
        elif is_encoders(name):
            trains = text.trains_layers(step)
        if not trains:
            parameter.grad = None


def own_rates(config: RunConfig, names: Sequence[str], parameters: Sequence[Tensor]) -> list[OwnRate]:
    """The rates of what trains beside the denoiser, whose parameters stand last: the encoders' layers, then their new tokens."""
    text, named = config.text_encoder, list(zip(names, parameters, strict=True))
    rate = text.text_encoder_learning_rate
    layers = [parameter for name, parameter in named if is_encoders(name) and not is_tokens(name)]
    tokens = [parameter for name, parameter in named if is_tokens(name)]
    rates = [
        OwnRate(layers, config.training.learning_rate if rate is None else rate),
        OwnRate(tokens, text.new_token_learning_rate, weight_decay=0.0),
    ]
    return [each for each in rates if each.parameters]
