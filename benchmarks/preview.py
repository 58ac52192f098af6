"""How long a drift picture of the demo takes, from the click to the files: `python benchmarks/preview.py`.

Prints wall seconds and the CPU seconds of the worker for: the first picture without a worker; the first picture with a
worker that was started 10 s before (what opening the Drift tab does); further pictures; the curves; and pictures drawn
for a prompt ("Try it"). Run it on a quiet
machine; on a busy one only the CPU seconds mean something.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from rollout_studio.app.parts.preview_client import PreviewClient
from rollout_studio.core.look.preview.request import showcase

STRIP = {"image": showcase()[0], "config": {"pretrained_model_name_or_path": "demo-flow", "resolution": 64}}
DRAWN = {"what": "samples", "prompts": "a large red circle on a black background, on the right"}


def cpu_s(client: PreviewClient) -> float:
    """CPU seconds that the worker has used; 0 while there is none."""
    times = psutil.Process(client.pid).cpu_times() if client.pid else None
    return 0.0 if times is None else times.user + times.system


def clicked(client: PreviewClient, record: dict) -> tuple[float, float, float]:
    """(wall seconds to the filmstrip, wall seconds to the end, CPU seconds) of one request."""
    began, used, first = time.monotonic(), cpu_s(client), None
    ticket = client.request(record)
    while True:
        state = client.state(ticket)
        if first is None and state.result is not None:
            first = time.monotonic() - began
        if state.ended:
            assert state.status == "done", state
            return first, time.monotonic() - began, cpu_s(client) - used
        time.sleep(0.005)


def report(what: str, figures: tuple[float, float, float]) -> None:
    first, whole, used = figures
    print(f"{what:58s} filmstrip {first:6.2f} s, all {whole:6.2f} s, CPU {used:6.2f} s", flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="preview-benchmark-"))
    try:
        print(f"load average {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
        client = PreviewClient(folder / "cold")
        report("first picture, no worker", clicked(client, STRIP))
        others = [
            {"sampler": "euler"},
            {"offset": 5},
            {"seed": 7},
            {"target": 0.5},
            {"image": showcase()[1]},
            {"prompt": "a red circle"},
        ]
        figures = [clicked(client, {**STRIP, **change}) for change in others]
        report(f"further pictures, the slowest of {len(others)}", max(figures, key=lambda each: each[1]))
        report("further pictures, in the middle", tuple(map(statistics.median, zip(*figures, strict=True))))
        report(
            "filmstrip, curves and spectrum, 4 noises, offset 10",
            clicked(client, {**STRIP, "what": ["strip", "curves", "spectrum"], "seed": 8}),
        )
        report("a picture drawn for a prompt (30 steps, guidance 4)", clicked(client, DRAWN))
        report("another one (another seed)", clicked(client, {**DRAWN, "seed": 9}))
        memory = psutil.Process(client.pid).memory_info().rss / 2**20
        print(f"worker's memory {memory:.0f} MiB")
        client.close()
        client = PreviewClient(folder / "warm")
        client.warm_up()
        time.sleep(10)
        report("first picture, worker started 10 s before", clicked(client, STRIP))
        client.close()
        client = PreviewClient(folder / "drawn")
        report("first picture drawn for a prompt, no worker", clicked(client, DRAWN))
        client.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
