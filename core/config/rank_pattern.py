"""Ranks that differ from layer to layer: `lora_rank_pattern`, lines of `pattern=rank` or `pattern=rank:alpha`.

A pattern is one or more parts of a layer's dotted name, side by side (`to_q`, `attn2`, `down_blocks.1`, `ff.net.0.proj`); in a part `*` stands
for any letters. Of several lines that mean a layer, the last holds. No torch: estimate, preflight and training read it alike.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

LARGEST_RANK, LARGEST_ALPHA = 1024, 4096.0
_LINE = re.compile(r"([^=\s]+)\s*=\s*(\d+)(?:\s*:\s*([0-9.eE+-]+))?")


@dataclass(frozen=True)
class RankLine:
    """One line; `alpha` None = that of the whole adapter, which is the rank where that is unset."""

    pattern: str
    rank: int
    alpha: float | None

    def means(self, layer: str) -> bool:
        """Whether the pattern's parts stand side by side somewhere in the layer's name."""
        wanted, parts = self.pattern.split("."), layer.split(".")
        return any(
            all(fnmatchcase(part, one) for part, one in zip(parts[at:], wanted, strict=False))
            for at in range(len(parts) - len(wanted) + 1)
        )


def parsed(line: str) -> RankLine:
    """Raises: ValueError with what is wrong with the line, as the end of a sentence."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ValueError('must be pattern=rank or pattern=rank:alpha, for example "attn2=8" or "ff.net=4:2".')
    pattern, rank, alpha = found[1], int(found[2]), None
    if not 1 <= rank <= LARGEST_RANK:
        raise ValueError(f"the rank must be from 1 to {LARGEST_RANK}.")
    if found[3] is not None:
        try:
            alpha = float(found[3])
        except ValueError:
            raise ValueError(f"{found[3]} is not a number.") from None
        if not 0 < alpha <= LARGEST_ALPHA:
            raise ValueError(f"alpha must be above 0 and at most {LARGEST_ALPHA:g}.")
    if "" in pattern.split("."):
        raise ValueError(
            f"{pattern} begins or ends with a dot, or has two in a row; write parts of a name, such as attn2 or ff.net."
        )
    return RankLine(pattern, rank, alpha)


def ranks_of(
    layers: Sequence[str], rank: int, alpha: float | None, lines: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """Layer -> (rank, alpha), in the order of `layers`. The lines are those of a config that was checked."""
    read = [parsed(line) for line in lines]
    found = {}
    for layer in layers:
        line = next((each for each in reversed(read) if each.means(layer)), None)
        own_rank = rank if line is None else line.rank
        own_alpha = alpha if line is None or line.alpha is None else line.alpha
        found[layer] = (own_rank, float(own_rank if own_alpha is None else own_alpha))
    return found


def faults_of(layers: Sequence[str], lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(what is wrong, the remedy) of every line that changes no layer, because it means none or later lines take all of its layers."""
    read = [parsed(line) for line in lines]
    for number, line in enumerate(read):
        own = [layer for layer in layers if line.means(layer)]
        if not own:
            yield (
                f"{line.pattern} is in the name of none of the {len(layers)} layers that train",
                _near(line.pattern, layers),
            )
        elif all(any(later.means(layer) for later in read[number + 1 :]) for layer in own):
            yield (
                f"{line.pattern} has no effect, because later lines hold for all of its {len(own)} layers",
                "Put it behind them, or leave it out.",
            )


def _near(pattern: str, layers: Sequence[str]) -> str:
    """Parts of names that are near, else what there is."""
    wanted = pattern.count(".") + 1
    parts = {
        ".".join(names[at : at + wanted])
        for names in (layer.split(".") for layer in layers)
        for at in range(len(names) - wanted + 1)
    }
    near = difflib.get_close_matches(pattern, sorted(parts), n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    ends = sorted(
        {
            layer.split(".")[-1] if not layer.split(".")[-1].isdigit() else ".".join(layer.split(".")[-2:])
            for layer in layers
        }
    )
    return f"The layers end in {', '.join(ends[:8])}; the first is {layers[0]}." if layers else "No layer trains."
