"""`rollout-studio report-problem`: what somebody who can mend a problem needs to know of a run, as one zip file. Nothing is sent."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.runs.store import RunStore
from .answers import DONE, print_message
from .flags import add_runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    problem = command(
        "report-problem",
        _problem,
        "Pack what helps to mend a problem with a run: versions, settings, last events, log. Sends nothing.",
    )
    problem.add_argument("name", metavar="RUN")
    problem.add_argument("--out", type=Path, metavar="FILE", help="the file (default: RUN-problem.zip here)")
    add_runs_dir(problem)


def _problem(given: argparse.Namespace) -> int:
    from ..parts.problem import write_problem

    run = RunStore(given.runs_dir).get(given.name)
    print(write_problem(run, Path(f"{run.name}-problem.zip") if given.out is None else given.out))
    print_message(
        "Nothing was sent. Secrets, folders, prompts and names of pictures were taken out; look through it, then hand it on where you like."
    )
    return DONE
