"""How quickly the page answers and how little it needs: `python benchmarks/page.py` (Chromium in ROLLOUT_STUDIO_CHROMIUM or on the path).

Prints, for the page started as a person starts it and with a runs folder of 20 runs: seconds from the command to the address and to a
visible Start button, memory of its process, whether torch is in it, what a tick of one viewer and of ten costs its process, and how long
after a step was written the last of ten viewers shows it. Run it on a quiet machine.

`python benchmarks/page.py --large`: the same start and memory with 1,000 runs and 100,000 events in the newest one, what each handler of the
Runs tab takes there (the functions themselves, by the clock and as processor time of their own), and how long a click on a run takes until it is shown.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright
from rollout_studio.app.page import free_port
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore

RUNS, STEPS, VIEWERS, WATCHED_S = 20, 400, 10, 20.0
LARGE_RUNS, LARGE_EVENTS = 1000, 100_000
TICK_S = 1.5


def written(store: RunStore) -> RunDir:
    """Twenty runs of 400 steps; the newest one is training, and belongs to this process."""
    for number in range(RUNS):
        run = store.create({"max_train_steps": 1000}, f"run-{number:02d}", preset="demo")
        run.emit("start", pid=os.getpid(), device="cpu", config_hash="0", total_steps=1000, resumed_from=None)
        for step in range(1, STEPS + 1):
            emit_step(run, step)
        run.write_state(state="stopped" if number < RUNS - 1 else "running", step=STEPS)
    return run


def emit_step(run: RunDir, step: int) -> None:
    loss = 0.3 + 0.1 * (step % 7)
    run.emit("step", step=step, loss=loss, loss_parts={"main": loss, "adr": 0.0, "prior": 0.0}, lr=1e-3, grad_norm=1.0, rolled_rows=step % 3,
             mean_offset=1.2, network_rows=6, network_calls=3, frequency_weight_std=0.1, effective_probability=0.2, seconds=0.4,
             eta_s=0.4 * (1000 - step), memory_mib=800.0)  # fmt: skip


def written_large(store: RunStore) -> RunDir:
    """A thousand runs that are done; the newest one is training and has written so many steps. It belongs to this process."""
    for number in range(LARGE_RUNS):
        last = number == LARGE_RUNS - 1
        run = store.create({"max_train_steps": LARGE_EVENTS if last else 100}, f"run-{number:04d}", preset="demo")
        run.emit(
            "start",
            pid=os.getpid(),
            device="cpu",
            config_hash="0",
            total_steps=LARGE_EVENTS if last else 100,
            resumed_from=None,
        )
        emit_step(run, 1)
        run.write_state(state="running" if last else "done", step=1 if last else 100)
    line = run.events_path.read_text(encoding="utf-8").splitlines()[-1]
    with run.events_path.open("a", encoding="utf-8") as file:
        file.writelines(line.replace('"step": 1,', f'"step": {step},') + "\n" for step in range(2, LARGE_EVENTS + 1))
    return run


def handlers(folder: Path, name: str) -> None:
    """What each handler of the Runs tab takes: the first time, while the events are still being read, and afterwards."""
    import gradio as gr
    from rollout_studio.app.parts.watch import Watch
    from rollout_studio.app.runs.tab import RunsTab

    watch = Watch(folder)
    with gr.Blocks():
        tab = RunsTab(watch)
    watch.runs(fresh=True)
    time.sleep(2.1)  # what was written just now is read again
    watch.runs(fresh=True)
    took: dict[str, list[tuple[float, float]]] = {}

    def timed(what: str, call: Callable[[], object]) -> None:
        since, used = time.perf_counter(), time.thread_time()
        call()
        took.setdefault(what, []).append((1000 * (time.perf_counter() - since), 1000 * (time.thread_time() - used)))

    seen: dict[str, str] = {}
    other = f"run-{LARGE_RUNS - 2:04d}"

    def looked(stage: str) -> None:
        timed(f"a viewer arrives, {stage}", lambda: tab.view(name, {}, "one"))
        timed(f"a tick, {stage}", lambda: tab.view(name, seen, "two"))
        timed(f"compare two runs, {stage}", lambda: tab.compare.view(name, [name, other], "steps", {}))

    looked("events being read")
    while watch.log(watch.run(name)).behind:
        looked("events being read")
    for _ in range(5):
        looked("events read")
        timed("the list of runs anew", lambda: watch.runs(fresh=True))
    for what, times in took.items():
        clock, own = (sorted(each) for each in zip(*times, strict=True))
        middle = len(times) // 2
        print(
            f"{what:36s} {clock[middle]:6.1f} ms, at most {clock[-1]:6.1f}; of its own {own[middle]:6.1f}, at most {own[-1]:6.1f} ms; {len(times)} times"
        )
    watch.close()


def large() -> None:
    """Start, memory and handlers with a large folder."""
    folder = Path(tempfile.mkdtemp(prefix="page-benchmark-"))
    run = written_large(RunStore(folder))
    port = free_port(7950)
    print(
        f"load average {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores; {LARGE_RUNS} runs, {LARGE_EVENTS} events"
    )
    command = [
        sys.executable,
        "-m",
        "rollout_studio.app",
        "ui",
        "--no-browser",
        "--port",
        str(port),
        "--runs-dir",
        str(folder),
    ]
    with sync_playwright() as playwright, run.lock():
        path = os.environ.get("ROLLOUT_STUDIO_CHROMIUM", shutil.which("chromium"))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        began = time.monotonic()
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process = psutil.Process(started.pid)
        try:
            address = printed_link(started)
            print(f"command to answer             {time.monotonic() - began:6.2f} s")
            page = opened(browser, address)
            expect(page.locator("#run-head h2")).to_have_text(run.name, timeout=60_000)
            print(f"command to a run on the page  {time.monotonic() - began:6.2f} s")
            expect(page.get_by_test_id("progress")).to_contain_text(f"step {LARGE_EVENTS} of", timeout=60_000)
            expect(page.get_by_test_id("progress")).not_to_contain_text("reading", timeout=60_000)
            print(f"all its events on the page    {time.monotonic() - began:6.2f} s")
            for number in (LARGE_RUNS - 5, LARGE_RUNS - 9):
                since = time.monotonic()
                page.locator("#run-picker").get_by_label(f"run-{number:04d}  ·").first.click()
                expect(page.locator("#run-head h2")).to_have_text(f"run-{number:04d}")
                print(f"a click on a run until it is shown {time.monotonic() - since:6.2f} s")
            print(f"memory of the page's process  {process.memory_info().rss / 2**20:6.0f} MiB")
        finally:
            started.terminate()
            started.wait(10)
            browser.close()
        handlers(folder, run.name)
    shutil.rmtree(folder, ignore_errors=True)


def printed_link(process: subprocess.Popen) -> str:
    """The link that the page prints as soon as it answers."""
    for line in process.stdout:
        found = re.search(r" is at (http\S+)", line)
        if found:
            return found.group(1)
    raise SystemExit("the page ended")


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(address)
    return page


def viewing_costs(pages: list[Page], process: psutil.Process, run: RunDir) -> None:
    """CPU time of the page's process for these viewers, with nothing new and with a step each 0.4 s."""
    viewers = len(pages)
    for page in pages:
        expect(page.get_by_test_id("progress")).to_contain_text("of 1000", timeout=60_000)
    time.sleep(2)
    used, since = cpu_s(process), time.monotonic()
    time.sleep(WATCHED_S)
    idle = cpu_s(process) - used, time.monotonic() - since
    used, since, step = cpu_s(process), time.monotonic(), STEPS
    while time.monotonic() - since < WATCHED_S:
        step += 1
        emit_step(run, step + viewers * 100)
        time.sleep(0.4)
    busy = cpu_s(process) - used, time.monotonic() - since
    for what, (cpu, seconds) in (("nothing new", idle), ("a step each 0.4 s", busy)):
        ticks = viewers * seconds / TICK_S
        print(
            f"{viewers:2d} viewer{'s' if viewers > 1 else ' '}, {what:18s} {1000 * cpu / ticks:6.1f} ms CPU per tick, {100 * cpu / seconds:5.1f} % of a core"
        )


def last_viewer(pages: list[Page], run: RunDir) -> None:
    """How long a new step takes to be on all pages."""
    last = STEPS + VIEWERS * 100 + 200
    emit_step(run, last)
    since = time.monotonic()
    for page in pages:
        expect(page.get_by_test_id("progress")).to_contain_text(f"step {last} of", timeout=60_000)
    print(f"the last of {len(pages)} viewers shows a new step after {time.monotonic() - since:.1f} s")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="page-benchmark-"))
    port = free_port(7950)
    run = written(RunStore(folder))
    options = ["--no-browser", "--port", str(port), "--runs-dir", str(folder)]
    command = [sys.executable, "-m", "rollout_studio.app", "ui", *options]
    print(f"load average {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
    with sync_playwright() as playwright, run.lock():
        path = os.environ.get("ROLLOUT_STUDIO_CHROMIUM", shutil.which("chromium"))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        began = time.monotonic()
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process = psutil.Process(started.pid)
        try:
            address = printed_link(started)
            print(f"command to answer             {time.monotonic() - began:6.2f} s")
            page = opened(browser, address)
            expect(page.get_by_test_id("progress")).to_contain_text(f"step {STEPS} of", timeout=60_000)
            print(f"command to a run on the page  {time.monotonic() - began:6.2f} s")
            torch = any("torch" in each.path for each in process.memory_maps())
            print(f"memory of the page's process  {process.memory_info().rss / 2**20:6.0f} MiB, torch in it: {torch}")

            pages = [page]
            for viewers in (1, VIEWERS):
                while len(pages) < viewers:
                    pages.append(opened(browser, address))
                viewing_costs(pages, process, run)
            last_viewer(pages, run)
            print(f"memory then                   {process.memory_info().rss / 2**20:6.0f} MiB")
        finally:
            started.terminate()
            started.wait(10)
            browser.close()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    large() if "--large" in sys.argv[1:] else main()
