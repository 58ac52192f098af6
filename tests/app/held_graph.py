"""`graph run` for tests: the real one, but a ramp plot waits, reporting progress, while a file named `hold` lies in the runs folder."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from rollout_studio.app.cli.main import main
from rollout_studio.nodes import library  # noqa: F401 - fills NODES
from rollout_studio.nodes.graph.declaration import NODES

KIND = "RolloutStudioProbabilityRampPlot"


def held(context, **inputs):
    for step in range(6000):
        if not (Path(context.store.root) / "hold").exists():
            break
        context.progress(step, 6000, "waiting")
        time.sleep(0.05)
    return declared.function(context, **inputs)


declared = NODES[KIND]
NODES[KIND] = replace(declared, function=held)
sys.exit(main(["graph", "run", *sys.argv[1:]]))
