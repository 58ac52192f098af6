"""A Study node's work: what `rollout-studio study` does, with a node's progress and its stop.

Its runs are ordinary runs of the store, processes of their own. The study's file is kept beside its result, so that the Runs tab lists it and
writes its report.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core import platform_calls
from ...core.config import config_from_flat
from ...core.config.options import ConfigError
from ...core.findings import format_findings
from ...core.names import slug
from ...core.runs.run_log import PHASES
from ...core.study.begun import STUDY_FILE
from ...core.study.expected import what_stops
from ...core.study.plan import Study, StudyError, study_of
from ...core.study.similarity import SimilarityError
from ...core.study.table import FOLDER, as_text, results, saved
from ...core.study.work import CellState, measure_done, run_study
from ..graph.values import Interrupted, NodeError
from . import fingerprints
from .context import Context
from .following import OPEN, POLL_S


def name_of(name: str, flat: Mapping[str, Any]) -> str:
    """The study's name: with a mark of the base settings, pictures and model, so that what has trained on others is never taken for it."""
    digest = hashlib.sha256(f"{config_from_flat(flat).hash()} {fingerprints.of_flat(flat)}".encode()).hexdigest()
    return f"{slug(name, 'study')[:9].rstrip('-._')}-{digest[:10]}"


def study(context: Context, written: Mapping[str, Any]) -> tuple[str, Path]:
    """Train what is left of a study, measure and compare; (the tables as text, its study.json).

    Raises: NodeError for a study that cannot be made, or of which no run was done; Interrupted, after the run that trains has saved.
    """
    store = context.store
    try:
        found = _checked(written, store.root)
        states = run_study(found, store, wait=lambda: _wait(context, found), tell=lambda told: _tell(context, told))
        if not any(state.state == "done" for state in states):
            failed = next(state for state in states if state.has_ended)
            raise NodeError(
                f"No run of the study was done; {failed.cell.run} is {failed.state}: {failed.message or 'see its log'}.",
                "Mend that, and run the graph again: the study goes on.",
            )
        measure_done(found, states, store, _in_phases(context))
        result = results(found, states, store)
    except (StudyError, SimilarityError) as error:
        raise NodeError(error.message, error.remedy) from None
    folder = store.root / FOLDER / found.name
    path = saved(result, found, folder)
    content = json.dumps(dict(written), indent=2, ensure_ascii=False) + "\n"
    platform_calls.write_atomically(folder / STUDY_FILE, content.encode())
    return as_text(result), path


def _checked(written: Mapping[str, Any], root: Path) -> Study:
    """Raises StudyError, ConfigError, and NodeError where a variant may not start."""
    try:
        found = study_of(written, "study", root, root)
    except ConfigError as error:
        raise NodeError(str(error), "Mend the variant that is named.") from None
    stopped = [f"{variant.name}: {format_findings(wrong)}" for variant, wrong in what_stops(found, root)]
    if stopped:
        raise NodeError("\n".join(stopped), "Mend that first; nothing was trained.")
    return found


def _tell(context: Context, states: list[CellState]) -> None:
    """Progress in runs, and which of them trains."""
    ended, now = sum(state.has_ended for state in states), [state for state in states if state.state == "running"]
    for state in now[:1]:
        context.trains(state.cell.run)
        step = f", step {state.step} of {state.total_steps}" if state.step is not None else ""
        context.report(ended, len(states), f"{state.cell.run}{step}")
    if not now:
        context.report(ended, len(states), f"{ended} of {len(states)} runs")


def _wait(context: Context, found: Study) -> None:
    """A moment between two looks. Raises Interrupted where a stop was requested, when the run that trains has saved and left."""
    if context.stop():
        _stop(context, [cell.run for cell in found.cells()])
        raise Interrupted
    time.sleep(POLL_S)


def _stop(context: Context, runs: list[str]) -> None:
    store, waited_for = context.store, set()
    for summary in store.list():
        if summary.name not in runs or summary.state not in OPEN:
            continue
        if summary.alive:
            store.get(summary.name).send("stop-and-save")
            waited_for.add(summary.name)
        else:
            store.dequeue(summary.name)
    while any(summary.alive for summary in store.list() if summary.name in waited_for):
        context.report(0, len(runs), "saving a checkpoint")
        time.sleep(POLL_S)


def _in_phases(context: Context) -> Callable[[str, int, int], None]:
    """A node's progress, as the parts of a study report theirs."""
    return lambda what, done, total: context.progress(done, total, PHASES.get(what, what))
