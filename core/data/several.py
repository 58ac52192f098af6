"""Which rows a step trains on where several things are learned: all come equally often, times their `repeats`.

A pure function of the seed and the batch's number, as with one thing (`batches.Schedule`, `batches.Carousel`).
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch

from ..randomness import generator
from .batches import Carousel, Schedule
from .buckets import Size

_CLOSE = Fraction(1, 100)
"""How far a thing's share of an epoch may be from what it should be, relatively."""
_MOST_TIMES = 64
_ORDER, _FIRST_CLASS_SET = 0, 1  # indices within the "concepts" stream


def times_of(counts: Mapping[int, int], repeats: Mapping[int, int]) -> dict[int, int]:
    """How often each picture of a thing comes in an epoch, so that the things' rows are to each other as their repeats.

    Exact where a short epoch allows it (5 and 8 pictures: 8 and 5 times), else within a hundredth, or as near as 64 rounds of the
    largest set come.

    Args:
        counts: pictures of each thing, at least 1; repeats: of each thing.
    """
    most = max(counts[thing] * Fraction(1, repeats[thing]) for thing in counts)
    best: tuple[Fraction, dict[int, int]] | None = None
    for rounds in range(1, _MOST_TIMES + 1):
        wanted = {thing: rounds * most * repeats[thing] for thing in counts}
        times = {thing: max(1, round(wanted[thing] / counts[thing])) for thing in counts}
        off = max(abs(times[thing] * counts[thing] / wanted[thing] - 1) for thing in counts)
        if best is None or off < best[0]:
            best = (off, times)
        if off <= _CLOSE:
            break
    assert best is not None
    return best[1]


class BalancedSchedule(Schedule):
    """`Schedule` over the pictures of several things: in every shape their rows alternate, so that a batch mixes them as an epoch does.

    Args:
        shapes, things: of each row; repeats: of each thing.
    """

    def __init__(
        self, shapes: Sequence[Size], things: Sequence[int], repeats: Mapping[int, int], *, batch_size: int, seed: int
    ):
        super().__init__(shapes, repeats=1, batch_size=batch_size, seed=seed)
        self.things = list(things)
        there = sorted(set(things))
        counts = {thing: self.things.count(thing) for thing in there}
        self.times = times_of(counts, {thing: repeats[thing] for thing in there})
        self.batches_per_epoch = sum(
            -(-sum(self.times[self.things[row]] for row in rows) // batch_size) for rows in self._rows.values()
        )

    def _batches(self, epoch: int) -> list[list[int]]:
        random = generator(self.seed, epoch, "concepts", _ORDER)
        batches = []
        for rows in self._rows.values():
            placed: list[tuple[float, int, int]] = []
            for thing, times in self.times.items():
                mine = [row for row in rows if self.things[row] == thing]
                order = [mine[i] for _ in range(times) for i in torch.randperm(len(mine), generator=random).tolist()]
                placed += [((place + 0.5) / len(order), thing, row) for place, row in enumerate(order)]
            order = [row for _, _, row in sorted(placed, key=lambda each: each[:2])]
            for first in range(0, len(order), self.batch_size):
                batches.append([order[i % len(order)] for i in range(first, first + self.batch_size)])
        return [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]


class PairedCarousel(Carousel):
    """Class rows for several things: beside each instance row one of its own thing's class set, set by set in permutations of its own.

    Args:
        sets: of each class picture; set_of_row: of each instance row.
    """

    def __init__(self, sets: Sequence[int], set_of_row: Sequence[int], *, batch_size: int, seed: int):
        super().__init__(len(sets), batch_size=batch_size, seed=seed)
        self.set_of_row = list(set_of_row)
        self.members = {each: [i for i, of in enumerate(sets) if of == each] for each in sorted(set(sets))}
        self._orders: dict[int, tuple[int, list[int]]] = {}

    def beside(self, number: int, chosen: Sequence[int]) -> list[int]:
        return [
            self._member(self.set_of_row[row], number * self.batch_size + place) for place, row in enumerate(chosen)
        ]

    def _member(self, of_set: int, position: int) -> int:
        members = self.members[of_set]
        epoch, place = divmod(position, len(members))
        if self._orders.get(of_set, (-1, []))[0] != epoch:
            random = generator(self.seed, epoch, "concepts", _FIRST_CLASS_SET + of_set)
            self._orders[of_set] = (epoch, torch.randperm(len(members), generator=random).tolist())
        return members[self._orders[of_set][1][place]]
