"""A run as a single HTML file to share: pictures, curves, numbers and settings, readable without a network (`parts/report_page.py`).

Of folders it names only the last part, as a LoRA file does.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ...core.adapters.header import published_config
from ...core.config import OPTIONS, config_from_flat, differences
from ...core.config.options import ConfigError
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, follow
from ..drift.measured import filmstrip, shows_base
from ..parts.forms import label, said
from ..parts.report_page import NAME, Inline, page, written
from ..parts.words import text
from ..train.summary import plan_sentence
from .curves import curves
from .head import head
from .samples import samples_grid
from .shared import drift_over_training


def write_run_report(run: RunDir, summary: RunSummary, out: Path | None = None) -> Path:
    """Write the report of a run; returns the file.

    Args:
        out: None = `report.html` in the run's folder, where an older one is replaced.

    Raises: RunError where the run has nothing to report yet.
    """
    log = follow(run)
    if not len(log.series) and not log.drifts and not log.samples:
        raise RunError(
            f"Run {run.name!r} has no steps, samples or drift yet, so there is nothing to report. Wait for its first step."
        )
    return written(run.path / NAME if out is None else out, lambda side: run_report(run, summary, log, side))


def run_report(run: RunDir, summary: RunSummary, log: RunLog, side: int) -> str:
    """The page of a run. `side`: the longest side of its pictures, in pixels."""
    inline: Any = SimpleNamespace(previews=Inline(side))
    measured = sorted(log.drifts)
    first, last = measured[:1], measured[-1:]
    if last != first and shows_base(summary, log.drifts[last[0]]):
        first = []  # the last one has the base beside it
    strips = [filmstrip(summary, log.drifts[step], inline) for step in dict.fromkeys((*first, *last))]
    return page(
        run.name,
        head(summary, log, None),
        drift_over_training(summary, log),
        *strips,
        curves(summary, log),
        samples_grid(summary, log, inline),
        _settings(run.read_config()),
    )


def _settings(flat: dict[str, Any]) -> str:
    """The plan in words, what differs from the defaults, and the whole config; "" for one that this version cannot read."""
    try:
        config = config_from_flat(published_config(config_from_flat(flat)))
    except ConfigError:
        return ""
    rows = "".join(
        f"<tr><td>{text(label(OPTIONS[name]))}</td><td>{text(said(OPTIONS[name], value))}</td></tr>"
        for name, value in differences(config).items()
    )
    return (
        f'<div class="rs-card"><h4>Settings</h4><p>{text(plan_sentence(config))}</p>'
        f"<details><summary>What differs from the defaults</summary><table class='rs-changes'>{rows}</table></details>"
        f'<details><summary>The whole configuration</summary><pre class="rs-json">{text(config.to_json())}</pre></details></div>'
    )
