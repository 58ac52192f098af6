"""A micro-batch in parts, for a memory that does not hold the whole."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import LongTensor, Tensor

from ..data import Batch
from ..remedies.base import rows_of
from .window import Draw


def parts_of(batch: Batch, draw: Draw, count: int) -> Iterator[tuple[Batch, Draw]]:
    """The rows of a micro-batch and what was drawn for them, in `count` parts (fewer where there are fewer rows); itself in one.

    Draws belong to rows, so every row trains as it would have in the whole.
    """
    rows = len(batch.ids)
    if count == 1 or rows == 1:
        yield batch, draw
        return
    for part in range(min(count, rows)):
        yield _rows(batch, draw, cast(LongTensor, torch.arange(part, rows, count)))


def _rows(batch: Batch, draw: Draw, rows: LongTensor) -> tuple[Batch, Draw]:
    def picked(values: list) -> list:
        return [values[row] for row in rows.tolist()]

    def on_device(values: Tensor) -> Tensor:
        return values.index_select(0, rows.to(values.device))

    of_class = batch.class_conditioning  # a row for each instance row, in order; these stand first
    some = replace(
        batch,
        latents=on_device(batch.latents),
        conditioning=batch.conditioning.select(rows),
        is_class=batch.is_class[rows],
        numbers=cast(LongTensor, batch.numbers[rows]),
        ids=picked(batch.ids),
        captions=picked(batch.captions),
        prompts=picked(batch.prompts),
        frames=picked(batch.frames),
        flipped=picked(batch.flipped),
        class_conditioning=None if of_class is None else of_class.select(rows[~batch.is_class[rows]]),
        mask=None if batch.mask is None else on_device(batch.mask),
    )
    return some, replace(draw, noise=draw.noise[rows], plan=rows_of(draw.plan, rows))
