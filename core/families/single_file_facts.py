"""What a family says of checkpoints in one file, in the layout of its release (A1111, ComfyUI): plain data, no torch.

Such a file has no configs. Which family it is of, its names and shapes show; what they leave open stands in config files that the family
ships (`core/families/<name>/single_file/`, in the diffusers layout, without weights) or comes from a whole pipeline that is named beside it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""Tensors of a file: name -> shape."""
NETWORK = "model.diffusion_model."
"""What the names of the network's tensors begin with in a file that holds more than the network."""


@dataclass(frozen=True)
class Contents:
    """What a file's header says. `shapes`: of all its tensors, as it names them. `metadata`: its text."""

    shapes: Shapes
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> Shapes:
        """The network's tensors, without the beginning of their names; of a file of the network alone, all of them."""
        inside = {name.removeprefix(NETWORK): shape for name, shape in self.shapes.items() if name.startswith(NETWORK)}
        return inside if inside else self.shapes


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """How a checkpoint in one file is recognised, and what makes a pipeline of it.

    Attributes:
        recognised: whether a file is of this family.
        parts: what such a file may hold beside the network: the pipeline's part -> the beginning of its tensors' names.
        says: what names, shapes and metadata say of the parts' configs; it wins over config files.
        renamed: the network's tensors as diffusers names them, with their shapes.
        ships_configs: whether the family's folder has `single_file/`; its tokenizers are CLIP's.
        optional: parts that a pipeline does without where the file has none.
        official: hub id of the pipeline that lends the parts which a file lacks, where none is named.
        unsaid: what no file says and is taken for granted, for people; "" = nothing.
    """

    recognised: Callable[[Contents], bool]
    parts: Mapping[str, str] = field(default_factory=dict)
    says: Callable[[Contents], dict[str, dict[str, Any]]]
    renamed: Callable[[Shapes], dict[str, tuple[int, ...]]]
    ships_configs: bool = False
    optional: tuple[str, ...] = ()
    official: str
    unsaid: Callable[[Contents], str] = lambda contents: ""

    def within(self, contents: Contents) -> tuple[str, ...]:
        """The parts beside the network that the file holds."""
        return tuple(
            part for part, start in self.parts.items() if any(name.startswith(start) for name in contents.shapes)
        )


def count(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are whose names begin with `start` ("joint_blocks."): one more than the highest number."""
    numbers = [name[len(start) :].split(".")[0] for name in names if name.startswith(start)]
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def split(shape: tuple[int, ...], into: Iterable[str], rows: int | None = None) -> dict[str, tuple[int, ...]]:
    """A tensor that was several, one below the other: each with `rows` rows, the last with what is left; None = all alike."""
    names = list(into)
    each = shape[0] // len(names) if rows is None else rows
    sizes = [each] * (len(names) - 1) + [shape[0] - each * (len(names) - 1)]
    return {name: (size, *shape[1:]) for name, size in zip(names, sizes, strict=True)}
