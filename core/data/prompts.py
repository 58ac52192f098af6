"""Encoded prompts in the cache on disk: captions, the prompts of samples, the unconditional row. One shelf is shared by all runs.

An entry's key is made of what the tensors depend on: the words and whether they are a negative prompt, the family, the precision, the
files of the text encoders, the tokenizers' words and lengths. It is known before a text encoder is opened, so where all prompts are on
the shelf none is.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..families.fingerprint import part_fingerprint
from ..findings import Finding
from .cache import DatasetError, Store, TensorCache, identity, key_of, sound
from .progress import Progress

if TYPE_CHECKING:
    from ..families.base import Model, Prompt

_TOGETHER = 16
"""So many prompts are encoded in one call; what a run that is stopped has encoded by then is kept."""

_log = logging.getLogger(__name__)

Words = tuple[str, bool]
"""A prompt, and whether it is a negative one."""


class PromptShelf:
    """The entries of one model's text encoders. Entries of other models, weights and precisions are never found."""

    def __init__(self, model: "Model", cache_dir: Path) -> None:
        self.model, self.cache = model, TensorCache(cache_dir, "text")
        self.encoders = _identity(model)

    def key(self, prompt: str, negative: bool) -> str:
        return key_of(kind="prompt", text=prompt, negative=negative, encoders=self.encoders)

    def read(self, prompt: str, negative: bool) -> dict[str, Tensor] | None:
        """An entry; None where there is none. A damaged one counts as none, and the log says so."""
        tensors, problem = sound(self.cache, self.key(prompt, negative), bool)
        if problem is not None:
            _log.warning("%s: %s %s", problem.where, problem.message, problem.remedy)
        return tensors

    def write(self, prompt: str, negative: bool, encoded: "Prompt") -> None:
        """Raises DatasetError where the encoder gave values that are not finite, and when the disk is full."""
        if not all(bool(tensor.isfinite().all()) for tensor in encoded.values() if tensor.is_floating_point()):
            raise DatasetError(
                f'The text encoder turns "{prompt}" into values that are not finite.',
                "Set base_model_precision = float32.",
            )
        self.cache.write(self.key(prompt, negative), encoded)


class Prompts:
    """The prompts of one run, taken from the shelf or encoded onto it. The caption "" stands for the unconditional row.

    `reused`, `made`, `rebuilt`: entries taken from the cache, encoded, and encoded again because the cached ones were damaged.
    """

    def __init__(self, model: "Model", cache_dir: Path, memory_bytes: int) -> None:
        self.model, self.shelf = model, PromptShelf(model, cache_dir)
        self.store = Store(self.shelf.cache, memory_bytes)
        self.keys: dict[str, str] = {}
        """Of every caption."""
        self.reused = self.made = self.rebuilt = 0
        self._there: set[Words] = set()

    def make(self, captions: Iterable[str], others: Iterable[Words], progress: Progress) -> list[Finding]:
        """Have every prompt on the shelf. `others`: prompts that are no captions, such as those of samples. Returns what was damaged there."""
        words = dict.fromkeys([*((caption, caption == "") for caption in captions), *others])
        self.keys |= {caption: self.shelf.key(caption, caption == "") for caption in captions}
        wanted = [each for each in words if each not in self._there]
        self.shelf.cache.remove_leftovers()
        problems, absent, done = [], [], 0
        for each in wanted:
            key = self.shelf.key(*each)
            tensors, problem = sound(self.shelf.cache, key, bool)
            if problem is not None:
                problems.append(problem)
                self.rebuilt += 1
            if tensors is None:
                absent.append(each)
                continue
            self._has(each, key, tensors)
            self.reused, done = self.reused + 1, done + 1
            progress("captions", done, len(wanted))
        for each, tensors in self._encode(absent):
            self.shelf.write(*each, tensors)
            self._has(each, self.shelf.key(*each), tensors)
            self.made, done = self.made + 1, done + 1
            progress("captions", done, len(wanted))
        return problems

    def _has(self, words: Words, key: str, tensors: dict[str, Tensor]) -> None:
        self._there.add(words)
        if self.keys.get("" if words[1] else words[0]) == key:  # only captions are read again and again
            self.store.keep(key, tensors)

    def _encode(self, wanted: Sequence[Words]) -> Iterator[tuple[Words, dict[str, Tensor]]]:
        for negative in (True, False):
            prompts = [prompt for prompt, is_negative in wanted if is_negative == negative]
            for first in range(0, len(prompts), _TOGETHER):
                part = prompts[first : first + _TOGETHER]
                encoded = self.model.encode_prompts(part, negative=negative)
                yield from zip([(prompt, negative) for prompt in part], map(dict, encoded), strict=True)


def _identity(model: "Model") -> list[Any]:
    """What embeddings depend on: how the family calls its encoders and in which precision, their weights, the tokenizers' words."""
    encoders = _from_files(model)
    parts: list[Any] = [model.name, str(model.dtype), *(_from_weights(model) if encoders is None else encoders)]
    for name, part in sorted(model.pipe.components.items()):
        if ("tokenizer" in name or name.startswith("processor")) and part is not None:
            reader = (
                part if hasattr(part, "get_vocab") else part.tokenizer
            )  # a processor has it beside what reads pictures
            words = hashlib.sha256(repr(sorted(reader.get_vocab().items())).encode()).hexdigest()
            parts.append([name, type(reader).__name__, reader.model_max_length, words])
    return parts


def _from_files(model: "Model") -> list[Any] | None:
    """[name, fingerprint of its files] of every text encoder; None where one of them cannot be told by its files."""
    found: list[Any] = []
    for name in model.facts.text_encoders:
        absent = name in model.source.absent or name in model.facts.unused or name not in model.source.index
        found.append([name, None if absent else part_fingerprint(model.source, name)])
        if not absent and found[-1][1] is None:
            return None
    return found


def _from_weights(model: "Model") -> list[Any]:
    """The same from the encoders themselves, which are opened for it."""
    model.text.opened()
    encoders = [(name, getattr(model.pipe, name)) for name in model.facts.text_encoders]
    return [[name, None if encoder is None else identity(encoder)] for name, encoder in encoders]
