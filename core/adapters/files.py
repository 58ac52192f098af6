"""Write what was trained as files that others load: a LoRA in one or both layouts, or a whole pipeline folder.

In the diffusers layout alpha is folded into B (B * alpha / rank, in float32 before any rounding), so the file means the same to every
reader: diffusers, which takes a file without alphas at scale 1, and tools that ignore its metadata. In the kohya layout alpha stands beside
the matrices. `check.check_export` proves either on a fresh stock pipeline.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import platform_calls
from ..families.loading import WHOLE
from ..formats import remarks
from . import kohya, text_encoders, variants
from .header import CONFIG_FILE, ExportError, lora_metadata, published_config
from .kinds import LYCORIS, MAGNITUDE
from .lora_file import LoraError
from .lora_layers import Base, Layout, in_kohya, network_notes
from .matrices import of_adapter
from .start import ADAPTER
from .trainable import adapted_layers, adapter_state

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Model

KOHYA_END = "-kohya"
"""What the name of the second file ends with where both layouts are written."""


def files_of(config: "RunConfig", path: Path) -> list[tuple[Layout, Path]]:
    """(layout, file) of everything that a run's export at `path` consists of, the main file first. A full fine-tune is one folder."""
    if config.training.model_type != "lora" or config.lora.layout == "diffusers":
        return [("diffusers", path)]
    if config.lora.layout == "kohya":
        return [("kohya", path)]
    return [("diffusers", path), ("kohya", path.with_name(f"{path.stem}{KOHYA_END}{path.suffix}"))]


def check_layout(model: "Model", config: "RunConfig") -> None:
    """Refuse a layout that this model's LoRA cannot be written in, before anything is trained. Call it with the adapter on.

    The preflight says it earlier, where the model lies on this computer. Raises: LoraError with the reason.
    """
    if config.training.model_type != "lora" or config.lora.layout == "diffusers":
        return
    base = Base.of_model(model)
    layers, _ = text_encoders.split(dict.fromkeys(adapted_layers(model)))
    if config.lora.type in LYCORIS:
        variants.file_names(base, list(layers))
    else:
        kohya.check_named(base.kohya(), base.network, list(layers))


def export(
    model: "Model",
    path: Path | str,
    config: "RunConfig",
    precision: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
) -> Path:
    """Write the main file of the export: `export_lora` or `export_full`, by `model_type`."""
    if config.training.model_type != "lora":
        return export_full(model, path, config, precision, state, step=step)
    layout, _ = files_of(config, Path(path))[0]
    return export_lora(model, path, config, precision, state, step=step, layout=layout)


def export_lora(
    model: "Model",
    path: Path | str,
    config: "RunConfig",
    precision: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
    layout: Layout = "diffusers",
) -> Path:
    """Write the adapter as one .safetensors file, whole or not at all.

    Args:
        path: the file; its folder is made, an existing file is replaced.
        precision: of the weights in the file; None = `save_precision`.
        state: what to write instead of the current weights (a moving average), as `adapter_state` gives it.
        step: the optimizer step, for the header.
        layout: of this file, whatever the config's.

    Raises: ExportError without an adapter, or where the path does not end in .safetensors; LoraError where the family has no such layout.
    """
    from safetensors.torch import save_file

    from ..families.devices import DTYPES

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ExportError(f"'{path}': a LoRA file must end in .safetensors.")
    if not model.has_adapter:
        raise ExportError("The model has no adapter to export; a full fine-tune is exported as a folder (export_full).")
    dtype = DTYPES[config.saving.save_precision if precision is None else precision]
    state = adapter_state(model) if state is None else state
    if layout == "kohya":
        return _export_kohya(model, path, config, dtype, state, step)
    if config.lora.type in LYCORIS:
        raise LoraError(f"diffusers has no file for lora_type = {config.lora.type}.", "Set lora_layout = kohya.")
    layers, of_encoders = text_encoders.split({
        # a DoRA's lengths in 32 bits: they multiply the whole weight, not a small change of it
        file_name(name): (tensor if MAGNITUDE in name else tensor.to(dtype)).contiguous()
        for name, tensor in folded(model, state).items()
        if not text_encoders.is_tokens(name)
    })  # fmt: skip
    parts = {model.component: layers} | {
        part: text_encoders.of_part(of_encoders, part)
        for part in dict.fromkeys(map(text_encoders.part_of, of_encoders))
    }
    metadata = lora_metadata(config, model.facts.header, title=path.stem, step=step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        type(model.pipe).save_lora_weights(
            path.parent,
            **{f"{part}_lora_layers": tensors for part, tensors in parts.items()},
            weight_name=part.name,
            save_function=lambda tensors, file: save_file(tensors, file, metadata=metadata),
        )
    return path


def _export_kohya(
    model: "Model", path: Path, config: "RunConfig", dtype: torch.dtype, state: Mapping[str, Tensor], step: int | None
) -> Path:
    from safetensors.torch import save_file

    base, kind = Base.of_model(model), config.lora.type
    if kind == "lora":
        layers = of_adapter(model, state)
        tensors, notes = in_kohya(layers, base, dtype), network_notes(layers, "kohya", base)
    else:
        changes = variants.of_trained(model, kind, state)
        tensors = variants.written(changes, base, partial(base_weight, model), dtype)
        rank, alpha = config.lora.rank, config.lora.alpha
        notes = {"ss_network_alpha": str(float(rank if alpha is None else alpha)), "rollout_studio_layout": "kohya"}
    title = path.stem.removesuffix(KOHYA_END)
    metadata = lora_metadata(config, model.facts.header, title=title, step=step, network=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        save_file(tensors, part, metadata=metadata)
    return path


def folded(model: "Model", state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in float32 on the CPU with alpha / rank multiplied into every B."""
    scales = {
        name: module.scaling[ADAPTER] for name, module in text_encoders.modules(model) if hasattr(module, "lora_B")
    }
    result = {}
    for name, tensor in state.items():
        tensor = tensor.detach().to("cpu", torch.float32)
        layer, is_b, _ = name.partition(".lora_B.")
        result[name] = tensor * scales[layer] if is_b else tensor
    return result


def file_name(parameter: str) -> str:
    """`layers.0.attn.to_q.lora_A.default.weight` -> `layers.0.attn.to_q.lora_A.weight`; a DoRA's lengths without `.weight`, as peft has them."""
    name = parameter.replace(f".{ADAPTER}.", ".")
    return name.removesuffix(".weight") if name.endswith(f".{MAGNITUDE}.weight") else name


def base_weight(model: "Model", layer: str) -> Tensor:
    """The base's weight of a layer, whether or not it has an adapter."""
    module = model.denoiser.get_submodule(layer)
    return getattr(module, "base_layer", module).weight  # type: ignore[return-value]


def export_full(
    model: "Model",
    path: Path | str,
    config: "RunConfig",
    precision: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
) -> Path:
    """Write the whole pipeline with the trained denoiser as a folder for `from_pretrained`, whole or not at all.

    The other components are read afresh from the source and saved beside it, so that the folder stands alone. Arguments
    as for `export_lora`; `path` is a folder, and one that is there already is replaced.
    """
    from ..families.devices import DTYPES

    path = Path(path)
    if model.has_adapter:
        raise ExportError("The model has an adapter: export it with export_lora.")
    dtype = DTYPES[config.saving.save_precision if precision is None else precision]
    weights = dict(model.denoiser.state_dict()) | dict({} if state is None else state)
    fresh = model.open_pipeline(model.source, dtype, torch.device("cpu"), WHOLE)
    getattr(fresh, model.component).load_state_dict(
        {
            name: tensor.to("cpu", dtype) if tensor.is_floating_point() else tensor.cpu()
            for name, tensor in weights.items()
        },
        assign=True,
    )
    fresh.scheduler = model.pipe.scheduler  # it knows an overridden prediction type
    with platform_calls.replacing_folder(path) as part:
        fresh.save_pretrained(part, safe_serialization=True)
        (part / CONFIG_FILE).write_text(
            json.dumps(remarks("settings") | published_config(config), indent=2, ensure_ascii=False), encoding="utf-8"
        )
    return path
