"""Load a LoRA into a model, and report what fits. The pipelines' own loaders accept a file of which no tensor matches a layer, or
whose values are NaN, without an error: here every tensor must match a layer and be finite.
"""

import logging as python_logging
import math
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..families.quantised import is_quantised, shape_of, weight_of
from ..randomness import kept_random_state
from .header import read_metadata
from .kinds import MAGNITUDE, NAMES, PARTS
from .lora_file import LoraError, LoraFile, read_lora_header
from .matrices import squared_norm

if TYPE_CHECKING:
    from ..config import LoraConfig
    from ..families.base import Model
    from .variants import Change

LARGEST_CHANGE = 100.0
"""A LoRA may change the weights of its layers by so many times their own size (Frobenius norms, all layers together). Trained ones
stay below 1; numbers that were spoilt, or an alpha of 1e30, are far above."""

_OTHER_MODEL = "Choose a LoRA that was trained on this model."
_DIVERGED = "Its training or its file is spoilt: take an earlier checkpoint of it, or get it again."


@dataclass(frozen=True)
class Fit:
    """What became of a LoRA's tensors: `used` of `total`; `layers` that it changes; `change`: the size of the change over that of
    the weights (Frobenius norms, all layers together)."""

    used: int
    total: int
    layers: int
    change: float

    def __str__(self) -> str:
        effect = (
            "which it leaves as they are: it has no effect"
            if self.change == 0
            else f"whose weights it changes by {100 * self.change:.2g} %"
        )
        layers = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
        return f"{self.used} of {self.total} tensors used, in {layers}, {effect}"


@torch.no_grad()
def load_lora(
    model: "Model", source: Path | str | Mapping[str, Tensor], name: str, *, text_encoders: bool = True
) -> Fit:
    """Load a LoRA beside what the model has, by the pipeline's own loader, as the adapter `name`; it is then the active one.

    Args:
        source: a .safetensors file in any layout that the pipeline reads, or tensors by their diffusers names.
        text_encoders: may it change the text encoders too?

    Raises: LoraError with what fits and what does not; the model is then as it was.
    Cost: reads the file twice. The global random state stays as it is.
    """
    file = read_lora_header(source) if not isinstance(source, Mapping) else None
    what = "The checkpoint" if file is None else f"'{file.path}'"
    _check_values(what, file, source)
    if file is not None and not file.is_read_by_diffusers:
        return _load_variant(model, file, name)
    pipe = model.pipe
    given = (
        (dict(source), {})
        if file is None
        else (str(file.path.parent), {"weight_name": file.path.name, "local_files_only": True})
    )
    names = tuple(source) if file is None else file.weights
    with quietly(), kept_random_state():
        try:
            converted = pipe.lora_state_dict(given[0], **given[1], **model.lora_options(), return_lora_metadata=True)[0]
        except Exception as error:  # the loader raises whatever its converters raise
            raise LoraError(_unread(what, model, error), _OTHER_MODEL) from error
        total = max(len(names), len(converted))
        _check_places(what, model, converted, total, text_encoders)
        if len(converted) < len(names):
            raise LoraError(
                f"{what} does not fit {model.source.name}: {len(converted)} of its {total} tensors have a place in it.",
                _OTHER_MODEL,
            )
        try:
            pipe.load_lora_weights(given[0], adapter_name=name, **given[1])
        except Exception as error:  # as above, and peft
            drop(model, name)
            raise LoraError(_unread(what, model, error), _OTHER_MODEL) from error
    change, layers = _checked_effect(model, name, what, expected=len(converted), total=total)
    for part in _parts(model):
        part.requires_grad_(False)
    return Fit(total, total, layers, change)


def _load_variant(model: "Model", file: LoraFile, name: str) -> Fit:
    """A file that diffusers would refuse, or read without a part of it: our own reader's."""
    from safetensors.torch import load_file

    from . import variants
    from .files import base_weight
    from .lora_layers import Base

    tensors = load_file(file.path)
    metadata = read_metadata(file.path)
    weights = partial(base_weight, model)
    layers, left = variants.read(tensors, file.kind, Base.of_model(model), weights, metadata)
    if left or not layers:
        raise LoraError(
            f"'{file.path}' does not fit {model.source.name}: {len(tensors) - len(left)} of its {len(tensors)} tensors have a place in it; the "
            f"first that has none is {left[0][:120] if left else next(iter(tensors))[:120]}.",
            _OTHER_MODEL,
        )
    packed = [layer for layer in layers if is_quantised(model.denoiser.get_submodule(layer))]
    if packed:
        raise LoraError(
            f"'{file.path}' is a {NAMES[file.kind]}, which needs the base's weights as numbers, and those of {packed[0]} are quantised.",
            "Open the base with base_model_quantization = none.",
        )
    with quietly():
        variants.place(model, layers, name)
    total = len(file.weights)
    change, number = _checked_effect(model, name, f"'{file.path}'", expected=0, total=total)
    model.denoiser.requires_grad_(False)
    return Fit(total, total, number, change)


def restore_adapter(model: "Model", config: "LoraConfig", state: Mapping[str, Tensor], name: str) -> Fit:
    """Put a run's adapter, as its checkpoint has it, on the denoiser as the adapter `name`; it is then the active one.

    Args:
        config: that of the run. state: by the parameters' names, as `trainable.adapter_state` gives it.
    Raises: LoraError where it does not fit; the model is then as it was.
    """
    from ..config.rank_pattern import ranks_of
    from . import variants
    from .files import file_name
    from .kinds import LYCORIS, scale_of
    from .matrices import shapes_of
    from .text_encoders import is_encoders, is_tokens, split

    state, of_encoders = split({parameter: tensor for parameter, tensor in state.items() if not is_tokens(parameter)})
    parts, shapes = variants.layers_of_state(state), shapes_of(model.denoiser)
    ranks = ranks_of(list(parts), config.rank, config.alpha, config.rank_pattern)
    scales = {layer: scale_of(*each, config.rslora) for layer, each in ranks.items()}
    if config.type not in LYCORIS:
        of_encoder = 1.0 if config.alpha is None else config.alpha / config.rank  # `text_encoders.attach`
        tensors = {}
        for parameter, tensor in (state | of_encoders).items():
            layer, is_b, _ = parameter.partition(".lora_B.")
            place = file_name(parameter) if is_encoders(parameter) else f"{model.component}.{file_name(parameter)}"
            tensors[place] = tensor * scales.get(layer, of_encoder) if is_b else tensor
        return load_lora(model, tensors, name, text_encoders=bool(of_encoders))
    unknown = [layer for layer in parts if layer not in shapes]
    if unknown:
        raise LoraError(
            f"The checkpoint does not fit {model.source.name}, which has no layer {unknown[0]}.", _OTHER_MODEL
        )
    with quietly():
        variants.place(
            model, {layer: variants.Change(config.type, each, scales[layer]) for layer, each in parts.items()}, name
        )
    change, number = _checked_effect(model, name, "The checkpoint", expected=0, total=len(state))
    model.denoiser.requires_grad_(False)
    return Fit(len(state), len(state), number, change)


def _checked_effect(model: "Model", name: str, what: str, *, expected: int, total: int) -> tuple[float, int]:
    """(change, layers) of the loaded adapter, as in `Fit`. Where not all `expected` tensors found a place, or the change is not
    sane, the adapter is removed again and LoraError raised."""
    loaded = [
        module
        for part in _parts(model)
        for module in part.modules()
        if has_adapter(module, name) or has_variant(module, name)
    ]
    used = sum(3 if name in getattr(module, MAGNITUDE, {}) else 2 for module in loaded)
    if used < expected:
        drop(model, name)
        raise LoraError(
            f"{what} does not fit {model.source.name}: {used} of its {total} tensors found a place in it.", _OTHER_MODEL
        )
    change = _change(loaded, name)
    if not change <= LARGEST_CHANGE:  # also where it is NaN
        drop(model, name)
        raise LoraError(
            f"{what} would change the weights of its {len(loaded)} layers by {change:.3g} times their own size (at most {LARGEST_CHANGE:g}), and only noise could come out.",
            _DIVERGED,
        )
    return change, len(loaded)


def drop(model: "Model", name: str) -> None:
    """Remove the adapter `name`, wherever it was loaded."""
    for part in _parts(model):
        if name in (getattr(part, "peft_config", None) or {}):
            remove: Any = part
            (remove.delete_adapters if part is model.denoiser else remove.delete_adapter)(
                name
            )  # diffusers', transformers' own


def drop_all(model: "Model") -> None:
    """Remove every adapter, and its layers from around the network's own, which then have their names again."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    for part in _parts(model):
        if getattr(part, "peft_config", None):
            recurse_remove_peft_layers(part)
            del part.peft_config
            part._hf_peft_config_loaded = False  # type: ignore[assignment] # diffusers' and transformers' own mark


def _parts(model: "Model") -> list[nn.Module]:
    encoders = (getattr(model.pipe, name, None) for name in model.facts.text_encoders)
    return [model.denoiser, *(each for each in encoders if each is not None)]


def _check_values(what: str, file: LoraFile | None, source: Path | str | Mapping[str, Tensor]) -> None:
    """Every number must be finite."""
    if file is None:
        broken = [name for name, tensor in source.items() if not bool(tensor.isfinite().all())]
    else:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file.path, framework="pt") as tensors:
                broken = [name for name in file.tensors if not bool(tensors.get_tensor(name).isfinite().all())]
        except (SafetensorError, OSError) as error:
            raise LoraError(f"{what} is damaged ({error}).", "Copy or download it again.") from error
    if broken:
        number = len(source) if file is None else len(file.tensors)
        raise LoraError(
            f"{what}: {len(broken)} of its {number} tensors hold NaN or infinite values, the first is {broken[0][:80]!r}.",
            _DIVERGED,
        )


def _check_places(what: str, model: "Model", converted: Mapping[str, Tensor], total: int, text_encoders: bool) -> None:
    """Every matrix of the denoiser must have its partner and a layer of its shape; raises LoraError with how many do."""
    own = {name: tensor for name, tensor in converted.items() if name.startswith(f"{model.component}.")}
    elsewhere = [name for name in converted if name not in own]
    if elsewhere and elsewhere[0].startswith("text_encoder"):
        if not text_encoders:
            raise LoraError(
                f"{what} changes the text encoder too ({len(elsewhere)} of its {total} tensors), which is not followed here.",
                "Choose a LoRA of the denoiser alone (what Rollout Studio exports).",
            )
        elsewhere = []
    wrong = dict.fromkeys(elsewhere, f"this model's weights are named {model.component}.…")
    modules = dict(model.denoiser.named_modules())
    layers: dict[str, dict[str, Tensor]] = {}
    lengths: dict[str, Tensor] = {}
    for name, tensor in _in_peft_names(own, model.component).items():
        layer, mark, end = name.rpartition(".lora_")
        if mark and end in ("magnitude_vector", "magnitude_vector.weight"):
            lengths[layer] = tensor
        elif not mark or end not in ("A.weight", "B.weight", "A.default.weight", "B.default.weight"):
            wrong[f"{model.component}.{name}"] = "it is not a matrix of a LoRA"
        else:
            layers.setdefault(layer, {})[end[0]] = tensor
    for layer, pair in layers.items():
        why = _misfit(modules.get(layer), pair)
        if why is not None:
            wrong |= {f"{model.component}.{layer}.lora_{letter}.weight": why for letter in pair}
    for layer, tensor in lengths.items():
        rows = layers[layer]["B"].shape[0] if "B" in layers.get(layer, {}) else 0
        if tensor.numel() != rows:
            wrong[f"{model.component}.{layer}.{MAGNITUDE}"] = f"{tensor.numel()} lengths, for a layer of {rows} rows"
    if wrong:
        first, why = next(iter(wrong.items()))
        fitting = max(0, len(converted) - len(wrong))
        raise LoraError(f"{what} does not fit {model.source.name}: {fitting} of its {total} tensors have a place in it; the first that has none is {first[:120]} ({why}).", _OTHER_MODEL)  # fmt: skip


def _in_peft_names(tensors: dict[str, Tensor], component: str) -> dict[str, Tensor]:
    from diffusers.utils import convert_unet_state_dict_to_peft

    bare = {name.removeprefix(f"{component}."): tensor for name, tensor in tensors.items()}
    return (
        bare
        if all(".lora_A." in name or ".lora_B." in name or MAGNITUDE in name for name in bare)
        else convert_unet_state_dict_to_peft(bare)
    )


def _misfit(module: nn.Module | None, pair: Mapping[str, Tensor]) -> str | None:
    """Why these two matrices do not go onto the layer; None when they do."""
    base = getattr(module, "base_layer", module)
    shape = None if base is None else shape_of(base)
    if shape is None or len(shape) < 2:
        return "this model has no such layer"
    if len(pair) < 2:
        return f"its partner lora_{'B' if 'A' in pair else 'A'} is not in the file"
    a, b = pair["A"], pair["B"]
    if a.ndim != len(shape) or b.ndim != len(shape):
        return f"shapes {tuple(a.shape)} and {tuple(b.shape)}, for a layer of shape {shape}"
    if (a.shape[1], b.shape[0]) != (shape[1], shape[0]):
        return f"it is for a layer of {a.shape[1]} inputs and {b.shape[0]} outputs, this model's has {shape[1]} and {shape[0]}"
    if a.shape[0] != b.shape[1]:
        return f"its two matrices are of rank {a.shape[0]} and {b.shape[1]}"
    return None


def has_adapter(module: nn.Module, name: str) -> bool:
    """Whether a layer has the adapter `name`."""
    return hasattr(module, "lora_A") and name in module.lora_A


def has_variant(module: nn.Module, name: str) -> bool:
    """Whether a layer has the adapter `name`, of a kind without matrices A and B."""
    return any(name in getattr(module, part, {}) for part in ("hada_w1_a", "lokr_w1", "lokr_w1_a"))


def adapter_matrices(module: nn.Module, name: str) -> tuple[Tensor, Tensor, nn.Module, float]:
    """(A, B, the layer itself, scale) of the adapter `name` on a layer."""
    return module.lora_A[name].weight, module.lora_B[name].weight, module.base_layer, module.scaling[name]


def _change(loaded: list[nn.Module], name: str) -> float:
    """|change| / |W| over all layers."""
    changed = whole = 0.0
    for module in loaded:
        base = module.base_layer
        if has_adapter(module, name) and name not in getattr(module, MAGNITUDE, {}):
            a, b, _, scale = adapter_matrices(module, name)
            changed += scale**2 * squared_norm(a, b)
        else:
            changed += float(_as_change(module, name).of(weight_of(base)).norm()) ** 2
        whole += float(weight_of(base).float().norm()) ** 2
    return math.sqrt(changed / whole) if whole > 0 else (0.0 if changed == 0 else math.inf)


def _as_change(module: nn.Module, name: str) -> "Change":
    """The adapter `name` of a layer that is no plain LoRA's."""
    from .variants import Change

    if has_adapter(module, name):
        a, b, _, scale = adapter_matrices(module, name)
        lengths = module.lora_magnitude_vector[name].weight
        return Change(
            "dora", {"lora_A": a.detach().cpu(), "lora_B": b.detach().cpu(), MAGNITUDE: lengths.detach().cpu()}, scale
        )
    parts = {part: getattr(module, part)[name].detach().cpu() for part in PARTS if name in getattr(module, part, {})}
    return Change("loha" if "hada_w1_a" in parts else "lokr", parts, module.scaling[name])


def _unread(what: str, model: "Model", error: Exception) -> str:
    return f"{what} does not fit {model.source.name}: {' '.join(str(error).split())[:300]}"


@contextmanager
def quietly():
    """Silence the loaders' logs: unmatched names are counted here, and failures raised."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(python_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # several adapters side by side are meant
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            yield
    finally:
        logging.set_verbosity(level)
