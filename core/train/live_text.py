"""Text encoders that train: the captions of a batch encoded in the step, and the rates at which encoders learn."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..adapters.text_encoders import is_encoders
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
    trains = text.text_encoder_steps is None or step < text.text_encoder_steps
    with nullcontext() if trains else torch.no_grad():
        encode: Any = model.encode_captions  # type: ignore[attr-defined] # of the families that have `trained_encoders`
        return batch.conditioning.with_rows(**encode(batch.captions))


def own_rates(config: RunConfig, names: Sequence[str], parameters: Sequence[Tensor]) -> list[OwnRate]:
    """The rates of what trains beside the denoiser, whose parameters stand last."""
    text = config.text_encoder
    rate = text.text_encoder_learning_rate
    adapters = [parameter for name, parameter in zip(names, parameters, strict=True) if is_encoders(name)]
    return [OwnRate(adapters, config.training.learning_rate if rate is None else rate)] if adapters else []
