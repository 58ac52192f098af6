"""The repeated blocks of a network, by the names of its layers: what is quantised, and what streams, is decided by them. No torch."""

import re
from collections.abc import Iterable, Sequence

_BLOCK = re.compile(r"((?:.*\.)?\w*(?:blocks|layers|refiner)\.\d+)\.")  # greedy: the innermost one


def block_of(name: str) -> str | None:
    """The innermost block that a tensor or layer lies in, by its name ("transformer_blocks.3.attn.to_q" -> "transformer_blocks.3"); None
    outside of all: embeddings, the last layer."""
    found = _BLOCK.match(name)
    return None if found is None else found[1]


def blocks_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Block -> the names in it, in their order. A block that holds others (the levels of a UNet) is none itself: what it has beside
    them belongs to no block."""
    found: dict[str, list[str]] = {}
    for name in names:
        block = block_of(name)
        if block is not None:
            found.setdefault(block, []).append(name)
    outer = {one for one in found if any(other.startswith(one + ".") for other in found)}
    return {block: inside for block, inside in found.items() if block not in outer}


def kept_whole(linear: Sequence[str]) -> list[str]:
    """Of the names of a network's linear layers those that are not quantised: outside the blocks, where a few weights touch every pixel.

    diffusers passes over a layer whose name *contains* a given one; so a name that would take layers of a block along ("proj_out") is
    quantised with them.
    """
    inside = [name + "." for name in linear if block_of(name) is not None]
    return [name for name in linear if block_of(name) is None and not any(name + "." in other for other in inside)]
