"""From a scan to a training set: class pictures generated, latents and text embeddings made or taken from the cache."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..families.conditioning import Frame
from ..findings import Finding, format_findings
from ..memory import Portions
from . import masks, pictures, transform
from .batches import Carousel, Counts, Prepared, Probe, Row, Schedule
from .buckets import Size
from .cache import DatasetError, Store, TensorCache, identity, key_of, sound
from .captions import clean, mentions, untriggered
from .class_pictures import existing_class_sets, with_all_generated
from .concepts import class_sets
from .holdout import scan_probe, split_holdout
from .progress import Progress, throttled
from .prompts import Prompts, Words
from .scanning import Item, Scan, bucket_counts
from .several import BalancedSchedule, PairedCarousel

MEMORY_BYTES = 1 << 30
"""Latents, and as much again of text embeddings, kept in memory while training; what does not fit is read from the
cache."""

SMALL_WORK = 3e8
"""Weights of the autoencoder times positions of the latents: below it a picture is encoded on one thread, because sharing so little
work (about 10 ms) and waking the others, beside two threads that decode, takes longer than the work (benchmarks/preparing.md)."""

PIXELS_AT_ONCE, MOST_AT_ONCE = 1 << 20, 8
"""Of the pictures of one size that an accelerator encodes together: no more pixels than one picture of 1024 px has, so that no run needs more
memory here than it did for one; and how many at most, which is also how many are lost where the preparation is stopped."""


def prepare(model, config, scan: Scan, cache_dir: Path | str, progress: Progress | None = None) -> Prepared:
    """Make everything that training reads, or take it from the cache.

    Call it before adapters or checkpoints change the model's weights (class pictures show the untrained model) and
    before `model.free_text_encoders()`; afterwards neither the text encoders nor the VAE is needed for training.

    Latents are the mode of the VAE's posterior, so that they can be cached. On a CPU each picture is encoded by itself, and an entry that
    is made again has the same bits. An accelerator encodes several of one size together: an entry is then the same up to the rounding of
    a float32 convolution, whatever was beside it (its key names the picture, the cut and the VAE, not the batch or the device), and it is
    never made again while it is sound. The caption dropped by caption dropout is `model.unconditional()`, what inference uses.

    Args:
        model: a family's `Model`.
        config: the RunConfig.
        scan: `scan(config.data)`, without errors.
        cache_dir: may be shared by several runs.
        progress: called with ("class pictures" | "latents" | "captions", done, total), ten times a second at most, for class
            pictures also between the steps of one; what it raises ends the preparation, and what is prepared is kept.

    Raises:
        DatasetError: the scan has errors, a shape does not suit the model, a picture changed meanwhile, the disk is
        full.
    """
    cache_dir, progress = Path(cache_dir), throttled(progress)
    if scan.errors or not scan.items:
        raise DatasetError("The pictures cannot be used:\n" + format_findings(scan.errors))
    data = config.data
    trained, held_out = split_holdout(scan, config.drift)
    probe_items, probe_problems = scan_probe(data, config.drift)
    shapes = bucket_counts(trained)
    _check_shapes(model, shapes)
    probe = _pick(held_out if config.drift.data_dir is None else probe_items, config.drift)
    classes = existing_class_sets(model, config, scan, cache_dir)

    text = Prompts(model, cache_dir, MEMORY_BYTES)
    model.text.shelf = text.shelf
    captions = [item.caption for item in (*trained, *classes.items, *probe)]
    captions += classes.missing_prompts
    captions += _kept_prompts(data, trained)
    captions += [""] if data.caption_dropout_probability > 0 else []
    text_problems = text.make(captions, _drawn_prompts(config), progress)
    _remember_prompts(model, config)
    if model.encoders_must_go:
        model.free_text_encoders()
    generated = classes.missing
    if generated:
        classes = with_all_generated(classes, model, config, progress)
        text_problems += text.make([item.caption for item in classes.items], (), progress)

    same_shape = [item for item in trained if item.bucket == next(iter(shapes))]
    # drift is measured on whole pictures, in one shape, which may leave nothing of a mask
    measured = [[replace(item, mask=None) for item in items] for items in (probe, _pick(same_shape, config.drift))]
    chosen = _Chosen(trained, classes.items, shapes, *measured)
    latents = _Latents(model, data, cache_dir)
    latents.want_all(chosen)
    latent_problems = latents.make(progress)
    problems = [*probe_problems, *classes.problems, *latent_problems, *text_problems]
    return _prepared(model, config, chosen, latents, text, problems, generated)


def _drawn_prompts(config) -> list[Words]:
    """What the pictures are drawn from that the run will draw: samples, class pictures."""
    validation, drawn = config.validation, config.data.with_prior_preservation
    of_classes = dict.fromkeys(thing.class_prompt for thing in config.data.things) if drawn else ()
    prompts = [*validation.prompts, *of_classes]
    return [*((prompt, False) for prompt in prompts), (validation.negative_prompt, True), ("", True)]


def _remember_prompts(model, config) -> None:
    """Let the model know them; they are in the cache."""
    words = _drawn_prompts(config)
    for negative in (False, True):
        model.remember([prompt for prompt, is_negative in words if is_negative == negative], negative=negative)


@dataclass(frozen=True)
class _Chosen:
    """The pictures that are prepared. `shapes`: how many trained pictures each bucket has, most first."""

    trained: tuple[Item, ...]
    class_items: tuple[Item, ...]
    shapes: dict[Size, int]
    probe: list[Item]
    training_probe: list[Item]

    @property
    def bucket(self) -> Size:
        """The most frequent shape; drift is measured in it."""
        return next(iter(self.shapes))


def _prepared(
    model, config, chosen: _Chosen, latents: "_Latents", text: Prompts, problems: list[Finding], generated: int
) -> Prepared:
    data, size, seed = config.data, config.training.train_batch_size, config.training.seed
    trained, class_items = chosen.trained, chosen.class_items
    return Prepared(
        model=model,
        items=trained,
        rows=[latents.row(item, item.bucket) for item in trained],
        class_rows={shape: [latents.row(item, shape, "class/") for item in class_items] for shape in chosen.shapes}
        if class_items
        else {},
        latents=latents.store,
        text=text.store,
        text_keys=text.keys,
        schedule=_schedule(data, trained, size, seed),
        class_order=_class_order(data, trained, class_items, size, seed),
        bucket=chosen.bucket,
        seed=seed,
        accumulation=config.training.gradient_accumulation_steps,
        random_flip=data.random_flip,
        caption_dropout=data.caption_dropout_probability,
        hard_masks=data.masked_training == "hard",
        background_weight=data.masked_background_weight,
        problems=problems,
        counts=Counts(
            latents.reused + text.reused, latents.made + text.made, latents.rebuilt + text.rebuilt, generated
        ),
        probe=_probe(chosen.probe, chosen.bucket, latents, text, held_out=True),
        training_probe=_probe(chosen.training_probe, chosen.bucket, latents, text, held_out=False),
        kept_prompts=_kept_prompts(data, trained),
    )


def _kept_prompts(data, trained: Iterable[Item]) -> tuple[str, ...]:
    """Of each trained picture the prompt whose answers output preservation keeps; none where it is off."""
    if data.output_preservation_weight == 0:
        return ()
    things, own = data.things, data.output_preservation_prompt == "caption"
    return tuple(_kept_prompt(things[item.concept], item.caption if own else None) for item in trained)


def _kept_prompt(thing, caption: str | None) -> str:
    """The class prompt, or a caption without its trigger word. One that has none would be learned and held at once."""
    if caption is None or thing.trigger_word is None or not mentions(caption, clean(thing.trigger_word)):
        return thing.class_prompt
    left = untriggered(caption, thing.trigger_word)
    return left if left else thing.class_prompt


def _schedule(data, trained: tuple[Item, ...], size: int, seed: int) -> Schedule:
    """The order of the instance rows; one thing's does not depend on there being others."""
    shapes, things = [item.bucket for item in trained], data.things
    if len(things) == 1:
        return Schedule(shapes, repeats=things[0].repeats, batch_size=size, seed=seed)
    repeats = {number: thing.repeats for number, thing in enumerate(things)}
    return BalancedSchedule(shapes, [item.concept for item in trained], repeats, batch_size=size, seed=seed)


def _class_order(
    data, trained: tuple[Item, ...], class_items: tuple[Item, ...], size: int, seed: int
) -> Carousel | None:
    """The order of the class rows; None where there are none."""
    if not class_items:
        return None
    if len(data.things) == 1:
        return Carousel(len(class_items), batch_size=size, seed=seed)
    sets = class_sets(data.things)
    set_of_row = [sets[item.concept] for item in trained]
    return PairedCarousel([item.concept for item in class_items], set_of_row, batch_size=size, seed=seed)


def _probe(items: list[Item], bucket: Size, latents: "_Latents", text: Prompts, held_out: bool) -> Probe | None:
    """The pictures that drift is measured on, all in one shape; None without pictures."""
    if not items:
        return None
    return Probe(
        torch.stack([latents.store.get(latents.key(item, bucket, False))["latents"] for item in items]),
        [text.store.get(text.keys[item.caption]) for item in items],
        [item.caption for item in items],
        [item.name for item in items],
        held_out,
    )


def _check_shapes(model, shapes: Iterable[Size]) -> None:
    wrong = [
        f"{width} x {height}" for width, height in shapes if width % model.size_multiple or height % model.size_multiple
    ]
    if wrong:
        raise DatasetError(
            f"{', '.join(wrong)}: this model needs sides that are multiples of {model.size_multiple} px.",
            f"Set resolution and bucket_step to multiples of {model.size_multiple}.",
        )


def _pick(items: Iterable[Item], drift) -> list[Item]:
    """At most `num_images` of them, drawn from their content and the drift seed, in their own order; of each thing in turn."""
    items = list(items)
    ranked = sorted(items, key=lambda item: hashlib.blake2b(f"probe {drift.seed} {item.digest}".encode()).digest())
    turn: Counter[int] = Counter()
    in_turn = []
    for item in ranked:
        in_turn.append((turn[item.concept], item))
        turn[item.concept] += 1
    chosen = {item for _, item in sorted(in_turn, key=lambda each: each[0])[: drift.num_images]}
    return [item for item in items if item in chosen]


# Latents --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    key: str
    item: Item
    crop: transform.Crop
    flip: bool


class _Latents:
    """Latents of pictures at given shapes, through the cache."""

    def __init__(self, model, data, cache_dir: Path):
        self.model, self.center = model, data.center_crop
        self.random_flip = data.random_flip
        self.hard_masks = data.masked_training == "hard"
        self.cache = TensorCache(cache_dir, "latents")
        self.store = Store(self.cache, MEMORY_BYTES)
        self.vae = identity(model.vae)
        self.weights = sum(weight.numel() for weight in model.vae.parameters())
        self.portions = Portions()
        self.jobs: dict[str, _Job] = {}
        self.reused = self.made = self.rebuilt = 0

    def _job(self, item: Item, size: Size, flip: bool) -> _Job:
        crop = item.crop(size, center=self.center)
        box = [crop.left, crop.top, crop.right, crop.bottom]
        masked = (
            {} if item.mask is None else {"mask": ["alpha" if item.mask.path is None else "file", item.mask.digest]}
        )
        key = key_of(
            kind="latents", picture=item.digest, box=box, size=size, resample="lanczos", flip=flip, vae=self.vae, family=self.model.name,
            **masked,
        )  # fmt: skip
        return _Job(key, item, crop, flip)

    def key(self, item: Item, size: Size, flip: bool) -> str:
        return self._job(item, size, flip).key

    def frame(self, item: Item, size: Size, flip: bool) -> Frame:
        crop = transform.crop_for(item.width, item.height, size, center=self.center, digest=item.digest)
        left = item.width - crop.right if flip else crop.left
        corner = (round(crop.top * crop.scale), round(left * crop.scale))
        return Frame((item.height, item.width), corner, (size[1], size[0]))

    def row(self, item: Item, size: Size, prefix: str = "") -> Row:
        """The row of a picture in a batch; its name in logs begins with `prefix`."""
        mirrored = self.key(item, size, True) if self.random_flip else None
        frames = (self.frame(item, size, False), self.frame(item, size, True))
        return Row(prefix + item.name, item.caption, self.key(item, size, False), mirrored, frames)

    def want_all(self, chosen: _Chosen) -> None:
        """Note every entry that the chosen pictures need: class pictures in every shape, the probe in the most frequent one."""
        flips = (False, True) if self.random_flip else (False,)
        for item in chosen.trained:
            self._want(item, item.bucket, flips)
        for item in chosen.class_items:
            for shape in chosen.shapes:
                self._want(item, shape, flips)
        for item in (*chosen.probe, *chosen.training_probe):
            self._want(item, chosen.bucket, (False,))

    def _want(self, item: Item, size: Size, flips: Iterable[bool]) -> None:
        for flip in flips:
            job = self._job(item, size, flip)
            self.jobs.setdefault(job.key, job)

    def make(self, progress: Progress) -> list[Finding]:
        """Have every wanted entry in the cache; those that are there are read once, to be sure of them."""
        self.cache.remove_leftovers()
        problems, absent, total = [], [], len(self.jobs)
        for job in self.jobs.values():
            tensors, problem = sound(self.cache, job.key, partial(_is_latent, masked=job.item.mask is not None))
            if problem is not None:
                problems.append(problem)
                self.rebuilt += 1
            if tensors is None:
                absent.append(job)
                continue
            self._check_mask(job, tensors)
            self.store.keep(job.key, tensors)
            self.reused += 1
            progress("latents", self.reused, total)
        device = self.model.device.type
        absent.sort(key=lambda job: job.crop.size)
        for decoded in _together(_ahead(absent, decoding_threads(device)), device):
            for (job, _, shades), latents in zip(decoded, self._encode(decoded), strict=True):
                tensors = {"latents": latents}
                if shades is not None:
                    tensors["mask"] = masks.to_cells(torch.from_numpy(shades), *latents.shape[-2:])
                self._check_mask(job, tensors)
                self.cache.write(job.key, tensors)
                self.store.keep(job.key, tensors)
                self.made += 1
                progress("latents", self.reused + self.made, total)
        return problems

    def _check_mask(self, job: _Job, tensors: dict[str, Tensor]) -> None:
        """Refuse a mask of which nothing is left in the cells of the latents."""
        if job.item.mask is None or bool((tensors["mask"] >= (0.5 if self.hard_masks else 1e-6)).any()):
            return
        raise DatasetError(
            f"{job.item.mask.path or job.item.path}: nothing of its mask is left at {job.crop.size[0]} x {job.crop.size[1]}"
            f"{' where a cell counts from one half on' if self.hard_masks else ''}, so nothing of the picture would train.",
            "Paint a larger part white, crop the picture around it"
            + (', or set masked_training to "soft".' if self.hard_masks else "."),
        )

    def _encode(self, decoded: "list[_Decoded]") -> Tensor:
        """(B, C, h, w) float32 on the CPU, of pictures of one size; in portions where the memory does not hold them all."""
        pixels = torch.from_numpy(np.stack([each.pixels for each in decoded])).permute(0, 3, 1, 2)
        height, width = pixels.shape[-2:]
        positions = len(pixels) * (width // self.model.latent_scale) * (height // self.model.latent_scale)

        def encoded(some: slice) -> Tensor:
            return self.model.encode_images(pixels[some].float() / 127.5 - 1, None).float().cpu()

        with _one_thread() if self.weights * positions < SMALL_WORK else nullcontext():
            latents = torch.cat(self.portions.ask(len(pixels), encoded))
        for each, own in zip(decoded, latents, strict=True):
            if not bool(own.isfinite().all()):
                raise DatasetError(
                    f"{each.job.item.path}: the model's autoencoder turns it into values that are not finite.",
                    "Try another picture in its place, or check the model's vae.",
                )
        return latents


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch computes on the calling thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_latent(tensors: dict[str, Tensor], masked: bool) -> bool:
    if set(tensors) != ({"latents", "mask"} if masked else {"latents"}):
        return False
    latents = tensors["latents"]
    fits = not masked or tensors["mask"].shape == (1, *latents.shape[-2:])
    return fits and all(tensor.ndim == 3 and tensor.dtype == torch.float32 for tensor in tensors.values())


def pictures_at_once(device: str, size: Size) -> int:
    """How many pictures of one size are encoded together. One on a CPU: an entry keeps its bits whatever is beside it, and of pictures of 256 px
    several together take longer than one after the other (benchmarks/preparing.md)."""
    width, height = size
    return 1 if device == "cpu" else max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (width * height)))


def decoding_threads(device: str) -> int:
    """Two beside a CPU that encodes; an accelerator leaves the CPU free, and large photographs take longer to decode than it takes to encode."""
    return 2 if device == "cpu" else 4


class _Decoded(NamedTuple):
    job: _Job
    pixels: np.ndarray  # uint8 (H, W, 3) at the bucket's size
    shades: np.ndarray | None  # its mask, float32 (H, W) in 0..1


def _together(pictures: Iterable[_Decoded], device: str) -> Iterator[list[_Decoded]]:
    """Those of one size that follow one another, so many at a time as are encoded together."""
    for size, alike in groupby(pictures, key=lambda each: each.job.crop.size):
        while some := list(islice(alike, pictures_at_once(device, size))):
            yield some


def _ahead(jobs: list[_Job], threads: int) -> Iterator[_Decoded]:
    """Each job's picture, decoded a few jobs ahead on threads: large photographs take longer to decode than to encode."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Decoded]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(_decoded, job))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # only after an error: do not decode the rest first
                future.cancel()


def _decoded(job: _Job) -> _Decoded:
    mask = job.item.mask
    data = _unchanged(job.item.path, job.item.digest)
    try:
        pixels = transform.apply(pictures.decode(data), job.crop, flip=job.flip)
    except pictures.BadPicture as bad:
        raise DatasetError(f"{job.item.path}: {bad.message}.", bad.remedy) from bad
    if mask is None:
        return _Decoded(job, pixels, None)
    where = job.item.path if mask.path is None else mask.path
    try:
        shades = pictures.shades(data if mask.path is None else _unchanged(where, mask.digest), alpha=mask.path is None)
    except pictures.BadPicture as bad:
        raise DatasetError(f"{where}: {bad.message}.", bad.remedy) from bad
    assert shades is not None  # the scan saw its transparency in the same bytes
    return _Decoded(job, pixels, masks.cut(shades, job.crop, flip=job.flip))


def _unchanged(path: Path, digest: str) -> bytes:
    """A file's bytes. Raises DatasetError where they are not those that the scan saw."""
    try:
        data = pictures.read_bytes(path)
    except pictures.BadPicture as bad:
        raise DatasetError(f"{path}: {bad.message}.", bad.remedy) from bad
    if hashlib.sha256(data).hexdigest() != digest:
        raise DatasetError(f"{path} changed while it was being prepared.", "Leave the pictures alone, and start again.")
    return data
