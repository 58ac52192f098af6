"""What this machine does at the moment: each NVIDIA card, where `nvidia-ml-py` is installed and finds one, else the CPU; and the main memory.

No torch: the page's process asks. A reading costs under a millisecond without a card; the driver is opened once, at the first one.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

_lock = threading.Lock()
_driver: list[Any] = []  # once opened: [the module pynvml], or [None] where there is no card to ask


@dataclass(frozen=True)
class Meter:
    """One thing that is used. `used` and `total` in `unit`; NaN is not known, or without a limit."""

    name: str
    used: float
    total: float
    unit: str


@dataclass(frozen=True)
class Part:
    """A card, or the machine itself, with its meters."""

    name: str
    meters: tuple[Meter, ...]


def reading() -> list[Part]:
    """The cards in the driver's order, then the machine. The CPU's share is that since the last reading; of a first one it is 0."""
    with _lock:
        return [*_cards(), _machine()]


def _machine() -> Part:
    memory = psutil.virtual_memory()
    return Part(
        "This machine",
        (
            Meter("CPU", psutil.cpu_percent(interval=None), 100.0, "%"),
            Meter("RAM", (memory.total - memory.available) / 2**30, memory.total / 2**30, "GiB"),
        ),
    )


def _cards() -> list[Part]:
    if not _driver:
        _driver.append(_opened())
    nvml = _driver[0]
    if nvml is None:
        return []
    try:
        return [_card(nvml, number) for number in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:  # the driver was reloaded, or a card was lost: asked again at the next reading
        _driver.clear()
        return []


def _opened() -> Any:
    """`pynvml` with the driver open; None where it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _card(nvml: Any, number: int) -> Part:
    """One card. What it does not tell (many do not tell their power) is NaN."""
    handle = nvml.nvmlDeviceGetHandleByIndex(number)

    def told(ask: Callable[[], float]) -> float:
        try:
            return float(ask())
        except nvml.NVMLError:
            return math.nan

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    return Part(
        f"GPU {number}: {name.decode() if isinstance(name, bytes) else name}",
        (
            Meter("utilisation", told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu), 100.0, "%"),
            Meter("memory", memory.used / 2**30, memory.total / 2**30, "GiB"),
            Meter("temperature", told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)), math.nan, "°C"),
            Meter("power", told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000), told(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000), "W"),
        ),
    )  # fmt: skip
