"""The controls of a run as cards: what each is for, how it would be trained, whether it can be queued. What they are is `core/before/controls.py`."""

from collections.abc import Sequence

from ....core.before.controls import MEANING, TITLES, Kind, control, controls_of, measured, why_not
from ....core.config import ConfigError, config_from_flat
from ....core.runs.errors import RunError
from ....core.runs.folder import RunDir
from ....core.runs.rows import RunSummary
from ...parts.words import text
from .sides import state_words


def control_card(
    kind: Kind, subject: RunSummary, runs: Sequence[RunSummary], reading: bool = False
) -> tuple[str, str, bool]:
    """(what stands on the card, words of its button or "" for none, whether it may be pressed). `reading`: the run's events are not all read yet."""
    there = controls_of(subject, runs).get(kind)
    head = f"<b>{text(TITLES[kind])}</b><p>{text(MEANING[kind])}</p>"
    if there is not None and there.state not in ("failed", "crashed"):
        steps = f", step {there.step} of {there.total_steps}" if there.alive else ""
        words = state_words(there)
        return f'{head}<p class="rs-quiet">{text(there.name)}: {text(words + steps)}.</p>', "", False
    if reading and kind == "plain-time":  # it needs all of them
        return (
            f'{head}<p class="rs-quiet">The steps of {text(subject.name)} are being read.</p>',
            "Queue this control",
            False,
        )
    try:
        config = config_from_flat(RunDir(subject.path).read_config())
        plain = measured(subject) if kind == "plain-time" else None
        problem = why_not(kind, config, plain)
        how = control(kind, config, plain).how if problem is None else problem
    except (RunError, ConfigError) as error:
        problem = how = str(error)
    again = f" {there.name} {there.state}." if there is not None else ""
    return (
        f'{head}<p class="rs-quiet">{text(how + again)}</p>',
        "Queue this control" if there is None else "Queue it again",
        problem is None,
    )
