"""How long preparing 100 pictures takes with different threads: `python benchmarks/preparing.py [--pictures N] [--size PX]`.

Two threads decode pictures while torch encodes them with all cores; OpenMP workers that spin while they wait take the cores from
the decoding. Each time is a fresh process that loads the demo and prepares the pictures with an empty cache; the time is that of
`prepare` alone.

    one thread          OMP_NUM_THREADS=1: the yardstick
    worker              all cores, the environment that workers are started with
    terminal            all cores, as `rollout-studio train` makes it for its own process
    torch's default     all cores, nothing set: what it was before
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ONE_PROCESS = """
import json, sys, time
from pathlib import Path
if sys.argv[3] == "terminal":
    from rollout_studio.core.platform_calls import sleep_while_waiting
    sleep_while_waiting()
from rollout_studio.core.platform_calls import use_all_cores
use_all_cores()
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.data import prepare, scan
from rollout_studio.core.families import load_model
config = config_from_flat({"pretrained_model_name_or_path": "demo-flow", "instance_data_dir": sys.argv[1], "instance_prompt": "a picture", "resolution": 64})
found, model = scan(config.data), load_model(config.model)
began, used = time.perf_counter(), time.process_time()
prepare(model, config, found, Path(sys.argv[2]))
print(json.dumps([time.perf_counter() - began, time.process_time() - used]))
"""


def make_pictures(folder: Path, number: int, side: int) -> None:
    """Photographs of a kind: smooth colours with grain, so that decoding takes what it takes for real ones."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for index in range(number):
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
            (side, side * 3 // 4), Image.Resampling.BICUBIC
        )
        grain = draws.normal(0, 6, (side * 3 // 4, side, 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{index:03d}.jpg", quality=92
        )


def prepared(folder: Path, pictures: Path, how: str, changes: dict[str, str]) -> tuple[float, float]:
    """(wall, CPU) seconds of one preparation in a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_", "KMP_"))
    }
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, str(pictures), str(cache), how],
        env=environment | changes,
        check=True,
        stdout=subprocess.PIPE,
    )
    return tuple(json.loads(done.stdout))


def main() -> None:
    from rollout_studio.core.platform_calls import worker_environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--size", type=int, default=512, help="the longer side, in pixels")
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    os.environ.pop("OMP_WAIT_POLICY", None)
    ways = {
        "one thread": {"OMP_NUM_THREADS": "1"},
        "worker": worker_environment(),
        "terminal": {},
        "torch's default": {},
    }
    folder = Path(tempfile.mkdtemp(prefix="preparing-benchmark-"))
    try:
        make_pictures(folder / "pictures", given.pictures, given.size)
        print(
            f"{given.pictures} pictures of {given.size} px, {psutil.cpu_count()} cores, load average {psutil.getloadavg()[0]:.1f}, {given.times} times each"
        )
        times: dict[str, list[tuple[float, float]]] = {how: [] for how in ways}
        for _ in range(given.times):  # in turns, so that what else the machine does meets them all
            for how, changes in ways.items():
                times[how].append(prepared(folder, folder / "pictures", how, changes))
        one, one_cpu = (statistics.median(part) for part in zip(*times["one thread"], strict=True))
        for how, each in times.items():
            wall, cpu = (statistics.median(part) for part in zip(*each, strict=True))
            walls = [one_wall for one_wall, _ in each]
            print(
                f"{how:16s} {wall:6.2f} s ({min(walls):.2f} to {max(walls):.2f}), CPU {cpu:5.2f} s; "
                f"{wall / one:5.2f} times one thread (fastest {min(walls) / min(each[0] for each in times['one thread']):.2f}, CPU {cpu / one_cpu:.2f})"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
