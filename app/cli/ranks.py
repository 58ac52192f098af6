"""`rollout-studio train` as torchrun and `accelerate launch` start it: once for each process of a run.

Rank 0 checks everything and makes the run, as the one process otherwise does; the others train what it names.
"""

import argparse
import os
from collections.abc import Callable

from ...core.config import RunConfig, read_config
from ...core.config.options import ConfigError, Fault
from ...core.runs.folder import RunDir
from ...core.runs.store import RunStore
from .answers import DONE
from .flags import resolve

Chosen = int | tuple[RunDir, bool]


def train_as_rank(
    given: argparse.Namespace,
    choose: Callable[[argparse.Namespace], Chosen],
    follow: Callable[[RunDir, bool], int],
) -> int:
    """Train as one of several processes; the exit code.

    Args:
        choose: makes or finds the run, or gives an exit code; asked on rank 0 only. follow: trains it, with progress bars.
    """
    from ...core.train.loop import train  # imports torch: seconds
    from ...core.train.processes import joined, of_this_rank
    from ...core.train.ranks import Ranks

    ranks = Ranks.here()
    if given.dry_run or given.probe:  # nothing that several processes could share
        code = choose(given) if ranks.is_main else DONE
        return code if isinstance(code, int) else DONE
    is_again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if is_again and given.run_name is None and given.resume is None:
        raise ConfigError([
            Fault("--run-name: processes that are started again find the run by its name, so give it one, or set --max-restarts 0.")
        ])  # fmt: skip
    with joined(of_this_rank(_config(given), ranks), ranks):
        chosen: Chosen | None = None
        try:
            if ranks.is_main:
                chosen = _begun(given) if is_again else choose(given)
        finally:  # the others wait for it, whatever it is
            answer = ranks.gather(
                None if chosen is None or isinstance(chosen, int) else (str(chosen[0].path), chosen[1])
            )
        if answer[0] is None:
            return chosen if isinstance(chosen, int) else DONE
        path, resume = answer[0]
        return follow(RunDir(path), resume) if ranks.is_main else train(RunDir(path), resume=resume)


def _config(given: argparse.Namespace) -> RunConfig:
    """For the device, which must be known before the processes can meet."""
    if given.resume is not None:
        return read_config(RunStore(given.runs_dir).get(given.resume).config_path)
    return resolve(given)[0]


def _begun(given: argparse.Namespace) -> tuple[RunDir, bool]:
    """The run that the processes before these trained."""
    run = RunStore(given.runs_dir).get(given.resume if given.resume is not None else given.run_name)
    resume = run.last_checkpoint() is not None
    if not resume:
        run.forget_after(0)
    return run, resume
