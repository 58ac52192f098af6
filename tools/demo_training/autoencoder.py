"""The autoencoder that both demo models share."""

import copy
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from rollout_studio.core.demo import world

from .steps import cosine, draw_scenes, log, save_state, to_tensor


def clutter(rng: np.random.Generator) -> Image.Image:
    """Random polygons in random colours, plain or striped: what the world lacks, so that new things can be encoded."""
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


def psnr(vae, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of encode -> decode, in decibels (mean latents, no sampling)."""
    with torch.no_grad():
        again = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return float(10 * torch.log10(4 / (again - pictures).square().mean((1, 2, 3))).mean())


def new_autoencoder():
    """With random weights: 3 levels, 4 latent channels, a quarter of the side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
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


def decoder_loss(again: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 + MSE + the L1 of differences between neighbours (edges)."""
    error = again - x
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges


def autoencoder_loss(vae, x: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """`decoder_loss` + a trace of KL."""
    latents = vae.encode(x).latent_dist
    again = vae.decode(latents.mean + latents.std * torch.randn(latents.mean.shape, generator=draws)).sample
    return decoder_loss(again, x) + 1e-5 * latents.kl().mean() / 1024


def publish_autoencoder(average, pictures: torch.Tensor, folder: Path) -> None:
    """Save the averaged weights with the `scaling_factor` 1 / std that their latents have."""
    with torch.no_grad():
        sample = torch.cat([average.encode(part).latent_dist.mode() for part in pictures[:1024].split(64)])
    average.register_to_config(scaling_factor=round(1 / float(sample.std()), 4))
    print("latents: mean per channel", sample.mean((0, 2, 3)), "std", sample.std((0, 2, 3)), flush=True)
    average.save_pretrained(folder)


def train_autoencoder(steps: int, state_dir: Path, seed: int, batch: int = 8, peak: float = 2e-3) -> None:
    """`autoencoder_loss` on scenes of the world and on clutter; the averaged weights are measured and shipped."""
    torch.manual_seed(seed)
    vae = new_autoencoder()
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
        loss = autoencoder_loss(vae, x, draws)
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
            publish_autoencoder(average, pictures, state_dir / "vae")
