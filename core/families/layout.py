"""How latents lie when the network takes them: as they are, as tokens, as a list. The rest of the core sees (B, C, h, w)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class Layout(ABC):
    """Latents -> the network's arguments, and its output back. Rows stay rows, so that a rollout may pick some."""

    @abstractmethod
    def to_network(self, x: Tensor) -> dict[str, Any]:
        """(B, C, h, w) -> the network's arguments: the latents, and where each position lies."""

    @abstractmethod
    def from_network(self, output: Any, height: int, width: int) -> Tensor:
        """Output, or latents of the stock pipeline, for `height` x `width` cells -> (B, C, height, width)."""


class AsIs(Layout):
    """(B, C, h, w), under the name of the network's own argument."""

    def __init__(self, name: str = "hidden_states"):
        self.name = name

    def to_network(self, x: Tensor) -> dict[str, Any]:
        return {self.name: x}

    def from_network(self, output: Tensor, height: int, width: int) -> Tensor:
        return output


class SingleFrame(Layout):
    """A film of one frame, (B, C, 1, h, w) (Wan)."""

    def to_network(self, x: Tensor) -> dict[str, Any]:
        return {"hidden_states": x[:, :, None]}

    def from_network(self, output: Tensor, height: int, width: int) -> Tensor:
        return output[:, :, 0]


class Packed2x2(Layout):
    """Squares of 2x2 cells as tokens (B, h/2 * w/2, 4C), row by row, each channel's square together; `img_ids` says where each lies."""

    def to_network(self, x: Tensor) -> dict[str, Any]:
        rows, channels, height, width = x.shape
        squares = x.reshape(rows, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return {"hidden_states": squares.reshape(rows, -1, channels * 4), **self.where(x)}

    def where(self, x: Tensor) -> dict[str, Any]:
        """The network's argument that says where the tokens of x lie."""
        height, width = x.shape[-2:]
        return {"img_ids": self.places(height, width, x)}

    def from_network(self, output: Tensor, height: int, width: int) -> Tensor:
        rows, _, values = output.shape
        squares = output.reshape(rows, height // 2, width // 2, values // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return squares.reshape(rows, values // 4, height, width)

    def places(self, height: int, width: int, like: Tensor) -> Tensor:
        """The ids of the tokens of `height` x `width` cells, (h/2 * w/2, 3): 0, row, column."""
        down, across = (torch.arange(side // 2, device=like.device, dtype=like.dtype) for side in (height, width))
        return pad(torch.cartesian_prod(down, across), (1, 0))


class Packed2x2WithShapes(Packed2x2):
    """The same tokens; `img_shapes` says how many frames, rows and columns of them each picture has (Qwen-Image)."""

    def where(self, x: Tensor) -> dict[str, Any]:
        height, width = x.shape[-2:]
        return {"img_shapes": [[(1, height // 2, width // 2)]] * len(x)}


class TokensWithIds(Layout):
    """Each cell a token (B, h * w, C), row by row; `img_ids` (B, h * w, 4): 0, row, column, 0 (FLUX.2)."""

    def to_network(self, x: Tensor) -> dict[str, Any]:
        down, across = (torch.arange(side, device=x.device) for side in x.shape[-2:])
        ids = pad(torch.cartesian_prod(down, across), (1, 1))
        return {"hidden_states": x.flatten(2).transpose(1, 2), "img_ids": ids.expand(len(x), -1, -1)}

    def from_network(self, output: Tensor, height: int, width: int) -> Tensor:
        return output.transpose(1, 2).reshape(len(output), -1, height, width)


class ListOfItems(Layout):
    """A list with one (C, 1, h, w) for each row (Z-Image)."""

    def to_network(self, x: Tensor) -> dict[str, Any]:
        return {"x": list(x[:, :, None])}

    def from_network(self, output: Sequence[Tensor], height: int, width: int) -> Tensor:
        return torch.stack(list(output))[:, :, 0]
