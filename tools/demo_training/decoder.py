"""The shipped autoencoder's decoder goes on, with striped things; the encoder, and so the latent space of both models, stays as it is."""

import copy
import time
from pathlib import Path

import numpy as np
import torch
from rollout_studio.core.demo import FLOW, world

from .autoencoder import clutter, decoder_loss, psnr
from .denoiser import encode_pictures
from .steps import cosine, draw_scenes, log, to_tensor
from .striped import draw_striped


def continue_decoder(steps: int, state_dir: Path, seed: int, batch: int = 8, peak: float = 1e-3) -> None:
    """A third each of scenes, striped things and clutter; 12 minutes on a busy core. The result goes to `state_dir` / "decoder". A denoiser's latents are never exact: a little noise is added."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(FLOW / "vae").eval()
    average = copy.deepcopy(vae).requires_grad_(False)
    vae.encoder.requires_grad_(False)
    rng = np.random.default_rng(seed)
    pictures = np.concatenate(
        [
            draw_scenes(2400, seed)[0],
            draw_striped(2400, seed),
            np.stack([np.asarray(clutter(rng)) for _ in range(2400)]),
        ]
    )
    unseen = {
        "scenes": to_tensor(np.stack([np.asarray(world.draw(scene, rng)) for scene in world.held_out()[:64]])),
        "striped": to_tensor(draw_striped(64, seed + 2)),
        "clutter": to_tensor(np.stack([np.asarray(clutter(rng)) for _ in range(64)])),
    }
    latents = encode_pictures(vae, pictures) / vae.config.scaling_factor
    wanted = to_tensor(pictures)
    log(what="decoder", step=0, **{f"psnr_{name}": round(psnr(vae, x), 2) for name, x in unseen.items()})
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    started, total = time.monotonic(), 0.0
    for step in range(steps):
        draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (batch,), generator=draws)
        noisy = latents[rows] + 0.04 / vae.config.scaling_factor * torch.randn(latents[rows].shape, generator=draws)
        loss = decoder_loss(vae.decode(noisy).sample, wanted[rows])
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=peak)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += loss.item()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.decoder.parameters()), list(vae.decoder.parameters()), max(0.003, 1 / (step + 10))
            )
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log(what="decoder", step=step + 1, minutes=round((time.monotonic() - started) / 60, 1), loss=round(total / 250, 4),
                **{f"psnr_{name}": round(psnr(average, x), 2) for name, x in unseen.items()})  # fmt: skip
            total = 0.0
            average.save_pretrained(state_dir / "decoder")
