"""Guidance: how a family makes a prompt count more, and what that costs. Needs no torch: cost, estimate and page ask here too.

The scale counts alike for every family: 1 is none, and the larger the stricter. What a stock pipeline calls the same strength may be
another number (`stock_scale`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Denoise = Callable[["Tensor", "Tensor", Any], "Tensor"]
"""(x (B, C, h, w), t (B,), a `Conditioning` of B rows) -> the output (B, C, h, w), as `Model.denoise`."""


@dataclass(frozen=True)
class Guidance(ABC):
    """One family's form of guidance.

    `takes_negative`: does a negative prompt have an effect (where the scale is above 1)?
    `argument`: the stock pipeline's argument that takes its scale.
    """

    argument: str = "guidance_scale"

    @property
    @abstractmethod
    def takes_negative(self) -> bool: ...

    @abstractmethod
    def evaluations(self, scale: float) -> int:
        """Network rows for each row and evaluation at this scale."""

    def calls(self, scale: float) -> int:
        """Network calls for each evaluation at this scale, whatever its rows."""
        return 1

    def fed_in_training(self, scale: float = 1.0) -> Mapping[str, float]:
        """Numbers that the network takes as inputs, by name; `Model.denoise` feeds them at scale 1 where a batch has no others."""
        return {}

    def stock_scale(self, scale: float) -> float:
        """The same strength as the stock pipeline counts it (in `argument`)."""
        return scale

    def from_stock(self, stock: float) -> float:
        """The inverse of `stock_scale`."""
        return stock

    @abstractmethod
    def __call__(self, denoise: Denoise, x: "Tensor", t: "Tensor", cond: Any, negative: Any, scale: float) -> "Tensor":
        """The guided output (B, C, h, w).

        Args:
            cond: the conditioning of x's rows. negative: as many rows, or None where `evaluations(scale)` is 1.
            scale: above 1.
        Raises: ValueError for a scale that this form cannot take, or a missing `negative`.
        Cost: `evaluations(scale)` rows for each.
        """


@dataclass(frozen=True)
class Embedded(Guidance):
    """The scale is an input of the network, named `guidance`: a model distilled from guided pictures. One row each, no negative prompt.

    Source: Meng et al., arXiv 2210.03142.
    """

    @property
    def takes_negative(self) -> bool:
        return False

    def evaluations(self, scale: float) -> int:
        return 1

    def fed_in_training(self, scale: float = 1.0) -> Mapping[str, float]:
        return {"guidance": scale}

    def __call__(self, denoise: Denoise, x: "Tensor", t: "Tensor", cond: Any, negative: Any, scale: float) -> "Tensor":
        fed = {name: x.new_full((len(x),), value) for name, value in self.fed_in_training(scale).items()}
        return denoise(x, t, cond.with_rows(**fed))


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """A second row with the negative prompt: `u + scale (c - u)`.

    Args:
        anchor: "negative": computed as written. "conditional": as `c + (scale - 1) (c - u)`, and the stock pipeline's number is one less.
        rescale: the result gets the norm that the conditional output has (`cfg_normalization`): "rows", along the last axis; "tokens", in
            each square of `cells_per_token` latent cells' side, all channels together; "none", it does not.
        joint: both rows in one call; else two calls, where prompts differ much in length.
    Source: Ho and Salimans, arXiv 2207.12598.
    """

    anchor: Literal["negative", "conditional"] = "negative"
    rescale: Literal["none", "rows", "tokens"] = "none"
    cells_per_token: int = 1
    joint: bool = True

    @property
    def takes_negative(self) -> bool:
        return True

    def evaluations(self, scale: float) -> int:
        return 2 if scale > 1 else 1

    def calls(self, scale: float) -> int:
        return 1 if self.joint else self.evaluations(scale)

    def stock_scale(self, scale: float) -> float:
        return scale - 1 if self.anchor == "conditional" else scale

    def from_stock(self, stock: float) -> float:
        return stock + 1 if self.anchor == "conditional" else stock

    def __call__(self, denoise: Denoise, x: "Tensor", t: "Tensor", cond: Any, negative: Any, scale: float) -> "Tensor":
        if negative is None:
            raise ValueError(f"guidance = {scale:g}: needs the negative conditioning of each row.")
        if self.joint:
            twice = x.repeat(2, *(1 for _ in x.shape[1:]))
            unconditional, conditional = denoise(twice, t.repeat(2), negative.before(cond)).chunk(2)
        else:
            conditional, unconditional = denoise(x, t, cond), denoise(x, t, negative)
        return self.combine(conditional, unconditional, scale)

    def combine(self, conditional: "Tensor", unconditional: "Tensor", scale: float) -> "Tensor":
        """The two outputs, each (B, C, h, w), as one."""
        if self.anchor == "conditional":
            mixed = conditional + self.stock_scale(scale) * (conditional - unconditional)
        else:
            mixed = unconditional + scale * (conditional - unconditional)
        return mixed if self.rescale == "none" else mixed * (self._norm(conditional) / self._norm(mixed))

    def _norm(self, x: "Tensor") -> "Tensor":
        """What `rescale` compares, in a shape that multiplies with x."""
        if self.rescale == "rows":
            return x.norm(dim=-1, keepdim=True)
        side = self.cells_per_token
        tokens = x.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return tokens.norm(dim=-1).repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]


CLASSIFIER_FREE = ClassifierFree()
"""As most families have it; also what is counted where the family is not known, because it is the dearest."""
