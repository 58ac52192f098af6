"""What the preview client knows of one request: how far it is, and where its answer comes from when a run that trains gives it. No torch."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...core.config.options import Fault
from ...core.look.preview.request import PreviewError, located_in
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir

LIVE_POLL_S = 0.3  # between two polls of a run's events

Status = Literal["waiting", "working", "done", "failed", "cancelled", "unknown"]


@dataclass(frozen=True)
class PreviewState:
    """How far a request is.

    `result` is there when it is done, and before that as soon as the filmstrips are (`status` is then still working);
    `preview.show` says what it holds, its paths are absolute and lie inside the client's folder. `share` 0..1 and `what`
    report the progress; `growing` holds the filmstrips so far, until the first result (`preview.growing`). `message` and `remedy` are there when it failed, `faults` where fields of the request are wrong.
    `cached`: it was known already. `seconds`: since the request, or what it took.
    """

    status: Status
    share: float = 0.0
    what: str = ""
    result: dict[str, Any] | None = None
    message: str = ""
    remedy: str = ""
    faults: tuple[Fault, ...] = ()
    cached: bool = False
    seconds: float = 0.0
    growing: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed", "cancelled", "unknown")


@dataclass
class Job:
    """One thing to be made, for any number of tickets. Guarded by the client's lock."""

    id: str
    key: str | None
    message: dict[str, Any]
    folder: Path
    status: Status = "waiting"
    share: float = 0.0
    what: str = "waiting"
    result: dict[str, Any] | None = None
    growing: dict[str, Any] | None = None
    problem: tuple[str, str] = ("", "")  # message, remedy
    faults: tuple[Fault, ...] = ()
    tickets: set[str] = field(default_factory=set)
    process: subprocess.Popen | None = None
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    # where a running run answers
    run: RunDir | None = None
    offset: int = 0
    polled: float = 0.0

    def end(self, status: Status, message: str = "", remedy: str = "") -> None:
        self.status, self.problem, self.ended = status, (message, remedy), time.monotonic()


def ask_run(job: Job, run: RunDir, record: Mapping[str, Any]) -> None:
    """Leave the request with a run that trains. Raises RunError when it does not run."""
    if run.owner() is None:
        raise RunError(
            f"Run {run.name!r} is not running, so it cannot show its weights of now. Choose one of its checkpoints or its LoRA."
        )
    job.run, job.what = run, f"waiting for {run.name} to finish its step"
    with contextlib.suppress(FileNotFoundError):  # no events yet: from the beginning
        job.offset = run.events_path.stat().st_size
    job.message["command"] = run.send("drift", request=dict(record))


def poll_run(job: Job) -> None:
    """Whether the run has answered; looked up at most a few times a second, however many ask."""
    if time.monotonic() - job.polled < LIVE_POLL_S:
        return
    job.polled, mine = time.monotonic(), job.message["command"]
    alive = job.run.owner() is not None  # before the events: its last words count
    events, job.offset = job.run.events(job.offset)
    for event in events:
        if event["event"] == "command" and event.get("id") == mine:
            job.status, job.what = "working", f"{job.run.name} is at it"
        elif event["event"] == "phase" and job.status == "working" and event.get("name") == "preview":
            job.share = event["done"] / max(1, event["total"])
        elif event["event"] == "preview" and event.get("id") == mine:
            _take_from_run(job, event)
            return
    if not alive:
        job.end("failed", f"{job.run.name} ended before it answered.", "Choose its last checkpoint.")


def _take_from_run(job: Job, event: Mapping[str, Any]) -> None:
    """Copy the answer out of the run's folder, which the browser may not read."""
    try:
        if "path" not in event:
            raise PreviewError(str(event.get("message")), str(event.get("remedy")))
        source = (job.run.path / str(event["path"])).resolve()
        if not source.is_relative_to(job.run.path.resolve()):
            raise PreviewError("The run's answer lies outside its folder.", "Ask again.")
        shutil.copytree(source.parent, job.folder)
        job.result = located_in(json.loads(source.read_text(encoding="utf-8")), job.folder)
        job.end("done")
    except PreviewError as error:
        job.end("failed", error.message, error.remedy)
    except (OSError, ValueError, KeyError, TypeError, shutil.Error) as error:
        job.end("failed", f"The run's answer cannot be read: {error}.", "Ask again.")
