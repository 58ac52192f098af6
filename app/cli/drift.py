"""`rollout-studio drift`: how far a model drifts on its own output."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError, Fault
from ...core.platform_calls import use_all_cores
from ...core.runs.store import RunStore
from .answers import BAD_CONFIG, DONE, may_start
from .computing import empty_folder, only_with_run
from .flags import add_config_source, add_options, add_runs_dir, default_runs_dir, resolve
from .progress import Progress


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    drift = command(
        "drift",
        _drift,
        "Measure how far a model drifts on its own output; writes report.json and pictures.",
        "rollout-studio drift (--run RUN [--checkpoint STEP] | --preset NAME | --config FILE) [--OPTION VALUE ...] --out DIR",
    )
    add_config_source(drift)
    drift.add_argument("--run", dest="run_name", metavar="RUN", help="the model, data and settings of this run")
    drift.add_argument("--checkpoint", type=int, metavar="STEP", help="with --run: this checkpoint, not the last one")
    drift.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the report (must be new or empty)"
    )
    add_runs_dir(drift)
    add_options(drift)


def _drift(given: argparse.Namespace) -> int:
    run = None
    only_with_run(given)
    if given.run_name is not None:
        if given.preset is not None or given.config is not None:
            raise ConfigError([Fault("drift: --run brings its own config; leave --preset and --config out.")])
        run = RunStore(given.runs_dir).get(given.run_name)
        config, _ = resolve(given, run.read_config())
    else:
        config, _ = resolve(given)
    if not may_start(config, None, given.runs_dir):
        return BAD_CONFIG
    out = empty_folder(given.out)

    from ...core.before.preflight import cache_folder
    from ...core.look.drift.words import words
    from ...core.look.revisit import measure_drift, open_checkpoint  # imports torch: seconds

    cache = cache_folder(config, given.runs_dir if given.runs_dir is not None else default_runs_dir())
    progress = Progress(sys.stderr)
    use_all_cores()
    try:
        found = None if run is None else open_checkpoint(run, given.checkpoint)
        report = measure_drift(config, out, cache.absolute(), found, progress.phase)
    finally:
        progress.close()
    for line in words(report):
        print(line)
    print(out / "report.json")
    return DONE
