"""What the machine does: CPU and RAM everywhere; of NVIDIA cards what they tell, and nothing where there is none."""

import builtins
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rollout_studio.core import machine


@pytest.fixture(autouse=True)
def unopened(monkeypatch):
    monkeypatch.setattr(machine, "_driver", [])


class NVMLError(Exception):
    pass


def driver(**changes):
    """Two cards as `pynvml` tells of them; the second has no power meter. `changes`: functions of their own."""

    def power(handle):
        if handle == 1:
            raise NVMLError("not supported")
        return 312_500

    known = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetName": lambda handle: [b"Old driver's card", "H200"][handle],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3 * 2**30, total=24 * 2**30),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=87, memory=12),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetPowerUsage": power,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        **changes,
    }
    made = ModuleType("pynvml")
    vars(made).update(known)
    return made


def test_without_the_library_or_a_card_it_is_cpu_and_ram_alone(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *rest, **more)

    def no_driver():
        raise NVMLError("driver not loaded")

    monkeypatch.setattr(builtins, "__import__", missing)
    [only] = machine.reading()
    monkeypatch.undo()
    machine._driver.clear()
    monkeypatch.setitem(sys.modules, "pynvml", driver(nvmlInit=no_driver))
    assert [part.name for part in machine.reading()] == [only.name]
    cpu, ram = only.meters
    assert (cpu.unit, ram.unit) == ("%", "GiB") and 0 <= cpu.used <= 100 and 0 < ram.used < ram.total


def test_each_card_tells_utilisation_memory_temperature_and_power_as_far_as_it_knows_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    first, second, _ = machine.reading()
    assert (first.name, second.name) == ("GPU 0: Old driver's card", "GPU 1: H200")
    told = {meter.name: (meter.used, meter.total, meter.unit) for meter in first.meters}
    assert told["utilisation"] == (87, 100, "%") and told["memory"] == (3, 24, "GiB")
    assert told["power"] == (312.5, 700, "W") and told["temperature"][0] == 61
    power = second.meters[3]
    assert power.name == "power" and math.isnan(power.used)


def test_a_card_that_is_lost_hides_the_cards_until_the_driver_answers_again(monkeypatch):
    def lost():
        raise NVMLError("GPU is lost")

    monkeypatch.setitem(sys.modules, "pynvml", driver(nvmlDeviceGetCount=lost))
    assert len(machine.reading()) == 1
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    assert len(machine.reading()) == 3
