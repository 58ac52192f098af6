"""What a batch of rows is conditioned on: one record, so that rows are picked, repeated and moved in one place.

A single prompt, as text encoders make it and caches keep it, is a plain dict of tensors without a batch axis; `Model.collate` puts
several into a `Conditioning`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

Prompt = dict[str, Tensor]
"""One prompt's tensors on the CPU, without a batch axis."""


class Unencoded(dict[str, Tensor]):
    """A prompt by its words: `collate` encodes it, with the text encoders as they are then. Only for families whose encoders can change
    (`FamilyFacts.trained_encoders`)."""

    def __init__(self, words: str, negative: bool = False) -> None:
        super().__init__()
        self.words, self.negative = words, negative


@dataclass(frozen=True)
class Frame:
    """What was cut out of a picture, for models that take it as an input; all are (vertical, horizontal) pixels.

    `original`: the picture's height and width. `corner`: top and left of the cut, in the picture brought to the scale of the result.
    `size`: height and width of the result.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]


class Conditioning(Mapping[str, Tensor]):
    """Tensors by name, each with the batch axis first: (B, ...). Read-only.

    Raises ValueError where the tensors do not have equally many rows, or there are none.
    """

    def __init__(self, rows: Mapping[str, Tensor]):
        self._rows = dict(rows)
        counts = {value.shape[0] for value in self._rows.values()}
        if len(counts) != 1:
            raise ValueError(
                f"conditioning of {sorted(counts)} rows: every tensor must have the same number of them, at least one tensor."
            )
        self.count = counts.pop()

    def __getitem__(self, name: str) -> Tensor:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        """The number of tensors; `count` is that of the rows."""
        return len(self._rows)

    def select(self, rows: Tensor) -> "Conditioning":
        """The rows of these numbers, (R,) int64, in any order and as often as wanted."""
        return Conditioning({name: value.index_select(0, rows.to(value.device)) for name, value in self._rows.items()})

    def repeat(self, count: int) -> "Conditioning":
        """A single row `count` times, without a copy. Raises ValueError for several rows."""
        if self.count != 1:
            raise ValueError(f"conditioning of {self.count} rows: only a single one can be repeated.")
        return Conditioning({name: value.expand(count, *value.shape[1:]) for name, value in self.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """On a device; numbers that are not whole in a dtype (masks and counts keep theirs)."""
        moved = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name, value in self._rows.items()
        }
        return self if all(moved[name] is value for name, value in self._rows.items()) else Conditioning(moved)

    def with_rows(self, **rows: Tensor) -> "Conditioning":
        """With further tensors, or other ones in place of those of the same name."""
        return Conditioning({**self, **rows})

    def before(self, other: Mapping[str, Tensor]) -> "Conditioning":
        """These rows, then the other's. What only one side has belongs to the pictures, which both share: it is taken twice.

        Where prompts differ in length the shorter ones get zeros at their end, as in `collate` of a family whose prompts do: a mask or a
        length beside them says how long each is.
        """
        first, second = {**other, **self}, {**self, **other}
        return Conditioning({name: _joined(first[name], second[name]) for name in first})


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """(A, ...) and (B, ...) -> (A + B, ...), each as large as the larger one."""
    shape = [max(sides) for sides in zip(first.shape[1:], second.shape[1:], strict=True)]
    return torch.cat([_filled(each, shape) for each in (first, second)])


def _filled(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows with zeros at the ends of their axes, up to `shape`."""
    missing = [end - side for side, end in zip(rows.shape[1:], shape, strict=True)]
    return pad(rows, [places for more in reversed(missing) for places in (0, more)]) if any(missing) else rows


def padded(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of different lengths, each (L_i, ...), in one tensor (B, L, ...) with zeros behind, and which positions are theirs: (B, L) bool."""
    own = [torch.ones(len(one), dtype=torch.bool) for one in texts]
    return pad_sequence(list(texts), batch_first=True), pad_sequence(own, batch_first=True)
