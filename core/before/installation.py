"""What is installed here and which device a run computes on, found without importing torch, which takes seconds."""

import os
import re
import shutil
import sys
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


def why_not_compile(device: str) -> tuple[str, str] | None:
    """Why `compile` cannot work on a device (cpu, cuda, mps) here, and what to do; None where what it needs is found. Compiles nothing."""
    if device == "mps":
        return "compile is not supported on mps.", "Set compile = false."
    if device == "cuda" and not installed("triton"):
        package = "triton-windows" if sys.platform == "win32" else "triton"
        return (
            "compile needs Triton on CUDA, which is not installed.",
            f"Run `pip install {package}`, or set compile = false.",
        )
    names = (
        ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++") if device == "cpu" else ("gcc", "clang", "cc")
    )
    own = os.environ.get("CXX" if device == "cpu" else "CC")
    if any(shutil.which(name) for name in ((own,) if own else names)):
        return None
    remedy = {
        "win32": "Install the C++ build tools of Visual Studio and start from their command prompt",
        "darwin": "Run `xcode-select --install`",
    }.get(sys.platform, "Install g++ (on Debian and Ubuntu: `apt install g++`)")
    return f"compile found no compiler ({own if own else ' or '.join(names)}).", f"{remedy}, or set compile = false."
