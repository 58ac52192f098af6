"""A LoRA file of either layout as its layers, and written again: what merging, resizing and converting work on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .. import platform_calls
from ..families.clip_shapes import encoder_shapes
from ..families.lora_facts import kohya_layout
from . import encoder_files, kohya, text_encoders
from .header import read_metadata
from .kinds import NAMES
from .lora_file import LoraError, read_lora_header
from .matrices import Matrices, Shapes, network_of, shapes_of

if TYPE_CHECKING:
    from ..families.base import Model
    from ..families.facts import FamilyFacts
    from ..families.lora_facts import KohyaLayout
    from ..families.source import Source

Layout = Literal["diffusers", "kohya"]
_ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers keeps rank and alpha


@dataclass(frozen=True)
class Base:
    """The network that a LoRA is for: its family's facts, its config and the layers that it has. `configs`: of the model's parts, read when
    text encoders are asked for."""

    name: str
    facts: "FamilyFacts"
    layout: "KohyaLayout | None"
    why_no_layout: str
    network: Mapping[str, Any]
    shapes: Shapes
    configs: Mapping[str, Mapping[str, Any]]

    @property
    def component(self) -> str:
        return self.facts.component

    @property
    def lycoris(self) -> str | None:
        """As in `FamilyFacts`."""
        return self.facts.lycoris

    @cached_property
    def encoder_shapes(self) -> Shapes:
        """The layers of the text encoders that may have a LoRA, by `text_encoders.full_name`; none where the family's have none."""
        return encoder_shapes(self.configs, self.facts)

    def shape_of(self, layer: str) -> tuple[int, ...]:
        """Of a layer's weight, the denoiser's or an encoder's."""
        return (self.encoder_shapes if text_encoders.is_encoders(layer) else self.shapes)[layer]

    @classmethod
    def of(cls, source: "Source") -> "Base":
        """From a model's config files; no weights are read."""
        from ..families.registry import FAMILIES

        return cls._made(source, FAMILIES[source.family], *network_of(source))

    @classmethod
    def of_model(cls, model: "Model") -> "Base":
        """Of a model that is open."""
        return cls._made(model.source, model.facts, model.network_config, shapes_of(model.denoiser))

    @classmethod
    def _made(cls, source: "Source", facts: "FamilyFacts", network: Mapping[str, Any], shapes: Shapes) -> "Base":
        layout, why = kohya_layout(facts.kohya, network)
        return cls(source.name, facts, layout, why, network, shapes, source.configs)

    def kohya(self) -> "KohyaLayout":
        """Raises LoraError with the reason where files of the kohya layout are not written for this model."""
        if self.layout is None:
            raise LoraError(f"{self.facts.label} {self.why_no_layout}.", "Write the diffusers layout.")
        return self.layout


@dataclass(frozen=True)
class LoraLayers:
    """What a file holds: its layers by our names, its layout, the number format of its matrices and its notes."""

    layers: dict[str, Matrices]
    layout: Layout
    dtype: torch.dtype
    metadata: dict[str, str]


def read_lora(path: Path | str, base: Base) -> LoraLayers:
    """Read a plain LoRA file of either layout for `base`.

    Raises: LoraError for a file that is no LoRA or one of another kind, for another network, or with tensors that have no place in it or in its
        text encoders.
    """
    from safetensors.torch import load_file

    file = read_lora_header(path)
    if file.kind != "lora":
        raise LoraError(
            f"'{path}' is a {NAMES[file.kind]}: its layers are no two matrices whose rank or layout could be changed alone.",
            "Merge it into its base (`rollout-studio lora merge`), or train it again as wanted (lora_layout, lora_rank).",
        )
    tensors = load_file(file.path)
    metadata = read_metadata(path)
    dtype = next(tensor.dtype for name, tensor in tensors.items() if not name.endswith(kohya.ALPHA))
    layout: Layout
    if all(
        name.startswith((base.component + ".", *(part + "." for part in base.facts.trained_encoders)))
        for name in tensors
    ):
        layout, (layers, left) = "diffusers", diffusers_layers(tensors, base, metadata)
    else:
        of_encoders, others = encoder_files.read(tensors, base.facts, base.encoder_shapes)
        layout, (layers, left) = "kohya", kohya.read(others, base.kohya(), base.network, base.shapes)
        layers |= of_encoders
    if left or not layers:
        encoders = [name for name in left if name.startswith(("lora_te", "text_encoder"))]
        what = "it changes a text encoder too" if encoders else "they belong to another model or layout"
        raise LoraError(
            f"'{path}': {len(left)} of its {len(tensors)} tensors have no place in {base.name} ({what}), the first is {left[0][:100]!r}.",
            "Name the model that it was trained on (--model).",
        )
    _check_shapes(path, layers, base)
    return LoraLayers(layers, layout, dtype, metadata)


def write_lora(
    path: Path,
    layers: Mapping[str, Matrices],
    layout: Layout,
    base: Base,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> Path:
    """Write the layers as a file of the layout, whole or not at all. `ss_network_dim`, `ss_network_alpha` are set as the file has them."""
    from safetensors.torch import save_file

    tensors = in_kohya(layers, base, dtype) if layout == "kohya" else in_diffusers(layers, base.component, dtype)
    notes = {key: value for key, value in metadata.items() if key != _ADAPTER_METADATA} | network_notes(
        layers, layout, base
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        save_file(tensors, part, metadata=notes)
    return path


def in_diffusers(layers: Mapping[str, Matrices], component: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the diffusers layout; alpha is multiplied into B."""
    tensors = {}
    for layer, matrices in layers.items():
        folded, name = matrices.folded(), layer if text_encoders.is_encoders(layer) else f"{component}.{layer}"
        tensors[f"{name}.lora_A.weight"] = folded.a.to(dtype).contiguous()
        tensors[f"{name}.lora_B.weight"] = folded.b.to(dtype).contiguous()
    return tensors


def in_kohya(layers: Mapping[str, Matrices], base: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the kohya layout. Raises LoraError where the family has none, or a layer no name in it."""
    of_denoiser, of_encoders = text_encoders.split(layers)
    tensors = kohya.written(of_denoiser, base.kohya(), base.network, base.shapes, dtype)
    return tensors | encoder_files.written(of_encoders, base.facts, dtype)


def kohya_keys(layers: Iterable[str], base: Base) -> set[str]:
    """The names of all tensors of a file of the kohya layout with these layers."""
    of_denoiser, of_encoders = text_encoders.split(dict.fromkeys(layers))
    return kohya.keys(base.kohya(), base.network, list(of_denoiser)) | encoder_files.keys(of_encoders, base.facts)


def network_notes(layers: Mapping[str, Matrices], layout: Layout, base: Base) -> dict[str, str]:
    """Rank and alpha as the file's tensors have them: in the diffusers layout alpha is multiplied in, and equals the rank."""
    first = next(iter(layers.values()))
    has_alpha = layout == "kohya" and base.layout is not None and base.layout.alphas
    return {
        "ss_network_dim": str(max(matrices.rank for matrices in layers.values())),
        "ss_network_alpha": str(first.alpha if has_alpha else float(first.rank)),
        "rollout_studio_layout": layout,
    }


def diffusers_layers(
    tensors: Mapping[str, Tensor], base: Base, metadata: Mapping[str, str]
) -> tuple[dict[str, Matrices], list[str]]:
    """(the layers of a file in the diffusers layout, keys that have no place in the network or its text encoders)."""
    alphas = {part: _alphas(metadata, part) for part in (base.component, *base.facts.trained_encoders)}
    layers, left = {}, dict(tensors)
    for key in tensors:
        layer, is_a, end = key.removeprefix(base.component + ".").partition(".lora_A.")
        shapes = base.encoder_shapes if text_encoders.is_encoders(layer) else base.shapes
        partner = key.replace(".lora_A.", ".lora_B.")
        if is_a and end == "weight" and layer in shapes and partner in tensors:
            a, b = left.pop(key), left.pop(partner)
            alpha = left.pop(key.partition(".lora_A.")[0] + kohya.ALPHA, None)
            alpha_of = alphas[key.partition(".")[0]]
            layers[layer] = Matrices(a, b, alpha_of(layer, a.shape[0]) if alpha is None else float(alpha))
    return layers, sorted(left)


def _alphas(metadata: Mapping[str, str], component: str) -> Any:
    """(layer, rank) -> alpha, as diffusers reads it: from its own notes where the file has them, else the rank."""
    text = metadata.get(_ADAPTER_METADATA)
    try:
        notes = {} if text is None else json.loads(text)
    except ValueError as error:
        raise LoraError(f"Its {_ADAPTER_METADATA} is damaged ({error}).", "Copy or download it again.") from error
    stabilised = bool(notes.get(f"{component}.use_rslora"))
    usual, others = notes.get(f"{component}.lora_alpha"), notes.get(f"{component}.alpha_pattern") or {}

    def alpha(layer: str, rank: int) -> float:
        named = next((value for name, value in others.items() if layer == name or layer.endswith("." + name)), usual)
        found = float(rank if named is None else named)
        return found * rank**0.5 if stabilised else found  # alpha / sqrt(rank), as alpha / rank

    return alpha


def _check_shapes(path: Path | str, layers: Mapping[str, Matrices], base: Base) -> None:
    for layer, matrices in layers.items():
        outputs, inputs = base.shape_of(layer)[:2]
        if (matrices.b.shape[0], matrices.a.shape[1]) != (outputs, inputs) or matrices.b.shape[1] != matrices.rank:
            raise LoraError(
                f"'{path}': {layer} is for {matrices.a.shape[1]} inputs and {matrices.b.shape[0]} outputs, and {base.name} has {inputs} and "
                f"{outputs}.",
                "Name the model that it was trained on (--model).",
            )
