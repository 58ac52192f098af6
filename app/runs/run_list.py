"""The list of runs: what each line says of a run, and what is wrong with the folder that holds them."""

from collections.abc import Sequence

from ...core.runs.rows import RunSummary
from ..parts.words import text

STATE_WORDS = {
    "created": "not started",
    "queued": "waiting",
    "starting": "starting",
    "running": "training",
    "paused": "paused",
    "stopping": "stopping",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "crashed": "crashed",
}


def run_choices(runs: list[RunSummary], waiting: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(what stands in the list, name) of each run. `waiting`: those in the queue, the next one first."""
    return [(_row(run, waiting), run.name) for run in runs]


def _row(run: RunSummary, waiting: Sequence[str]) -> str:
    steps = "" if not run.total_steps else f" · {run.step or 0} of {run.total_steps}"
    place = f", number {waiting.index(run.name) + 1}" if run.name in waiting else ""
    return f"{run.name}  ·  {STATE_WORDS[run.state]}{place}{steps}"


def storage_card(problem: str | None) -> str:
    """What is wrong with the runs folder."""
    return "" if problem is None else f'<div class="rs-card rs-bad" role="alert"><p>{text(problem)}</p></div>'
