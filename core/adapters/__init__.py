"""What is trained, and the files that leave the house: LoRA and full fine-tune, their state, their export and the load check.

`read_lora_config` and `read_header` need no torch; everything else is imported when it is first asked for.
"""

from importlib import import_module

from .header import ExportError, lora_metadata, read_header, read_lora_config

_LAZY = {
    "attach": ".attach", "attach_full": ".attach", "attach_lora": ".attach", "adapter_state": ".attach",
    "load_adapter_state": ".attach", "trainable_names": ".attach", "trainable_parameters": ".attach",
    "ExportCheck": ".check", "check_export": ".check",
    "export": ".export", "export_full": ".export", "export_lora": ".export",
}  # fmt: skip

__all__ = [*sorted(_LAZY), "ExportError", "lora_metadata", "read_header", "read_lora_config"]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"{__name__} has no {name}")
