"""What a step's event says, and how long a run still takes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor

from ..maths import reflexflow
from ..runs.pace import Pace, StepTime, TimeLeft, still_due
from .listening import Listener
from .losses import BatchLoss
from .ranks import Ranks
from .session import Session
from .status import Status

SPREAD_STEPS, SPREAD_TOO_SMALL = 10, 1e-3  # after so many rolled steps, a mean spread of W under this is reported


class StepTally:
    """The numbers of a step's event, summed over its micro-steps. Those that lie on the device count once they are read (`read_together`)."""

    def __init__(self, rows: int) -> None:
        self.rows, self.rolled, self.offsets, self.source_noise_rows = rows, 0, 0, 0
        self.network_rows = self.network_calls = 0
        self.calls_by_rank: list[int] | None = None
        """Network calls of each process, where there are several."""
        self.parts = {"main": 0.0, "adr": 0.0, "prior": 0.0}
        self._spread = self._clamped = self.probability = 0.0  # the first two: sums over rolled rows
        self._unread: list[tuple[Callable[[float], None], Tensor]] = []

    def add(self, found: BatchLoss, is_class: Tensor) -> None:
        """Count a micro-step. `is_class`: (B,) bool on the CPU."""
        rows, counts = len(found.parts.main), found.counts
        for name, value in found.parts.logged(is_class).items():
            self._unread.append((partial(self._add_part, name, rows), value))
        for name, value in found.parts.reported.items():
            self._unread.append((partial(self._add_figure, name, counts.rolled), value))
        self.rolled += counts.rolled
        self.offsets += counts.offsets
        self.source_noise_rows += counts.source_noise_rows
        self.network_rows += found.network_rows
        self.network_calls += found.network_calls
        self.probability = counts.probability

    def unread(self) -> list[Tensor]:
        """Numbers on the device that wait to be read."""
        return [value for _, value in self._unread]

    def take(self, values: Sequence[float]) -> None:
        """The numbers of `unread`, in their order."""
        for (add, _), value in zip(self._unread, values, strict=True):
            add(value)
        self._unread = []

    def _add_part(self, name: str, rows: int, value: float) -> None:
        self.parts[name] = self.parts.get(name, 0.0) + value * rows / self.rows

    def _add_figure(self, name: str, rolled: int, value: float) -> None:
        if name == "frequency_weight_std":
            self._spread += value * rolled
        elif name == "frequency_weight_clamped":
            self._clamped += value * rolled

    def of_all(self, ranks: Ranks) -> "StepTally":
        """What all ranks counted, the same on each of them. Rows and losses add up; calls are those of the rank with most, which the others
        wait for.
        """
        if ranks.world_size == 1:
            return self
        everyone, all_ = ranks.gather(self), StepTally(self.rows)
        for each in everyone:
            for name, value in each.parts.items():
                all_.parts[name] = all_.parts.get(name, 0.0) + value
            for name in ("rolled", "offsets", "source_noise_rows", "network_rows", "_spread", "_clamped"):
                setattr(all_, name, getattr(all_, name) + getattr(each, name))
        all_.probability = max(each.probability for each in everyone)
        all_.calls_by_rank = [each.network_calls for each in everyone]
        all_.network_calls = max(all_.calls_by_rank)
        return all_

    @property
    def spread(self) -> float:
        """The mean standard deviation of the frequency weight over the rolled rows; 0 where none was rolled."""
        return self._spread / max(1, self.rolled)

    def fields(self) -> dict[str, Any]:
        """The fields of the `step` event that the losses and plans decide."""
        rolled = max(1, self.rolled)
        return {
            "loss": sum(self.parts.values()),
            "loss_parts": dict(self.parts),
            "rows": self.rows,
            "rolled_rows": self.rolled,
            "source_noise_rows": self.source_noise_rows,
            "mean_offset": self.offsets / rolled,
            "network_rows": self.network_rows,
            "network_calls": self.network_calls,
            **({} if self.calls_by_rank is None else {"rank_calls": self.calls_by_rank}),
            "frequency_weight_std": self.spread,
            "frequency_weight_clamped": self._clamped / rolled,
            "effective_probability": self.probability,
        }


def read_together(numbers: Sequence[Tensor], tally: StepTally) -> list[float]:
    """Some numbers from the device, and those that the tally waits for, which it gets: in one read, the only one of a step."""
    waiting = [*numbers, *tally.unread()]
    device = waiting[-1].device  # gradients' norm is a number on the CPU where there is no gradient
    together = torch.stack([value.to(device, torch.float32) for value in waiting]).tolist()
    tally.take(together[len(numbers) :])
    return together[: len(numbers)]


class Timer:
    """How long steps, and what lies between them, take; without the time for which a person had the run wait."""

    def __init__(self, listener: Listener) -> None:
        self.pace, self._listener = Pace(), listener

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count what is done inside as `what` (samples, drift, save), which lies between two steps; not where it fails."""
        began, waited = time.perf_counter(), self._listener.waited_s
        yield
        self.pace.took(what, time.perf_counter() - began - (self._listener.waited_s - waited))


class StepReporter:
    """Writes the event of each step, and the same numbers to the tracker."""

    def __init__(self, status: Status, session: Session, timer: Timer) -> None:
        self.status, self.session, self.pace = status, session, timer.pace
        config, path = session.config.rollout, session.model.noise_path
        watched = reflexflow.is_on(config, path) and config.reflexflow_alpha != 0
        self._spreads: list[float] | None = [] if watched else None
        """Of the first rolled steps, until it is known whether the frequency weight does anything."""

    def report(self, tally: StepTally, *, rate: float, gradient_norm: float, seconds: float) -> None:
        """Report the step that was just done. `rate`: the learning rate; `gradient_norm`: before clipping; `seconds`: of the step alone."""
        status, mib = self.status, memory_mib(self.session.model.device)
        status.peak_mib = mib if status.peak_mib is None else max(mib, status.peak_mib)
        self.pace.step(StepTime(seconds, tally.rolled > 0))
        left = self.time_left()
        fields = {
            **tally.fields(),
            "lr": rate,
            "grad_norm": gradient_norm,
            "seconds": round(seconds, 4),
            "step_s": round(self.pace.step_s, 4),
            "eta_s": round(left.seconds, 1),
            "beside_s": round(left.beside_s, 1),
            "memory_mib": mib,
        }
        status.emit("step", **fields)
        status.journal.step(status.step)
        if self.session.config.training.report_to != "none":
            parts = {f"loss_{name}": value for name, value in fields.pop("loss_parts").items()}
            self.session.accelerator.log({**fields, **parts}, step=status.step)
        self._watch_frequency_weight(tally)

    def time_left(self) -> TimeLeft:
        """Of the steps, samples, drift reports and checkpoints that are still to come."""
        config, step, total = self.session.config, self.status.step, self.status.total
        intervals = {"drift": config.drift.step_interval, "save": config.saving.checkpoint_step_interval}
        if config.validation.prompts:
            intervals["samples"] = config.validation.step_interval
        return self.pace.left(total - step, {what: still_due(step, total, every) for what, every in intervals.items()})

    def _watch_frequency_weight(self, tally: StepTally) -> None:
        if self._spreads is None or tally.rolled == 0:
            return
        self._spreads.append(tally.spread)
        if len(self._spreads) < SPREAD_STEPS:
            return
        mean, self._spreads = sum(self._spreads) / SPREAD_STEPS, None
        if mean < SPREAD_TOO_SMALL:
            norm = self.session.config.rollout.reflexflow_norm
            self.status.warn(
                f"The frequency weight of ReflexFlow spreads by {mean:.1e} around 1: with reflexflow_norm {norm} it does nothing.",
                "Take reflexflow_norm max or mean, or reflexflow_alpha 0 to save its forward.",
            )


def memory_mib(device: torch.device) -> float:
    """Peak memory of the accelerator, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if device.type == "mps":
        return round(torch.mps.current_allocated_memory() / 2**20, 1)
    return round(psutil.Process().memory_info().rss / 2**20, 1)
