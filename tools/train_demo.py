#!/usr/bin/env python
"""Train the demo's models from nothing: the picture world is drawn, nothing is downloaded.

    python tools/train_demo.py autoencoder          # minutes; both models share it
    python tools/train_demo.py flow                 # about an hour on one CPU core
    python tools/train_demo.py epsilon              # the same again; may run beside it
    python tools/train_demo.py measure flow         # the 200 held-out prompts, by rule

Each training can be killed and started again: it goes on from its last state (`--state`), and puts a loadable snapshot of its averaged
weights into `presets/demo/` every few minutes. Figures are appended to `docs/demo-training-log.jsonl`. Runs with the same seed
see the same pictures, captions, noise and times in the same order.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rollout_studio.core.demo import ASSETS, EPSILON, FLOW, world
from torch.nn import functional as F

LOG = Path(__file__).resolve().parents[1] / "docs" / "demo-training-log.jsonl"


# Small helpers -------------------------------------------------------------------------------------------------------------


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


def replace_folder(new: Path, old: Path) -> None:
    """Put the finished folder `new` in the place of `old`; whoever opens `old` meanwhile waits for two renames at most."""
    aside = old.with_name(old.name + ".old")
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def cosine(step: int, steps: int, *, peak: float, warmup: int = 200) -> float:
    """Learning rate: a short linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


# The autoencoder -----------------------------------------------------------------------------------------------------------


def clutter(rng: np.random.Generator) -> Image.Image:
    """Random polygons in random colours, plain or striped: what the world lacks, so that new things can be encoded too."""
    side = world.SIDE * world.OVERSAMPLE
    image = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(0, 256, 3)))
    for _ in range(rng.integers(1, 5)):
        corners = rng.uniform(0.1, 0.9, 2) * side + rng.uniform(-0.35, 0.35, (rng.integers(3, 9), 2)) * side
        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners], fill=255)
        paint = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(0, 256, 3)))
        if rng.random() < 0.5:
            along = np.add.outer(np.arange(side) * rng.uniform(-1, 1), np.arange(side) * rng.uniform(-1, 1))
            stripes = (along // (world.OVERSAMPLE * rng.uniform(2, 5))).astype(int) % 2
            second = Image.new("RGB", (side, side), tuple(int(c) for c in rng.integers(0, 256, 3)))
            paint.paste(second, mask=Image.fromarray((stripes * 255).astype(np.uint8)))
        image.paste(paint, mask=mask)
    return image.resize((world.SIDE, world.SIDE), Image.Resampling.BOX)


def draw_scenes(number: int, seed: int) -> tuple[np.ndarray, list[world.Scene]]:
    """`number` pictures of training scenes, uint8 (N, 64, 64, 3), and what they show."""
    rng = np.random.default_rng(seed)
    scenes = [world.training_scenes()[i] for i in rng.integers(len(world.training_scenes()), size=number)]
    return np.stack([np.asarray(world.draw(scene, rng)) for scene in scenes]), scenes


def psnr(vae, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of encode -> decode, in decibels (mean latents, no sampling)."""
    with torch.no_grad():
        again = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (again - pictures).square().mean((1, 2, 3))).mean())


def train_autoencoder(steps: int, state_dir: Path, seed: int, batch: int = 8, peak: float = 2e-3) -> None:
    """L1 + MSE + the L1 of differences between neighbours (edges) + a trace of KL; latents come out with about unit scale."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.SIDE,
        mid_block_add_attention=False,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    rng = np.random.default_rng(seed)
    scenes, _ = draw_scenes(6000, seed)
    strange = np.stack([np.asarray(clutter(rng)) for _ in range(2500)])
    pictures = to_tensor(np.concatenate([scenes, strange]))
    unseen = to_tensor(np.stack([np.asarray(world.draw(scene, rng)) for scene in world.held_out()[:64]]))
    unseen_strange = to_tensor(np.stack([np.asarray(clutter(rng)) for _ in range(64)]))

    optimizer = torch.optim.AdamW(vae.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = copy.deepcopy(vae).eval().requires_grad_(False)
    state_file, first = state_dir / "autoencoder.pt", 0
    if state_file.exists():
        state = torch.load(state_file)
        vae.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    started, total = time.monotonic(), 0.0
    for step in range(first, steps):
        draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
        x = pictures[torch.randint(len(pictures), (batch,), generator=draws)]
        latents = vae.encode(x).latent_dist
        again = vae.decode(latents.mean + latents.std * torch.randn(latents.mean.shape, generator=draws)).sample
        error = again - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 1e-5 * latents.kl().mean() / 1024
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=peak)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        with torch.no_grad():
            for mine, its in zip(average.parameters(), vae.parameters(), strict=True):
                mine.lerp_(its, max(0.003, 1 / (step + 10)))
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log(what="autoencoder", step=step + 1, minutes=round((time.monotonic() - started) / 60, 1),
                loss=round(total / 250, 4), psnr=round(psnr(average, unseen), 2),
                psnr_clutter=round(psnr(average, unseen_strange), 2))  # fmt: skip
            total = 0.0
            save_state(state_file, model=vae.state_dict(), average=average.state_dict(),
                       optimizer=optimizer.state_dict(), step=step + 1)  # fmt: skip
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            with torch.no_grad():
                sample = torch.cat([average.encode(part).latent_dist.mode() for part in pictures[:1024].split(64)])
            average.register_to_config(scaling_factor=round(1 / float(sample.std()), 4))
            print("latents: mean per channel", sample.mean((0, 2, 3)), "std", sample.std((0, 2, 3)), flush=True)
            average.save_pretrained(state_dir / "vae")
if __name__ == "__main__":
    torch.set_num_threads(2)
    train_autoencoder(steps=5500, state_dir=Path("/tmp/demo-training"), seed=1)
