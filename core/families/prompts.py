"""Prompts in, their tensors out: the pipeline's text encoders, which are opened when a prompt is not known, and may be freed in between."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ..randomness import kept_random_state
from .conditioning import Prompt
from .modes import evaluating
from .new_tokens import NewTokens

KNOWN_PROMPTS = 32
"""So many prompts are remembered, so that validation pictures need no text encoder a second time."""


class Shelf(Protocol):
    """Where encoded prompts are kept beyond one process, such as `core.data.prompts.PromptShelf`."""

    def read(self, prompt: str, negative: bool) -> Prompt | None:
        """What was kept; None where there is nothing, or nothing sound."""

    def write(self, prompt: str, negative: bool, encoded: Prompt) -> None:
        """Keep it."""


def is_adapted(encoder: nn.Module) -> bool:
    """Has the encoder a LoRA that is on?"""
    if not getattr(encoder, "peft_config", None):
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (layer for layer in encoder.modules() if isinstance(layer, BaseTunerLayer))
    return any(not layer.disable_adapters and layer.active_adapters for layer in layers)


class PromptEncoder:
    """The text encoders of a pipeline.

    Args:
        pipe: the stock pipeline; parts: its text encoders by name. Where all of them are None they are opened for the first prompt that
            is neither remembered nor on the shelf.
        encode: the family's encoding of one prompt: (prompt, is it a negative one) -> `Prompt`.
        reopen: the encoders from disk, frozen and where they compute.

    Attributes:
        shelf: where `remembered` looks before it encodes, and puts what it encoded; None = in this object's memory alone.
        tokens: new words of the encoders; None = none.
        stay: the encoders are trained or will be: `free` leaves them where they are.
    """

    shelf: Shelf | None = None
    tokens: NewTokens | None = None

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[str],
        encode: Callable[[str, bool], Prompt],
        reopen: Callable[[], Mapping[str, nn.Module]],
    ):
        self._pipe, self._parts, self._encode, self._reopen = pipe, parts, encode, reopen
        self._freed = self.stay = False
        self.were_opened = bool(self._there())
        """Was an encoder in memory since this object was made?"""
        self._known: dict[tuple[str, bool], Prompt] = {}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], negative: bool) -> list[Prompt]:
        """Each prompt by itself, so that the result does not depend on its neighbours: on the CPU, without a batch axis."""
        with self._present() as encoders, evaluating(*encoders), kept_random_state():
            return [{key: value.cpu() for key, value in self._encode(prompt, negative).items()} for prompt in prompts]

    def remembered(self, prompts: Sequence[str], negative: bool) -> list[Prompt]:
        """As `encode`, through a small memory and the shelf. Encoders that are not the base's now encode anew."""
        if self.are_changed:
            return self.encode(prompts, negative)
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, negative) not in self._known]
        encoded = self._from_shelf(new, negative)
        absent = [prompt for prompt in new if prompt not in encoded]
        if absent:
            encoded |= zip(absent, self.encode(absent, negative), strict=True)
        if self.shelf is not None:
            for prompt in absent:
                self.shelf.write(prompt, negative, encoded[prompt])
        result = [encoded[prompt] if prompt in encoded else self._known[prompt, negative] for prompt in prompts]
        for prompt, conditioning in encoded.items():
            if len(self._known) >= KNOWN_PROMPTS:
                # The oldest goes, but the empty prompt stays: guidance always needs it.
                self._known.pop(next(key for key in self._known if key != ("", True)))
            self._known[prompt, negative] = conditioning
        return result

    def _from_shelf(self, prompts: Sequence[str], negative: bool) -> dict[str, Prompt]:
        found = {prompt: self.shelf.read(prompt, negative) for prompt in prompts} if self.shelf is not None else {}
        return {prompt: encoded for prompt, encoded in found.items() if encoded is not None}

    @property
    def are_open(self) -> bool:
        """Are the encoders in memory?"""
        return bool(self._there())

    def opened(self) -> list[nn.Module]:
        """The encoders, which stay in memory unless they were freed; then RuntimeError."""
        if self._freed:
            raise RuntimeError("The text encoders are freed.")
        with self._present() as encoders:
            return encoders

    def bytes_(self) -> int:
        """What the encoders that are in memory hold there."""
        return sum(
            tensor.numel() * tensor.element_size() for encoder in self._there() for tensor in encoder.parameters()
        )

    def adapted(self) -> list[nn.Module | NewTokens]:
        """What makes the encoders encode otherwise than the base's now: those that have a LoRA which is on, new words that are on."""
        words = [self.tokens] if self.tokens is not None and self.tokens.is_on else []
        return [*words, *(encoder for encoder in self._there() if is_adapted(encoder))]

    @property
    def are_changed(self) -> bool:
        """Do they encode otherwise than the base's?"""
        return bool(self.adapted())

    def free(self) -> None:
        """Drop the encoders, after the empty negative prompt was encoded. A prompt that is still unknown afterwards opens them again."""
        if not self._freed and not self.stay:
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
        if not self._there():
            self.were_opened = True
            for part, encoder in self._reopen().items():
                setattr(self._pipe, part, encoder)
        try:
            yield self._there()
        finally:
            if self._freed:
                self._drop()
