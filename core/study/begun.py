"""Studies that the page has begun: each is a `rollout-studio study` of its own, which outlives the page and goes on where it was. No torch.

In `.studies/<name>/` of the folder of the runs lie the study's file, its process, its log, and at the end `study.json` and `report.html`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..errors import Trouble
from ..findings import format_findings
from ..formats import FORMATS
from ..runs.errors import RunError
from ..runs.folder import log_tail
from ..runs.json_files import read_json
from ..runs.process import adopt, reap
from ..runs.rows import RunSummary
from ..runs.store import RunStore
from .expected import what_stops
from .plan import Study, StudyError, study_of
from .table import FOLDER
from .work import ENDED

STUDY_FILE, PROCESS, LOG, REPORT = "study-file.json", "process.json", "study.log", "report.html"
COMMAND = (sys.executable, "-m", "rollout_studio.app", "study")


@dataclass(frozen=True)
class BegunStudy:
    """How far a study is. `ended`, `total`: runs; `total` is None where its file cannot be read. `last`: the last line that it has told."""

    name: str
    path: Path
    alive: bool
    ended: int
    total: int | None
    last: str

    @property
    def report(self) -> Path | None:
        """Its report, once there is one."""
        found = self.path / REPORT
        return found if found.is_file() else None


def begin(written: Mapping[str, Any], store: RunStore) -> Study:
    """Check a study, keep its file and start it. Raises StudyError or ConfigError with what is wrong, before anything is kept."""
    study = study_of(written, "study", store.root, store.root)
    folder = store.root / FOLDER / study.name
    if (folder / STUDY_FILE).exists():
        raise StudyError(f"There is a study {study.name} already.", "Give this one another name.")
    for variant, wrong in what_stops(study, store.root):
        raise StudyError(f"{variant.name} may not start: {format_findings(wrong)}", "Mend that first.")
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"format": FORMATS["study"], **written}, indent=2, ensure_ascii=False) + "\n"
    platform_calls.write_atomically(folder / STUDY_FILE, content.encode())
    go_on(study.name, store)
    return study


def go_on(name: str, store: RunStore) -> None:
    """Start a study's process, the first time or again. Raises StudyError where it runs, or is none."""
    folder = _folder(name, store)
    if platform_calls.is_alive(_process(folder)):
        raise StudyError(f"The study {name} is running.", "It goes on by itself; stop it first.")
    child = platform_calls.start_detached(
        [*COMMAND, str(folder / STUDY_FILE), "--runs-dir", str(store.root)],
        folder / LOG,
        cwd=Path.cwd(),
        extra_env=platform_calls.worker_environment(),
    )
    adopt(child)
    platform_calls.write_atomically(folder / PROCESS, json.dumps(platform_calls.identity(child.pid)).encode())


def stop(name: str, store: RunStore) -> None:
    """End a study's process and take its waiting runs out of the queue; a run that trains goes on. Going on later takes all of them up again."""
    folder = _folder(name, store)
    who = _process(folder)
    if who is not None:
        platform_calls.kill(who, children=False)
    mine = _runs_of(folder, (folder / STUDY_FILE).stat().st_mtime_ns)
    for run in store.list():
        if run.name in mine and run.state == "queued":
            store.dequeue(run.name)


def begun_studies(store: RunStore, runs: list[RunSummary]) -> list[BegunStudy]:
    """Those of the page, the newest first. Cost: three small files each."""
    reap()
    folders = [path.parent for path in (store.root / FOLDER).glob(f"*/{STUDY_FILE}")]
    return [
        _begun(folder, runs) for folder in sorted(folders, key=lambda each: -(each / STUDY_FILE).stat().st_mtime_ns)
    ]


def _begun(folder: Path, runs: list[RunSummary]) -> BegunStudy:
    mine = _runs_of(folder, (folder / STUDY_FILE).stat().st_mtime_ns)
    ended = sum(run.name in mine and run.state in ENDED for run in runs)
    alive = platform_calls.is_alive(_process(folder))
    return BegunStudy(folder.name, folder, alive, ended, len(mine) if mine else None, _last_line(folder / LOG))


@lru_cache(maxsize=256)
def _runs_of(folder: Path, changed: int) -> frozenset[str]:
    """The names of its runs; none where its file cannot be read. `changed`: when that was written."""
    try:
        written = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        return frozenset(cell.run for cell in study_of(written, "study", folder, folder.parent.parent).cells())
    except (Trouble, ValueError, OSError):
        return frozenset()


def _last_line(log: Path) -> str:
    lines = log_tail(log, 50, 4000).splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _folder(name: str, store: RunStore) -> Path:
    folder = store.root / FOLDER / name
    if Path(name).name != name or not (folder / STUDY_FILE).is_file():
        raise StudyError(f"There is no study {name}.", "Choose one of the list.")
    return folder


def _process(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / PROCESS)
    except RunError:  # damaged: then nobody can say that it runs
        return None
