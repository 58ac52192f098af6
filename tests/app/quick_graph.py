"""`graph run` for tests: the real one, but its trainings take seconds and no torch (`tests/nodes/quick_worker.py`)."""

import sys
from pathlib import Path

from rollout_studio.app.cli import graph_actions as graph_cli
from rollout_studio.app.cli.main import main
from rollout_studio.core.runs.store import RunStore

WORKER = (sys.executable, str(Path(__file__).parents[1] / "nodes" / "quick_worker.py"))

graph_cli.open_store = lambda root: RunStore(root, WORKER)
sys.exit(main(["graph", "run", *sys.argv[1:]]))
