"""What a comparison says, in words with the uncertainty, and the table of results. Nothing is ranked."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path

from ....core.before.controls import TITLES
from ....core.look.drift.comparison import Change, Verdict, against
from ....core.look.drift.files import read_report
from ....core.look.drift.report import ReportError
from ....core.look.drift.words import AGAINST
from ....core.runs.rows import RunSummary
from ....core.runs.run_log import RunLog
from ...parts.words import duration, quantity, text
from ..shared import percent
from .drawings import key
from .sides import NEAR, Axis, Side, shared_moment, state_words

_SEEDS_NOTE = (
    "The uncertainties are 95 % intervals over the pictures and noises measured. How much luck is in a training they do not say: for that, "
    "train both again with another seed."
)

_File = tuple[Path, int, int]
"""A report with its time of change (ns) and size (bytes), by which a new version of it is noticed."""


@functools.lru_cache(maxsize=64)
def _against(mine: _File, other: _File) -> Verdict | str:
    """`against` of two report files. It draws thousands of samples, so that the result is cached."""
    return against(read_report(mine[0]), read_report(other[0]))


def _file(side: Side, step: int) -> _File:
    path = (side.run.path / str(side.log.drifts[step].get("path", ""))).resolve()
    if not path.is_relative_to(side.run.path.resolve()):
        raise ReportError(f"the report of {side.name} lies outside its run", "Measure its drift anew.")
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


def set_against(mine: Side, other: Side, axis: Axis) -> tuple[str, Verdict | None]:
    """What the drift reports of two runs say about each other at the same moment, in a sentence; and the finding itself."""
    at = shared_moment(mine, other, lambda side: sorted(side.log.drifts), axis)
    names = f"{mine.name} against {other.name}"
    if at is None:
        remedy = (
            "look by seconds, or let both measure every so many steps (drift_step_interval)"
            if axis == "steps" else "look by steps, queue the control of equal time, or let both measure every so many steps (drift_step_interval)"
        )  # fmt: skip
        return (
            f"{names}: no drift reports at the same {'step' if axis == 'steps' else 'time'} after training began; {remedy}.",
            None,
        )
    try:
        found = _against(*(_file(side, step) for side, step in zip((mine, other), at, strict=True)))
    except (OSError, ReportError, UnicodeDecodeError) as error:
        return f"{names}: a report cannot be read ({error}).", None
    if axis == "steps":
        when = f"both at step {at[0]}"
    else:
        times = [duration(side.moment(step, axis)) for side, step in zip((mine, other), at, strict=True)]
        when = f"at step {at[0]} after {times[0]} and step {at[1]} after {times[1]} of training"
    if isinstance(found, str):
        return f"{names}, {when}: {found}.", None
    seen = "held-out pictures" if found.role == "held-out" else "training pictures"
    return (
        f"{names}, {when}, on {seen}: drift {_difference(found.drift)}, clean loss {_difference(found.loss)}. {AGAINST[found.kind]}",
        found,
    )


def _difference(change: Change) -> str:
    if change.sign == 0:
        unknown = change.low is None or change.high is None
        return (
            f"{change.percent:+.1f} % (one sample: no uncertainty known)"
            if unknown
            else f"no measurable difference ({percent(change)})"
        )
    return f"{'lower' if change.sign < 0 else 'higher'} by {abs(change.percent):.1f} % ± {(change.high - change.low) / 2:.1f}"


def comparison(all_sides: Sequence[Side], axis: Axis) -> str:
    """The findings in words, and the table of results."""
    first, others = all_sides[0], all_sides[1:]
    sentences = [
        f"<li>{text(sentence)}</li>"
        for other in others
        for sentence in (set_against(first, other, axis)[0], *_missed_time(first, other))
    ]
    return (
        f'<div class="rs-card"><h3>What the comparison says</h3><ul class="rs-remarks">{"".join(sentences)}</ul><p class="rs-quiet">{text(_SEEDS_NOTE)}</p>'
        f"{results_table(all_sides)}</div>"
    )


def _missed_time(first: Side, other: Side) -> list[str]:
    """A warning when a control of equal time has not taken the time that it was meant to take."""
    mine, theirs = first.end("seconds"), other.end("seconds")
    meant = other.run.control == "plain-time" and other.run.control_of == first.name and other.run.state == "done"
    if not meant or not mine > 0 or abs(theirs / mine - 1) <= NEAR:
        return []
    warning = (
        f"{other.name} was to train as long as {first.name}, {duration(mine)}, but took {duration(theirs)}: the machine was "
        f"{'busier' if theirs > mine else 'less busy'} than before, or a plain step had only been estimated. Go by its steps, not by its clock."
    )
    return [warning]


def results_table(all_sides: Sequence[Side]) -> str:
    """Where each run ended: steps, seconds, drift and clean loss with their change against the model before training."""
    rows = []
    for side in all_sides:
        steps = side.series.steps[-1] if len(side.series) else 0
        last = next((reading for reading in reversed(side.readings) if reading.step > 0), None)
        known = last is not None
        at = f' <span class="rs-quiet">step {last.step}</span>' if known and last.step != steps else ""
        kind = (
            f'<span class="rs-chip{" rs-is-failed" if last.kind == "blur" else ""}">{text(last.kind)}</span>'
            if known and last.kind
            else "–"
        )
        rows.append(
            f"<tr><th scope='row'>{key(side)}{text(side.name)}<span class='rs-quiet'>{text(_role(side.run))}</span></th>"
            f"<td>{steps}</td><td>{duration(side.end('seconds'))}</td><td>{_speed(side.log)}</td>"
            f"<td>{quantity(last.drift) if known else '–'}{at}</td><td>{percent(last.drift_change) if known else '–'}</td>"
            f"<td>{quantity(last.clean_loss) if known else '–'}</td><td>{percent(last.loss_change) if known else '–'}</td><td>{kind}</td></tr>"
        )
    return (
        '<div class="rs-scroll" tabindex="0" aria-label="Results of the runs"><table class="rs-table rs-numbers"><thead><tr><th scope="col">run</th>'
        '<th scope="col">steps</th><th scope="col">training time</th><th scope="col">a step</th><th scope="col">drift</th>'
        '<th scope="col">against before</th><th scope="col">clean loss</th><th scope="col">against before</th><th scope="col">together</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="rs-quiet">Each at its own last drift report; “before” is the model before training. Training time is that of the training '
        "steps: loading, samples, drift reports and saving are left out.</p>"
    )


def _speed(log: RunLog) -> str:
    return "–" if math.isnan(log.step_s) else f"{quantity(log.step_s)} s"


def _role(run: RunSummary) -> str:
    words = state_words(run)
    return f"{TITLES[run.control]} · {words}" if run.control in TITLES else words
