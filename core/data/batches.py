"""Which rows a step trains on: a pure function of the seed and the step, so that resuming needs no stored state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import LongTensor, Tensor

from ..findings import Finding
from ..randomness import generator
from .buckets import Size
from .cache import Store
from .masks import weights
from .scanning import Item

if TYPE_CHECKING:
    from ..families.base import Conditioning, Frame, Model, Prompt

# Indices within the "data" stream. The orders belong to an epoch, the flips to a step.
_ORDER, _CLASS_ORDER, _FLIPS = 0, 1, 2


class Schedule:
    """Epoch after epoch, every row `repeats` times in random order, in batches of one shape and of constant size.

    An epoch consists, for each shape, of `repeats` permutations of its rows, cut into batches; the last batch of a
    shape is filled up from the beginning of the same order. The batches of all shapes are then shuffled.

    Args:
        shapes: the shape of each row.
        repeats: how often a row comes in an epoch.
        batch_size: rows in a batch.
        seed: everything follows from it and from the number of the batch.
    """

    def __init__(self, shapes: Sequence[Size], *, repeats: int, batch_size: int, seed: int):
        if not shapes:
            raise ValueError("a schedule needs at least one row")
        self.repeats, self.batch_size, self.seed = repeats, batch_size, seed
        self._rows: dict[Size, list[int]] = {shape: [] for shape in sorted(set(shapes))}
        for row, shape in enumerate(shapes):
            self._rows[shape].append(row)
        self.batches_per_epoch = sum(-(-len(rows) * repeats // batch_size) for rows in self._rows.values())
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def rows(self, number: int) -> list[int]:
        """The rows of batch `number`, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:  # remembered for speed only: the same number always gives the same rows
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def _batches(self, epoch: int) -> list[list[int]]:
        random = generator(self.seed, epoch, "data", _ORDER)
        batches = []
        for rows in self._rows.values():
            order = [rows[i] for _ in range(self.repeats) for i in torch.randperm(len(rows), generator=random).tolist()]
            for first in range(0, len(order), self.batch_size):
                batches.append([order[i % len(order)] for i in range(first, first + self.batch_size)])
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


class Carousel:
    """Rows handed out one after the other, permutation after permutation; batch `number` gets the `batch_size` rows
    that are due."""

    def __init__(self, count: int, *, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._order: tuple[int, list[int]] = (-1, [])

    def rows(self, number: int) -> list[int]:
        """The rows of batch `number`, counted from 0."""
        return [self._row(number * self.batch_size + i) for i in range(self.batch_size)]

    def beside(self, number: int, chosen: Sequence[int]) -> list[int]:
        """The same, for a batch whose instance rows are `chosen`: where several things are learned, class rows depend on them."""
        return self.rows(number)

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if self._order[0] != epoch:
            random = generator(self.seed, epoch, "data", _CLASS_ORDER)
            self._order = (epoch, torch.randperm(self.count, generator=random).tolist())
        return self._order[1][place]


@dataclass(frozen=True)
class Batch:
    """What one forward and backward trains on.

    `latents` (R, C, H, W) float32 on the model's device, scaled; `conditioning` collated, R rows; `is_class` (R,) bool
    on the CPU. R is the batch size; with prior preservation twice that: instance rows first, then class rows. `numbers`
    (R,) int64: each row's place in the global batch of its optimizer step, instance rows of all accumulation steps first. `mask`
    (R, 1, H, W) float32 in 0..1, what each cell counts; None where every row counts whole.
    `ids` name the rows ("dog.jpg", "class/001.png"), `captions` are what they are conditioned on ("" where dropped), of which
    `conditioning` is made with `prompts`, as the model encodes them, and `frames`; `flipped` which are mirrored. `class_conditioning`: the class prompt for each instance row, in order, with what its picture's own
    frame says; None without output preservation.
    """

    latents: Tensor
    conditioning: "Conditioning"
    is_class: Tensor
    numbers: LongTensor
    ids: list[str]
    captions: list[str]
    prompts: "list[Prompt]"
    frames: "list[Frame]"
    flipped: list[bool]
    class_conditioning: "Conditioning | None" = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Probe:
    """Pictures to measure on, all of one shape: `latents` (N, C, H, W) float32 on the CPU, and for each its
    `conditioning` (as the model encodes prompts: no batch axis), caption and name. `held_out`: they are not trained
    on."""

    latents: Tensor
    conditioning: "list[Prompt]"
    captions: list[str]
    ids: list[str]
    held_out: bool


@dataclass(frozen=True)
class Row:
    """One row that can be trained on: its caption, where its latents are (mirrored ones, or None without flips), and what was cut out
    of its picture, as it is and mirrored."""

    name: str
    caption: str
    latents: str
    flipped: str | None
    frames: "tuple[Frame, Frame]"


@dataclass(frozen=True)
class _Drawn:
    """The rows of a batch, before anything of them is read. `pictures`: of the instance rows, which of the pictures trained on."""

    rows: list[Row]
    flipped: list[bool]
    captions: list[str]
    pictures: list[int]
    is_class: Tensor
    numbers: LongTensor

    @property
    def latents(self) -> list[str]:
        """The keys of their latents."""
        return [
            row.flipped if flip and row.flipped is not None else row.latents
            for row, flip in zip(self.rows, self.flipped, strict=True)
        ]


@dataclass(frozen=True)
class Counts:
    """What preparing did: entries taken from the cache, made, and made again because the cached ones were damaged."""

    reused: int
    made: int
    rebuilt: int
    generated: int
    """Class pictures drawn by the model."""


@dataclass
class Prepared:
    """The training set, ready: every latent and embedding is in the cache. Made by `prepare`.

    `items`: the pictures trained on; `bucket`: the most common shape, in which probes are; `probe`: the held-out
    pictures, None where there are none; `training_probe`: some of those trained on; `problems`: what preparing found;
    `counts`: what it did; `kept_prompts`: of each picture the prompt whose answers output preservation keeps; none where it is off.
    """

    model: "Model"
    items: tuple[Item, ...]
    rows: list[Row]
    class_rows: dict[Size, list[Row]]
    latents: Store
    text: Store
    text_keys: dict[str, str]
    schedule: Schedule
    class_order: Carousel | None
    bucket: Size
    seed: int
    accumulation: int
    random_flip: bool
    caption_dropout: float
    hard_masks: bool = False
    background_weight: float = 0.0
    problems: list[Finding] = field(default_factory=list)
    counts: Counts = field(default_factory=lambda: Counts(0, 0, 0, 0))
    probe: Probe | None = None
    training_probe: Probe | None = None
    kept_prompts: tuple[str, ...] = ()

    @property
    def rows_per_batch(self) -> int:
        """Rows of every batch, class rows included."""
        return self.schedule.batch_size * (1 if self.class_order is None else 2)

    @property
    def rows_per_step(self) -> int:
        """Rows of the global batch of an optimizer step: of all its accumulation steps, on all ranks."""
        return self.accumulation * self.rows_per_batch

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every instance row comes `repeats` times."""
        return self.schedule.batches_per_epoch / self.accumulation

    def conditioning(self, caption: str) -> "Prompt":
        """A caption of this set as the model encodes it (no batch axis, CPU). Raises KeyError for captions that are not
        in the set."""
        return self.text.get(self.text_keys[caption])

    def batch(self, step: int, micro_step: int = 0, share: slice = slice(None)) -> Batch:
        """The batch of an optimizer step (counted from 0), or of one of its accumulation steps. Draws nothing from
        global generators.

        Args:
            share: which of the instance rows, and which of the class rows, are loaded (`train.ranks.Ranks.share`). What is
                drawn for a row does not depend on it.
        Cost: from memory for sets that fit into it; else one file per row.
        """
        drawn = self._drawn(step, micro_step, share)
        entries = [self.latents.get(key) for key in drawn.latents]
        prompts = [self.conditioning(caption) for caption in drawn.captions]
        frames = [row.frames[flip] for row, flip in zip(drawn.rows, drawn.flipped, strict=True)]
        return Batch(
            latents=torch.stack([entry["latents"] for entry in entries]).to(self.model.device),
            conditioning=self.model.framed(self.model.collate(prompts), frames),
            is_class=drawn.is_class,
            numbers=drawn.numbers,
            ids=[row.name for row in drawn.rows],
            captions=drawn.captions,
            prompts=prompts,
            frames=frames,
            flipped=drawn.flipped,
            class_conditioning=self._class_conditioning(frames, drawn.pictures),
            mask=self._masks(entries),
        )

    def read_ahead(self, step: int, share: slice = slice(None)) -> None:
        """Begin to read what `batch` will want for the accumulation steps of this step, on a thread. Nothing to do for sets that are in memory."""
        if not (self.latents.overflows or self.text.overflows):
            return
        drawn = [self._drawn(step, micro_step, share) for micro_step in range(self.accumulation)]
        captions = [caption for each in drawn for caption in each.captions]
        if self.kept_prompts:
            captions += [self.kept_prompts[picture] for each in drawn for picture in each.pictures]
        self.latents.read_ahead(key for each in drawn for key in each.latents)
        self.text.read_ahead(self.text_keys[caption] for caption in captions)

    def _drawn(self, step: int, micro_step: int, share: slice) -> _Drawn:
        if step < 0 or not 0 <= micro_step < self.accumulation:
            raise ValueError(
                f"step {step}, micro-step {micro_step}: steps count from 0, micro-steps from 0 to {self.accumulation - 1}."
            )
        number = step * self.accumulation + micro_step
        chosen = self.schedule.rows(number)
        rows = [self.rows[i] for i in chosen]
        instances = len(rows)
        if self.class_order is not None:
            of_shape = self.class_rows[self.items[chosen[0]].bucket]
            rows += [of_shape[i] for i in self.class_order.beside(number, chosen)]

        flipped = [False] * len(rows)
        if self.random_flip:
            flipped = (
                torch.rand(len(rows), generator=generator(self.seed, step, "data", _FLIPS + micro_step)) < 0.5
            ).tolist()
        captions = [row.caption for row in rows]
        if self.caption_dropout > 0:
            drawn = torch.rand(len(rows), generator=generator(self.seed, step, "caption_dropout", micro_step))
            captions = [
                "" if drop else text
                for text, drop in zip(captions, (drawn < self.caption_dropout).tolist(), strict=True)
            ]

        places = torch.arange(len(rows))
        mine = torch.cat([places[:instances][share], places[instances:][share]])
        numbers = places + micro_step * instances
        numbers[instances:] += (self.accumulation - 1) * instances  # behind the instance rows of all accumulation steps
        rows, flipped, captions = ([values[i] for i in mine.tolist()] for values in (rows, flipped, captions))
        pictures = [chosen[i] for i in mine.tolist() if i < instances]
        return _Drawn(rows, flipped, captions, pictures, mine >= instances, numbers[mine])

    def _class_conditioning(self, frames: "Sequence[Frame]", pictures: Sequence[int]) -> "Conditioning | None":
        """For each instance row the prompt that is kept, with its picture's frame; None without output preservation."""
        if not self.kept_prompts:
            return None
        prompts = [self.conditioning(self.kept_prompts[picture]) for picture in pictures]
        return self.model.framed(self.model.collate(prompts), frames[: len(pictures)])

    def _masks(self, entries: "Sequence[dict[str, Tensor]]") -> Tensor | None:
        """(R, 1, H, W) on the model's device: what each cell of these rows counts; None where no row has a mask."""
        if not any("mask" in entry for entry in entries):
            return None
        height, width = entries[0]["latents"].shape[-2:]
        whole = torch.ones(1, height, width)
        counted = [
            weights(entry["mask"], hard=self.hard_masks, background=self.background_weight)
            if "mask" in entry
            else whole
            for entry in entries
        ]
        return torch.stack(counted).to(self.model.device)
