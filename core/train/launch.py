"""A run of several processes on this computer: torch's elastic agent (what torchrun is) starts them, and starts them again after a crash.

The process that calls `launch` owns the run: it holds the lock, hears signals and hands them on, and follows the events for whoever listens.
"""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from .. import platform_calls
from ..config import RunConfig, read_config
from ..runs.folder import RunDir
from ..runs.journal import Journal
from .interrupt import Interrupt, StopNow
from .outcome import CRASHED, PREEMPTED

RANK = ("-m", "rollout_studio.core.train.rank")
PATIENT = {"read_timeout": 600, "heartbeat_timeout": 600, "keep_alive_interval": 60}
"""Seconds. There is one computer, which does not get lost; on a busy one the usual 5 to 60 s may pass without a sign of life."""
EVERY_S = 0.1  # how often events and signals are looked at


def needs_launch(run: RunDir) -> bool:
    """Whether this process is to start the run's processes: there are several, and no launcher has started it as one of them."""
    return int(run.read_config().get("num_processes", 1)) > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1


def launch(
    run: RunDir,
    *,
    resume: bool = False,
    listen: Callable[[dict[str, Any]], None] | None = None,
    interrupt: Interrupt | None = None,
) -> int:
    """Train a run in its `num_processes` processes; arguments and exit code as of `loop.train`.

    Raises: RunError when another process trains this run.
    """
    config = read_config(run.config_path)
    listening = Interrupt() if interrupt is None else contextlib.nullcontext(interrupt)
    folder = tempfile.TemporaryDirectory(prefix="rollout-studio-ranks-", ignore_cleanup_errors=True)
    with run.lock(), listening as signals, folder as meeting:
        agent = _Agent(run, config, Path(meeting), resume)
        agent.start()
        _attend(agent, signals, run, listen)
        return _exit_code(run, agent, signals, listen)


class _Agent(threading.Thread):
    """torch's elastic agent. In a thread of its own: in the main thread it would take the signals, and end ranks before they have saved."""

    def __init__(self, run: RunDir, config: RunConfig, meeting: Path, resume: bool) -> None:
        super().__init__(name="elastic agent", daemon=True)
        self.config, self.meeting, self.error = config, meeting, None
        self._arguments = [*RANK, str(run.path), str(meeting), *(["--resume"] if resume else [])]

    def run(self) -> None:
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        count = self.config.training.num_processes
        _divide_cores(count)
        how = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=self.meeting.name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            rdzv_configs=PATIENT,
            max_restarts=self.config.training.max_restarts,
        )
        try:
            elastic_launch(how, sys.executable)(*self._arguments)
        except Exception as error:  # noqa: BLE001 - reported at the end of the run
            self.error = error

    def code(self) -> int | None:
        """The exit code of the run that rank 0 left; None where it could not."""
        path = self.meeting / "code"
        return int(path.read_text(encoding="ascii")) if path.exists() else None

    def hand_on(self, told: set[int]) -> None:
        """Ask every rank that hears signals, and was not `told` yet, to end."""
        for path in self.meeting.glob("*.pid"):
            words = path.read_text(encoding="ascii")
            if words and (pid := int(words)) not in told:
                told.add(pid)
                platform_calls.ask_to_end(pid)


def _divide_cores(count: int) -> None:
    """For the processes that are started from here: each its share of the cores, unless OMP_NUM_THREADS says otherwise."""
    if not os.environ.get("OMP_NUM_THREADS"):
        cores = psutil.cpu_count(logical=False) or 1
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // count))
    if platform_calls.WINDOWS:
        os.environ.setdefault("USE_LIBUV", "0")  # torch's builds for Windows have none, and its store asks for it


def _attend(agent: _Agent, signals: Interrupt, run: RunDir, listen: Callable[[dict[str, Any]], None] | None) -> None:
    """Until the agent ends: pass on events and signals."""
    told: set[int] = set()
    offset = run.events()[1] if run.events_path.exists() else 0
    while True:
        try:
            is_over = not agent.is_alive()
            offset = _tell(run, offset, listen)
            if is_over:
                return
            if signals.is_requested:
                agent.hand_on(told)
            agent.join(EVERY_S)
        except StopNow:
            told.clear()  # the second signal, for all of them


def _tell(run: RunDir, offset: int, listen: Callable[[dict[str, Any]], None] | None) -> int:
    events, offset = run.events(offset)
    if listen is not None:
        for event in events:
            listen(event)
    return offset


def _exit_code(run: RunDir, agent: _Agent, signals: Interrupt, listen: Callable[[dict[str, Any]], None] | None) -> int:
    """The run's exit code; where rank 0 could not say how it ended, this process writes the end."""
    code = agent.code()
    if code is not None:
        return code
    journal, state = Journal(run, listen), run.read_state()
    step, last = state.get("step"), run.last_checkpoint()
    way_on = "retry it from the start" if last is None else f"resume goes on from step {last}"
    count, restarts = agent.config.training.num_processes, agent.config.training.max_restarts
    if signals.is_requested:
        code, ended, message = PREEMPTED, "stopped", f"{signals.name}: ended before anything was saved; {way_on}."
    else:
        code, ended = CRASHED, "failed"
        message = f"The {count} processes of this run have ended: one of them was killed or crashed ({agent.error})."
        remedy = f"See log.txt for how it ended: {way_on}. max_restarts (now {restarts}) starts them again by itself."
        journal.emit("error", message=message, remedy=remedy, traceback=str(agent.error))
    journal.emit("end", state=ended, step=step, message=message, memory_mib=None, expected_mib=None)
    journal.state(state=ended, step=step, message=message)
    return code
