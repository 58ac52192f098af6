"""Train the demo's models from scratch on generated pictures; nothing is downloaded.

    python tools/train_demo.py autoencoder          # minutes; both models share it
    python tools/train_demo.py flow                 # about an hour on one CPU core
    python tools/train_demo.py epsilon              # the same again; may run beside it
    python tools/train_demo.py dreambooth           # the pictures of the new object
    python tools/train_demo.py measure flow         # the 200 held-out prompts, by the rule-based judge

Each training can be killed and restarted: it resumes from its last state (`--state`), and writes a loadable snapshot of its
averaged weights to `presets/demo/` every few minutes. Figures are appended to `docs/demo-training-log.jsonl`.
Runs with the same seed use the same pictures, captions, noise and times in the same order.
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
from rollout_studio.core.demo import CLASS, DREAMBOOTH, EPSILON, FLOW, HELDOUT, world
from torch.nn import functional as F

LOG = Path(__file__).resolve().parents[1] / "docs" / "demo-training-log.jsonl"


# Small helpers ------------------------------------------------------------------------------------------------------


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


# The autoencoder ----------------------------------------------------------------------------------------------------


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
    """L1 + MSE + the L1 of differences between neighbours (edges) + a trace of KL; `scaling_factor` is 1 / std."""
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


# The two models, with random weights --------------------------------------------------------------------------------

WORDS = (
    *("a", "an", "picture", "photo", "of", "on", "the", "at", "in", "background", world.CLASS_NOUN),
    *(*world.SHAPES, *world.COLOURS, *world.SIZES, *world.PLACES, *world.BACKGROUNDS),
)
"""Every word of the world is one token; any other word falls apart into letters."""


def gemma_tokenizer():
    """Byte-pair pieces without a training corpus: each word grows letter by letter from its leading space (`▁`).

    Lumina2Pipeline puts a long system prompt before every prompt; as one added token it costs one position.
    """
    from diffusers import Lumina2Pipeline
    from tokenizers import AddedToken, processors
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)] + ["▁"] + [chr(code) for code in range(33, 127)]
    merges = []
    for word in ("▁" + word for word in WORDS):
        for n in range(1, len(word)):
            merges.append((word[:n], word[n]))
            pieces.append(word[: n + 1])
    pieces, merges = list(dict.fromkeys(pieces)), list(dict.fromkeys(merges))
    tokenizer = GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=256)
    bos = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[bos]
    )
    system_prompt = Lumina2Pipeline(
        transformer=None, scheduler=None, vae=None, text_encoder=None, tokenizer=None
    ).system_prompt
    tokenizer.add_tokens([AddedToken(f"{system_prompt} <Prompt Start>", normalized=False)])
    return tokenizer


def clip_tokenizer(length: int = 32):
    """As above for CLIP, where a word's *last* letter is marked: each word grows from its end."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces, merges = letters + [letter + "</w>" for letter in letters], []
    for word in WORDS:
        for n in range(len(word) - 1, 0, -1):
            merges.append((word[n - 1], word[n:] + "</w>"))
            pieces.append(word[n - 1 :] + "</w>")
    pieces, merges = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"], list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=length)


def build_flow(vae):
    """Lumina 2 in small: a transformer over 8x8 patches and the caption's tokens, a Gemma 2 text encoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192,
            num_hidden_layers=3,  # the pipeline reads hidden_states[-2]: two layers work, the third is never seen
            num_attention_heads=4, num_key_value_heads=4, head_dim=24, query_pre_attn_scalar=24,
            attn_logit_softcapping=None, max_position_embeddings=512,
        )
    )  # fmt: skip
    transformer = Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=160, num_layers=6, num_refiner_layers=1,
        num_attention_heads=5, num_kv_heads=5, multiple_of=32, ffn_dim_multiplier=0.75,
        axes_dim_rope=(8, 12, 12), axes_lens=(300, 64, 64), cap_feat_dim=96,
    )  # fmt: skip
    with torch.no_grad():
        # Times come as 0..1, where the sinusoids hardly move: larger first weights tell them apart sooner.
        transformer.time_caption_embed.timestep_embedder.linear_1.weight.mul_(4)
        for block in (*transformer.noise_refiner, *transformer.layers):
            block.norm1.linear.weight.mul_(0.1)
        transformer.norm_out.linear_2.weight.mul_(0.1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    return Lumina2Pipeline(
        transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
    )


def build_epsilon(vae):
    """Stable Diffusion 1.5 in small: a UNet over 16x16, 8x8 and 4x4, a CLIP text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2, projection_dim=96,
            num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():  # CLIP's own 0.02 is made for years of training
        text_encoder.get_input_embeddings().weight.mul_(10)
        for name, weight in text_encoder.named_parameters():
            if name.endswith("position_embedding.weight"):
                weight.mul_(10)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, cross_attention_dim=96,
        block_out_channels=(64, 80, 80), norm_num_groups=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="epsilon", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def parameters(*models) -> int:
    return sum(weight.numel() for model in models for weight in model.parameters())


def publish(pipe, folder: Path, scratch: Path) -> None:
    """Save a pipeline in the standard layout, then move file by file into place: `folder` can be opened at any moment.

    The denoiser and the autoencoder are stored in float16, which halves them; diffusers opens them in float32 unless
    told otherwise. The text encoder stays float32, because transformers opens a file in the type it was saved in.
    """
    small = {
        name: copy.deepcopy(getattr(pipe, name)).half()
        for name in ("vae", "unet", "transformer")
        if hasattr(pipe, name)
    }
    shutil.rmtree(scratch, ignore_errors=True)
    type(pipe)(
        **{**pipe.components, **small}, **({"requires_safety_checker": False} if "unet" in small else {})
    ).save_pretrained(scratch)
    for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
        target = folder / file.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target.with_name(target.name + ".part"))
        os.replace(target.with_name(target.name + ".part"), target)


# Training a denoiser ------------------------------------------------------------------------------------------------


# Two questions asked along the way. "On the left" says something only to a network that knows both the word and where
# each of its features lies, and neither half is worth learning without the other: in a first run both models ignored
# places for 1,500 and 2,000 steps (the level of chance, the loss equal for right and wrong places) while they learned
# colours, sizes and backgrounds. Asked, they knew places 500 steps later (docs/demo.md). The probes are not shipped.


class PositionProbe(torch.nn.Module):
    """Asks a layer where it is: reads row and column of every feature from the feature itself."""

    def __init__(self, layer: torch.nn.Module, channels: int, side: int):
        super().__init__()
        self.side, self.read = side, torch.nn.Linear(channels, 2 * side)
        layer.register_forward_hook(self.keep)

    def keep(self, layer, inputs, output) -> None:
        self.seen = output

    def loss(self, features: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of row and column; `features` (B, side * side, channels)."""
        guess = self.read(features).unflatten(-1, (2, self.side)).flatten(0, 1)
        cell = torch.arange(self.side**2).repeat(len(features))
        return F.cross_entropy(guess[:, 0], cell // self.side) + F.cross_entropy(guess[:, 1], cell % self.side)


PLACE_NAMES = list(world.PLACES)


class PlaceProbe(torch.nn.Module):
    """Asks the text encoder which place a caption names, so that the word survives until it is of use."""

    def __init__(self, width: int):
        super().__init__()
        self.read = torch.nn.Linear(width, len(PLACE_NAMES))

    def loss(self, embeds: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Cross-entropy at the caption's last token and at the last padding; `place` (B,) is -100 for none."""
        last = embeds[torch.arange(len(embeds)), mask.sum(1) - 1]
        return sum(F.cross_entropy(self.read(features), place) for features in (last, embeds[:, -1])) / 2


class Flow:
    """What is particular to the flow model: its pipeline, how a caption is worded, and its loss."""

    folder, build, denoiser = FLOW, staticmethod(build_flow), "transformer"

    def wording(self, pipe, text: str, rng: np.random.Generator) -> str:
        """As `Lumina2Pipeline.encode_prompt` does: the system prompt first, but a bare empty prompt for guidance."""
        return text if text == "" and rng.random() < 0.5 else f"{pipe.system_prompt} <Prompt Start> {text}"

    def probes(self, pipe) -> torch.nn.ModuleList:
        return torch.nn.ModuleList([PositionProbe(pipe.transformer.layers[1], 160, 8)])

    def probed(self, probes, mask) -> torch.Tensor:
        (probe,) = probes  # its layer sees the caption's tokens first, then the picture's
        at = (mask.sum(1)[:, None] + torch.arange(64))[..., None].expand(-1, -1, probe.seen.shape[-1])
        return probe.loss(probe.seen.gather(1, at))

    def embed(self, pipe, ids, mask):
        states = pipe.text_encoder(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        return states[-2]

    def loss(self, pipe, x0, noise, draws, embeds, mask, high: float):
        """Noise levels: 30 % uniform, 70 % logit-normal shifted by 2 as the sampler's; then the share `high` near 1."""
        batch = len(x0)
        normal = torch.randn(batch, generator=draws).sigmoid()
        s = torch.where(
            torch.rand(batch, generator=draws) < 0.3, torch.rand(batch, generator=draws), 2 * normal / (1 + normal)
        )
        s = torch.where(torch.rand(batch, generator=draws) < high, 0.8 + 0.2 * torch.rand(batch, generator=draws), s)
        s = s[:, None, None, None]
        answer = pipe.transformer(
            (1 - s) * x0 + s * noise, timestep=1 - s.flatten(), encoder_hidden_states=embeds,
            encoder_attention_mask=mask, return_dict=False,
        )[0]  # fmt: skip
        return (-answer - (noise - x0)).square().mean()


class Epsilon:
    """What is particular to the epsilon model."""

    folder, build, denoiser = EPSILON, staticmethod(build_epsilon), "unet"

    def wording(self, pipe, text, rng):
        return text

    def probes(self, pipe) -> torch.nn.ModuleList:
        return torch.nn.ModuleList(
            [PositionProbe(pipe.unet.mid_block, 80, 4), PositionProbe(pipe.unet.up_blocks[0], 80, 8)]
        )

    def probed(self, probes, mask) -> torch.Tensor:
        return sum(probe.loss(probe.seen.flatten(2).transpose(1, 2)) for probe in probes) / len(probes)

    def embed(self, pipe, ids, mask):
        return pipe.text_encoder(ids)[0]  # Stable Diffusion hands over padded, unmasked states

    def loss(self, pipe, x0, noise, draws, embeds, mask, high: float):
        """Weighted by min(1 / alpha^2, 100): the plain epsilon loss hardly weighs high noise."""
        batch = len(x0)
        t = torch.randint(1000, (batch,), generator=draws)
        t = torch.where(
            torch.rand(batch, generator=draws) < high, torch.randint(700, 1000, (batch,), generator=draws), t
        )
        alpha2 = pipe.scheduler.alphas_cumprod[t][:, None, None, None]
        answer = pipe.unet(alpha2.sqrt() * x0 + (1 - alpha2).sqrt() * noise, t, embeds, return_dict=False)[0]
        return ((answer - noise).square() * (1 / alpha2).clamp(max=100)).mean()


def generate(
    pipe, prompts: list[str], steps: int | None = None, first_seed: int = 0, batch: int = 40
) -> list[Image.Image]:
    """Stock pipeline calls; each prompt has its own seed, so a picture does not depend on the batch it was made in."""
    pipe.set_progress_bar_config(disable=True)
    settings = {} if steps is None else {"num_inference_steps": steps}
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


def train_denoiser(kind: str, steps: int, state_dir: Path, seed: int, batch: int, peak: float, pictures: int) -> None:
    """Denoiser and text encoder together; the averaged weights (EMA) are what is measured and shipped."""
    from diffusers import AutoencoderKL
    from rollout_studio.core.demo import judge

    torch.manual_seed(seed)
    plan = {"flow": Flow, "epsilon": Epsilon}[kind]()
    vae = AutoencoderKL.from_pretrained(state_dir / "vae").eval().requires_grad_(False)
    pipe = plan.build(vae)
    trained = torch.nn.ModuleList([getattr(pipe, plan.denoiser), pipe.text_encoder]).train()
    averaged = plan.build(vae)
    average = (
        torch.nn.ModuleList([getattr(averaged, plan.denoiser), averaged.text_encoder]).eval().requires_grad_(False)
    )
    average.load_state_dict(trained.state_dict())

    drawn, scenes = draw_scenes(pictures, seed)
    latents_file = state_dir / f"latents-{seed}-{pictures}.pt"
    if not latents_file.exists():
        save_state(latents_file, latents=encode_pictures(vae, drawn))
    latents = torch.load(latents_file)["latents"]
    ids, masks, places = captions_as_tokens(plan, pipe, scenes, seed)
    del drawn

    probes, place_probe = plan.probes(pipe), PlaceProbe(96)
    embeddings = [w for name, w in trained.named_parameters() if "embed" in name and "token" in name]
    known = {id(w) for w in embeddings}
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in trained.parameters() if id(w) not in known], "weight_decay": 0.01},
            {"params": embeddings, "weight_decay": 0.0},  # rare letters must not fade: a trigger word is made of them
            {"params": [*probes.parameters(), *place_probe.parameters()], "weight_decay": 0.0},
        ],
        lr=peak, betas=(0.9, 0.99), fused=True,
    )  # fmt: skip
    state_file, first, minutes = state_dir / f"{kind}.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file)
        trained.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        probes.load_state_dict(state["probes"])
        place_probe.load_state_dict(state["place_probe"])
        optimizer.load_state_dict(state["optimizer"])
        first, minutes = state["step"], state["minutes"]
    else:
        publish(averaged, plan.folder, state_dir / f"publish-{kind}")
    print(
        f"{kind}: {parameters(trained[0]):,} + {parameters(trained[1]):,} parameters, {len(latents):,} pictures",
        flush=True,
    )

    prompts = world.held_out()[:40]
    total, total_lost, since = 0.0, 0.0, time.monotonic()
    for step in range(first, steps):
        draws = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(latents), (batch,), generator=draws)
        which = torch.randint(ids.shape[1], (batch,), generator=draws)
        x0, mask, tokens = latents[rows], masks[rows, which], ids[rows, which]
        noise = torch.randn(x0.shape, generator=draws)
        if kind == "flow":  # masked padding changes nothing there, so it need not be computed
            longest = int(mask.sum(1).max())
            tokens, mask = tokens[:, :longest], mask[:, :longest]
        # A place can only be learned where the noise hides it, which few times do: half of the rows go there at first.
        high = 0.5 if step < steps / 2 else 0.1
        embeds = plan.embed(pipe, tokens, mask)
        main = plan.loss(pipe, x0, noise, draws, embeds, mask, high)
        lost = plan.probed(probes, mask) + place_probe.loss(embeds, mask, places[rows, which])
        loss = main + 0.2 * (1 - step / steps) * lost
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=peak)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total += main.item()
        total_lost += lost.item()
        with torch.no_grad():
            keep = min(0.998, (step + 1) / (step + 20))
            torch._foreach_lerp_(list(average.parameters()), list(trained.parameters()), 1 - keep)
        done = step + 1
        if done % 100 == 0 or done == steps:
            record = {
                "what": kind,
                "step": done,
                "minutes": round(minutes + (time.monotonic() - since) / 60, 1),
                "loss": round(total / 100, 4),
                "lost": round(total_lost / 100, 3),
            }
            total = total_lost = 0.0
            if done % 1000 == 0 or done in (500, steps):
                images = generate(averaged, [world.caption(scene) for scene in prompts], steps=20)
                record |= {name: round(value, 3) for name, value in judge.adherence(images, prompts).items()}
                publish(averaged, plan.folder, state_dir / f"publish-{kind}")
            if done % 500 == 0 or done == steps:
                save_state(
                    state_file,
                    model=trained.state_dict(),
                    average=average.state_dict(),
                    optimizer=optimizer.state_dict(),
                    probes=probes.state_dict(),
                    place_probe=place_probe.state_dict(),
                    step=done,
                    minutes=minutes + (time.monotonic() - since) / 60,
                )
                log(**record)
            else:
                print(json.dumps(record), flush=True)


def write_dreambooth(seed: int, held_out: int = 8, of_class: int = 60) -> None:
    """The five pictures of the new thing, `held_out` more in other scenes, and `of_class` scenes of the world, with their captions."""
    from rollout_studio.core.demo import things

    rng = np.random.default_rng(seed)
    others = [scene for scene in things.thing_scenes() if scene.size is not None and scene.place is not None]
    for folder, scenes in ((DREAMBOOTH, things.SHOWN), (HELDOUT, others[:held_out])):
        folder.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes, start=1):
            things.draw_thing(scene, rng).save(folder / f"thing-{number}.png", optimize=True)
            (folder / f"thing-{number}.txt").write_text(things.thing_caption(scene) + "\n", encoding="utf-8")
    CLASS.mkdir(parents=True, exist_ok=True)
    scenes = world.training_scenes()
    for number, index in enumerate(rng.choice(len(scenes), of_class, replace=False), start=1):
        world.draw(scenes[index], rng).save(CLASS / f"scene-{number:02d}.png", optimize=True)
        (CLASS / f"scene-{number:02d}.txt").write_text(world.caption(scenes[index]) + "\n", encoding="utf-8")


# Measuring ----------------------------------------------------------------------------------------------------------


def contact_sheet(images: list[Image.Image], file: Path, *, columns: int = 8, scale: int = 2) -> None:
    """Pictures side by side, enlarged, as a PNG."""
    side = world.SIDE * scale + 4
    sheet = Image.new("RGB", (columns * side + 4, math.ceil(len(images) / columns) * side + 4), "white")
    for i, image in enumerate(images):
        large = image.resize((world.SIDE * scale,) * 2, Image.Resampling.LANCZOS)
        sheet.paste(large, (i % columns * side + 4, i // columns * side + 4))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file, optimize=True)


def measure(kind: str, number: int, sheet: Path | None, lora: Path | None) -> None:
    """Adherence of the shipped model on held-out prompts, by stock pipeline calls with their default settings.

    With a LoRA loaded, the new thing is looked for too; the sheet then shows all 64 pictures that were to show it.
    """
    from diffusers import DiffusionPipeline
    from rollout_studio.core.demo import judge, things

    pipe = DiffusionPipeline.from_pretrained({"flow": FLOW, "epsilon": EPSILON}[kind])
    if lora is not None:
        pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    asked = generate(pipe, things.thing_prompts())
    placed = judge.adherence(asked, things.thing_scenes())
    log(what=f"the thing, {kind} {'base' if lora is None else 'with LoRA'}", prompts=len(asked),
        there=round(sum(map(judge.shows_thing, asked)) / len(asked), 3),
        **{name: round(placed[name], 3) for name in ("place", "background", "size")})  # fmt: skip
    scenes = world.held_out()[:number]
    started = time.monotonic()
    images = generate(pipe, [world.caption(scene) for scene in scenes])
    seconds = (time.monotonic() - started) / len(images)
    log(what=f"measure {kind}", prompts=len(scenes), seconds_per_picture=round(seconds, 2),
        **{name: round(value, 3) for name, value in judge.adherence(images, scenes).items()})  # fmt: skip
    if sheet is not None:
        contact_sheet(images[:32] if lora is None else asked, sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["autoencoder", "flow", "epsilon", "dreambooth", "measure"])
    parser.add_argument("model", nargs="?", choices=["flow", "epsilon"], help="for `measure`")
    parser.add_argument("--steps", type=int, help="optimizer steps (autoencoder 5500, others 5500)")
    parser.add_argument("--batch", type=int, default=24, help="pictures per step of the denoisers")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="peak learning rate of the denoisers")
    parser.add_argument("--pictures", type=int, default=16000, help="scenes drawn for the denoisers")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts for `measure`")
    parser.add_argument("--sheet", type=Path, help="where `measure` puts a contact sheet of the first 32 pictures")
    parser.add_argument("--lora", type=Path, help="`measure` with this LoRA; the sheet is of the new thing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--state", type=Path, default=Path("build/demo-training"), help="folder for resuming")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "autoencoder":
        train_autoencoder(5500 if args.steps is None else args.steps, args.state, args.seed)
    elif args.what == "dreambooth":
        write_dreambooth(args.seed)
    elif args.what == "measure":
        measure(args.model, args.prompts, args.sheet, args.lora)
    else:
        steps = 5500 if args.steps is None else args.steps
        train_denoiser(args.what, steps, args.state, args.seed, args.batch, args.rate, args.pictures)


if __name__ == "__main__":
    main()
