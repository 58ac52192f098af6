"""The course of a run so far, folded from its events: the one shared reader for all viewers of a page.

`follow(run)` gives the process's only `RunLog` of that run; `update()` reads what was appended since the last call, whoever calls. Memory
is bounded: the step series is averaged into at most `Series.LIMIT` points, whatever the length of the run.
"""

import bisect
import itertools
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..sizes import off_by, size
from .folder import RunDir
from .pace import Pace, StepTime

PHASES = {
    "model": "loading the model",
    "pictures": "reading the pictures",
    "class pictures": "drawing class pictures",
    "latents": "turning the pictures into latents",
    "captions": "encoding the captions",
    "compile": "compiling the network",
    "samples": "drawing samples",
    "drift": "measuring the drift",
    "preview": "drawing a drift picture of the weights of now",
    "export": "writing the weights and loading them again as a check",
}
"""Every phase that a `phase` event may name, in words for people."""

COLUMNS = (
    "loss", "main", "adr", "prior", "preservation", "lr", "grad_norm", "rolled_rows", "mean_offset", "network_rows", "network_calls",
    "frequency_weight_std", "effective_probability", "seconds", "memory_mib", "rows", "source_noise_rows",
    "rolled_step",
)  # fmt: skip
"""Of every step. The last one is made here: 1 where rows were rolled out, else 0."""
_PACES_KEPT = 16
_ANSWERED_BY_EVENT = {"sample": "sample", "drift": "drift", "save": "saved"}  # a command -> the event that answers it
_PARTS = ("main", "adr", "prior", "preservation")
_CHUNK = 4 << 20
AT_ONCE = 128 << 10
"""Bytes of events, about 400 of them, that are read in some 10 ms: as much as one who answers a page should read at once."""


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

    def frozen(self) -> "Series":
        """The points of this moment: columns read from it have one length, whatever is appended meanwhile."""
        copy = Series()
        copy.stride, copy._buckets = self.stride, list(self._buckets)
        return copy

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def steps(self) -> list[int]:
        """The last step of every point."""
        return [bucket[1] for bucket in self._buckets]

    def count(self, name: str) -> int:
        """How many steps recorded this column."""
        index = COLUMNS.index(name)
        return sum(bucket[3][index] for bucket in self._buckets)

    def mean(self, name: str) -> float:
        """The mean of a column over all steps that recorded it; NaN when none did."""
        index, count = COLUMNS.index(name), self.count(name)
        return sum(bucket[2][index] for bucket in self._buckets) / count if count else math.nan

    def clock(self) -> list[float]:
        """Seconds of training steps up to each point of `steps`: without what lies between them (loading, samples, drift, saving)."""
        index = COLUMNS.index("seconds")
        return list(itertools.accumulate(bucket[2][index] for bucket in self._buckets))

    def clock_at(self, step: int) -> float:
        """Seconds of training steps until `step` was done, by linear interpolation between the points; NaN beyond the last."""
        if step == 0:
            return 0.0
        steps, clock = [0, *self.steps], [0.0, *self.clock()]
        place = bisect.bisect_left(steps, step)
        if place == len(steps):
            return math.nan
        share = (step - steps[place - 1]) / (steps[place] - steps[place - 1])
        return clock[place - 1] + share * (clock[place] - clock[place - 1])

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
    doing: dict[str, Any] | None = None
    """The command that is being answered: pictures, a drift report or a checkpoint that was requested."""
    answered: tuple[dict[str, Any], dict[str, Any]] | None = None
    """(command, event) of the newest such answer; the event is a `warning` where it failed."""
    warnings: deque = field(default_factory=lambda: deque(maxlen=20))
    error: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    expected: tuple[tuple[float, float, float], int] | None = None
    """(low, likely, high) seconds that the training steps were estimated to take before the start, and how many steps those were."""
    expected_mib: tuple[float, float, float] | None = None
    """(low, likely, high) MiB of memory that a step was estimated to take before the start."""
    peak_mib: float = math.nan
    """The most that a step reported."""
    paces: list[Pace] = field(default_factory=list)
    """The step times of each process that trained this run, the latest last."""
    paused: bool = False
    behind: bool = False
    """Whether the file had more to read when `update` had read as much as it should at once."""
    version: int = 0
    """Changes with every event; equal versions mean that there is nothing new."""

    def __post_init__(self) -> None:
        self._offset, self._lock = 0, threading.Lock()
        self._file: int | None = None

    def update(self, most_bytes: int | None = None) -> "RunLog":
        """Fold what was appended since the last call. A few microseconds when nothing was.

        `most_bytes`: so much at once (at least one event); where there is more, it is `behind`. None = all.
        """
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
            end = stat.st_size if most_bytes is None else min(stat.st_size, self._offset + most_bytes)
            while self._offset < end:
                events, offset = self.run.events(self._offset, limit_bytes=min(_CHUNK, end - self._offset))
                if offset == self._offset:
                    end = stat.st_size  # half a line: next time
                    break
                self._offset = offset
                for event in events:
                    self._fold(event)
                self.version += len(events)
            self.behind = end < stat.st_size
        return self

    def _fold(self, event: dict[str, Any]) -> None:
        kind, step = event["event"], event.get("step")
        failed = kind == "warning" and str(event.get("message", "")).startswith("The command")
        if self.doing is not None and (kind == _ANSWERED_BY_EVENT[self.doing["name"]] or failed):
            self.answered, self.doing = (self.doing, event), None
        if kind == "start":
            self.start, self.end, self.error, self.paused = event, None, None, False
            self.doing, self.paces = None, [*self.paces[1 - _PACES_KEPT :], Pace()]
            self.expected = _expected(event) or self.expected
            self.expected_mib = _three(event.get("expected_mib")) or self.expected_mib
            resumed = event.get("resumed_from")
            if isinstance(resumed, int):
                self._forget_after(resumed)
        elif kind == "back" and isinstance(step, int):
            self._forget_after(step)
        elif kind == "phase":
            self.phase = event
        elif kind == "step" and isinstance(step, int):
            parts = event.get("loss_parts")
            row = {**event, **({name: parts.get(name) for name in _PARTS} if isinstance(parts, dict) else {})}
            rolled = event.get("rolled_rows") != 0
            row["rolled_step"] = int(rolled)
            self.series.add(step, row)
            if not self.paces:
                self.paces = [Pace()]
            rows, network = number(event.get("rows")), number(event.get("network_rows"))
            forwards = network / rows if rows > 0 else math.nan
            self.paces[-1].step(
                StepTime(number(event.get("seconds")), rolled, forwards, number(event.get("network_calls")))
            )
            self.peak_mib = max(
                number(event.get("memory_mib")), self.peak_mib, key=lambda mib: -1 if math.isnan(mib) else mib
            )
            self.last_step, self.phase, self.doing = event, None, None
        elif kind == "sample" and isinstance(step, int):
            self.samples = {**self.samples, step: list(event.get("images", ()))}
        elif kind == "drift" and isinstance(step, int):
            self.drifts = {**self.drifts, step: event}
        elif kind == "saved":
            self.saved = event
        elif kind == "exported":
            self.exported = event
        elif kind == "command":
            preview = isinstance(event.get("args"), dict) and "request" in event["args"]  # has an event of its own
            self.doing = event if event.get("name") in _ANSWERED_BY_EVENT and not preview else None
        elif kind in ("warning", "skipped"):
            self.warnings.append(event)
        elif kind == "scaled":  # the last one counts them all
            before = next((each for each in self.warnings if each["event"] == kind), None)
            if before is not None:
                self.warnings.remove(before)
            self.warnings.append(event)
        elif kind == "error":
            self.error = event
        elif kind in ("paused", "resumed"):
            self.paused = kind == "paused"
        elif kind == "end":
            self.end, self.phase, self.paused, self.doing = event, None, False, None

    def _forget_after(self, step: int) -> None:
        """What came after a step is trained again."""
        self.series.forget_after(step)
        self.samples = {at: event for at, event in self.samples.items() if at <= step}
        self.drifts = {at: event for at, event in self.drifts.items() if at <= step}

    @property
    def step_s(self) -> float:
        """Seconds of a step as steps were of late; NaN before the first. The run's one speed (`pace`)."""
        return self.paces[-1].step_s if self.paces else math.nan


def prepared_words(event: Mapping[str, Any]) -> str:
    """A `prepared` event as a sentence: what was made of the pictures and captions, and what the cache had."""
    rebuilt = event.get("rebuilt")
    again = f" ({rebuilt} of them because the cached ones were damaged)" if rebuilt else ""
    trained = (
        " They stay loaded and train: every step encodes its captions anew." if event.get("encoders_trained") else ""
    )
    encoders = "opened" if event.get("encoders_opened") else "not opened"
    removed = event.get("removed_bytes")
    left = f" {size(removed)} of entries that were unused for longest were removed from the cache." if removed else ""
    return (
        f"Pictures and captions prepared in {event['seconds']} s: {event['reused']} from the cache, {event['made']} made{again}; "
        f"the text encoders were {encoders}.{trained}{left}"
    )


def memory_words(expected: tuple[float, float, float] | None, peak_mib: float) -> str:
    """What a step was estimated to take before the start, what the most was, and how far that is off; "" where either is not known. MiB."""
    if expected is None or not peak_mib > 0:
        return ""
    low, likely, high = expected
    where = "within the range" if low <= peak_mib <= high else "outside the range"
    shown_low, shown, shown_high, took = (size(mib * 2**20) for mib in (low, likely, high, peak_mib))
    return (
        f"Before the start {shown_low} to {shown_high} of memory, most likely {shown}, were estimated. "
        f"A step took {took} at most: the estimate was {off_by(likely, peak_mib)}, {where}."
    )


def end_memory_words(end: Mapping[str, Any]) -> str:
    """The same from an `end` event."""
    return memory_words(_three(end.get("expected_mib")), number(end.get("memory_mib")))


def _expected(start: dict[str, Any]) -> tuple[tuple[float, float, float], int] | None:
    expected, steps = _three(start.get("expected_s")), start.get("total_steps")
    return (expected, steps) if expected is not None and isinstance(steps, int) and steps > 0 else None


def _three(span: Any) -> tuple[float, float, float] | None:
    """(low, likely, high) of an event; None where it is not one."""
    if not isinstance(span, list) or len(span) != 3:
        return None
    low, likely, high = map(number, span)
    return (low, likely, high) if 0 < low <= likely <= high else None


_logs: OrderedDict[str, RunLog] = OrderedDict()
_logs_lock = threading.Lock()
_KEPT = 16


def follow(run: RunDir, most_bytes: int | None = None) -> RunLog:
    """The shared digest of a run, up to date, or as far as `most_bytes` leads. One file is read once, however many viewers look at it."""
    key = str(run.path)
    with _logs_lock:
        log = _logs.setdefault(key, RunLog(run))
        _logs.move_to_end(key)
        while len(_logs) > _KEPT:
            _logs.popitem(last=False)
    return log.update(most_bytes)
