"""What only shows after long: memory, file handles and the events of 20,000 real steps; a queue under ten submitters and a killer."""

import multiprocessing
import os
import random
import statistics
import sys
import time
from collections import Counter

import psutil
import pytest
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from tiny_run import ROLLOUT, events

STEPS, LOOKED_AT_EVERY, WARM = 20_000, 200, 4_000


def slope(points):
    """Of (x, y) points by the median of the slopes of all pairs, which a few outliers do not move."""
    pairs = [(b, a) for i, a in enumerate(points) for b in points[i + 1 :: 7]]
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for b, a in pairs)


@pytest.mark.slow
@pytest.mark.timeout(10_000)
def test_twenty_thousand_steps_with_saves_samples_and_rollouts_leak_nothing(tiny_run, capsys):
    run = tiny_run(
        "lumina2", max_train_steps=STEPS, checkpoint_step_interval=250, checkpoints_total_limit=2, use_ema=True, train_batch_size=1,
        validation_prompts=["a circle"], validation_step_interval=1000, drift_step_interval=5000, learning_rate=1e-5,
        **{**ROLLOUT, "scheduled_sampling_probability": 0.1},
    )  # fmt: skip
    process, looks, seconds = psutil.Process(), [], []

    def listen(event):
        if event["event"] != "step":
            return
        seconds.append(event["seconds"])
        if event["step"] % LOOKED_AT_EVERY == 0:
            open_files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
            looks.append((event["step"], process.memory_info().rss / 2**20, open_files))
        if event["step"] % 2000 == 0:
            with capsys.disabled():
                print(f"\n{looks[-1]}", end="", flush=True)

    began = time.monotonic()
    assert train(run, listen=listen) == 0
    took = time.monotonic() - began
    settled = [look for look in looks if look[0] > WARM]
    per_step = slope([look[:2] for look in settled])  # MiB
    handles = Counter(look[2] for look in settled)
    ordered = sorted(seconds[WARM:])
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    size = run.events_path.stat().st_size
    with capsys.disabled():
        print(
            f"\n{STEPS} steps in {took / 60:.0f} min; memory {settled[0][1]:.0f} -> {settled[-1][1]:.0f} MiB, slope {per_step * 20_000:.2f} MiB in 20,000 "
            f"steps ({per_step * STEPS / (took / 3600):.1f} MiB an hour); handles {dict(handles)}; a step p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms; "
            f"events {size / 2**20:.1f} MiB, {len(events(run, 'saved'))} saved, {len(events(run, 'sample'))} samples, {len(events(run, 'drift'))} drift"
        )
    assert [event["step"] for event in events(run, "step")] == list(range(1, STEPS + 1))
    assert max(handles) - min(handles) <= 2, "no file stays open"
    assert per_step * 20_000 < 16, "MiB"
    assert size < STEPS * 1200 and len(follow(run).series) <= 2048


WORKER = """
import json, os, sys
folder = sys.argv[1]
def write(name, value):
    with open(os.path.join(folder, name + ".part"), "w") as file:
        json.dump(value, file)
    os.replace(os.path.join(folder, name + ".part"), os.path.join(folder, name))
handle = os.open(os.path.join(os.path.dirname(folder), "starts.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(handle, (os.path.basename(folder) + "\\n").encode())
with open(os.path.join(folder, "events.jsonl"), "a") as file:
    file.write(json.dumps({"event": "end", "state": "done"}) + "\\n")
with open(os.path.join(folder, "state.json")) as file:
    state = json.load(file)
write("state.json", {**state, "state": "done"})
"""
"""Stands for a training: a process that notes that it was started, and is done."""


def submit(root, who):
    """Queue twenty jobs, whatever of them a killed one before has left."""
    store = RunStore(root)
    for number in range(20):
        name = f"job-{who}-{number:02d}"
        if not (store.root / name).exists():
            store.create({"device": "cpu"}, name)
        # It was killed before the run was queued, or in the middle of that: queueing twice is queueing once.
        if store.get(name).read_state()["state"] in ("created", "queued"):
            store.enqueue(name)


def pump(root):
    store = RunStore(root, worker=(sys.executable, "-S", "-E", "-c", WORKER))
    while True:
        store.reconcile()
        store.pump()
        time.sleep(0.02)


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_hundred_jobs_of_ten_submitters_with_kills_in_between_are_each_run_once_in_order(tmp_path, capsys):
    """Submitters and pumps are killed at random moments and started again until all is done."""
    rng, root = random.Random(5), tmp_path / "runs"
    store = RunStore(root)
    submitters = {who: forked(submit, root, who) for who in range(10)}
    pumps = [forked(pump, root) for _ in range(3)]
    kills, starts, began = 0, root / "starts.txt", time.monotonic()

    def done():
        return len(set(starts.read_text().split())) if starts.exists() else 0

    while done() < 200 and time.monotonic() - began < 2400:
        time.sleep(rng.uniform(0.1, 1.0))
        for who, process in submitters.items():
            if process.is_alive() and rng.random() < 0.15:
                process.kill()
                kills += 1
            process.join(0.01)
            if process.exitcode not in (None, 0):
                submitters[who] = forked(submit, root, who)
        place = rng.randrange(len(pumps))
        pumps[place].kill()
        pumps[place].join()
        kills += 1
        pumps[place] = forked(pump, root)
    for process in [*submitters.values(), *pumps]:
        process.kill()
        process.join()
    ran = starts.read_text().split()
    with capsys.disabled():
        print(f"\n{len(ran)} starts of {len(set(ran))} jobs, {kills} kills, {time.monotonic() - began:.0f} s")
    assert Counter(ran) == Counter(f"job-{who}-{number:02d}" for who in range(10) for number in range(20))
    for who in range(10):
        mine = [name for name in ran if name.startswith(f"job-{who}-")]
        assert mine == sorted(mine), "in the order in which they were queued"
    assert store.queue() == [] and all(run.state == "done" for run in store.list())
