"""New words for CLIP text encoders: a trigger word as tokens of its own, whose embeddings train while all others stay as they are.

The words are named as diffusers' `load_textual_inversion` names those of an embedding file (`qrx`, `qrx_1`, ...), and the pipeline's own
`maybe_convert_prompt` writes all of them where a prompt has the first; so a stock pipeline with the file reads prompts as we do.

Source: textual inversion, Gal et al., arXiv 2208.01618; several vectors for a word and a LoRA beside them: pivotal tuning (Roich et al.,
arXiv 2106.05744) as DreamBooth scripts have it.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .source import ModelError


class WordTable(nn.Module):
    """An encoder's token table with further rows behind it. The table itself is kept and never written; `rows` (n, width), float32, train."""

    def __init__(self, table: nn.Embedding, first: int, rows: Tensor) -> None:
        super().__init__()
        self.weight, self.first, self.table = table.weight, first, [table]  # in a list: no module of this one
        self.rows = nn.Parameter(rows.to(table.weight.device, torch.float32))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> (B, L, width); ids from `first` on are the new words."""
        known = nn.functional.embedding(ids.clamp(max=self.first - 1), self.weight)
        new = nn.functional.embedding((ids - self.first).clamp(min=0), self.rows).to(known.dtype)
        return torch.where((ids < self.first)[..., None], known, new)


class NewTokens:
    """The new words of one model, on or off. Off, prompts are read as the base reads them.

    Args:
        pipe: the stock pipeline; its encoders must be in memory.
        encoders: the parts that get the words; the tokenizer of `text_encoder_2` is `tokenizer_2`.
        word: the trigger word. rows: part -> its embeddings (n, width), as many for each.

    Raises: ModelError where the word is one of the tokenizer's already.
    """

    def __init__(self, pipe: Any, encoders: tuple[str, ...], word: str, rows: Mapping[str, Tensor]) -> None:
        self.pipe, self.word, self.is_on = pipe, word, False
        self.words = names_of(word, len(next(iter(rows.values()))))
        self._plain: dict[str, Any] = {}
        self._extended: dict[str, Any] = {}
        self.tables: dict[str, WordTable] = {}
        for part in encoders:
            name = tokenizer_of(part)
            tokenizer = getattr(pipe, name)
            self._plain[name], self._extended[name] = tokenizer, extended(tokenizer, self.words)
            first = self._extended[name].convert_tokens_to_ids(word)
            self.tables[part] = WordTable(getattr(pipe, part).get_input_embeddings(), first, rows[part])
        for part, table in self.tables.items():
            getattr(pipe, part).set_input_embeddings(table)
        self.enable_adapters()

    def enable_adapters(self) -> None:
        """Read prompts with the new words. Named as on modules with a LoRA (`modes.without_adapters`)."""
        self._use(self._extended, True)

    def disable_adapters(self) -> None:
        """Read prompts as the base does."""
        self._use(self._plain, False)

    def parameters(self) -> Iterator[nn.Parameter]:
        return (table.rows for table in self.tables.values())

    def remove(self) -> None:
        """Put the base's tables and tokenizers back."""
        self.disable_adapters()
        for part, table in self.tables.items():
            getattr(self.pipe, part).set_input_embeddings(table.table[0])

    def _use(self, tokenizers: Mapping[str, Any], on: bool) -> None:
        for name, tokenizer in tokenizers.items():
            setattr(self.pipe, name, tokenizer)
        self.is_on = on


def names_of(word: str, count: int) -> list[str]:
    """The tokens of a word of so many vectors, as diffusers names them."""
    return [word, *(f"{word}_{number}" for number in range(1, count))]


def tokenizer_of(part: str) -> str:
    """`text_encoder_2` -> `tokenizer_2`."""
    return part.replace("text_encoder", "tokenizer")


def extended(tokenizer: Any, words: list[str]) -> Any:
    """A copy of the tokenizer that knows the words. ModelError where it knows one already."""
    known = tokenizer.get_vocab()
    taken = [word for word in words if word in known]
    if taken:
        raise ModelError(
            f"trigger_word = {words[0]!r}: {taken[0]!r} is one of the tokenizer's own tokens, so it cannot become a new one.",
            f"Take a word that means nothing yet, for example <{words[0]}> or {words[0]}x1.",
        )
    copied = copy.deepcopy(tokenizer)
    for word in words:
        copied.add_tokens(word)
    return copied


def initial_rows(tokenizer: Any, table: nn.Embedding, initializer: str, count: int) -> Tensor:
    """(count, width) float32: the embeddings of the initializer's tokens in turn. ModelError where it has none."""
    ids = tokenizer(initializer, add_special_tokens=False).input_ids
    if not ids:
        raise ModelError(
            f"new_token_initializer = {initializer!r}: the tokenizer makes no token of it.",
            "Name a plain word, such as dog.",
        )
    chosen = torch.tensor([ids[number % len(ids)] for number in range(count)])
    return table.weight.detach().cpu().float()[chosen].clone()
