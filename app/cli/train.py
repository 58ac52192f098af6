"""`rollout-studio train`: a training, here and now, or one that goes on."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config import RunConfig, config_from_flat, config_to_flat
from ...core.config.options import ConfigError, Fault
from ...core.platform_calls import use_all_cores
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.store import RunStore
from ...core.sizes import off_by, size
from .answers import BAD_CONFIG, DONE, may_start, print_differences, print_message
from .flags import add_config_source, add_options, add_runs_dir, changes_of, default_runs_dir, resolve
from .progress import Progress


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    train = command(
        "train",
        _train,
        "Train a model, here and now, with progress bars; closing the terminal stops it.",
        "rollout-studio train [--preset NAME [--tier GB] | --config FILE] [--level LEVEL] [--set KEY=VALUE ...] [--OPTION VALUE ...]\n"
        "                            [--run-name NAME] [--runs-dir DIR] [--dry-run | --probe]\n"
        "       rollout-studio train --resume RUN [--runs-dir DIR]",
    )
    add_config_source(train)
    train.add_argument("--run-name", metavar="NAME", help="name of the run (default: the preset and the time)")
    train.add_argument(
        "--resume", metavar="RUN", help="go on with an interrupted run, exactly where its last checkpoint is"
    )
    train.add_argument(
        "--dry-run", action="store_true", help="check everything, print the resolved config, train nothing"
    )
    train.add_argument(
        "--probe", action="store_true", help="check everything, measure the memory of a few steps here, train nothing"
    )
    add_runs_dir(train)
    add_options(train)


def _train(given: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from .ranks import train_as_rank

        return train_as_rank(given, _chosen, _follow)
    chosen = _chosen(given)
    return chosen if isinstance(chosen, int) else _follow(*chosen)


def _chosen(given: argparse.Namespace) -> int | tuple[RunDir, bool]:
    """The run to train, made where it is new, and whether it goes on; or an exit code where there is nothing to train."""
    store_root = given.runs_dir
    if given.resume is not None:
        return _resume(given)
    config, preset = resolve(given)
    store = None
    run_dir = None
    if given.run_name is not None:
        from ...core.runs.folder import check_name

        check_name(given.run_name)
        run_dir = (Path(store_root) if store_root is not None else default_runs_dir()) / given.run_name
    if given.dry_run:
        print(json.dumps(config_to_flat(config), indent=2, ensure_ascii=False))
    print_differences(config)
    if not may_start(config, run_dir, store_root):
        return BAD_CONFIG
    if given.dry_run:
        print_message("Dry run: everything above is in order; nothing was trained.")
        return DONE
    if given.probe:
        return _probe(config, default_runs_dir() if store_root is None else Path(store_root))
    store = RunStore(store_root)
    run = store.create(config, given.run_name, preset)
    print_message(f"Run {run.name} in {run.path}")
    return run, False


def _probe(config: RunConfig, runs_dir: Path) -> int:
    from ...core.before.probes import run_probe

    print_message("Taking a few steps to measure their memory; nothing is kept of them but what they prepare.")
    probe = run_probe(config, runs_dir)
    taken = f"{probe.steps} steps on {probe.device}, {probe.rolled} with a rollout"
    off = "" if probe.estimated_mib is None else f" The estimate was {off_by(probe.estimated_mib, probe.mib)}."
    print_message(
        f"A step takes {size(probe.mib * 2**20)} ({size(probe.peak_mib * 2**20)} at the peak; {taken}). Opening the model and encoding took "
        f"{size(probe.opening_mib * 2**20)} at most.{off} Estimates of runs like this are now what was measured."
    )
    return DONE


def _resume(given: argparse.Namespace) -> int | tuple[RunDir, bool]:
    extra = [name for name in ("preset", "config", "tier", "level", "run_name") if getattr(given, name) is not None]
    extra += ["probe"] if given.probe else []
    extra += list(changes_of(given))
    if extra:
        raise ConfigError([
            Fault(f"--resume {given.resume}: a run goes on with its own config, so {', '.join(extra)} cannot be given; start a new run for that.")
        ])  # fmt: skip
    store = RunStore(given.runs_dir)
    run = store.get(given.resume)
    summary = store.summary(run)
    if summary.alive:
        raise RunError(
            f"Run {run.name} is running already. Follow it with `rollout-studio runs show`, or stop it first."
        )
    if summary.last_checkpoint is None:
        raise RunError(f"Run {run.name} has no checkpoint to go on from. Start it anew under another name.")
    config = config_from_flat(run.read_config())
    if given.dry_run:
        print(json.dumps(config_to_flat(config), indent=2, ensure_ascii=False))
        print_differences(config)
        print_message(f"Dry run: {run.name} would go on from step {summary.last_checkpoint}; nothing was trained.")
        return DONE
    print_message(f"Run {run.name} in {run.path}, from step {summary.last_checkpoint}")
    return run, True


def _follow(run: RunDir, resume: bool) -> int:
    from ...core.train.interrupt import Interrupt
    from ...core.train.launch import launch, needs_launch  # import torch: seconds
    from ...core.train.loop import train

    start = launch if needs_launch(run) else train
    if start is train:
        use_all_cores()
    progress = Progress(sys.stderr)
    try:
        with Interrupt(leave=os._exit) as interrupt:
            return start(run, resume=resume, listen=progress, interrupt=interrupt)
    finally:
        progress.close()
