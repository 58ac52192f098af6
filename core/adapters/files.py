"""Write what was trained as files that others load: a LoRA in the diffusers layout, or a whole pipeline folder.

Alpha is folded into B (B * alpha / rank, in float32 before any rounding), so the file means the same to every reader:
diffusers, which takes a file without alphas at scale 1, and tools that ignore its metadata. `check.check_export` proves
it on a fresh stock pipeline.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import platform_calls
from ..families.loading import WHOLE
from .header import CONFIG_FILE, ExportError, lora_metadata, published_config
from .trainable import ADAPTER, adapter_state

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Model


def export(
    model: "Model",
    path: Path | str,
    config: "RunConfig",
    precision: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
) -> Path:
    """`export_lora` or `export_full`, by `model_type`."""
    write = export_lora if config.training.model_type == "lora" else export_full
    return write(model, path, config, precision, state, step=step)


def export_lora(
    model: "Model",
    path: Path | str,
    config: "RunConfig",
    precision: str | None = None,
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
) -> Path:
    """Write the adapter as one .safetensors file in the diffusers layout, whole or not at all.

    Args:
        path: the file; its folder is made, an existing file is replaced.
        precision: of the weights in the file; None = `save_precision`.
        state: what to write instead of the current weights (a moving average), as `adapter_state` gives it.
        step: the optimizer step, for the header.

    Raises: ExportError without an adapter, or where the path does not end in .safetensors.
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
    layers = {file_name(name): tensor.to(dtype).contiguous() for name, tensor in folded(model, state).items()}
    metadata = lora_metadata(config, model.facts.header, title=path.stem, step=step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        type(model.pipe).save_lora_weights(
            path.parent,
            **{f"{model.component}_lora_layers": layers},
            weight_name=part.name,
            save_function=lambda tensors, file: save_file(tensors, file, metadata=metadata),
        )
    return path


def folded(model: "Model", state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state in float32 on the CPU with alpha / rank multiplied into every B."""
    scales = {
        name: module.scaling[ADAPTER] for name, module in model.denoiser.named_modules() if hasattr(module, "lora_B")
    }
    result = {}
    for name, tensor in state.items():
        tensor = tensor.detach().to("cpu", torch.float32)
        layer, is_b, _ = name.partition(".lora_B.")
        result[name] = tensor * scales[layer] if is_b else tensor
    return result


def file_name(parameter: str) -> str:
    """`layers.0.attn.to_q.lora_A.default.weight` -> `layers.0.attn.to_q.lora_A.weight`."""
    return parameter.replace(f".{ADAPTER}.", ".")


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
            json.dumps(published_config(config), indent=2, ensure_ascii=False), encoding="utf-8"
        )
    return path
