"""The result of a study as one HTML file to share: tables of what was measured, paired differences, pictures and settings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...core.config import OPTIONS
from ...core.runs.run_log import follow
from ...core.runs.store import RunStore
from ...core.study.measures import KINDS
from ...core.study.paired import Difference
from ...core.study.table import Comparison, Results, change, number
from ..parts.forms import label
from ..parts.forms import said as value_in_words
from ..parts.report_page import NAME, Inline, page, written
from ..parts.words import text
from .shared import picture

_MOST_PROMPTS = 4


def write_study_report(found: Results, store: RunStore, folder: Path) -> Path:
    """Write `report.html` into the study's folder; returns the file."""
    return written(folder / NAME, lambda side: study_report(found, store, side))


def study_report(found: Results, store: RunStore, side: int) -> str:
    """The page of a study. `side`: the longest side of its pictures, in pixels."""
    caveats = "".join(f"<li>{text(each)}</li>" for each in found.caveats())
    return page(
        f"Study {found.name}",
        f'<div class="rs-card"><p>{text(_about(found))}</p><ul>{caveats}</ul></div>',
        _differences(
            found,
            [one for one in found.comparisons if one.against == found.reference],
            f"Against {found.reference}, seed by seed",
        ),
        _differences(
            found, [one for one in found.comparisons if one.against != found.reference], "Against its own controls"
        ),
        _means(found),
        _pictures(found, store, side),
        _settings(found),
    )


def _about(found: Results) -> str:
    seeds = ", ".join(map(str, found.seeds))
    return (
        f"{len(found.variants)} variants (controls among them), seeds {seeds}. A difference is that of two runs of the same seed; ± is half of an interval "
        "over the seeds. Only where an interval holds no 0 is a variant called better or worse."
    )


def _differences(found: Results, comparisons: list[Comparison], title: str) -> str:
    """A row for each measure, a column for each comparison."""
    names = [name for name in found.measures if any(name in one.differences for one in comparisons)]
    problems = [f"{one.variant} less {one.against}: {one.problem}." for one in comparisons if one.problem]
    if not names and not problems:
        return ""
    head = [f"{one.variant} less {one.against}" for one in comparisons]
    rows = [
        (KINDS[name].title, [_difference(one.differences.get(name), name) for one in comparisons]) for name in names
    ]
    notes = "".join(f"<p>{text(each)}</p>" for each in problems)
    return f'<div class="rs-card"><h3>{text(title)}</h3>{_table(head, rows) if names else ""}{notes}</div>'


def _table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """`head` and the rows' names are text, their cells trusted HTML."""
    tops = "".join(f'<th scope="col">{text(each)}</th>' for each in head)
    lines = "".join(
        f'<tr><th scope="row">{text(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return f'<div class="rs-scroll"><table class="rs-table"><tr><td></td>{tops}</tr>{lines}</table></div>'


def _difference(one: Difference | None, measure: str) -> str:
    if one is None:
        return ""
    verdict = one.verdict(KINDS[measure].better)
    said = f"<b>{text(verdict)}</b>" if verdict in ("better", "worse") else f"<small>{text(verdict)}</small>"
    return f"{text(change(one, measure))}<br>{said}"


def _means(found: Results) -> str:
    """What was measured: the mean over the seeds, with each seed's own number."""
    rows = []
    for name in found.measures:
        floor = f" ({KINDS[name].floor})" if KINDS[name].floor else ""
        rows.append((f"{KINDS[name].title}{floor}", [_mean(found, variant, name) for variant in found.variants]))
    return f'<div class="rs-card"><h3>What was measured</h3>{_table(list(found.variants), rows)}</div>'


def _mean(found: Results, variant: str, measure: str) -> str:
    got = found.mean(variant, measure)
    if got is None:
        return "-"
    each = [number(one[measure], KINDS[measure].unit) for one in found.values[variant].values() if measure in one]
    return f"{text(number(got[0], KINDS[measure].unit))}<br><small>{text(', '.join(each))}</small>"


def _pictures(found: Results, store: RunStore, side: int) -> str:
    """The last samples of the first seed, a row for each variant."""
    inline: Any = SimpleNamespace(previews=Inline(side))
    rows, prompts = "", []
    for variant in found.variants:
        name = found.runs[variant].get(found.seeds[0])
        log = None if name is None else follow(store.get(name))
        if log is None or not log.samples:
            continue
        last = max(log.samples)
        images = log.samples[last][:_MOST_PROMPTS]
        prompts = [str(image.get("prompt", "")) for image in images]
        cells = "".join(f"<td>{picture(store.summary(str(name)), image, last, inline)}</td>" for image in images)
        rows += f'<tr><th scope="row">{text(variant)}</th>{cells}</tr>'
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{text(prompt)}</th>' for prompt in prompts)
    return (
        f'<div class="rs-card"><h3>Samples at the end, seed {found.seeds[0]}</h3><div class="rs-scroll"><table class="rs-samples">'
        f"<tr><td></td>{head}</tr>{rows}</table></div></div>"
    )


def _settings(found: Results) -> str:
    """What each variant changes on top of the study's base."""
    rows = ""
    for variant in found.variants:
        changed = "; ".join(
            f"{label(OPTIONS[key])}: {value_in_words(OPTIONS[key], value)}"
            for key, value in found.changes[variant].items()
        )
        of = f" (controls {found.controls[variant]})" if variant in found.controls else ""
        rows += (
            f"<tr><td>{text(variant)}{text(of)}</td><td>{text(changed if changed else 'nothing: the base')}</td></tr>"
        )
    return f'<div class="rs-card"><h3>What each variant changes</h3><table class="rs-changes">{rows}</table></div>'
