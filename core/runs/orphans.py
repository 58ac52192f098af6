"""Runs whose process is gone though their state is a live one: how they are recognised, and what is written into their files."""

from collections.abc import Mapping
from typing import Any

from .errors import RunError
from .folder import ACTIVE_STATES, RunDir


def is_orphan(run: RunDir) -> bool:
    """Whether a run's process is gone though its state is a live one. A damaged run is not one: `list` reports what is wrong with it."""
    try:
        if run.read_state()["state"] not in ACTIVE_STATES or run.owner() is not None:
            return False
        return run.read_state()["state"] in ACTIVE_STATES  # again: it may have ended properly between the two reads
    except (RunError, OSError):
        return False


def mark_crashed(run: RunDir) -> None:
    """Write into an orphan's files that it crashed, where, and what is left of it."""
    state = run.read_state()
    message, step = crash_message(run, state), _last_step(run, state)
    # The state first: an event that cannot be written would be repeated again and again.
    run.write_state(state="crashed", step=step, message=message)
    run.emit("end", state="crashed", step=step, message=message)
    run.process_path.unlink(missing_ok=True)


def _last_step(run: RunDir, state: Mapping[str, Any]) -> int:
    steps = [
        event["step"] for event in run.events()[0] if event["event"] == "step" and isinstance(event.get("step"), int)
    ]
    return steps[-1] if steps else int(state.get("step") or 0)


def crash_message(run: RunDir, state: Mapping[str, Any]) -> str:
    """The message of a run that crashed: where it was, and from where it can go on."""
    last = run.last_checkpoint()
    way_on = (
        "no checkpoint yet: retry starts again"
        if last is None
        else f"last checkpoint {last}: resume goes on from there"
    )
    if state["state"] == "starting":
        tail = " ".join(run.log_tail(lines=4).split())[-300:]
        return f"The worker ended before training began ({way_on}). Its log ends: {tail or '(empty)'}"
    return f"crashed at step {_last_step(run, state)}, {way_on}"
