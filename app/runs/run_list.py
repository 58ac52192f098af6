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


def run_choices(runs: list[RunSummary], waiting: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(what stands in the list, name) of each run. `waiting`: those in the queue, the next one first."""
    return [(_row(run, waiting), run.name) for run in runs]


def _row(run: RunSummary, waiting: Sequence[str]) -> str:
    # Speed and time left are in the table above: here they would draw a long list anew with each step.
    steps = "" if not run.total_steps else f" · {0 if run.step is None else run.step} of {run.total_steps}"
    place = f", number {waiting.index(run.name) + 1}" if run.name in waiting else ""
    tags = "".join(f" · #{tag}" for tag in run.tags)
    hangs = ", no heartbeat" if run.stalled is not None else ""
    return f"{run.name}  ·  {STATE_WORDS[run.state]}{hangs}{place}{steps}{tags}"


def storage_card(problem: str | None) -> str:
    """What is wrong with the runs folder."""
    return "" if problem is None else f'<div class="rs-card rs-bad" role="alert"><p>{text(problem)}</p></div>'
