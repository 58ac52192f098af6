"""The times of a model: the schedule that its stock pipeline samples with, and the table that it was trained on."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .facts import Geometry, Schedule


class Times:
    """Read from the pipeline's scheduler, in core's coordinate.

    Args:
        pipe: the stock pipeline, whose scheduler may be replaced. flow_shift: of the training table; None = the checkpoint's.
    """

    def __init__(self, pipe: Any, schedule: Schedule, geometry: Geometry, *, is_flow: bool, flow_shift: float | None):
        self._pipe, self._schedule, self._geometry = pipe, schedule, geometry
        self._is_flow, self._flow_shift = is_flow, flow_shift

    @property
    def _config(self) -> Any:
        return self._pipe.scheduler.config

    def inference(self, steps: int, latent_shape: Sequence[int]) -> Tensor:
        """See `Model.inference_times`."""
        scheduler = copy.deepcopy(self._pipe.scheduler)
        self._set(scheduler, steps, latent_shape)
        times = (scheduler.sigmas if self._is_flow else scheduler.timesteps).to("cpu", torch.float32)
        kept = [times[0]]
        for time in times[1:]:
            if time < kept[-1]:
                kept.append(time)
        if kept[-1] > 0:
            kept.append(torch.zeros(()))
        return torch.stack(kept)

    def table(self, latent_shape: Sequence[int] | None = None) -> Tensor:
        """The training table, noisiest first: T shifted sigmas (no 0) for flow, T-1..0 for variance preserving.

        Float32 on the CPU. `latent_shape` is needed only where the shift depends on the picture's size.
        """
        number = self._config.num_train_timesteps
        if not self._is_flow:
            return torch.arange(number - 1, -1, -1, dtype=torch.float32)
        sigmas = torch.arange(number, 0, -1, dtype=torch.float32) / number
        shift = self.shift(latent_shape)
        return shift * sigmas / (1 + (shift - 1) * sigmas)

    def shift(self, latent_shape: Sequence[int] | None = None) -> float:
        """The shift of training's flow times: `flow_schedule_shift`, else the checkpoint's; 1.0 for other models."""
        if not self._is_flow:
            return 1.0
        if self._flow_shift is not None:
            return self._flow_shift
        config = self._config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift", 1.0))
        if latent_shape is None:
            raise ValueError("The shift of this model depends on the picture's size: give latent_shape.")
        mu = self._mu(latent_shape)
        return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu

    def _set(self, scheduler: Any, steps: int, latent_shape: Sequence[int]) -> None:
        """`scheduler.set_timesteps` exactly as the stock pipeline calls it."""
        if self._is_flow and self._schedule.walk == "steps":
            # The scheduler ignores mu where its shift does not depend on the size.
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self._mu(latent_shape))
        elif scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=self._mu(latent_shape))
        else:
            scheduler.set_timesteps(steps)

    def _mu(self, latent_shape: Sequence[int]) -> float:
        """The exponent of a shift that depends on the picture's size."""
        channels, height, width = latent_shape[-3:]
        tokens = self._geometry.tokens(height, width)
        return self._schedule.mu(self._config, tokens=tokens, channels=channels)
