"""What a run measured of its drift, as HTML: the filmstrip with its words, the charts, the report to take away."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.look.drift.files import REPORT_FILE, report_from_json, report_to_csv
from ...core.look.drift.report import DriftReport, ReportError
from ...core.look.drift.words import words
from ...core.look.pictures.strips import levels
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog
from ..parts.watch import Watch, signature
from ..parts.words import text
from .picture import close_up, downloads, report_charts, words_list
from .report import write_drift_report
from .rows import axis, farthest_apart, group, most_apart
from .strips import HOW_TO_READ, NAMES, Shown, StripAddress, measured_strips, rows_of


def _folder(run: RunSummary, event: dict[str, Any]) -> Path | None:
    """The report's folder; None when the event leads outside the run."""
    path = (run.path / str(event.get("path", ""))).resolve()
    return path.parent if path.is_relative_to(run.path.resolve()) else None


def _report(run: RunSummary, event: dict[str, Any]) -> tuple[DriftReport, list[str]] | str:
    """The report and its words, as they were written (to find them again takes a bootstrap); or why there are none."""
    folder = _folder(run, event)
    if folder is None:
        return "The report lies outside the run and is not shown."
    try:
        written = (folder / REPORT_FILE).read_text(encoding="utf-8")
        report = report_from_json(written)
    except (OSError, ReportError, UnicodeDecodeError) as error:
        return f"The report cannot be read: {error}"
    sentences = json.loads(written).get("words")
    return report, [str(each) for each in sentences] if isinstance(sentences, list) else words(report)


def filmstrip(run: RunSummary, event: dict[str, Any], watch: Watch, brief: bool = False, *, moves: bool = False) -> str:
    """The drift picture, base above tuned, with what the numbers say in words. `moves`: with a scrubber (`js/drift.js` is there)."""
    folder, report = _folder(run, event), _report(run, event)
    step = event.get("step", 0)
    title = "Drift " + ("before training" if step == 0 else f"at step {step}")
    address = watch.previews.address
    strips = [] if folder is None else measured_strips(folder, run.path, step)
    moves = moves and bool(strips) and all(levels(each.strip) == levels(strips[0].strip) for each in strips)
    image = (
        _moving(strips, address)
        if moves
        else rows_of(strips, address)
        if strips
        else _one_picture(run, folder, title, address)
    )
    sentences = [report] if isinstance(report, str) else report[1]
    more = ' <span class="rs-quiet">More on the Drift tab.</span>' if brief else ""
    return f'<div class="rs-card"><h3>{text(title)}</h3>{image}<p><b>How to read it.</b> {text(HOW_TO_READ)}</p>{words_list(sentences[:2] if brief else sentences)}{more}</div>'


def _moving(shown: Sequence[Shown], address: StripAddress) -> str:
    """Filmstrips with the same columns under one scrubber, and the step that it stands at large."""
    strips = [{**each.strip, "label": NAMES.get(each.strip["weights"], each.strip["label"])} for each in shown]
    start, inside = farthest_apart(strips), shown[0].inside

    def place(file: str) -> str | None:
        return address(Path(file), inside)

    groups = "".join(
        group(number, strip, place, title=each.title, start=start, most=most_apart(strips))
        for number, (each, strip) in enumerate(zip(shown, strips, strict=True))
    )
    return (
        f'<div class="rs-look rs-in-card" style="--n:{len(strips[0]["frames"])}"><div class="rs-scroll rs-film" tabindex="0" role="region" '
        f'aria-label="Filmstrip: noise goes away from left to right"><div class="rs-reel">{axis(strips[0]["frames"], start)}{groups}</div></div>'
        f"{close_up(strips, start, place)}</div>"
    )


def shows_base(run: RunSummary, event: dict[str, Any]) -> bool:
    """Whether the filmstrip of this measurement has the base's beside the tuned one's."""
    folder = _folder(run, event)
    return folder is not None and any(each.strip["weights"] == "base" for each in measured_strips(folder, run.path))


def _one_picture(run: RunSummary, folder: Path | None, title: str, address: StripAddress) -> str:
    """The strip of a report of an earlier version, which has no single pictures."""
    found = address(folder / "filmstrip.png", run.path) if folder is not None else None
    if found is None:
        return '<div class="rs-gone">The picture is not there (yet).</div>'
    return (
        f'<div class="rs-scroll" tabindex="0" aria-label="Filmstrip"><a href="{text(found)}" target="_blank" rel="noopener"><img class="rs-strip" src="{text(found)}" '
        f'alt="Filmstrip of {text(title)}: clean states above, rolled-out states below, their difference as a heat map"></a></div>'
    )  # fmt: skip


def curves(run: RunSummary, log: RunLog, event: dict[str, Any], watch: Watch) -> str:
    """The charts of a run's report, and the report to take away."""
    report = _report(run, event)
    if isinstance(report, str):
        return ""
    charts = report_charts(report[0])
    links = _links(run, event, *report, watch)
    return f'<div class="rs-card"><h3>The numbers</h3>{charts}{links}</div>'


def _links(run: RunSummary, event: dict[str, Any], report: DriftReport, sentences: Sequence[str], watch: Watch) -> str:
    folder, stem = _folder(run, event), f"{run.name}-drift-step-{report.step}"
    found = []
    for words_, name in (("Filmstrip, PNG", "filmstrip"), ("Curves, PNG", "curves"), ("Spectrum, PNG", "spectrum")):
        picture = folder / f"{name}.png"
        if watch.previews.address(picture, run.path) is not None:  # there, and inside the run
            found.append((words_, f"{stem}-{name}.png", watch.previews.named(picture.resolve(), f"{stem}-{name}.png")))
    found.append(
        ("Report, JSON", f"{stem}.json", watch.previews.file(f"{stem}.json", (folder / REPORT_FILE).read_bytes()))
    )
    page = watch.previews.folder / "reports" / signature(run.name, run.created, event) / f"{stem}.html"
    if not page.exists():
        write_drift_report(folder, page, sentences)
    found.append(("Report to share, HTML", page.name, watch.previews.own(page)))
    found.append(("Numbers, CSV", f"{stem}.csv", watch.previews.file(f"{stem}.csv", report_to_csv(report).encode())))
    return downloads(found)
