"""The process that trains a run: started here, detached; it outlives whoever started it."""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .. import platform_calls
from ..sizes import size
from .errors import RunError
from .folder import RunDir
from .json_files import dump

WORKER = (sys.executable, "-m", "rollout_studio.core.train.worker")

START_GRACE_S = 10.0
"""How long a worker may take until its first heartbeat."""
_ROOM_TO_START = 1 << 20  # bytes that must be free for a worker to be started

_children: list[subprocess.Popen] = []  # started by this process, polled now and then so that none stays a zombie
_children_lock = threading.Lock()


def adopt(child: subprocess.Popen) -> None:
    """Count a process that was started detached among those that `reap` polls."""
    with _children_lock:
        _children.append(child)


def reap() -> None:
    """Let no ended process that was started here stay a zombie."""
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


def start_worker(run: RunDir, resume: bool, worker: Sequence[str]) -> int:
    """Start the worker of a run that may be started; returns its pid.

    Args:
        worker: the command; the run's folder, and `--resume` where wanted, are appended to it.

    Raises: RunError as `check_startable` does, and when it cannot be started; OSError when the disk is as good as full.
    """
    check_startable(run, resume)
    free = platform_calls.free_bytes(run.path.parent)
    if free < _ROOM_TO_START:
        raise OSError(28, f"only {size(free)} are free, too little to start run {run.name}")
    before = run.read_state()
    cwd = Path(before.get("cwd", Path.cwd()))
    if not cwd.is_dir():
        raise RunError(
            f"Run {run.name!r} was made in {cwd}, which is gone; its relative paths would not be found. Make that folder again."
        )
    run.forget_commands()
    run.write_state(
        state="starting", message=None, step=run.last_checkpoint() if resume else 0, started=round(time.time(), 3)
    )
    command = [*worker, str(run.path), *(["--resume"] if resume else [])]
    try:
        child = platform_calls.start_detached(
            command, run.log_path, cwd=cwd, extra_env=platform_calls.worker_environment()
        )
    except OSError as error:
        run.write_state(state="failed", message=f"The worker could not be started: {error}")
        raise RunError(f"The worker of run {run.name!r} could not be started: {error}") from error
    who = platform_calls.identity(child.pid)
    adopt(child)
    platform_calls.write_atomically(run.process_path, dump(who).encode())
    return child.pid


def is_half_started(run: RunDir) -> bool:
    """Whether a run's state says that it starts and no process of it is known. Of a run that still waits in the queue: whoever started it was
    killed in the middle of that; its worker may be there and not have said so yet (`never_began`)."""
    return run.read_state()["state"] == "starting" and run.owner() is None


def never_began(run: RunDir) -> bool:
    """Whether a half started run has no worker: one gives its first sign of life before it imports anything large."""
    return abs(time.time() - run.read_state().get("updated", 0.0)) > START_GRACE_S


def check_startable(run: RunDir, resume: bool) -> None:
    """Raises RunError, with the way on, for a run that is alive, has trained already, or has nothing to resume from."""
    owner = run.owner()
    if owner is not None:
        raise RunError(f"Run {run.name!r} is already running (process {owner['pid']}). Follow it, or stop it first.")
    state = run.read_state()["state"]
    run.read_config()
    if resume and run.last_checkpoint() is None:
        raise RunError(f"Run {run.name!r} has no checkpoint to go on from. Clone it and start the clone.")
    if not resume and run.events_path.exists():
        remedy = (
            "Resume it, or clone it and start the clone."
            if run.last_checkpoint() is not None
            else "Clone it and start the clone."
        )
        raise RunError(f"Run {run.name!r} has already trained ({state}). {remedy}")
