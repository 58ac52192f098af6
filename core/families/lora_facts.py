"""How other tools name the layers of a LoRA, said per family as plain data: no torch.

The diffusers layout, `<component>.<layer>.lora_A.weight`, needs no map. The one that AUTOMATIC1111's page, Forge, ComfyUI and sd-scripts
read is called the kohya layout here, for every family: names of its own, and the scale as a tensor (`.alpha`) beside each pair of
matrices. Which names a family has there stands in its facts (`FamilyFacts.kohya`); `core/adapters/kohya.py` writes and reads them.

Source: the key maps of diffusers' `loaders/lora_conversion_utils.py` (0.42), with which every map is compared in `tests/core/test_lora_layouts.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a layer's LoRA stands in the kohya layout.

    `name`: of the layer there, with its prefix. `joined`: where the original network has one layer for several of ours (the fused
    projections of an attention), our names of all of them, in the order of its rows; empty for a layer that stands by itself.
    """

    name: str
    joined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rename:
    """Layers whose whole name matches `pattern` are called `name` there; `{0}`, `{1}` ... are the pattern's groups, also in `joined`."""

    pattern: str
    name: str
    joined: tuple[str, ...] = ()

    def of(self, layer: str) -> Place | None:
        found = _compiled(self.pattern).fullmatch(layer)
        if found is None:
            return None
        return Place(self.name.format(*found.groups()), tuple(part.format(*found.groups()) for part in self.joined))


_compiled = cache(re.compile)


def always(network: Mapping[str, Any]) -> str | None:
    """The layout can be written for every checkpoint of the family."""
    return None


@dataclass(frozen=True, kw_only=True)
class KohyaLayout:
    """How a family's file of the kohya layout is written.

    Attributes:
        place: (layer, the network's config) -> where it stands; None for a layer that has no name there.
        down, up: ends of the names of A and B. alphas: whether the scale stands beside them; else it is multiplied into B.
        refuse: the network's config -> why the layout cannot be written for this checkpoint; None where it can.
        about: what the names are, for people.
    """

    place: Callable[[str, Mapping[str, Any]], Place | None]
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    alphas: bool = True
    refuse: Callable[[Mapping[str, Any]], str | None] = always
    about: str


@dataclass(frozen=True)
class NoKohyaLayout:
    """Why a family's files are written in the diffusers layout alone; goes on after the family's name."""

    why: str


def kohya_layout(said: KohyaLayout | NoKohyaLayout, network: Mapping[str, Any]) -> tuple[KohyaLayout | None, str]:
    """(what a family says of the layout, "") for a checkpoint's network config, or (None, why it is not written)."""
    if isinstance(said, NoKohyaLayout):
        return None, said.why
    why = said.refuse(network)
    return (said, "") if why is None else (None, why)


NO_MAP = NoKohyaLayout("has no map of names here for another layout than diffusers'")
"""Of families that say nothing of it."""
NOT_READ = NoKohyaLayout(
    "has no file of another layout that diffusers reads, so that none could be checked; ComfyUI reads its diffusers layout"
)
"""Of families whose pipeline matches no key of such a file, while ComfyUI maps diffusers' names itself."""


def renames(*rules: Rename) -> Callable[[str, Mapping[str, Any]], Place | None]:
    """The first rule that matches gives the name."""

    def place(layer: str, network: Mapping[str, Any]) -> Place | None:
        return next((found for rule in rules if (found := rule.of(layer)) is not None), None)

    return place


def underscored(layer: str, network: Mapping[str, Any]) -> Place:
    """diffusers' own name with underscores for dots, as trainers do that take their network from diffusers."""
    return Place("lora_unet_" + layer.replace(".", "_"))


UNDERSCORED = KohyaLayout(place=underscored, about="`lora_unet_` and diffusers' names with underscores")


def fused(layer: str, name: str, *parts: str) -> Rename:
    """A rule for projections that are one layer there. `layer`: the pattern up to the projection's own name."""
    template = _as_template(layer)
    return Rename(f"{layer}(?:{'|'.join(parts)})", name, tuple(template + part for part in parts))


def _as_template(pattern: str) -> str:
    """The pattern of a name with its numbers as `{0}`, `{1}` ..."""
    pieces = pattern.replace(r"\.", ".").split(r"(\d+)")
    return "".join(piece + (f"{{{i}}}" if i < len(pieces) - 1 else "") for i, piece in enumerate(pieces))
