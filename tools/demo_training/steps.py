"""What all trainings of the demo share: the log, states that are always whole, the learning rate, pictures of the world."""

import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from rollout_studio.core.demo import world

LOG = Path(__file__).resolve().parents[2] / "docs" / "demo-training-log.jsonl"


def log(**record) -> None:
    """Append one line to the training log, and show it."""
    record = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), **record}
    with LOG.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in -1..1, as diffusers' image processors do."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_state(path: Path, **state) -> None:
    """Write beside, then rename: a state on disk is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def cosine(step: int, steps: int, *, peak: float, warmup: int = 200) -> float:
    """Learning rate: a short linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def draw_scenes(number: int, seed: int) -> tuple[np.ndarray, list[world.Scene]]:
    """`number` pictures of training scenes, uint8 (N, 64, 64, 3), and what they show."""
    rng = np.random.default_rng(seed)
    scenes = [world.training_scenes()[i] for i in rng.integers(len(world.training_scenes()), size=number)]
    return np.stack([np.asarray(world.draw(scene, rng)) for scene in scenes]), scenes
