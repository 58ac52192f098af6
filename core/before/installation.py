"""What is installed here and which device a run computes on, found without importing torch, which takes seconds."""

import re
from importlib.util import find_spec
from pathlib import Path

from .. import platform_calls
from ..config import ModelConfig


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return find_spec(package) is not None


def torch_build() -> tuple[bool, bool]:
    """(torch is installed, its build can use an NVIDIA or AMD GPU), from its version file."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False, False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return True, re.search(r"^(cuda|hip)\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None


def device_of(model: ModelConfig) -> str:
    """cpu, cuda or mps: where a run with this model section computes."""
    if model.device != "auto":
        return model.device.partition(":")[0]
    likely = platform_calls.likely_device()
    return "cpu" if likely == "cuda" and not torch_build()[1] else likely
