"""A run, or one drift measurement, as a single HTML file to share: pictures, curves, numbers and settings, readable without a network.

The file holds everything that it shows, in at most `MOST_BYTES`, and no script. Of folders it names only the last part, as a LoRA file does.
"""

import base64
import functools
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from ... import __version__
from ...core import platform_calls
from ...core.adapters.header import published_config
from ...core.config import OPTIONS, config_from_flat, differences
from ...core.config.options import ConfigError
from ...core.data.pictures import BadPicture, decode, read_bytes
from ...core.look.drift.files import REPORT_FILE, report_from_json
from ...core.look.drift.report import DriftReport, ReportError
from ...core.look.drift.words import words
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog, follow
from ..drift.measured import HOW_TO_READ, filmstrip
from ..drift.picture import report_charts, words_list
from ..drift.strips import measured_strips, rows_of
from ..parts.forms import label, said
from ..parts.words import text
from ..train.summary import plan_sentence
from .curves import curves
from .head import head
from .samples import samples_grid
from .shared import drift_over_training

NAME = "report.html"
"""The file's name in the folder that it is about."""
MOST_BYTES = 5_000_000
_SIDES = (1600, 1024, 640, 384, 256)
"""Pictures are made smaller, from side to side, until the file keeps its limit."""
_CSS = Path(__file__).parents[1] / "css"
# Gradio's variables, which the style sheets of the page use; its theme is not there.
_LIGHT = """--body-background-fill: #faf9f6; --body-text-color: #24292c; --body-text-color-subdued: #5d6468; --input-background-fill: #fdfcfa;
--border-color-primary: #dcd7cd; --font-mono: ui-monospace, Menlo, Consolas, monospace;"""
_DARK = """--body-background-fill: #16181a; --body-text-color: #e8e6e1; --body-text-color-subdued: #a5abaf; --input-background-fill: #16181a;
--border-color-primary: #3a4045; color-scheme: dark;"""
_OWN = """body { margin: 0; background: var(--body-background-fill); color: var(--body-text-color);
  font-family: ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; line-height: 1.5; }
main { max-width: 1180px; margin: 0 auto; padding: 8px clamp(12px, 3vw, 28px) 40px; display: grid; gap: 16px; }
main > * { min-width: 0; } h1 { font-size: 26px; margin: 6px 0 0; overflow-wrap: anywhere; } footer { font-size: 13px; color: var(--body-text-color-subdued); }
.gradio-container { max-width: none !important; }"""


def write_run_report(run: RunDir, summary: RunSummary, out: Path | None = None) -> Path:
    """Write the report of a run; returns the file.

    Args:
        out: None = `report.html` in the run's folder, where an older one is replaced.

    Raises: RunError where the run has nothing to report yet.
    """
    log = follow(run)
    if not len(log.series) and not log.drifts and not log.samples:
        raise RunError(f"Run {run.name!r} has no steps, samples or drift yet, so there is nothing to report.")
    return _written(run.path / NAME if out is None else out, lambda side: run_report(run, summary, log, side))


def write_drift_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of one drift measurement, whose `report.json` and pictures lie in `folder`; returns the file. Raises RunError."""
    try:
        report = report_from_json((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ReportError, UnicodeDecodeError) as error:
        raise RunError(f"'{folder}' has no drift report that can be read: {error}") from error
    return _written(folder / NAME if out is None else out, lambda side: drift_report(folder, report, side))


def run_report(run: RunDir, summary: RunSummary, log: RunLog, side: int) -> str:
    """The page of a run. `side`: the longest side of its pictures, in pixels."""
    inline: Any = SimpleNamespace(previews=_Inline(side))
    measured = sorted(log.drifts)
    strips = [filmstrip(summary, log.drifts[step], inline) for step in dict.fromkeys((*measured[:1], *measured[-1:]))]
    return _page(
        run.name,
        head(summary, log, None),
        drift_over_training(summary, log),
        *strips,
        curves(summary, log),
        samples_grid(summary, log, inline),
        _settings(run.read_config()),
    )


def drift_report(folder: Path, report: DriftReport, side: int) -> str:
    """The page of one drift measurement."""
    inline = _Inline(side)
    # the base's strip may lie in the folder of step 0 beside this one
    strips = rows_of(measured_strips(folder, folder.parent, report.step), inline.address)
    if not strips:  # a report of an earlier version
        found = [inline.address(path, folder) for path in sorted(folder.glob("filmstrip*.png"))]
        strips = "".join(
            f'<div class="rs-scroll"><img class="rs-strip" src="{each}" alt="Filmstrip"></div>' for each in found
        )
    said = f'<div class="rs-card"><h4>In words</h4>{words_list(words(report))}</div>'
    seen = f'<div class="rs-card"><h4>Filmstrip</h4>{strips}<p>{text(HOW_TO_READ)}</p></div>' if strips else ""
    charts = f'<div class="rs-card"><h4>The numbers</h4>{report_charts(report)}</div>'
    chosen = json.dumps(report.settings, indent=2, ensure_ascii=False, default=str)
    settings = f'<div class="rs-card"><details><summary>How it was measured</summary><pre class="rs-json">{text(chosen)}</pre></details></div>'
    return _page(f"Drift of {report.model}", seen, said, charts, settings)


class _Inline:
    """In place of the page's `Previews`: a picture's address is the picture itself."""

    def __init__(self, side: int) -> None:
        self._side = side

    def address(self, path: Path, inside: Path) -> str | None:
        """A data address; None for what is no picture inside the folder."""
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(inside.resolve()):
                return None
            picture = decode(read_bytes(real))
        except (OSError, BadPicture):
            return None
        picture.thumbnail((self._side, self._side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=90)
        return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


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


def _page(title: str, *parts: str) -> str:
    # A picture opens in full on the page; here its link would hold it a second time.
    body = re.sub(r'<a href="data:[^"]*"[^>]*>', "<a>", "\n".join(part for part in parts if part))
    body = body.replace('<img loading="lazy"', "<img")  # a printed page shows what was never scrolled to
    made = f"Made by Rollout Studio {__version__} on {time.strftime('%Y-%m-%d')}. This file needs no network and holds no script."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_style()}</style></head>\n"
        f'<body class="gradio-container"><main><h1>{text(title)}</h1>\n{body}\n<footer>{text(made)}</footer></main></body></html>\n'
    )


@functools.cache
def _style() -> str:
    """The page's style sheets; dark where the reader's system is."""
    sheets = "\n".join((_CSS / f"{name}.css").read_text(encoding="utf-8") for name in ("base", "runs", "drift"))
    dark = " ".join(re.findall(r"^\.dark \{([^}]*)\}", sheets, re.MULTILINE))
    return (
        f":root {{ {_LIGHT} }}\n{sheets}\n{_OWN}\n@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} {dark} }} }}"
    )


def _written(path: Path, made: Callable[[int], str]) -> Path:
    """The page with the largest pictures that keep it within its limit."""
    for side in _SIDES:
        page = made(side).encode("utf-8")
        if len(page) < MOST_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    platform_calls.write_atomically(path, page)
    return path
