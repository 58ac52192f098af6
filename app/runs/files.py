"""The files of one run: its LoRA to download, and the room that all of them take."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import RunLog
from ...core.sizes import size
from ..parts.watch import Watch, signature
from ..parts.words import text
from .report import NAME as REPORT


class DiskUse:
    """The size of each run's files, counted again only when the run has written more than events."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, int]] = {}

    def of(self, run: RunSummary, log: RunLog) -> int:
        """Bytes on the disk; goes through the run's folder when something new was saved."""
        mark = (run.created, run.state, len(log.samples), len(log.drifts), log.saved, log.exported, log.answered)
        known = self._known.get(run.name)
        if known is None or known[0] != mark:
            known = self._known[run.name] = mark, RunDir(run.path).size_bytes()
        return known[1]


def files_card(run: RunSummary, log: RunLog, watch: Watch) -> str:
    """The LoRA files of a run with their links, and what the load check found; the report to share. "" where there are none."""
    folder = RunDir(run.path).lora_path
    found = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    report = PROBLEM.card(run, watch) + _report_card(run, watch) + EXPORT.card(run, watch)
    if not found:
        return report
    links = [_link(path.name, _download_address(path, run.name, watch), path) for path in found]
    return (
        f'<div class="rs-card rs-good"><h3>Your LoRA</h3><p>{"".join(links)}</p>'
        f'<p class="rs-quiet">{_load_check(log)} Lies in {text(folder)}</p></div>'
    ) + report


def report_mark(run: RunSummary) -> int | None:
    """When the run's report was made; None without one."""
    return _mark(run.path / REPORT)


def _report_card(run: RunSummary, watch: Watch) -> str:
    path = run.path / REPORT
    if not path.is_file():
        return ""
    name = f"{run.name}-report.html"
    return f'<div class="rs-card"><h3>Report to share</h3><p>{_link(name, watch.previews.named(path, name), path)}</p></div>'


@dataclass(frozen=True)
class Pack:
    """A zip file of a run that the page makes when asked: it lies in the page's own folder, and goes when the page ends."""

    folder: str
    ending: str
    title: str
    words: str

    def path(self, run: RunSummary, watch: Watch) -> Path:
        """Where it is put."""
        return watch.previews.folder / self.folder / signature(run.name, run.created) / f"{run.name}{self.ending}"

    def mark(self, run: RunSummary, watch: Watch) -> int | None:
        """When it was made; None without one."""
        return _mark(self.path(run, watch))

    def card(self, run: RunSummary, watch: Watch) -> str:
        """Its link, once it is there."""
        path = self.path(run, watch)
        if not path.is_file():
            return ""
        link = _link(path.name, watch.previews.own(path), path)
        return f'<div class="rs-card"><h3>{text(self.title)}</h3><p>{link}</p><p class="rs-quiet">{text(self.words)}</p></div>'


EXPORT = Pack(
    "exports", ".zip", "The run as one file",
    "Settings, samples, drift, LoRA and log; no checkpoints. It names folders of this computer.",
)  # fmt: skip
PROBLEM = Pack(
    "problems", "-problem.zip", "Report of a problem",
    "Versions, settings, last events, the end of the log, this computer. Secrets, folders, prompts and names of pictures are taken out. Nothing was sent: "
    "look through it, then hand it on where you like.",
)  # fmt: skip


def _mark(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.is_file() else None


def _link(name: str, address: str, file: Path) -> str:
    """A file to download, with its size."""
    return f'<a class="rs-file" download="{text(name)}" href="{text(address)}"><b>{text(name)}</b> {size(file.stat().st_size)}</a>'


def _load_check(log: RunLog) -> str:
    """What the check of each exported file found; an event of an earlier version has one check and names no layout."""
    event = log.exported if log.exported else {}
    files = event.get("files")
    each = files if isinstance(files, list) and files else [event]
    found = [words for one in each if isinstance(one, Mapping) and (words := _one_check(one))]
    if event.get("placed"):
        found.append(f"Also put into {text(event['placed'])}.")
    return " ".join(found)


def _one_check(one: Mapping[str, Any]) -> str:
    check = one.get("check")
    if not isinstance(check, Mapping):
        return ""
    missing, unexpected = (len(v) if isinstance(v := check.get(key), list) else v for key in ("missing", "unexpected"))
    layout = f" ({text(one['layout'])} layout)" if "layout" in one else ""
    keys = (
        f"{text(check['used'])} of {text(check['total'])} keys used, " if "used" in check and "total" in check else ""
    )
    return f"Loaded again in a fresh pipeline as a check{layout}: {keys}{text(missing)} missing and {text(unexpected)} unexpected keys."


def _download_address(path: Path, run: str, watch: Watch) -> str:
    """The address of a file to download: a link (or a copy, where links are not possible) in the folder that is served."""
    stat = path.stat()
    folder = watch.previews.folder / "downloads" / signature(run, str(path), stat.st_mtime_ns, stat.st_size)
    target = folder / path.name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another volume, or a file system without links
            shutil.copyfile(path, target)
    return "gradio_api/file=" + quote(target.as_posix())
