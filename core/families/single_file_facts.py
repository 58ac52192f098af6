"""What a family says of checkpoints in one file, in the layout of its release (A1111, ComfyUI): plain data, no torch.

Such a file has no configs. Which family it is of, its names and shapes show; what they leave open stands in config files that the family
ships (`core/families/<name>/single_file/`, in the diffusers layout, without weights) or comes from a whole pipeline that is named beside it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""Tensors of a file: name -> shape."""
Names = Mapping[str, str | tuple[str, ...]]
"""How one layout's names become another's: a pattern of the whole name -> the new one, or those of the tensors that lie in it one below the
other, all with as many rows; a name that is repeated has as many shares."""
NETWORK = "model.diffusion_model."
"""What the names of the network's tensors begin with in a file that holds more than the network."""
BEGINNINGS = (NETWORK, "net.")
"""The same, and what NVIDIA's training code puts before them."""

TEXT_WIDTHS = ("cross_attention_dim", "joint_attention_dim", "pooled_projection_dim", "cap_feat_dim", "text_hidden_dim")
"""Keys of networks' configs that must suit the text encoders, wherever these come from."""


@dataclass(frozen=True)
class Contents:
    """What a file's header says. `shapes`: of all its tensors, as it names them. `metadata`: its text."""

    shapes: Shapes
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def start(self) -> str:
        """What the names of the network's tensors begin with here; "" where the file is of the network alone."""
        return next((each for each in BEGINNINGS if any(name.startswith(each) for name in self.shapes)), "")

    @property
    def network(self) -> Shapes:
        """The network's tensors, without the beginning of their names; of a file of the network alone, all of them."""
        start = self.start
        return {name.removeprefix(start): shape for name, shape in self.shapes.items() if name.startswith(start)}


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """How a checkpoint in one file is recognised, and what makes a pipeline of it.

    Attributes:
        recognised: whether a file is of this family.
        parts: what such a file may hold beside the network: the pipeline's part -> the beginning of its tensors' names. inside: the same of
            parts that the original network has within itself; the beginning follows that of the network's own names, and the rest are
            diffusers' names.
        says: what names, shapes and metadata say of the parts' configs; it wins over config files.
        names: what diffusers calls the network's tensors. renamed: the same as a function, where patterns are not enough.
        ships_configs: whether the family's folder has `single_file/`; its tokenizers are CLIP's.
        optional: parts that a pipeline does without where the file has none.
        official: hub id of the pipeline that lends the parts which a file lacks, where none is named.
        unsaid: what no file says and is taken for granted, for people; "" = nothing.
    """

    recognised: Callable[[Contents], bool]
    parts: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    says: Callable[[Contents], dict[str, dict[str, Any]]]
    names: Names = field(default_factory=dict)
    renamed: Callable[[Shapes], dict[str, tuple[int, ...]]] | None = None
    ships_configs: bool = False
    optional: tuple[str, ...] = ()
    official: str
    unsaid: Callable[[Contents], str] = lambda contents: ""

    def network(self, contents: Contents) -> dict[str, tuple[int, ...]]:
        """The network's tensors as diffusers names them, with their shapes."""
        own = {
            name: shape for name, shape in contents.network.items() if not name.startswith(tuple(self.inside.values()))
        }
        return renamed(own, self.names) if self.renamed is None else self.renamed(own)

    def starts(self, contents: Contents) -> dict[str, str]:
        """Part -> the beginning of its tensors' names in this file."""
        return {**self.parts, **{part: contents.start + start for part, start in self.inside.items()}}

    def within(self, contents: Contents) -> tuple[str, ...]:
        """The parts beside the network that the file holds."""
        starts = self.starts(contents).items()
        return tuple(part for part, start in starts if any(name.startswith(start) for name in contents.shapes))


def count(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are whose names begin with `start` ("joint_blocks."): one more than the highest number."""
    numbers = [name[len(start) :].split(".")[0] for name in names if name.startswith(start)]
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)


def renamed(shapes: Shapes, names: Names) -> dict[str, tuple[int, ...]]:
    """Shapes by their new names; a name that no pattern fits stays as it is."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        match = next((match for pattern in names if (match := re.fullmatch(pattern, name))), None)
        new = name if match is None else names[match.re.pattern]
        if isinstance(new, str):
            found[new if match is None else match.expand(new)] = shape
            continue
        for each in new:
            share, at = shape[0] // len(new), match.expand(each)  # type: ignore[union-attr]
            found[at] = (share + found.get(at, (0,))[0], *shape[1:])
    return found


def three(start: str, projection: str, end: str) -> tuple[str, ...]:
    """The names of query, key and value that lie in one tensor; `projection` has {} in its letter's place."""
    return tuple(f"{start}{projection.format(each)}{end}" for each in "qkv")


def head_dim(shapes: Shapes, width: int, norm: str, usual: int) -> dict[str, int]:
    """Width and number of the attention's heads, by a norm of one head's width; `usual`: where there is no such norm."""
    each = shapes[norm][0] if norm in shapes else usual
    return {"attention_head_dim": each, "num_attention_heads": width // each}
