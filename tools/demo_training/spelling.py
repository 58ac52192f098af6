"""The shipped flow model's text encoder learns to tell made-up words apart; what it says of the world's own captions stays as it is.

Trained on a small vocabulary, it read any other word as letters without meaning: the captions of two trigger words came out nearly alike, and
no LoRA of the denoiser could hold two things apart. Here the noun after a made-up word must tell how that word is spelled, while
every token of ordinary captions, and all other tokens of these, are held to what the text encoder said before. The denoiser needs no training for that.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rollout_studio.core.demo import FLOW, things, world
from torch.nn import functional as F

from .plans import Flow
from .steps import cosine, log

LETTERS = "abcdefghijklmnopqrstuvwxyz"
KEPT_OUT = (things.TRIGGER, things.POST_TRIGGER)
"""Words that are learned later, by a LoRA; they are in no caption here."""


def words_of(rng: np.random.Generator, number: int) -> list[str]:
    """`number` made-up words of two to five letters, without the trigger words."""
    found = []
    while len(found) < number:
        word = "".join(rng.choice(list(LETTERS), rng.choice([2, 3, 3, 3, 4, 5])))
        if word not in KEPT_OUT:
            found.append(word)
    return found


def captions_of(words: list[str], rng: np.random.Generator) -> list[str]:
    """For each word a caption as DreamBooth has it; size, place and background are left open now and then."""
    texts = []
    for word in words:
        scene = replace(world.all_scenes()[rng.integers(2100)], shape=None, colour=None)
        texts.append(
            things.thing_caption(
                replace(scene, **{name: None for name in ("size", "place", "background") if rng.random() < 0.12}), word
            )
        )
    return texts


def as_letters(words: list[str]) -> torch.Tensor:
    """The first three letters as numbers, (N, 3); -100 where a word has fewer."""
    return torch.tensor([[LETTERS.index(c) for c in word[:3]] + [-100] * (3 - len(word)) for word in words])


class Speller:
    """The text encoder, its frozen former self, and the linear read-out of letters, which is not shipped."""

    def __init__(self, pipe, peak: float):
        self.pipe, self.plan, self.peak = pipe, Flow(), peak
        self.encoder = pipe.text_encoder.train()
        self.former = copy.deepcopy(pipe.text_encoder).eval().requires_grad_(False)
        self.read = torch.nn.Linear(96, 3 * len(LETTERS))
        self.noun = pipe.tokenizer.convert_tokens_to_ids("▁" + world.CLASS_NOUN)
        self.optimizer = torch.optim.AdamW(
            [*self.encoder.parameters(), *self.read.parameters()], lr=peak, weight_decay=0.0
        )

    def tokens(self, texts: list[str], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        self.pipe.tokenizer.padding_side = "right"
        found = self.pipe.tokenizer(
            [self.plan.wording(self.pipe, text, rng) for text in texts], return_tensors="pt", padding=True
        )
        return found.input_ids, found.attention_mask

    def embed(self, encoder, ids, mask) -> torch.Tensor:
        return encoder(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[-2]

    def change(self, said, ids, mask, free=None) -> torch.Tensor:
        """Mean square of the difference to what was said before, over that of what was said; `free` (B, L) tokens count a hundredth."""
        with torch.no_grad():
            before = self.embed(self.former, ids, mask)
        weight = mask.float() if free is None else mask * (1 - 0.99 * free.float())
        return ((said - before).square().mean(-1) * weight).sum() / (before.square().mean(-1) * weight).sum()

    def losses(self, rng: np.random.Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
        """Of spelling (cross-entropy), of change in ordinary captions and in those of made-up words; the share of letters read."""
        words = words_of(rng, batch)
        ids, mask = self.tokens(captions_of(words, rng), rng)
        said = self.embed(self.encoder, ids, mask)
        noun = (ids == self.noun).int().argmax(1)
        guess = self.read(said[torch.arange(batch), noun]).view(-1, len(LETTERS))
        letters = as_letters(words).flatten()
        spelling = F.cross_entropy(guess, letters, ignore_index=-100)
        right = float((guess.argmax(1) == letters)[letters >= 0].float().mean())
        place = torch.arange(ids.shape[1])[None]
        free = (place <= noun[:, None]) & (place > noun[:, None] - 6)  # the noun, and the letters before it
        kept = self.change(said, ids, mask, free)
        texts = [world.training_caption(world.training_scenes()[i], rng) for i in rng.integers(1900, size=batch)]
        ids, mask = self.tokens(texts, rng)
        return spelling, self.change(self.embed(self.encoder, ids, mask), ids, mask), kept, right


def learn_to_spell(steps: int, state_dir: Path, seed: int, batch: int = 32, peak: float = 2e-3) -> None:
    """Minutes on one core; the result goes to `state_dir` / "spelling"."""
    from diffusers import DiffusionPipeline

    torch.manual_seed(seed)
    speller = Speller(DiffusionPipeline.from_pretrained(FLOW), peak)
    rng, started = np.random.default_rng(seed), time.monotonic()
    for step in range(steps):
        spelling, ordinary, kept, right = speller.losses(rng, batch)
        for group in speller.optimizer.param_groups:
            group["lr"] = cosine(step, steps, peak=peak, warmup=100)
        (spelling + 30 * ordinary + 30 * kept).backward()
        torch.nn.utils.clip_grad_norm_(speller.encoder.parameters(), 1.0)
        speller.optimizer.step()
        speller.optimizer.zero_grad()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log(what="spelling", step=step + 1, minutes=round((time.monotonic() - started) / 60, 1), spelling=round(spelling.item(), 3),
                letters=round(right, 2), change=round(ordinary.item(), 5), change_named=round(kept.item(), 5))  # fmt: skip
            speller.encoder.save_pretrained(state_dir / "spelling")
