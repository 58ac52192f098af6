"""One drift measurement as a single HTML file to share: strips, curves, numbers, settings. Its folder is a run's, or that of a preview's answer."""

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.look.drift.files import REPORT_FILE, report_from_json
from ...core.look.drift.report import DriftReport, ReportError
from ...core.look.drift.words import words
from ...core.names import is_hub_id
from ...core.runs.errors import RunError
from ..parts.report_page import NAME, Inline, page, written
from ..parts.words import text
from .picture import report_charts, words_list
from .strips import HOW_TO_READ, measured_strips, rows_of


def write_drift_report(
    folder: Path, out: Path | None = None, sentences: Sequence[str] | None = None, more: Sequence[str] = ()
) -> Path:
    """Write the report of one drift measurement, whose `report.json` and pictures lie in `folder`; returns the file.

    Args:
        out: None = `report.html` in the folder.
        sentences: what the numbers say, where that is known (to find it again takes a bootstrap).
        more: further parts of the page, as HTML.

    Raises: RunError.
    """
    try:
        report = report_from_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ReportError, UnicodeDecodeError) as error:
        raise RunError(f"'{folder}' has no drift report that can be read: {error}") from error
    said = words(report) if sentences is None else sentences
    return written(folder / NAME if out is None else out, lambda side: drift_report(folder, report, side, said, more))


def drift_report(
    folder: Path, report: DriftReport, side: int, sentences: Sequence[str], more: Sequence[str] = ()
) -> str:
    """The page of one drift measurement. `side`: the longest side of its pictures, in pixels."""
    inline = Inline(side)
    # the base's strip may lie in the folder of step 0 beside this one
    strips = rows_of(measured_strips(folder, folder.parent, report.step), inline.address)
    if not strips:  # a report of an earlier version
        found = [inline.address(path, folder) for path in sorted(folder.glob("filmstrip*.png"))]
        strips = "".join(
            f'<div class="rs-scroll"><img class="rs-strip" src="{each}" alt="Filmstrip"></div>' for each in found
        )
    chosen = json.dumps(report.settings, indent=2, ensure_ascii=False, default=str)
    charts = report_charts(report)
    return page(
        f"Drift of {report.model if is_hub_id(report.model) else Path(report.model).name}",  # of a folder only the last part
        f'<div class="rs-card"><h3>Filmstrip</h3>{strips}<p><b>How to read it.</b> {text(HOW_TO_READ)}</p></div>'
        if strips
        else "",
        f'<div class="rs-card"><h3>In words</h3>{words_list(sentences)}</div>',
        f'<div class="rs-card"><h3>The numbers</h3>{charts}</div>' if charts else "",
        *more,
        f'<div class="rs-card"><details><summary>How it was measured</summary><pre class="rs-json">{text(chosen)}</pre></details></div>',
    )
