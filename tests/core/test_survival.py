"""Killed at any moment, as often as it may be, a run ends as the one that was never disturbed."""

import json
import multiprocessing
import os
import random
import time
from collections import Counter

import pytest
import torch
from PIL import Image
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from safetensors.torch import load_file
from tiny_run import ROLLOUT, assert_same, draw_pictures, events, last

STEPS, SAVED_EVERY, KILLS = 300, 5, 50
SETTING = {
    **ROLLOUT, "max_train_steps": STEPS, "gradient_accumulation_steps": 2, "lora_dropout": 0.3, "use_ema": True, "ema_decay": 0.8,
    "random_flip": True, "caption_dropout_probability": 0.3, "lr_scheduler": "cosine", "checkpoint_step_interval": SAVED_EVERY, "checkpoints_total_limit": 2,
    "masked_training": "soft", "trigger_word": "zwx", "validation_prompts": ["a zwx circle"], "validation_step_interval": 20, "learning_rate": 1e-3,
}  # fmt: skip
"""Everything that draws, remembers or writes: rollout with ReflexFlow, two things, masks, dropout, average, accumulation, samples and saves in between."""


def start(run: RunDir, *, resume: bool = False) -> multiprocessing.process.BaseProcess:
    """A process that trains a run. Forked, so that it need not import anew; killed, it is as dead as any."""

    def work() -> None:
        torch.set_num_threads(1)
        os._exit(train(run, resume=resume))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.timeout(6000)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_fifty_random_moments_is_the_undisturbed_one(tiny_run, pictures, tmp_path, capsys):
    other = draw_pictures(tmp_path / "other", 3)
    for folder in (pictures, other):
        Image.new("L", (48, 64), 255).save(folder / "0-mask.png")
    thing = {
        "instance_data_dir": str(other),
        "instance_prompt": "a vbk circle",
        "trigger_word": "vbk",
        "class_prompt": "a circle",
    }
    setting = {**SETTING, "concepts": [thing]}
    whole, parts = tiny_run("lumina2", "whole", **setting), tiny_run("lumina2", "parts", **setting)
    began = time.monotonic()
    undisturbed = start(whole)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    undisturbed_s = time.monotonic() - began
    store, rng, kills, reached, amid = RunStore(whole.path.parent), random.Random(7), [], 0, Counter()
    steps_told = events(whole, "step")
    start_s = steps_told[0]["time"] - began_at(whole)
    step_s = (steps_told[-1]["time"] - steps_told[0]["time"]) / STEPS
    while len(kills) < KILLS:
        resume = last_or_none(parts) is not None
        if not resume and parts.events_path.exists():  # killed before its first checkpoint: it begins anew
            store.delete("parts", for_good=True)
            parts = tiny_run("lumina2", "parts", **setting)
        since = parts.events()[1]
        process = start(parts, resume=resume)
        if rng.random() < 0.2:  # while it starts, as far as this machine is today
            process.join(rng.uniform(0.1, start_s))
        else:  # at some step, and some moment of it: by the run's own progress, for a machine may be busy
            steps = rng.randrange(1, 16)
            while process.is_alive() and sum(each["event"] == "step" for each in parts.events(since)[0]) < steps:
                time.sleep(0.02)
            process.join(rng.uniform(0, 2 * step_s))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        found, skipped = checkpoint.load_latest(parts.checkpoints_path)
        assert skipped == [], "a visible checkpoint is whole"
        reached = max(reached, 0 if found is None else found.step)
        told = store.summary("parts")
        kills.append((told.step, told.last_checkpoint))
        amid.update([last_event(parts)])
        assert not told.alive and told.last_checkpoint == (None if found is None else found.step)
    final = start(parts, resume=last_or_none(parts) is not None)
    final.join()
    assert final.exitcode == 0
    assert_same(whole, parts)
    assert {event["step"] for event in events(whole, "sample")} == {event["step"] for event in events(parts, "sample")}
    exported = [load_file(run.path / events(run, "exported")[-1]["path"]) for run in (whole, parts)]
    assert exported[0].keys() == exported[1].keys() != set()
    assert all(torch.equal(tensor, exported[1][name]) for name, tensor in exported[0].items())
    with capsys.disabled():
        trained = sum(step is not None and step > 0 for step, _ in kills)
        print(
            f"\n{len(kills)} kills, {trained} of them after the first step, the last checkpoint before the end of step {reached}; undisturbed {undisturbed_s:.0f} s; "
            f"the last event before the kill: {dict(amid)}"
        )
    assert len(kills) >= KILLS // 2, json.dumps(kills)


def last_event(run: RunDir) -> str:
    found = run.events()[0]
    return found[-1]["event"] if found else "none"


def began_at(run: RunDir) -> float:
    return run.read_state()["created"]


def last_or_none(run: RunDir) -> int | None:
    return last(run).step if checkpoint.checkpoints(run.checkpoints_path) else None
