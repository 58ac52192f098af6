"""A LoRA as its layers, whatever the layout of its file, and the arithmetic on a layer's two matrices.

The layers' names are those of the network as diffusers has it. `kohya.py` writes and reads the other layout; `lora_layers.py` reads a file of
either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import text_encoders
from .start import ADAPTER
from .trainable import ADAPTABLE

if TYPE_CHECKING:
    from ..families.base import Model
    from ..families.source import Source

Shapes = Mapping[str, tuple[int, ...]]
"""Layer -> shape of its weight, (outputs, inputs, ...), of every layer that can have an adapter."""


@dataclass(frozen=True)
class Matrices:
    """One layer's LoRA, W + alpha / rank * B A. `a`: (rank, inputs, ...), `b`: (outputs, rank, ...); a convolution's have further axes."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def folded(self) -> "Matrices":
        """The same change with scale 1: alpha / rank is multiplied into B, in float32."""
        return Matrices(self.a.float(), self.b.float() * self.scale, float(self.rank))

    def delta(self) -> Tensor:
        """The change of the weight, flattened to (outputs, inputs * ...), float32."""
        return self.scale * self.b.float().flatten(1) @ self.a.float().flatten(1)


def squared_norm(a: Tensor, b: Tensor) -> float:
    """Frobenius norm of B A, squared, in float64: |B A|^2 = sum((B^T B) * (A A^T)), which needs no matrix of the layer's size."""
    a, b = _double(a), _double(b)
    return max(0.0, float(((b.T @ b) * (a @ a.T)).sum()))


def difference(one: Matrices, other: Matrices) -> float:
    """|delta - delta'| / |delta|: the share by which two LoRAs of a layer differ; 0 where both change nothing."""
    (a, b), (c, d) = ((_double(each.a), each.scale * _double(each.b)) for each in (one, other))
    size, apart = squared_norm(a, b) ** 0.5, squared_norm(torch.cat([a, c]), torch.cat([b, -d], dim=1)) ** 0.5
    if size == 0:
        return 0.0 if apart == 0 else float("inf")
    return apart / size


def _double(one: Tensor) -> Tensor:
    """As a matrix in float64 on the CPU; not every device has it."""
    return one.detach().cpu().double().flatten(1)


def of_adapter(model: "Model", state: Mapping[str, Tensor]) -> dict[str, Matrices]:
    """The layers of a trained adapter. `state`: as `trainable.adapter_state` gives it; on the CPU in float32, alpha as trained."""
    modules = dict(text_encoders.modules(model))
    layers = {}
    for name, tensor in state.items():
        layer, is_a, _ = name.partition(".lora_A.")
        if is_a:
            b = state[name.replace(".lora_A.", ".lora_B.")]
            alpha = float(modules[layer].scaling[ADAPTER]) * tensor.shape[0]  # type: ignore[index,union-attr]
            layers[layer] = Matrices(*(each.detach().to("cpu", torch.float32) for each in (tensor, b)), alpha)
    return layers


def shapes_of(network: nn.Module) -> Shapes:
    """The network's layers that can have an adapter, also where they have one."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, ADAPTABLE) and ".lora_" not in name:
            weight = (
                (module.out_features, module.in_features)
                if isinstance(module, nn.Linear)
                else tuple(module.weight.shape)
            )
            found[name.removesuffix(".base_layer")] = weight
    return found


def network_of(source: "Source") -> tuple[Mapping[str, Any], Shapes]:
    """(the network's config, its layers) of a model that is not opened: from its config file, without weights. ModelError without one."""
    import diffusers
    from accelerate import init_empty_weights

    from ..families.registry import FAMILIES

    component = FAMILIES[source.family].component
    kind, config = getattr(diffusers, source.index[component][1]), source.configs[component]
    with init_empty_weights():
        network = kind.from_config(config)
    return network.config, shapes_of(network)
