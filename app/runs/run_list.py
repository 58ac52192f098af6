"""The list of runs: what each line says of a run, and what is wrong with the folder that holds them."""

import math
from collections.abc import Callable, Sequence

from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, number
from ..parts.words import duration, quantity, text

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


FIND = (
    '<input type="search" aria-label="Find a run by name, tag or state" placeholder="Find a run by name, tag or state">'
)
# In the browser: the list is there anyway, and nobody waits for a server while typing.
FIND_SCRIPT = """
const field = element.querySelector('input');
const show = () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll('#run-picker label'))
    row.style.display = words.every((word) => row.textContent.toLowerCase().includes(word)) ? '' : 'none';
};
field.addEventListener('input', show);
const list = document.querySelector('#run-picker');
if (list) new MutationObserver(show).observe(list, { childList: true, subtree: true, characterData: true });
"""


def run_choices(
    runs: list[RunSummary], waiting: Sequence[str] = (), log: Callable[[RunSummary], RunLog] | None = None
) -> list[tuple[str, str]]:
    """(what stands in the list, name) of each run.

    Args:
        waiting: those in the queue, the next one first. log: where the speed of a live run is read; None = it is not told.
    """
    return [(_row(run, waiting, log), run.name) for run in runs]


def _row(run: RunSummary, waiting: Sequence[str], log: Callable[[RunSummary], RunLog] | None) -> str:
    steps = "" if not run.total_steps else f" · {0 if run.step is None else run.step} of {run.total_steps}"
    place = f", number {waiting.index(run.name) + 1}" if run.name in waiting else ""
    tags = "".join(f" · #{tag}" for tag in run.tags)
    pace = _pace(log(run)) if log is not None and run.alive else ""
    return f"{run.name}  ·  {STATE_WORDS[run.state]}{place}{steps}{pace}{tags}"


def _pace(log: RunLog) -> str:
    """ " · 0.4 s a step · 3 min left", coarse enough that the list is not drawn anew with each step."""
    if log.last_step is None or math.isnan(log.step_s):
        return ""
    left = number(log.last_step.get("eta_s"))
    left = left if left < 60 else 60 * round(left / 60)
    return f" · {quantity(log.step_s, 1)} s a step · {duration(left)} left"


def storage_card(problem: str | None) -> str:
    """What is wrong with the runs folder."""
    return "" if problem is None else f'<div class="rs-card rs-bad" role="alert"><p>{text(problem)}</p></div>'
