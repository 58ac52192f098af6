"""What a run will take, for people: a card below Check, and a line in the side panel."""

from ...core.before.estimate import Estimate, Span
from ...core.config import RunConfig
from ...core.sizes import size
from ..parts.words import duration, quantity, text

_WHAT = {
    "process": "the process itself",
    "weights": "the model",
    "text encoders": "the text encoders, which stay",
    "training": "what is trained, with its optimizer",
    "visiting": "weights that are fetched or unpacked",
    "activations": "one step's own numbers",
    "measured": "all of it",
}


def takes_line(found: Estimate) -> str:
    """Time, memory and disk in one short line of markup."""
    return f'<p class="rs-takes" data-testid="takes"><b>Takes</b> {text(_time(found))} · {text(_memory(found))} · {text(_disk(found))}</p>'


def _time(found: Estimate) -> str:
    return (
        "a time that its first steps will show"
        if found.time.steps_s is None
        else f"{_span(found.time.steps_s)} of training"
    )


def _memory(found: Estimate) -> str:
    return "memory not known" if found.memory.total is None else f"{size(found.memory.total.likely)} of memory"


def _disk(found: Estimate) -> str:
    return "disk not known yet" if found.disk is None else f"{size(found.disk.cache + found.disk.run)} of disk"


def takes_card(found: Estimate, config: RunConfig) -> str:
    """Time, memory and disk with their ranges and where each comes from."""
    time, memory, disk = found.time, found.memory, found.disk
    steps = config.training.max_train_steps
    about_time = time.explanation
    if time.steps_s is not None:
        about_time = f"most likely {duration(time.steps_s.likely)}; {steps} steps, a plain one {duration_of_step(time.plain_step_s)}; {time.explanation}."
        about_time += (
            f" Beside its steps the last such run took {duration(time.beside_s)}."
            if time.beside_s is not None
            else " Samples, drift pictures and opening the model come on top."
        )
    about_memory = memory.explanation
    if memory.total is not None:
        parts = ", ".join(f"{_WHAT[name]} {size(count)}" for name, count in memory.parts.items())
        about_memory = f"{_range(memory.total, size)}; {memory.explanation}: {parts}."
    about_disk = found.disk_explanation
    if disk is not None:
        about_disk = f"{size(disk.run)} in the run's folder, {size(disk.cache)} of prepared pictures and captions; {found.disk_explanation}."
    cells = (
        ("Time", "not known yet" if time.steps_s is None else _span(time.steps_s), about_time),
        ("Memory", "not known" if memory.total is None else f"about {size(memory.total.likely)}", about_memory),
        ("Disk", "not known" if disk is None else f"up to {size(disk.run + disk.cache)}", about_disk),
    )
    drawn = "".join(
        f"<div><span>{text(name)}</span><b>{text(value)}</b><span>{text(_capital(about))}</span></div>"
        for name, value, about in cells
    )
    return f'<div class="rs-card rs-estimate" data-testid="estimate">{drawn}</div>'


def duration_of_step(seconds: float | None) -> str:
    """A step's time: below a second in hundredths."""
    return f"{quantity(seconds, 2)} s" if seconds is not None and seconds < 1 else duration(seconds)


def _span(span: Span) -> str:
    """A range of time; one number where both ends read the same."""
    low, high = duration(span.low), duration(span.high)
    return f"about {low}" if low == high else f"{low} to {high}"


def _range(span: Span, written) -> str:
    return f"between {written(span.low)} and {written(span.high)}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
