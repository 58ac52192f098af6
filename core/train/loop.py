"""The training loop: a run's folder in, a trained adapter out. `docs/training.md` says the same in words.

    session     model, pictures, adapter, optimizer       step       one optimizer step
    listener    signals, urgent commands                  window     what a step draws
    keeper      checkpoints, export                       losses     what a step minimises
    viewer      samples, drift, previews                  resuming   going on from a checkpoint

Every random draw is a function of (seed, step, stream), so a run that is stopped and resumed is bit for bit the run that was not.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from ..adapters.header import ExportError
from ..before.estimate import expected_memory, known_facts, time_estimate
from ..config import RunConfig, read_config
from ..families.devices import resolve_device
from ..randomness import kept_random_state
from ..runs.folder import RunDir
from ..runs.heartbeat import PATIENCE_S, Heartbeat
from ..runs.journal import Journal
from .accelerator import opened_accelerator
from .between_steps import BetweenSteps
from .disk_room import DiskRoom
from .interrupt import Interrupt, StopNow
from .keeping import Keeper
from .leaving import Leaving
from .listening import Listener
from .looking import Viewer
from .outcome import DONE, PREEMPTED, Leave, agreed_end, report_elsewhere, report_end
from .processes import joined, of_this_rank
from .ranks import Ranks
from .recovery import Recovery
from .reporting import StepReporter, Timer
from .resuming import check_unchanged, find_checkpoint, restore
from .session import open_session
from .sharding import share_of
from .standing import Standing
from .status import SilentJournal, Status
from .step import Stepper


def train(
    run: RunDir,
    *,
    resume: bool = False,
    listen: Callable[[dict[str, Any]], None] | None = None,
    interrupt: Interrupt | None = None,
    is_locked: bool = False,
    heartbeat: Heartbeat | None = None,
) -> int:
    """Train a run, from its start or from its newest whole checkpoint.

    Args:
        run: its folder, with config.json.
        resume: go on; everything that decides a step must be as it was (`resuming.FREE_ON_RESUME` may differ).
        listen: called with every event, as it is written.
        interrupt: one that listens already, so that a signal from before counts, and may say how the process is left (`Interrupt.leave`); None = this
            call listens by itself.
        heartbeat: one that beats already; None = the first rank's begins here.
        is_locked: whoever started this process holds the run's lock (`launch`).

    Returns: 0 done, or stopped on request; 75 ended by a signal after a checkpoint, to be resumed; 78 the config, the
        data or the model cannot be trained; 70 anything else. The last event is `end`; before it comes `error` where
        there was one.

    The process's random state is afterwards what it was. In the main thread SIGTERM, SIGINT and SIGHUP end the run at
    the next step boundary.

    Raises: RunError when another process trains this run, or its state cannot be read.
    """
    run.read_state()  # of a newer version's folder nothing is touched
    ranks = Ranks.here()
    journal = Journal(run, listen) if ranks.is_main else SilentJournal(run)
    lock = run.lock() if ranks.is_main and not is_locked else nullcontext()
    listening = Interrupt() if interrupt is None else nullcontext(interrupt)
    with lock, listening as signals, kept_random_state(), ExitStack() as opened:
        status, config = Status(run, journal, ranks), None
        if heartbeat is not None:
            status.heartbeat = heartbeat
        elif ranks.is_main:
            opened.enter_context(status.heartbeat)
        try:
            config = read_config(run.config_path)
            _train(config, status, signals, resume, opened)
            return report_end(status, config, signals, None)
        except (Exception, StopNow) as error:  # noqa: BLE001 - reported with its traceback; the exit code says what it was
            try:
                return report_end(status, config, signals, error)
            except OSError as why:  # the folder is gone, or read-only: there is no other place to say it
                return report_elsewhere(status, error, why)


def _train(config: RunConfig, status: Status, interrupt: Interrupt, resume: bool, opened: ExitStack) -> None:
    """The whole run, in order. `opened`: closes what must be closed after the last event."""
    status.step, status.total = 0, config.training.max_train_steps
    config = of_this_rank(config, status.ranks)
    opened.enter_context(joined(config, status.ranks))
    before = find_checkpoint(status, resume, share_of(config, status.ranks))
    if before is not None:
        status.step = status.saved = before.step  # from here on an early end says where a resume goes on
        check_unchanged(before, config, status)
        if status.ranks.is_main:
            status.run.forget_after(before.step)
    is_resumed = before is not None
    _report_start(config, status, is_resumed)

    listener = Listener(status, interrupt)
    opening = status.heartbeat.during("opening the model", allowed_s=None)
    with agreed_end(status.ranks), opening, Leaving(listener):
        session = open_session(config, opened.enter_context(opened_accelerator(config, status.run)), listener)
        if before is not None:
            restore(session, before)
            status.standing = Standing.of(before.record)
    if session.shares is None:
        status.ranks.start_alike(session.parameters)
    if before is not None:
        del before  # a whole copy of weights and moments
    timer, room = Timer(listener), DiskRoom(status, interrupt)
    keeper = Keeper(status, session, room)
    if session.shares is not None:
        session.shares.answer("save", keeper.write_share)
    viewer = Viewer(status, session, room, listener, timer)
    between_steps = BetweenSteps(status, listener, room, keeper, viewer)
    recovery = Recovery(status, session, keeper, Stepper(session, status.ranks))
    reporter = StepReporter(status, session, timer)

    with agreed_end(status.ranks), session.led():
        listener.accept_saves(keeper.save_on_command)
        viewer.view_base(is_resumed)
        if is_resumed:
            viewer.view_if_due(only_missing=True)  # a run that died between its checkpoint and its pictures
    session.free_what_training_does_not_need()

    opened.enter_context(status.heartbeat.during("what lies between two steps", PATIENCE_S))
    while status.step < status.total:
        with agreed_end(status.ranks), session.led():
            between_steps.handle_all()
        before_it, done = status.step, recovery.take()
        if done is not None:
            reporter.report(done.tally, rate=done.rate, gradient_norm=done.gradient_norm, seconds=done.seconds)
        elif status.step < before_it:
            continue  # the run went back: what is due there is there
        with agreed_end(status.ranks), session.led():
            if keeper.is_checkpoint_due():
                with timer.timed("save"):
                    keeper.save()
            viewer.view_if_due()
    with agreed_end(status.ranks), session.led():
        _finish(listener, keeper, viewer)


def _report_start(config: RunConfig, status: Status, is_resumed: bool) -> None:
    device, expected_s, runs_dir = str(resolve_device(config.model.device)), None, status.run.path.parent
    # what the steps of the whole run, and one of them of memory, are estimated to take; the page compares it with what they took
    if not is_resumed:
        span = time_estimate(config, runs_dir).steps_s
        expected_s = None if span is None else [round(each, 2) for each in (span.low, span.likely, span.high)]
    memory = expected_memory(config, known_facts(config.model), runs_dir).total
    if memory is not None:
        status.expected_mib = [round(each / 2**20, 1) for each in (memory.low, memory.likely, memory.high)]
    status.journal.emit(
        "start",
        pid=os.getpid(),
        device=device,
        config_hash=config.hash(),
        total_steps=status.total,
        resumed_from=status.step if is_resumed else None,
        expected_s=expected_s,
        expected_mib=status.expected_mib,
    )
    status.journal.state(state="running", step=status.step, total_steps=status.total, message=None)


def _finish(listener: Listener, keeper: Keeper, viewer: Viewer) -> None:
    """Checkpoint, export, load check, last pictures. A failed check fails the run, but only after the pictures."""
    keeper.save()
    failed: ExportError | None = None
    try:
        keeper.export()
    except ExportError as error:
        failed = error
    viewer.view_owed_base()
    viewer.take_samples()
    viewer.measure_drift()
    if failed is not None:
        raise failed
    if listener.interrupt.is_requested:  # everything is saved: only pictures may be missing
        raise Leave(PREEMPTED, f"{listener.interrupt.name} after the last step; resume takes the last pictures again.")
    if listener.stop is not None:
        raise Leave(
            DONE, "stopped as asked after the last step; everything is saved, and resume takes the last pictures again."
        )
