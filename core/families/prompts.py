"""Prompts in, their tensors out: the pipeline's text encoders, which may be freed in between."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..randomness import kept_random_state
from .conditioning import Prompt
from .modes import evaluating

KNOWN_PROMPTS = 32
"""So many prompts are remembered, so that validation pictures need no text encoder a second time."""


class PromptEncoder:
    """The text encoders of a pipeline.

    Args:
        pipe: the stock pipeline; parts: its text encoders by name, some of which may be None.
        encode: the family's encoding of one prompt: (prompt, is it a negative one) -> `Prompt`.
        reopen: the encoders again, from disk, frozen and where they compute.
    """

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[str],
        encode: Callable[[str, bool], Prompt],
        reopen: Callable[[], Mapping[str, nn.Module]],
    ):
        self._pipe, self._parts, self._encode, self._reopen = pipe, parts, encode, reopen
        self._freed = False
        self._known: dict[tuple[str, bool], Prompt] = {}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: bool) -> list[Prompt]:
        """Each prompt by itself, so that the result does not depend on its neighbours: on the CPU, without a batch axis."""
        with self._present() as encoders, evaluating(*encoders), kept_random_state():
            return [{key: value.cpu() for key, value in self._encode(prompt, negative).items()} for prompt in prompts]

    def remembered(self, prompts: Sequence[str], negative: bool) -> list[Prompt]:
        """As `encode`, through a small memory."""
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, negative) not in self._known]
        encoded = dict(zip(new, self.encode(new, negative), strict=True)) if new else {}
        result = [encoded[prompt] if prompt in encoded else self._known[prompt, negative] for prompt in prompts]
        for prompt, conditioning in encoded.items():
            if len(self._known) >= KNOWN_PROMPTS:
                # The oldest goes, but the empty prompt stays: guidance always needs it.
                self._known.pop(next(key for key in self._known if key != ("", True)))
            self._known[prompt, negative] = conditioning
        return result

    def bytes_(self) -> int:
        """What the encoders that are in memory hold there."""
        return sum(
            tensor.numel() * tensor.element_size() for encoder in self._there() for tensor in encoder.parameters()
        )

    def free(self) -> None:
        """Drop the encoders, after the empty negative prompt was encoded. A prompt that is still unknown afterwards opens them again."""
        if not self._freed:
            self.remembered([""], True)
            self._drop()
            self._freed = True

    def _there(self) -> list[nn.Module]:
        found = (getattr(self._pipe, part) for part in self._parts)
        return [encoder for encoder in found if encoder is not None]

    def _drop(self) -> None:
        for part in self._parts:
            setattr(self._pipe, part, None)

    @contextmanager
    def _present(self) -> Iterator[list[nn.Module]]:
        if self._freed:
            for part, encoder in self._reopen().items():
                setattr(self._pipe, part, encoder)
        try:
            yield self._there()
        finally:
            if self._freed:
                self._drop()
