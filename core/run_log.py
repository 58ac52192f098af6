"""What a run has told so far, folded from its events: the one shared reader for all viewers of a page.

`follow(run)` gives the process's only `RunLog` of that run; `update()` reads what was appended since the last look, whoever asks. Memory
is bounded: the step series is averaged into at most `Series.LIMIT` points, whatever the length of the run.
"""

import math
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .runs import RunDir

COLUMNS = (
    "loss", "main", "adr", "prior", "lr", "grad_norm", "rolled_rows", "mean_offset", "network_rows", "network_calls",
    "frequency_weight_std", "effective_probability", "seconds", "memory_mib",
)  # fmt: skip
_PARTS = ("main", "adr", "prior")
_CHUNK = 4 << 20


def number(value: Any) -> float:
    """A number of an event as float; NaN for absent ones and for the strings that stand for NaN and infinity."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return math.nan


class Series:
    """Columns over steps, averaged over `stride` neighbouring steps so that at most `LIMIT` points are kept."""

    LIMIT: ClassVar[int] = 2048

    def __init__(self) -> None:
        self.stride = 1
        self._buckets: list[list[Any]] = []  # [first step, last step, sums, counts], a sum and a count per column

    def add(self, step: int, row: dict[str, Any]) -> None:
        """Append one step; NaN and absent values do not count into a mean."""
        values = [number(row.get(name)) for name in COLUMNS]
        if self._buckets and step // self.stride == self._buckets[-1][0] // self.stride:
            bucket = self._buckets[-1]
            bucket[1] = step
        else:
            bucket = [step, step, [0.0] * len(COLUMNS), [0] * len(COLUMNS)]
            self._buckets.append(bucket)
        for index, value in enumerate(values):
            if not math.isnan(value):
                bucket[2][index] += value
                bucket[3][index] += 1
        if len(self._buckets) > self.LIMIT:
            self._halve()

    def _halve(self) -> None:
        self.stride *= 2
        merged: list[list[Any]] = []
        for first, last, sums, counts in self._buckets:
            if merged and first // self.stride == merged[-1][0] // self.stride:
                kept = merged[-1]
                kept[1] = last
                kept[2] = [a + b for a, b in zip(kept[2], sums, strict=True)]
                kept[3] = [a + b for a, b in zip(kept[3], counts, strict=True)]
            else:
                merged.append([first, last, list(sums), list(counts)])
        self._buckets = merged

    def forget_after(self, step: int) -> None:
        """Drop points later than `step`: a resumed run trains them again."""
        self._buckets = [bucket for bucket in self._buckets if bucket[0] <= step]

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def steps(self) -> list[int]:
        """The last step of every point."""
        return [bucket[1] for bucket in self._buckets]

    def column(self, name: str) -> list[float]:
        """The means of one column of COLUMNS; NaN where a point has none."""
        index = COLUMNS.index(name)
        return [bucket[2][index] / bucket[3][index] if bucket[3][index] else math.nan for bucket in self._buckets]


@dataclass
class RunLog:
    """The digest of one run's events. Read the fields under no lock: `update` replaces values, it never edits half of one."""

    run: RunDir
    series: Series = field(default_factory=Series)
    start: dict[str, Any] | None = None
    phase: dict[str, Any] | None = None
    last_step: dict[str, Any] | None = None
    samples: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    drifts: dict[int, dict[str, Any]] = field(default_factory=dict)
    saved: dict[str, Any] | None = None
    exported: dict[str, Any] | None = None
    heard: dict[str, Any] | None = None
    warnings: deque = field(default_factory=lambda: deque(maxlen=20))
    error: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    paused: bool = False
    pause_reason: str | None = None
    version: int = 0
    """Changes with every event; equal versions mean that nothing new was told."""

    def __post_init__(self) -> None:
        self._offset, self._file, self._lock = 0, None, threading.Lock()

    def update(self) -> "RunLog":
        """Fold what was appended since the last call. A few microseconds when nothing was."""
        with self._lock:
            try:
                stat = self.run.events_path.stat()
            except FileNotFoundError:
                return self
            if self._file != stat.st_ino or stat.st_size < self._offset:
                if self._file is not None:  # another run took the place of a deleted one
                    fresh = RunLog(self.run)
                    for name in self.__dataclass_fields__:
                        if name not in ("run", "version"):
                            setattr(self, name, getattr(fresh, name))
                    self.version += 1
                self._file, self._offset = stat.st_ino, 0
            while self._offset < stat.st_size:
                events, offset = self.run.events(self._offset, limit_bytes=_CHUNK)
                if offset == self._offset:
                    break  # half a line: next time
                self._offset = offset
                for event in events:
                    self._fold(event)
                self.version += len(events)
        return self

    def _fold(self, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step")
        if kind == "start":
            self.start, self.end, self.error, self.paused = event, None, None, False
            resumed = event.get("resumed_from")
            if isinstance(resumed, int):
                self.series.forget_after(resumed)
                self.samples = {at: told for at, told in self.samples.items() if at <= resumed}
                self.drifts = {at: told for at, told in self.drifts.items() if at <= resumed}
        elif kind == "phase":
            self.phase = event
        elif kind == "step" and isinstance(step, int):
            parts = event.get("loss_parts")
            self.series.add(step, {**event, **({name: parts.get(name) for name in _PARTS} if isinstance(parts, dict) else {})})
            self.last_step, self.phase = event, None
        elif kind == "sample" and isinstance(step, int):
            self.samples = {**self.samples, step: list(event.get("images", ()))}
        elif kind == "drift" and isinstance(step, int):
            self.drifts = {**self.drifts, step: event}
        elif kind == "saved":
            self.saved = event
        elif kind == "exported":
            self.exported = event
        elif kind == "command":
            self.heard = event
        elif kind == "warning":
            self.warnings.append(event)
        elif kind == "error":
            self.error = event
        elif kind in ("paused", "resumed"):
            self.paused, self.pause_reason = kind == "paused", event.get("reason")
        elif kind == "end":
            self.end, self.phase, self.paused = event, None, False


_logs: OrderedDict[str, RunLog] = OrderedDict()
_logs_lock = threading.Lock()
_KEPT = 16


def follow(run: RunDir) -> RunLog:
    """The shared digest of a run, up to date. One file is read once, however many viewers look at it."""
    key = str(run.path)
    with _logs_lock:
        log = _logs.setdefault(key, RunLog(run))
        _logs.move_to_end(key)
        while len(_logs) > _KEPT:
            _logs.popitem(last=False)
    return log.update()
