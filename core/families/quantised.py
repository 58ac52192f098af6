"""Frozen weights in 8 or 4 bits, by diffusers' quantisation configs: which ways there are, what each needs, how large it is.

Only linear layers inside the network's blocks are quantised (`blocks.kept_whole`): nearly all weights, and none of the few that touch
every pixel. The rest, and what is computed, has `base_model_precision`. Text encoders and VAE stay as they are: they leave the device
before the network comes. Layers are quantised one by one while the file is read, so that the whole network never stands in memory.

No torch at import: page, preflight and estimate read `WAYS`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .blocks import kept_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_NF4_BLOCK, _NESTED_BLOCK = (
    64,
    256,
)  # weights that share a scale; scales that share one, as QLoRA quantises them a second time


def _nf4(rows: int, columns: int) -> int:
    scales = math.ceil(rows * columns / _NF4_BLOCK)
    tables = 4 * (16 + 256 + 1)  # the 16 values, those of the scales, their mean
    return math.ceil(rows * columns / 2) + scales + 4 * math.ceil(scales / _NESTED_BLOCK) + tables


@dataclass(frozen=True)
class Way:
    """One way to quantise.

    `package`, `least`: what it needs and from which version on (diffusers asks for it). `devices`: where it works. `bytes_of`: of the
    quantised weight of a linear layer with (rows, columns), scales included. `error`: root mean square error of a weight over the
    weights' own root mean square, of normally distributed ones (measured).
    """

    package: str
    least: str
    devices: tuple[str, ...]
    bytes_of: Callable[[int, int], int]
    error: float


WAYS = {
    "nf4": Way("bitsandbytes", "0.43.3", ("cuda",), _nf4, 0.09),
    "int8": Way("torchao", "0.15.0", ("cuda", "mps", "cpu"), lambda rows, columns: rows * columns + 5 * rows, 0.004),
    "int8_bnb": Way("bitsandbytes", "0.43.3", ("cuda",), lambda rows, columns: rows * columns + 4 * rows, 0.004),
    "fp8": Way("torchao", "0.15.0", ("cuda", "cpu"), lambda rows, columns: rows * columns + 4 * rows, 0.025),
}
"""By the value of `base_model_quantization`. A scale has 4 bytes for a row, with int8 and a zero point of one byte; for nf4 QLoRA (arXiv
2305.14314), section 3."""


def instead(kind: str, device: str) -> str:
    """What to set where a way cannot work on a device, as the end of a sentence."""
    others = [name for name, way in WAYS.items() if device in way.devices and name != kind]
    least = "base_model_quantization = none with base_model_precision = bfloat16"
    return f"Set {least}, or base_model_quantization = {' or '.join(others)}." if others else f"Set {least}."


def why_not(kind: str, device: str) -> tuple[str, str] | None:
    """(what is missing here, the remedy) where the way `kind` cannot work on a device (cuda, mps, cpu); None where it can. Asks the
    installed packages by name and version, and imports none."""
    way = WAYS[kind]
    if device not in way.devices:
        where = " and ".join(way.devices)
        return f"base_model_quantization = {kind} works on {where}; this is {device}.", instead(kind, device)
    if find_spec(way.package) is None:
        return (
            f"base_model_quantization = {kind} needs the package {way.package}, which is not installed.",
            f"Run `pip install {way.package}`. Or: {instead(kind, device)}",
        )
    version = metadata.version(way.package)
    if _older(version, way.least):
        return (
            f"base_model_quantization = {kind} needs {way.package} {way.least} or later; installed is {version}.",
            f"Run `pip install --upgrade {way.package}`. Or: {instead(kind, device)}",
        )
    return None


def _older(version: str, least: str) -> bool:
    from packaging.version import Version

    return Version(version) < Version(least)


def config_for(kind: str, dtype: "torch.dtype", linear: Sequence[str]) -> Any:
    """diffusers' quantisation config of a network. `dtype`: in which the layers compute; `linear`: the names of its linear layers."""
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    keep = kept_whole(linear)
    if kind == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=keep,
        )
    if kind == "int8_bnb":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    chosen = Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig()
    return TorchAoConfig(chosen, modules_to_not_convert=keep)


# Layers, whatever their weights are kept in --------------------------------------------------------------------------------


def is_quantised(layer: "nn.Module") -> bool:
    """Is the layer's weight kept in another form than numbers of its own shape?"""
    weight: Any = getattr(layer, "weight", None)
    return weight is not None and (not weight.is_floating_point() or _packed(weight))


def _packed(weight: "Tensor") -> bool:
    return type(weight).__module__.startswith("torchao.")


def shape_of(layer: "nn.Module") -> tuple[int, ...] | None:
    """The shape of a layer's weight as a matrix or kernel; None where it has none. A 4-bit weight lies packed in another shape."""
    weight: Any = getattr(layer, "weight", None)
    if weight is None:
        return None
    if is_quantised(layer):
        linear: Any = layer
        return (linear.out_features, linear.in_features)
    return tuple(weight.shape)


def weight_of(layer: "nn.Module") -> "Tensor":
    """A layer's weight as numbers: of a quantised layer a new tensor with what it computes with. Costs the layer's full size."""
    weight: Any = layer.weight
    if not is_quantised(layer):
        return weight
    if _packed(weight):
        return weight.dequantize()
    import bitsandbytes
    from bitsandbytes.functional import dequantize_4bit

    if isinstance(weight, bitsandbytes.nn.Params4bit):
        return dequantize_4bit(weight.data, weight.quant_state)
    quantised, scale = _int8(layer)
    return quantised.float() * scale.float()[:, None] / 127


def _int8(layer: Any) -> tuple["Tensor", "Tensor"]:
    """The numbers and the rows' scales of a bitsandbytes layer; the first forward moves them from the weight to the layer's state."""
    state = layer.state
    return (layer.weight.CB, layer.weight.SCB) if state.CB is None else (state.CB, state.SCB)
