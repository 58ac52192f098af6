"""`rollout-studio study`: a table of runs from a file, trained, measured and compared."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.findings import format_findings
from ...core.platform_calls import use_all_cores
from ...core.runs.store import RunStore
from ..parts.words import duration
from .answers import BAD_CONFIG, CRASH, DONE, cost_sentence, print_message
from .flags import add_runs_dir, runs_dir
from .progress import Progress

if TYPE_CHECKING:
    from ...core.study.plan import Study
    from ...core.study.work import CellState

_LOOK_EVERY_S = 1.0


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    study = command(
        "study", _study, "Train, measure and compare a table of runs: variants x seeds, with fair controls."
    )
    study.add_argument("file", type=Path, metavar="FILE", help="the study: YAML, JSON or TOML; see docs/studies.md")
    study.add_argument(
        "--dry-run", action="store_true", help="check every variant, tell runs, cost and time; train nothing"
    )
    add_runs_dir(study)


def _study(given: argparse.Namespace) -> int:
    from ...core.study.plan import read_study  # what it reads opens pictures: other commands need not wait for that
    from ...core.study.table import FOLDER, as_text, results, saved
    from ...core.study.work import measure_done, run_study

    folder = runs_dir(given)
    study = read_study(given.file, folder)
    if not _told(study, folder):
        return BAD_CONFIG
    if given.dry_run:
        print_message("Dry run: everything above is in order; nothing was trained.")
        return DONE
    store = RunStore(given.runs_dir)
    states = run_study(study, store, wait=lambda: time.sleep(_LOOK_EVERY_S), tell=_Teller())
    progress = Progress(sys.stderr)
    try:
        measure_done(study, states, store, progress.phase, _judging)
    finally:
        progress.close()
    found = results(study, states, store)
    out = store.root / FOLDER / study.name
    print(as_text(found))
    print_message(f"{saved(found, study, out)}")
    from ..runs.study_report import write_study_report

    print_message(f"{write_study_report(found, store, out)}")
    return DONE if all(state.state == "done" for state in states) else CRASH


def _told(study: "Study", folder: Path) -> bool:
    """Print what the study consists of and takes; False where a variant may not start."""
    from ...core.study.expected import study_time, what_stops

    stopped, expected = {variant.name: wrong for variant, wrong in what_stops(study, folder)}, study_time(study, folder)
    for each in expected.variants:
        variant, took = each.variant, each.run_seconds
        if variant.name in stopped:
            print_message(f"{variant.name}:\n{format_findings(stopped[variant.name])}")
        steps = "as many steps as take its variant's time" if each.steps is None else f"{each.steps} steps"
        seconds = "time not known" if took is None else f"about {duration(took)} a run"
        print_message(f"{variant.name}: {steps}, {seconds}. {cost_sentence(study.config(variant, study.seeds[0]))}")
    unknown = expected.unknown
    more = f", and {unknown} variants whose time is not known before they have run here" if unknown else ""
    print_message(
        f"{expected.runs} runs: {len(study.variants)} variants, seeds {', '.join(map(str, study.seeds))}. Their steps take about "
        f"{duration(expected.seconds)}{more}; "
        "opening models, samples and measuring come on top."
    )
    return not stopped


class _Teller:
    """A line whenever a run begins or ends, and the step of what runs every half minute."""

    EVERY_S = 30.0

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._last = time.monotonic()

    def __call__(self, states: "list[CellState]") -> None:
        ended = sum(state.has_ended for state in states)
        due = time.monotonic() - self._last >= self.EVERY_S
        for state in states:
            name, before = state.cell.run, self._states.get(state.cell.run)
            moved = before != state.state and (state.state == "running" or state.has_ended)
            if moved or (due and state.state == "running"):
                self._last = time.monotonic()
                step = f" at step {state.step} of {state.total_steps}" if state.step and not state.has_ended else ""
                why = f": {state.message}" if state.message and state.state not in ("running", "done") else ""
                print_message(f"[{ended}/{len(states)}] {name}: {state.state}{step}{why}")
            self._states[name] = state.state


def _judging(name: str) -> None:
    use_all_cores()
    print_message(f"Drawing and judging pictures of {name}")
