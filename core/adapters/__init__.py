"""What is trained, and how it is written to files: LoRA and full fine-tune, state, export and load check.

`read_lora_config` and `read_header` need no torch; everything else is imported on first use.
"""

from importlib import import_module

from .header import ExportError, lora_metadata, read_header, read_lora_config
from .lora_file import LoraError

_LAZY = {
    "attach": ".trainable", "attach_full": ".trainable", "attach_lora": ".trainable", "adapter_state": ".trainable",
    "load_adapter_state": ".trainable", "trainable_names": ".trainable", "trainable_parameters": ".trainable",
    "ExportCheck": ".check", "check_export": ".check",
    "Fit": ".loading", "load_lora": ".loading",
    "export": ".files", "export_full": ".files", "export_lora": ".files",
}  # fmt: skip

__all__ = [
    "ExportCheck", "ExportError", "Fit", "LoraError", "adapter_state", "attach", "attach_full", "attach_lora", "check_export", "export",
    "export_full", "export_lora", "load_adapter_state", "load_lora", "lora_metadata", "read_header", "read_lora_config",
    "trainable_names", "trainable_parameters",
]  # fmt: skip


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"{__name__} has no {name}")
