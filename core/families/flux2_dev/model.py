"""FLUX.2 dev. Source: diffusers' `Flux2Pipeline`. Captions go through the language model behind a system prompt; training feeds a
guidance of 1."""

from collections.abc import Sequence
from typing import Any

from ..base import Prompt
from ..flux2_network import SquaresAndTokens
from . import FACTS


class Flux2Dev(SquaresAndTokens):
    """FLUX.2 dev, and what was trained from it."""

    facts = FACTS

    def pipeline_inputs(self, conditionings: Sequence[Prompt], negative: Prompt | None) -> dict[str, Any]:
        # Guidance is an input of the network: there is nothing to guide away from.
        return dict(self.collate(conditionings))
