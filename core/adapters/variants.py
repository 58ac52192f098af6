"""DoRA, LoHa and LoKr as their layers: from a trained model, to and from files of other tools, and back onto a model.

diffusers reads a DoRA of its own layout, and none of the others (`FamilyFacts.lycoris`): there this module is the reader.

A DoRA's rows in the other layout (`dora_scale`) are written as ComfyUI and Forge read them: they divide by the length of the base's row,
`dora_scale / |W| * (W + change)`, where DoRA itself divides by that of the changed one. `m |W| / |W + change|` gives the same weight there.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..randomness import kept_random_state
from . import kohya
from .kinds import DORA_SCALE, MAGNITUDE, PARTS, Kind
from .lora_file import LoraError
from .matrices import Matrices
from .text_encoders import is_tokens

if TYPE_CHECKING:
    from ..families.base import Model
    from .lora_layers import Base

Weights = Callable[[str], Tensor]
"""Layer -> the base's weight."""
_OTHER_MODEL = "Choose a LoRA that was trained on this model."
_PART = re.compile(rf"(.+)\.(lora_A|lora_B|{MAGNITUDE}|{'|'.join(PARTS)})\.[^.]+(?:\.weight)?")
LEAST_LENGTH = 1e-12
"""Rows shorter than this have no direction, and are taken at this length."""


@dataclass(frozen=True)
class Change:
    """What an adapter does to one layer. `parts`: by peft's names (`kinds.tensor_shapes`), on the CPU; `scale`: alpha over the rank."""

    kind: Kind
    parts: Mapping[str, Tensor]
    scale: float

    def of(self, weight: Tensor) -> Tensor:
        """The change of a weight (outputs, inputs, ...), flattened to (outputs, inputs * ...), float32."""
        added = self.added()
        if self.kind != "dora":
            return added
        before = weight.detach().to("cpu", torch.float32).flatten(1)
        return self.lengths[:, None] * (before + added) / _length(before + added)[:, None] - before

    @property
    def lengths(self) -> Tensor:
        """(outputs,) of a DoRA's rows."""
        return self.parts[MAGNITUDE].float().flatten()

    @property
    def matrices(self) -> Matrices:
        """Of a LoRA or DoRA."""
        a, b = self.parts["lora_A"], self.parts["lora_B"]
        return Matrices(a, b, self.scale * a.shape[0])

    def added(self) -> Tensor:
        """What is added to the weight; of a DoRA before its rows get their lengths."""
        if self.kind in ("lora", "dora"):
            return self.matrices.delta()
        parts = {name: tensor.float() for name, tensor in self.parts.items()}
        if self.kind == "loha":
            one, other = (_product(parts, "hada_w1", "hada_t1"), _product(parts, "hada_w2", "hada_t2"))
            return self.scale * (one * other).flatten(1)
        small, large = _product(parts, "lokr_w1", ""), _product(parts, "lokr_w2", "lokr_t2")
        rows = small.shape[0] * large.shape[0]
        small = small.reshape(*small.shape, *(1 for _ in large.shape[2:]))
        return self.scale * torch.kron(small, large.contiguous()).reshape(rows, -1)


def _product(parts: Mapping[str, Tensor], name: str, core: str) -> Tensor:
    """A factor that is whole, or a product of two matrices, or of those around the core of a convolution (Tucker)."""
    if name in parts:
        return parts[name]
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    return torch.einsum("ij...,ip,jr->pr...", parts[core], a, b) if core in parts else a @ b


def _length(rows: Tensor) -> Tensor:
    return rows.norm(dim=1).clamp_min(LEAST_LENGTH)


# From and onto a model ------------------------------------------------------------------------------------------------


def layers_of_state(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer -> its parts, of tensors by the denoiser's own parameter names; float32, on the CPU."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        found = _PART.fullmatch(name)
        if found is None:
            raise LoraError(f"{name[:100]!r} is no tensor of an adapter.", "Take the state of a run that trained one.")
        layers.setdefault(found[1], {})[found[2]] = tensor.detach().to("cpu", torch.float32)
    return layers


def of_trained(model: "Model", kind: Kind, state: Mapping[str, Tensor]) -> dict[str, Change]:
    """The layers of the trained adapter. `state`: as `trainable.adapter_state` gives it."""
    from .trainable import ADAPTER

    state = {name: tensor for name, tensor in state.items() if not is_tokens(name)}  # in a file of their own
    scaling: Callable[[str], Any] = lambda layer: model.denoiser.get_submodule(layer).scaling[ADAPTER]
    return {layer: Change(kind, parts, float(scaling(layer))) for layer, parts in layers_of_state(state).items()}


@torch.no_grad()
def place(model: "Model", layers: Mapping[str, Change], name: str) -> None:
    """Put the adapter `name` with these layers on the denoiser; it is then the active one. Draws no global random numbers.

    Raises: LoraError where a part has not the layer's shape; there is then no such adapter.
    """
    import peft

    kind = next(iter(layers.values())).kind
    wanted = "|".join(re.escape(layer) for layer in layers)
    with kept_random_state():
        if kind in ("lora", "dora"):
            ranks = {f"^{re.escape(layer)}": change.matrices.rank for layer, change in layers.items()}
            config: Any = peft.LoraConfig(r=1, rank_pattern=ranks, target_modules=wanted, use_dora=kind == "dora")
        else:
            config = {"loha": peft.LoHaConfig, "lokr": peft.LoKrConfig}[kind](r=1, alpha=1, target_modules=wanted)
        model.denoiser.add_adapter(config, adapter_name=name)
    for layer, change in layers.items():
        module: Any = model.denoiser.get_submodule(layer)
        weight = module.base_layer.weight
        wrong = _misfit(change, weight)
        if wrong is not None:
            model.denoiser.delete_adapters(name)
            raise LoraError(f"{layer} has the shape {tuple(weight.shape)} here, and {wrong}.", _OTHER_MODEL)
        module.scaling[name] = change.scale
        # peft's set_scale computes it anew from these
        alphas = module.alpha if kind in ("loha", "lokr") else module.lora_alpha
        alphas[name] = change.scale * module.r[name]
        for part in PARTS if kind in ("loha", "lokr") else ():
            if name in getattr(module, part, {}):
                del getattr(module, part)[name]
        for part, tensor in change.parts.items():
            value = torch.nn.Parameter(tensor.to(model.device, torch.float32), requires_grad=False)
            if kind in ("loha", "lokr"):
                getattr(module, part)[name] = value
            else:
                owner = getattr(module, part)[name]
                owner.weight = torch.nn.Parameter(value.reshape(owner.weight.shape), requires_grad=False)
    model.denoiser.set_adapter(name)


def _misfit(change: Change, weight: Tensor) -> str | None:
    """Why a change does not go onto a weight; None where it does. Computes shapes alone."""
    shapes_only = replace(change, parts={name: tensor.to("meta") for name, tensor in change.parts.items()})
    try:
        shape = tuple(shapes_only.added().shape)
    except RuntimeError as error:  # torch's word for factors that do not go together
        return f"the factors do not go together ({' '.join(str(error).split())[:200]})"
    return None if shape == tuple(weight.flatten(1).shape) else f"the change has {shape}"


# Files of other tools -------------------------------------------------------------------------------------------------


def file_names(base: "Base", layers: list[str]) -> dict[str, str]:
    """Layer -> its name in a LyCORIS file (LoHa, LoKr), as ComfyUI reads it.

    Raises: LoraError where no tool is known to read such a file for this model.
    """
    places = {} if base.layout is None else {each: base.layout.place(each, base.network) for each in layers}
    if places and all(one is not None and not one.joined for one in places.values()):
        return {layer: one.name for layer, one in places.items() if one is not None}
    if base.lycoris is None:
        raise LoraError(
            f"{base.facts.label} has no names for LoHa and LoKr that another tool is known to read.",
            "Set lora_type to lora or dora, with lora_layout diffusers.",
        )
    return {
        layer: base.lycoris + (layer if base.lycoris.endswith(".") else layer.replace(".", "_")) for layer in layers
    }


def written(layers: Mapping[str, Change], base: "Base", weights: Weights, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file: LyCORIS' own, or of a DoRA the kohya layout with `dora_scale`. alphas are float32."""
    if next(iter(layers.values())).kind == "dora":
        return _dora_written(layers, base, weights, dtype)
    names, tensors = file_names(base, list(layers)), {}
    for layer, change in layers.items():
        parts, inner = dict(change.parts), _inner_rank(change)
        if inner is None:  # readers take two whole factors at scale 1, whatever alpha says
            parts["lokr_w2"] = change.scale * parts["lokr_w2"]
        for part, tensor in parts.items():
            tensors[f"{names[layer]}.{part}"] = tensor.to(dtype).contiguous()
        tensors[names[layer] + kohya.ALPHA] = torch.tensor(1.0 if inner is None else change.scale * inner)
    return tensors


def _inner_rank(change: Change) -> int | None:
    """What readers divide alpha by; None where no factor is a product."""
    ends = ("hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    return next((int(change.parts[part].shape[0]) for part in ends if part in change.parts), None)


def keys(layers: Mapping[str, Change], base: "Base") -> set[str]:
    """The names of all tensors of such a file, from the kind and the layers alone."""
    if next(iter(layers.values())).kind == "dora":
        layout = base.kohya()
        found = kohya.keys(layout, base.network, list(layers))
        return found | {
            name.removesuffix(layout.down) + f".{DORA_SCALE}" for name in found if name.endswith(layout.down)
        }
    names = file_names(base, list(layers))
    return {f"{names[layer]}.{part}" for layer, change in layers.items() for part in (*change.parts, kohya.ALPHA[1:])}


def _dora_written(
    layers: Mapping[str, Change], base: "Base", weights: Weights, dtype: torch.dtype
) -> dict[str, Tensor]:
    layout = base.kohya()
    tensors = kohya.written(
        {layer: one.matrices for layer, one in layers.items()}, layout, base.network, base.shapes, dtype
    )
    done = set()
    for layer in layers:
        found = layout.place(layer, base.network)
        assert found is not None  # `kohya.written` refuses others
        if found.name in done:
            continue
        done.add(found.name)
        parts = [part for part in found.joined if part in base.shapes] if found.joined else [layer]
        scales = []
        for part in parts:
            before = weights(part).detach().to("cpu", torch.float32).flatten(1)
            rows = _length(before)
            if part in layers:  # the rows of a part that does not train stay as they are
                rows = layers[part].lengths * rows / _length(before + layers[part].matrices.delta())
            scales.append(rows)
        joined, kernel = torch.cat(scales), weights(layer).ndim - 2
        # in 32 bits, whatever the matrices are in: it multiplies the whole weight, not a small change of it
        tensors[f"{found.name}.{DORA_SCALE}"] = joined.reshape(-1, 1, *(1 for _ in range(kernel))).contiguous()
    return tensors


def read(
    tensors: Mapping[str, Tensor], kind: Kind, base: "Base", weights: Weights, metadata: Mapping[str, str]
) -> tuple[dict[str, Change], list[str]]:
    """(the layers by our names, keys that have no place in the network) of a file of this kind, in any layout that is known here."""
    if kind == "dora":
        own = all(name.startswith(base.component + ".") and DORA_SCALE not in name for name in tensors)
        return _dora_diffusers(tensors, base, metadata) if own else _dora_read(tensors, base, weights)
    names = _spellings(base)
    layers: dict[str, dict[str, Tensor]] = {}
    alphas, left = {}, []
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        layer = names.get(name)
        if layer is None or (part not in PARTS and part != kohya.ALPHA[1:]):
            left.append(key)
        elif part in PARTS:
            layers.setdefault(layer, {})[part] = tensor
        else:
            alphas[layer] = float(tensor)
    found = {}
    for layer, parts in layers.items():
        if not _is_whole(kind, parts):
            left += [key for key in tensors if names.get(key.rpartition(".")[0]) == layer]
            continue
        change = Change(kind, parts, 1.0)
        inner = _inner_rank(change)
        scale = 1.0 if inner is None or layer not in alphas else alphas[layer] / inner
        found[layer] = Change(kind, parts, scale)
    return found, sorted(left)


def _is_whole(kind: Kind, parts: Mapping[str, Tensor]) -> bool:
    """Whether a layer has every factor, whole or as a product."""
    if kind == "loha":
        return {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= parts.keys()
    return all(one in parts or {f"{one}_a", f"{one}_b"} <= parts.keys() for one in ("lokr_w1", "lokr_w2"))


def _spellings(base: "Base") -> dict[str, str]:
    """Names that files use for a layer -> the layer."""
    names: dict[str, str] = {}
    for layer in base.shapes:
        place = None if base.layout is None else base.layout.place(layer, base.network)
        if place is not None and not place.joined:
            names[place.name] = layer
        flat = layer.replace(".", "_")
        for prefix, rest in (
            ("lycoris_", flat),
            ("lora_unet_", flat),
            ("", layer),
            (f"{base.component}.", layer),
            ("diffusion_model.", layer),
        ):
            names.setdefault(prefix + rest, layer)
    return names


def _dora_diffusers(
    tensors: Mapping[str, Tensor], base: "Base", metadata: Mapping[str, str]
) -> tuple[dict[str, Change], list[str]]:
    from .lora_layers import diffusers_layers

    lengths = {name: tensor for name, tensor in tensors.items() if MAGNITUDE in name}
    matrices, left = diffusers_layers(
        {name: each for name, each in tensors.items() if name not in lengths}, base, metadata
    )
    return _joined(
        matrices,
        {name.partition(f".{MAGNITUDE}")[0].removeprefix(base.component + "."): each for name, each in lengths.items()},
        left,
    )


def _joined(
    matrices: Mapping[str, Matrices], lengths: Mapping[str, Tensor], left: list[str]
) -> tuple[dict[str, Change], list[str]]:
    """Layers that have both; a length without matrices has no place. A layer without a length is a plain one, which no DoRA has."""
    odd = [f"{layer}.{MAGNITUDE}" for layer in lengths if layer not in matrices] + [
        f"{each}.lora_A" for each in matrices if each not in lengths
    ]
    made = {
        layer: Change("dora", {"lora_A": one.a, "lora_B": one.b, MAGNITUDE: lengths[layer].flatten()}, one.scale)
        for layer, one in matrices.items()
        if layer in lengths
    }
    return made, sorted([*left, *odd])


def _dora_read(tensors: Mapping[str, Tensor], base: "Base", weights: Weights) -> tuple[dict[str, Change], list[str]]:
    layout = base.kohya()
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith(f".{DORA_SCALE}")}
    matrices, left = kohya.read(
        {key: each for key, each in tensors.items() if key not in scales}, layout, base.network, base.shapes
    )
    lengths: dict[str, Tensor] = {}
    for layer, one in matrices.items():
        found = layout.place(layer, base.network)
        assert found is not None
        scale = scales.get(f"{found.name}.{DORA_SCALE}")
        if scale is None:
            continue
        parts = [part for part in found.joined if part in base.shapes] if found.joined else [layer]
        if scale.shape[0] != sum(base.shapes[part][0] for part in parts):
            raise LoraError(
                f"{found.name}.{DORA_SCALE} has the shape {tuple(scale.shape)}: it scales the columns of the layer, not its rows.",
                "Train it with wd_on_output, or as a plain LoRA.",
            )
        rows = dict(zip(parts, scale.float().flatten().split([base.shapes[part][0] for part in parts]), strict=True))
        before = weights(layer).detach().to("cpu", torch.float32).flatten(1)
        lengths[layer] = rows[layer] * _length(before + one.delta()) / _length(before)
    return _joined(matrices, lengths, left)
