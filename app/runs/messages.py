"""What one run reports: what became of the commands sent to it, why it failed, its warnings."""

from collections.abc import Sequence

from ...core.runs.commands import Command
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, number
from ..parts.words import duration, text
from .buttons import COMMANDS

_LAST_LINES = 12  # of the log: a message and the last lines of a traceback


def requests_card(run: RunSummary, log: RunLog, pending: Sequence[Command]) -> str:
    """What became of the commands sent to a live run, from the button to the result."""
    if not run.alive:
        return ""
    lines = [
        f"<b>{text(COMMANDS[command.name][0])}</b>: sent; takes effect {'when the current step is over' if command.name in ('sample', 'drift') else 'at once'}."
        for command in pending
        if command.name in COMMANDS and "request" not in command.args  # a drift preview is shown on the Drift tab
    ]
    if log.doing is not None:
        phase = log.phase if log.phase is not None else {}
        done, total = phase.get("done"), phase.get("total")
        count = f", {done} of {total} done" if isinstance(done, int) and isinstance(total, int) and total > 1 else ""
        lines.append(f"<b>{COMMANDS[log.doing['name']][0]}</b>: in progress{count}.")
    if log.answered is not None:
        command, event = log.answered
        words = COMMANDS[command["name"]][0]
        took = number(event.get("time")) - number(command.get("time"))
        if event["event"] == "warning":
            lines.append(f"<b>{words}</b>: did not work. {text(event.get('message', ''))}")
        else:
            where = (
                ""
                if command["name"] == "save"
                else " They are on Samples and drift."
                if command["name"] == "sample"
                else " It is on Samples and drift."
            )
            lines.append(f"<b>{words}</b>: done at step {text(event.get('step'))}, after {duration(took)}.{where}")
    return f'<div class="rs-requests" role="status">{"<br>".join(lines)}</div>' if lines else ""


def _more(run: RunSummary) -> str:
    """What is in every message of an end that nobody wanted: the end of the log, and what to do when the remedy does not help."""
    end = RunDir(run.path).log_tail(_LAST_LINES, 4000).strip()
    log = (
        f"<details open><summary>The end of the log</summary><pre class='rs-log'>{text(end)}</pre></details>"
        if end
        else ""
    )
    return f"<p>If it stays: <b>Report a problem</b> packs what helps to mend it into a file that you can read first; nothing is sent.</p>{log}"


def messages(run: RunSummary, log: RunLog, stacks: str = "") -> str:
    """Why it failed and what to try; and its warnings. `stacks`: what a process that hangs is doing."""
    parts = []
    if stacks:
        parts.append(
            f'<details class="rs-card rs-mild"><summary>What its process is doing, for a bug report</summary><pre class="rs-log">{text(stacks)}</pre></details>'
        )
    if log.error is not None:
        trace = log.error.get("traceback")
        details = (
            f"<details><summary>Details for a bug report</summary><pre class='rs-log'>{text(trace)}</pre></details>"
            if trace
            else ""
        )
        parts.append(
            f'<div class="rs-card rs-bad" role="alert"><h3>{text(log.error.get("message", ""))}</h3>'
            f"<p><b>What to try:</b> {text(log.error.get('remedy') or 'see the end of the log')}</p>{_more(run)}{details}</div>"
        )
    elif run.message and run.state in ("failed", "crashed"):
        parts.append(f'<div class="rs-card rs-bad" role="alert"><h3>{text(run.message)}</h3>{_more(run)}</div>')
    if log.warnings:
        different = {(event.get("message"), event.get("remedy")): None for event in log.warnings}
        items = "".join(
            f'<li>{text(message)} <span class="rs-quiet">{text(remedy or "")}</span></li>'
            for message, remedy in different
        )
        parts.append(
            f'<details class="rs-card rs-mild" open><summary>{len(different)} remark{"s" if len(different) > 1 else ""} of the trainer</summary><ul>{items}</ul></details>'
        )
    return "".join(parts)
