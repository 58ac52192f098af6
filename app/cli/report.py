"""`rollout-studio report`: a run or a drift measurement as one HTML file to share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.look.drift.files import REPORT_FILE
from ...core.runs.store import RunStore
from .answers import DONE
from .flags import add_runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    report = command("report", _report, "Write a run, or a drift measurement, as one HTML file to share.")
    report.add_argument(
        "what", metavar="RUN", help="a run's name, or the folder of a drift measurement (with its report.json)"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="the file (default: report.html in that folder)")
    add_runs_dir(report)


def _report(given: argparse.Namespace) -> int:
    from ..drift.report import write_drift_report
    from ..runs.report import write_run_report

    if (Path(given.what) / REPORT_FILE).is_file():
        print(write_drift_report(Path(given.what), given.out))
        return DONE
    store = RunStore(given.runs_dir)
    print(write_run_report(store.get(given.what), store.summary(given.what), given.out))
    return DONE
