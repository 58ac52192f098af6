"""Outputs of a network and a decoder, cached by content: the same input again costs nothing."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..maths.noise import Level, Prediction

if TYPE_CHECKING:
    from ..families.base import Conditioning, Model

REMEMBERED_BYTES = 256 * 2**20
"""Of network outputs, decoded pictures, latents and prompts."""


class Memory:
    """Tensors by content key, the least recently used ones dropped beyond `limit` bytes."""

    def __init__(self, limit: int = REMEMBERED_BYTES) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()

    def get(self, key: bytes) -> Any:
        """What was put under the key, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: bytes, value: Any, tensors: Sequence[Tensor]) -> None:
        """Keep `value`, which holds these tensors."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > self.limit or key in self._kept:
            return
        self._kept[key] = (value, size)
        self.bytes += size
        while self.bytes > self.limit:
            self.bytes -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def content_key(*parts: Any) -> bytes:
    """A key of the content of tensors and plain values."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(repr((part.shape, part.dtype)).encode())
            digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if part.numel() else b"")
        else:
            digest.update(repr(part).encode())
    return digest.digest()


class Remembering:
    """A model whose predictions and decoded pictures are remembered row by row; everything else is the model's own.

    `state` names the weights that it has now. A row's answer depends on its state, time, prompt and guidance only, so
    the true path is evaluated and decoded once for all solvers and offsets that end at the same level.
    """

    def __init__(self, model: "Model", state: str, memory: Memory) -> None:
        self._model, self._state, self._memory = model, state, memory

    @property
    def state(self) -> str:
        """Names the weights: equal exactly for equal ones of one model."""
        return self._state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, cond: "Conditioning", guidance: float = 1.0, negative: "Conditioning | None" = None) -> Any:
        """As `Model.predict`."""
        predict, memory = self._model.predict(cond, guidance, negative), self._memory
        against = None if negative is None else content_key(*(negative[name] for name in sorted(negative)))
        number = len(next(iter(cond.values())))
        prompts = [content_key(*(cond[name][row] for name in sorted(cond))) for row in range(number)]

        def remembered(x: Tensor, level: Level, rows: Tensor) -> Prediction:
            inputs = zip(x, level.t.tolist(), rows.tolist(), strict=True)
            keys = [content_key("net", self._state, guidance, against, prompts[row], t, one) for one, t, row in inputs]
            known = [memory.get(key) for key in keys]
            new = [place for place, found in enumerate(known) if found is None]
            if new:
                places = torch.tensor(new)
                answer = predict(x[places.to(x.device)], level[places.to(level.t.device)], rows[places.to(rows.device)])
                for place, x0_hat, noise_hat in zip(new, answer.x0_hat, answer.noise_hat, strict=True):
                    known[place] = (x0_hat.clone(), noise_hat.clone())
                    memory.put(keys[place], known[place], known[place])
            return Prediction(*(torch.stack(part) for part in zip(*known, strict=True)))

        return remembered

    def decode(self, latents: Tensor) -> Tensor:
        """As `Model.decode`."""
        keys = [content_key("pixels", one) for one in latents]
        known = [self._memory.get(key) for key in keys]
        new = [place for place, found in enumerate(known) if found is None]
        if new:
            for place, pixels in zip(new, self._model.decode(latents[torch.tensor(new)]), strict=True):
                known[place] = pixels.clone()
                self._memory.put(keys[place], known[place], [known[place]])
        return torch.stack(known)
