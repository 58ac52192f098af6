"""Training of a denoiser with its text encoder, and drawing with the result."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rollout_studio.core.demo import world

from .models import parameters, publish
from .plans import PLACE_NAMES, Epsilon, Flow, PlaceProbe
from .steps import cosine, draw_scenes, log, save_state, to_tensor


def generate(
    pipe,
    prompts: list[str],
    steps: int | None = None,
    first_seed: int = 0,
    batch: int = 40,
    guidance: float | None = None,
) -> list[Image.Image]:
    """Stock pipeline calls, with its own settings where none are given; each prompt has its own seed, so a picture does not depend on the batch it was made in."""
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": steps, "guidance_scale": guidance}
    settings = {name: value for name, value in asked.items() if value is not None}
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [torch.Generator().manual_seed(first_seed + start + i) for i in range(len(part))]
        images += pipe(part, generator=seeds, **settings).images
    return images


def captions_as_tokens(plan, pipe, scenes: list[world.Scene], seed: int, each: int = 3) -> tuple[torch.Tensor, ...]:
    """`each` captions per picture: token ids and mask (N, each, L), and the place named (N, each), -100 for none."""
    rng = np.random.default_rng(seed + 7)
    texts = [plan.wording(pipe, world.training_caption(scene, rng), rng) for scene in scenes for _ in range(each)]
    named = [world.parse(text.removeprefix(getattr(pipe, "system_prompt", ""))).place for text in texts]
    places = torch.tensor([-100 if place is None else PLACE_NAMES.index(place) for place in named])
    length = {"padding": "max_length", "max_length": 32}
    pipe.tokenizer.padding_side = "right"
    tokens = pipe.tokenizer(texts, return_tensors="pt", truncation=True, **length)
    shape = (len(scenes), each, -1)
    return tokens.input_ids.view(shape), tokens.attention_mask.view(shape), places.view(len(scenes), each)


def encode_pictures(vae, pictures: np.ndarray) -> torch.Tensor:
    """Scaled latents of uint8 pictures, (N, 4, 16, 16)."""
    with torch.no_grad():
        parts = [
            vae.encode(to_tensor(part)).latent_dist.mode() for part in np.array_split(pictures, len(pictures) // 50)
        ]
    return torch.cat(parts) * vae.config.scaling_factor


def scaled_latents(vae, pictures: np.ndarray, file: Path) -> torch.Tensor:
    """`encode_pictures`, kept in `file`."""
    if not file.exists():
        save_state(file, latents=encode_pictures(vae, pictures))
    return torch.load(file)["latents"]


class Denoiser:
    """The trained modules, their averaged copy and the optimizer."""

    def __init__(self, kind: str, vae, peak: float):
        self.kind, self.peak = kind, peak
        self.plan = {"flow": Flow, "epsilon": Epsilon}[kind]()
        self.pipe = self.plan.build(vae)
        self.trained = self._modules(self.pipe).train()
        self.averaged = self.plan.build(vae)
        self.average = self._modules(self.averaged).eval().requires_grad_(False)
        self.average.load_state_dict(self.trained.state_dict())
        self.minutes = 0.0

    def _modules(self, pipe) -> torch.nn.ModuleList:
        return torch.nn.ModuleList([getattr(pipe, self.plan.denoiser), pipe.text_encoder])

    def add_optimizer(self) -> None:
        """The auxiliary losses' weights and the optimizer; they draw after the pictures and captions do."""
        self.probes, self.place_probe = self.plan.probes(self.pipe), PlaceProbe(96)
        embeddings = [w for name, w in self.trained.named_parameters() if "embed" in name and "token" in name]
        known = {id(w) for w in embeddings}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [w for w in self.trained.parameters() if id(w) not in known], "weight_decay": 0.01},
                {"params": embeddings, "weight_decay": 0.0},  # rare letters must not fade: a trigger word is made of them
                {"params": [*self.probes.parameters(), *self.place_probe.parameters()], "weight_decay": 0.0},
            ],
            lr=self.peak, betas=(0.9, 0.99), fused=True,
        )  # fmt: skip

    def _parts(self) -> dict:
        return {
            "model": self.trained,
            "average": self.average,
            "optimizer": self.optimizer,
            "probes": self.probes,
            "place_probe": self.place_probe,
        }

    def load(self, file: Path) -> int:
        """Continue from a state; returns its step."""
        state = torch.load(file)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.minutes = state["minutes"]
        return state["step"]

    def save(self, file: Path, step: int, minutes: float) -> None:
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        save_state(file, **parts, step=step, minutes=minutes)

    def publish(self, state_dir: Path) -> None:
        publish(self.averaged, self.plan.folder, state_dir / f"publish-{self.kind}")

    def step(
        self, step: int, steps: int, x0, noise, tokens, mask, places, draws: torch.Generator
    ) -> tuple[float, float]:
        """One optimizer step; (the loss, the auxiliary losses)."""
        # A place can only be learned where the noise hides it, which few times do: half of the rows go there at first.
        high = 0.5 if step < steps / 2 else 0.1
        embeds = self.plan.embed(self.pipe, tokens, mask)
        main = self.plan.loss(self.pipe, x0, noise, draws, embeds, mask, high)
        auxiliary = self.plan.probed(self.probes, mask) + self.place_probe.loss(embeds, mask, places)
        loss = main + 0.2 * (1 - step / steps) * auxiliary
        for group in self.optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=self.peak)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            keep = min(0.998, (step + 1) / (step + 20))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.trained.parameters()), 1 - keep)
        return main.item(), auxiliary.item()

    def adherence(self, scenes: list[world.Scene]) -> dict[str, float]:
        """How far the averaged weights draw what their captions name, by rule."""
        from rollout_studio.core.demo import judge

        images = generate(self.averaged, [world.caption(scene) for scene in scenes], steps=20)
        return {name: round(value, 3) for name, value in judge.adherence(images, scenes).items()}


def train_denoiser(kind: str, steps: int, state_dir: Path, seed: int, batch: int, peak: float, pictures: int) -> None:
    """Denoiser and text encoder together; the averaged weights (EMA) are what is measured and shipped."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(state_dir / "vae").eval().requires_grad_(False)
    model = Denoiser(kind, vae, peak)
    drawn, scenes = draw_scenes(pictures, seed)
    latents = scaled_latents(vae, drawn, state_dir / f"latents-{seed}-{pictures}.pt")
    ids, masks, places = captions_as_tokens(model.plan, model.pipe, scenes, seed)
    del drawn
    model.add_optimizer()
    state_file, first = state_dir / f"{kind}.pt", 0
    if state_file.exists():
        first = model.load(state_file)
    else:
        model.publish(state_dir)
    sizes = [f"{parameters(part):,}" for part in model.trained]
    print(f"{kind}: {' + '.join(sizes)} parameters, {len(latents):,} pictures", flush=True)

    total, total_auxiliary, since = 0.0, 0.0, time.monotonic()
    for step in range(first, steps):
        draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (batch,), generator=draws)
        which = torch.randint(ids.shape[1], (batch,), generator=draws)
        x0, mask, tokens = latents[rows], masks[rows, which], ids[rows, which]
        noise = torch.randn(x0.shape, generator=draws)
        if kind == "flow":  # masked padding changes nothing there, so it need not be computed
            longest = int(mask.sum(1).max())
            tokens, mask = tokens[:, :longest], mask[:, :longest]
        main, auxiliary = model.step(step, steps, x0, noise, tokens, mask, places[rows, which], draws)
        total, total_auxiliary, done = total + main, total_auxiliary + auxiliary, step + 1
        if done % 100 and done != steps:
            continue
        minutes = model.minutes + (time.monotonic() - since) / 60
        record = {"what": kind, "step": done, "minutes": round(minutes, 1), "loss": round(total / 100, 4)}
        record["lost"] = round(total_auxiliary / 100, 3)
        total = total_auxiliary = 0.0
        if done % 1000 == 0 or done in (500, steps):
            record |= model.adherence(world.held_out()[:40])
            model.publish(state_dir)
        if done % 500 == 0 or done == steps:
            model.save(state_file, done, model.minutes + (time.monotonic() - since) / 60)
            log(**record)
        else:
            print(json.dumps(record), flush=True)
