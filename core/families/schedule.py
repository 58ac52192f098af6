"""A checkpoint's noise schedule from its scheduler's config, in numbers: the path, the times of training, the times that a sampler visits.

No torch, no diffusers. What a `Model` can ask its loaded scheduler (the noise table, the times that `set_timesteps` gives) it does ask:
pictures must be sampled as the pipeline samples them. Before a model is opened there is no such object, and the page must not import
one, so the same values are computed here from the JSON file, for the schedulers whose formulas are known; any other is None. One
test for each scheduler holds the two together (`tests/core/test_grid.py`). Shift and training times have one formula for both.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..maths.grid import FlowPath, Path, VariancePreservingPath, falling, shifted
from .facts import FLOW_SCHEDULER, Geometry, Schedule

Times = NDArray[np.floating]
_BENT = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas",
         "invert_sigmas", "stochastic_sampling", "rescale_betas_zero_snr", "trained_betas")  # fmt: skip
"""Settings that bend a schedule away from the formulas here."""
_ONE_MORE = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")  # these divide the table by one step more
_LEADING = ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")
_LINSPACE = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")


def flow_shift(
    scheduler: Mapping[str, Any],
    how: Schedule,
    geometry: Geometry,
    latent_shape: Sequence[int] | None,
    steps: int | None = None,
) -> float:
    """The shift of a flow model's schedule, for latents of shape (..., C, h, w).

    `steps`: of a sampler, where the shift depends on their number; None = the pipeline's usual ones.
    Raises: ValueError for None as the shape where the shift depends on it.
    """
    if not scheduler.get("use_dynamic_shifting"):
        return float(
            scheduler.get("shift", scheduler.get("flow_shift", 1.0))
        )  # the multistep schedulers' name is the second
    if latent_shape is None:
        raise ValueError("The shift of this schedule depends on the picture's size: give latent_shape.")
    mu = how.mu(scheduler, geometry, latent_shape, steps)
    return math.exp(mu) if scheduler.get("time_shift_type", "exponential") == "exponential" else mu


def flow_training_times(table: int, shift: float) -> Times:
    """(table,) float32 shifted sigmas, noisiest first; no 0."""
    return shifted(np.arange(table, 0, -1, dtype=np.float32) / table, shift)


def table_training_times(table: int) -> Times:
    """(table,) float32 training timesteps of a variance-preserving path, noisiest first: table - 1 .. 0."""
    return np.arange(table - 1, -1, -1, dtype=np.float32)


def whole_times(table: int, steps: int) -> NDArray[np.int64]:
    """(steps,) numbers of a training table of `table` levels from its noisiest down to 1, rounded down (`Schedule.sigmas` "whole")."""
    return np.linspace(table, 1.0, steps).astype(np.int64)


class ReadSchedule(ABC):
    """A schedule as its scheduler's config states it. Hashable. `text`: what it is, in a sentence for people."""

    text: str

    @abstractmethod
    def path(self) -> Path:
        """The path of the noise levels."""

    @abstractmethod
    def inference_times(self, steps: int) -> Times:
        """The times that the stock pipeline visits in `steps` steps, falling, 0 at the end (`Model.inference_times`)."""

    @abstractmethod
    def training_times(self, shift: float | None) -> Times:
        """The training table, noisiest first (`Model.training_times`). `shift`: of training alone; None = the checkpoint's."""


@dataclass(frozen=True)
class FlowSchedule(ReadSchedule):
    """`largest` and `smallest`: the sigmas, before the shift, between which a sampler goes down; smallest None = largest / steps. `terminal`:
    the last sigma but 0, to which the shifted schedule is then stretched (`stretch_shift_to_terminal` of diffusers' scheduler, after
    LTX-Video); None = it is not. `with_steps`: where the shift depends on the number of steps, `Schedule.mu_with_steps` and what it
    counts; `shift` is then that of the usual number. `one_more`: the way is divided into one step more, whose last node is left out, and
    the first is a millionth lower (UniPC). `whole`: the nodes before the shift are whole numbers of the table."""

    shift: float
    smallest: float | None
    terminal: float | None
    table: int
    text: str
    with_steps: tuple[Callable[[int, int], float], int] | None = None
    largest: float = 1.0
    one_more: bool = False
    whole: bool = False

    def path(self) -> Path:
        return FlowPath()

    def inference_times(self, steps: int) -> Times:
        last = self.largest / steps if self.smallest is None else self.smallest
        shift = self.shift
        if self.with_steps is not None:
            mu, length = self.with_steps
            shift = math.exp(mu(length, steps))
        nodes = np.linspace(self.largest, last, steps + self.one_more)[:steps]
        if self.whole:
            nodes = whole_times(self.table, steps) / self.table
        sigmas = shifted(nodes, shift)
        if self.one_more:
            sigmas[0] -= 1e-6
        if self.terminal is not None:
            sigmas = 1 - (1 - sigmas) * ((1 - self.terminal) / (1 - sigmas[-1]))
        return falling(sigmas)

    def training_times(self, shift: float | None) -> Times:
        return flow_training_times(self.table, self.shift if shift is None else shift)


@dataclass(frozen=True)
class TableSchedule(ReadSchedule):
    """Of a variance-preserving path: the scheduler's class and the settings of its table of betas."""

    scheduler: str
    spacing: str
    steps_offset: int
    beta_schedule: str
    beta_start: float
    beta_end: float
    table: int
    text: str

    def path(self) -> Path:
        if self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.table)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.table) ** 2
        return VariancePreservingPath(np.cumprod(1 - betas))

    def inference_times(self, steps: int) -> Times:
        more = 1 if self.scheduler in _ONE_MORE else 0
        if self.spacing == "linspace":
            found = np.linspace(0, self.table - 1, steps + more)[more:][::-1]
            return falling(found if self.scheduler in _LINSPACE else found.round())
        if self.spacing == "leading":
            ratio = self.table // (steps + more)
            return falling(np.arange(steps + more - 1, more - 1, -1) * ratio + float(self.steps_offset))
        return falling(np.round(self.table - np.arange(steps) * self.table / steps) - 1)

    def training_times(self, shift: float | None) -> Times:
        return table_training_times(self.table)


def read_schedule(
    scheduler: Mapping[str, Any], how: Schedule, geometry: Geometry, resolution: int, is_flow: bool
) -> ReadSchedule | None:
    """The schedule that a scheduler's config states; None where it is of a kind that is not known here, or damaged.

    Args:
        scheduler: `scheduler_config.json`. how: what the family's pipeline does with it. geometry: of the model's latents.
        resolution: side of the (square) pictures in pixels, for a shift that depends on it.
        is_flow: may it be a flow model?
    """
    found = (_flow(scheduler, how, geometry, resolution) or _multistep_flow(scheduler)) if is_flow else None
    return _table(scheduler) if found is None else found


def _flow(scheduler: Mapping[str, Any], how: Schedule, geometry: Geometry, resolution: int) -> FlowSchedule | None:
    if scheduler.get("_class_name") != FLOW_SCHEDULER or any(scheduler.get(name) for name in _BENT):
        return None
    table, shift = scheduler.get("num_train_timesteps", 1000), scheduler.get("shift", 1.0)
    terminal = scheduler.get("shift_terminal")
    if not _whole(table, 2, 100_000) or not _number(shift) or not shift > 0:
        return None
    if terminal is not None and not (_number(terminal) and 0 < terminal < 1):
        return None
    # A pipeline that samples down to the smallest sigma of the table finds it bent once already by a fixed shift.
    smallest, text, with_steps = shifted(1 / table, shift), f"shift {shift:g}", None
    if scheduler.get("use_dynamic_shifting"):
        if geometry.pixels_per_latent is None or geometry.channels is None:
            return None
        side = math.ceil(resolution / geometry.pixels_per_latent)
        shape = (geometry.channels, side, side)
        shift = flow_shift(scheduler, how, geometry, shape)
        if not shift > 0:
            return None
        smallest, text = 1 / table, f"shift {shift:.3g} at {resolution} px"
        if how.mu_with_steps is not None:
            if scheduler.get("time_shift_type", "exponential") != "exponential":
                return None
            with_steps = how.mu_with_steps, how.length(geometry, shape)
            text += f" and {how.usual_steps} steps"
    text = f"The model's own schedule: a flow model with {text}."
    last = None if how.sigmas == "steps" else smallest
    return FlowSchedule(float(shift), last, terminal, table, text, with_steps, whole=how.sigmas == "whole")


def _multistep_flow(scheduler: Mapping[str, Any]) -> FlowSchedule | None:
    """DPM++ on a flow starts one step of the table below pure noise, UniPC a millionth."""
    table, shift = scheduler.get("num_train_timesteps", 1000), scheduler.get("flow_shift", 1.0)
    if not (
        scheduler.get("_class_name") in _ONE_MORE
        and scheduler.get("use_flow_sigmas") is True
        and not any(scheduler.get(name) for name in (*_BENT, "use_dynamic_shifting") if name != "use_flow_sigmas")
        and scheduler.get("final_sigmas_type", "zero") == "zero"
        and _whole(table, 2, 100_000)
        and _number(shift)
        and shift > 0
    ):
        return None
    text = f"The model's own schedule: a flow model with shift {shift:g}."
    if scheduler["_class_name"] == "UniPCMultistepScheduler":
        return FlowSchedule(float(shift), 1 / table, None, table, text, one_more=True)
    return FlowSchedule(float(shift), None, None, table, text, largest=1 - 1 / table)


def _table(scheduler: Mapping[str, Any]) -> TableSchedule | None:
    name = scheduler.get("_class_name")
    spacing = scheduler.get("timestep_spacing", "leading" if name in _LEADING else "linspace")
    offset, table = scheduler.get("steps_offset", 0), scheduler.get("num_train_timesteps", 1000)
    betas = scheduler.get("beta_schedule", "linear")
    start, end = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    if not (
        isinstance(name, str)
        and name in (*_LEADING, *_LINSPACE, *_ONE_MORE)
        and spacing in ("leading", "linspace", "trailing")
        and betas in ("linear", "scaled_linear")
        and all(_number(each) and 0 < each < 1 for each in (start, end))
        and _whole(offset, 0, 100)
        and _whole(table, 2, 100_000)
        and (name != "PNDMScheduler" or scheduler.get("skip_prk_steps") is True)
        and not any(scheduler.get(each) for each in _BENT)
        and scheduler.get("lambda_min_clipped", -math.inf) == -math.inf
    ):
        return None
    text = f"The model's own schedule: {table} training timesteps, sampled with {spacing} spacing."
    return TableSchedule(name, spacing, offset, betas, start, end, table, text)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, low: int, high: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
