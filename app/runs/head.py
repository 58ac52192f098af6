"""The head of one run: its name, state and progress, and the numbers of the moment."""

import math
import time
from collections.abc import Mapping
from typing import Any

from ...core.before.controls import TITLES
from ...core.runs.folder import ACTIVE_STATES, RunDir
from ...core.runs.heartbeat import SILENT_S, has_heartbeat
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import PHASES, RunLog, Series, memory_words, number
from ...core.sizes import size
from ..parts.words import duration, quantity, text
from .run_list import STATE_WORDS


def hangs(run: RunSummary) -> str | None:
    """What is the case where a run's process is there and does not go on; None: it does. For a run without a heartbeat (one of an older version) the time
    without an event counts."""
    if run.stalled is not None:
        return run.stalled
    directory = RunDir(run.path)
    if not run.alive or run.state not in ("running", "stopping") or has_heartbeat(directory):
        return None
    try:
        silent = time.time() - directory.events_path.stat().st_mtime
    except FileNotFoundError:
        return None
    return (
        f"No news from it for {duration(silent // 10 * 10)}. It may be busy with something long."
        if silent > SILENT_S
        else None
    )


def head(run: RunSummary, log: RunLog, hung: str | None, disk: int | None = None) -> str:
    """Name, state, progress, and the numbers of the moment."""
    step = log.last_step["step"] if log.last_step is not None and run.alive else run.step
    step = step if isinstance(step, int) else 0
    total = run.total_steps or 0
    share = min(100.0, 100 * step / total) if total else 0.0
    if run.state == "done":
        share = 100.0
    activity = _activity(run, log)
    device = (log.start or {}).get("device", run.device)
    facts: list[tuple[str, str]] = []
    last = log.last_step
    if last is not None:
        series = log.series.frozen()
        if run.alive and run.state in ACTIVE_STATES:  # its end is reported a moment before its process is gone
            facts.append(("time left", time_left(last)))
        facts.append(("trained for", duration(series.clock()[-1])))
        if not math.isnan(log.step_s):
            facts.append(("speed", f"{quantity(log.step_s)} s a step"))
        facts.append(("loss, last step", quantity(number(last.get("loss")))))
        facts += _rollout_facts(series, last, run.alive)
        memory = number(last.get("memory_mib"))
        if not math.isnan(memory):
            facts.append(("memory, peak" if str(device).startswith("cuda") else "memory in use", size(memory * 2**20)))
    if run.last_checkpoint is not None:
        facts.append(("last checkpoint", f"step {run.last_checkpoint}"))
    if disk is not None:
        facts.append(("on the disk", size(disk)))
    facts.append(("device", str(device)))
    controls = (
        f'<p class="rs-quiet">Control of <b>{text(run.control_of)}</b>: {text(TITLES.get(run.control, run.control))}.</p>'
        if run.control_of
        else ""
    )
    shown = "".join(f"<div><span>{text(name)}</span><b>{text(value)}</b></div>" for name, value in facts)
    told = [words for words in (how_far_off(log), memory_words(log.expected_mib, log.peak_mib)) if words]
    accuracy = (
        f'<p class="rs-quiet" data-testid="estimate-off">{text(" ".join(told))}</p>' if not run.alive and told else ""
    )
    way_on = (
        "there is no checkpoint yet, so it would begin again"
        if run.last_checkpoint is None
        else f"it can then go on from its checkpoint of step {run.last_checkpoint}"
    )
    stalled = (
        f'<p class="rs-warn" role="alert" data-testid="stalled">{text(hung)} If it does not come back, end it with <b>Force stop</b>: {way_on}.</p>'
        if hung is not None
        else ""
    )
    return (
        f'<div class="rs-run"><div class="rs-run-name"><h2>{text(run.name)}</h2><span class="rs-chip rs-is-{text(run.state)}" data-testid="state">'
        f"{text(STATE_WORDS[run.state])}</span></div>"
        f'<div class="rs-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{step}" aria-label="training steps">'
        f'<i style="width:{share:.1f}%"></i></div>'
        f'<div class="rs-quiet"><span data-testid="progress">step {step} of {total}</span>{" · " + text(activity) if activity else ""}</div>'
        f'<div class="rs-facts">{shown}</div>{accuracy}{controls}{stalled}</div>'
    )


def _rollout_facts(series: Series, last: Mapping[str, Any], alive: bool) -> list[tuple[str, str]]:
    """The chance of a rollout at the last step, and which share of all rows trained so far was rolled out."""
    facts = []
    chance = number(last.get("effective_probability"))
    if chance > 0:
        facts.append((f"rollout chance {'now' if alive else 'at the end'}", f"{100 * chance:.0f} %"))
    for column, words in (("rolled_rows", "rows rolled out"), ("source_noise_rows", "rows at the source's noise")):
        share = series.mean(column) / series.mean("rows") if series.mean("rows") > 0 else math.nan
        if share > 0 or (chance > 0 and column == "rolled_rows" and share == 0):
            facts.append((words, f"{100 * share:.1f} %"))
    return facts


def _activity(run: RunSummary, log: RunLog) -> str:
    if log.behind:
        return "reading what it has written so far"
    if run.state == "queued":
        return "waits for its device; starts by itself"
    if not run.alive:
        return ""
    if run.state == "paused" and run.message:
        # it waits for room on its disk, and goes on by itself; the disk may be too full for an event
        return run.message
    if run.state == "paused":
        return "paused; press Go on"
    if log.phase is not None:
        done, total = log.phase.get("done"), log.phase.get("total")
        count = f" ({done} of {total})" if isinstance(done, int) and isinstance(total, int) and total > 1 else ""
        name = str(log.phase.get("name", ""))
        return PHASES.get(name, name) + count
    return "loading the libraries and the model" if log.last_step is None else ""


def time_left(step: Mapping[str, Any]) -> str:
    """ "9 min 48 s", and how much of it samples, drift reports and checkpoints take, as in the newest step event."""
    beside = number(step.get("beside_s"))
    apart = f", {duration(beside)} of it for samples, drift and saving" if beside >= 1 else ""
    return duration(number(step.get("eta_s"))) + apart


def how_far_off(log: RunLog) -> str:
    """What the training steps were estimated to take before the start, what they took, and how far that is off; "" where there is no estimate."""
    if log.expected is None or not len(log.series):
        return ""
    (low, likely, high), steps = log.expected
    series = log.series.frozen()
    trained, took = series.steps[-1], series.clock()[-1]
    if not (trained > 0 and took > 0):
        return ""
    low, likely, high = (each * trained / steps for each in (low, likely, high))
    off = took / likely - 1
    exact = (
        "as estimated"
        if abs(off) < 0.005
        else f"{100 * abs(off):.0f} % {'longer' if off > 0 else 'less'} than that"
        if off < 1
        else f"{took / likely:.1f} times that"
    )
    where = "within the range" if low <= took <= high else "outside the range"
    return (
        f"Before the start {duration(low)} to {duration(high)}, most likely {duration(likely)}, were estimated for these {trained} training steps. "
        f"They took {duration(took)}: {exact}, {where}."
    )
