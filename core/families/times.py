"""The times of a model: the schedule that its stock pipeline samples with, and the table that it was trained on."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..maths.grid import falling
from .facts import Geometry, Schedule
from .schedule import flow_shift, flow_training_times, table_training_times, whole_times
from .source import ModelError


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

    def checked(self, steps: int) -> int:
        """The number of steps. Raises ModelError where it is too small for the stock pipeline's schedule."""
        if steps == 1 and self._is_flow and self._config.get("shift_terminal"):
            raise ModelError(
                f"One sampling step: this model's schedule is stretched from sigma 1 to {self._config.shift_terminal:g}, which takes two.",
                "Sample in at least 2 steps.",
            )
        return steps

    def inference(self, steps: int, latent_shape: Sequence[int]) -> Tensor:
        """See `Model.inference_times`."""
        scheduler = copy.deepcopy(self._pipe.scheduler)
        self._set(scheduler, self.checked(steps), latent_shape)
        times = (scheduler.sigmas if self._is_flow else scheduler.timesteps).to("cpu", torch.float32)
        return torch.from_numpy(falling(times.numpy()))

    def table(self, latent_shape: Sequence[int] | None = None) -> Tensor:
        """The training table, noisiest first: T shifted sigmas (no 0) for flow, T-1..0 for variance preserving.

        Float32 on the CPU. `latent_shape` is needed only where the shift depends on the picture's size.
        """
        number = self._config.num_train_timesteps
        if not self._is_flow:
            return torch.from_numpy(table_training_times(number))
        return torch.from_numpy(flow_training_times(number, self.shift(latent_shape)))

    def shift(self, latent_shape: Sequence[int] | None = None) -> float:
        """The shift of training's flow times: `flow_schedule_shift`, else the checkpoint's; 1.0 for other models."""
        if not self._is_flow:
            return 1.0
        if self._flow_shift is not None:
            return self._flow_shift
        return flow_shift(self._config, self._schedule, self._geometry, latent_shape)

    def _set(self, scheduler: Any, steps: int, latent_shape: Sequence[int]) -> None:
        """`scheduler.set_timesteps` exactly as the stock pipeline calls it."""
        if self._is_flow and self._schedule.sigmas == "steps":
            # The scheduler ignores mu where its shift does not depend on the size.
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self._mu(latent_shape, steps))
        elif self._is_flow and self._schedule.sigmas == "whole":
            number = self._config.num_train_timesteps
            whole = whole_times(number, steps).astype(np.float32)
            scheduler.set_timesteps(sigmas=whole / number, timesteps=whole, mu=self._mu(latent_shape, steps))
        elif scheduler.config.get("use_dynamic_shifting"):
            scheduler.set_timesteps(steps, mu=self._mu(latent_shape, steps))
        else:
            scheduler.set_timesteps(steps)

    def _mu(self, latent_shape: Sequence[int], steps: int) -> float:
        """The exponent of a shift that depends on the picture's size."""
        return self._schedule.mu(self._config, self._geometry, latent_shape, steps)
