"""Rollout Studio: configure a DreamBooth fine-tune, see its drift, train on the model's own output."""

__version__ = "0.2.0"

_FOR_COMFYUI = ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS")


def __getattr__(name: str):
    """ComfyUI asks a pack for its nodes by these names; nobody else pays for them. Whatever goes wrong is one clear line, never a
    crash of ComfyUI's start, and never silent."""
    if name not in _FOR_COMFYUI:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .nodes.comfy.pack import mappings

        made = mappings()
    except Exception as error:  # noqa: BLE001 - the host must start; ComfyUI's `hasattr` would swallow an AttributeError
        import sys

        remedy = "install the pack's requirements.txt into ComfyUI's Python, then restart."
        print(f"[Rollout Studio] its nodes are not there ({type(error).__name__}: {error}): {remedy}", file=sys.stderr)
        made = {}, {}
    globals().update(zip(_FOR_COMFYUI, made, strict=True))
    return globals()[name]
