"""A LoRA with a smaller rank: of each layer's change the part that the rank can hold, which no other matrices hold better."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .lora_file import LoraError
from .lora_layers import Base, read_lora, write_lora
from .matrices import Matrices

if TYPE_CHECKING:
    from ..families.source import Source


@dataclass(frozen=True)
class Resized:
    """`kept`: layer -> the share of the norm of its change that is left (Frobenius; 1 = all of it)."""

    path: Path
    rank_was: int
    rank: int
    kept: Mapping[str, float]

    @property
    def whole(self) -> float:
        """The mean share over the layers."""
        return sum(self.kept.values()) / len(self.kept)

    def __str__(self) -> str:
        layer, least = min(self.kept.items(), key=lambda item: item[1])
        return (
            f"rank {self.rank_was} to {self.rank} in {len(self.kept)} layers: {100 * self.whole:.1f} % of the change's norm kept on average, "
            f"least in {layer} ({100 * least:.1f} %)"
        )


def resize(path: Path, target: Path, rank: int, source: "Source") -> Resized:
    """Write the LoRA at `path` with `rank` to `target`, in the layout that it has. Reads the model's config files and no weights.

    Raises: LoraError where the rank is not below the file's, or the file is for another model.
    """
    base = Base.of(source)
    found = read_lora(path, base)
    most = max(matrices.rank for matrices in found.layers.values())
    if not 1 <= rank < most:
        raise LoraError(
            f"--rank {rank}: must be from 1 to {most - 1}; the LoRA has rank {most}.", "Choose a smaller rank."
        )
    layers, kept = {}, {}
    for layer, matrices in found.layers.items():
        layers[layer], kept[layer] = reduced(matrices, rank)
    notes = found.metadata | {"rollout_studio_resized_from": str(most)}
    write_lora(target, layers, found.layout, base, found.dtype, notes)
    return Resized(target, most, rank, kept)


def reduced(matrices: Matrices, rank: int) -> tuple[Matrices, float]:
    """(the best matrices of at most this rank, the share of the change's norm that they keep); scale 1, float32.

    The singular values of B A are those of R_b R_a^T, where B = Q_b R_b and A^T = Q_a R_a: no matrix of the layer's size is made.
    Source: Eckart and Young, 1936.
    """
    a, b = matrices.a.float().flatten(1), matrices.scale * matrices.b.float().flatten(1)
    if matrices.rank <= rank:
        return matrices.folded(), 1.0
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, sizes, v = torch.linalg.svd(r_b @ r_a.T)
    root = sizes[:rank].sqrt()  # shared between both, so that neither is far larger in 16 bits
    new_b, new_a = (q_b @ u[:, :rank]) * root, root[:, None] * (v[:rank] @ q_a.T)
    whole = float(sizes.square().sum())
    share = 1.0 if whole == 0 else (float(sizes[:rank].square().sum()) / whole) ** 0.5
    return Matrices(_like(new_a, matrices.a), _like(new_b, matrices.b), float(new_a.shape[0])), share


def _like(flat: Tensor, old: Tensor) -> Tensor:
    """A flattened matrix with the further axes of a convolution's."""
    return (
        flat.reshape(flat.shape[0], *old.shape[1:])
        if flat.shape[1] == old[0].numel()
        else flat.reshape(flat.shape[0], flat.shape[1], *old.shape[2:])
    )
