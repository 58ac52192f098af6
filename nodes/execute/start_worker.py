"""The training process, started by this file's path: `python start_worker.py RUN_DIR [--resume]`.

Inside ComfyUI the package is known under its folder's path, which no other process can import; here it is given its own name.
"""

import importlib.util
import sys
from pathlib import Path

NAME = "rollout_studio"


def load_package() -> None:
    """Make the package that this file belongs to importable under its own name, wherever it lies."""
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(NAME, root / "__init__.py", submodule_search_locations=[str(root)])
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    load_package()
    sys.exit(importlib.import_module(f"{NAME}.core.train.worker").main(sys.argv[1:]))
