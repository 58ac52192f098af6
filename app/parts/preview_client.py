"""The page's side of the preview worker: one process for all viewers, started when first wanted, restarted after a crash.

No torch here. `request` gives a ticket at once; `state` tells how far it is, whenever somebody asks. What was asked
before is answered from the shown files; what two viewers ask at once is measured once; what nobody waits for any more is
cancelled. A request for the weights of a running run goes to that run.
"""

import atexit
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...core import platform_calls
from ...core.config.options import ConfigError, Fault
from ...core.look.preview.request import PreviewError, located_in
from ...core.look.sample_request import read_request
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir

WORKER = (sys.executable, "-m", "rollout_studio.core.look.preview.worker")
RESULTS_KEPT, TICKETS_KEPT = 32, 512
PATIENCE_S = 3.0  # for a worker that was told to end
LIVE_LOOK_S = 0.3  # between two looks into a run's events
LAST_WORDS = 600  # characters of a crashed worker's log that are shown

Status = Literal["waiting", "working", "done", "failed", "cancelled", "unknown"]


@dataclass(frozen=True)
class PreviewState:
    """How far a request is.

    `result` is there when it is done, and before that as soon as the filmstrips are (`status` is then still working);
    `preview.show` says what it holds, its paths are absolute and lie inside the client's folder. `share` 0..1 and `what`
    tell the progress. `message` and `remedy` are there when it failed, `faults` where fields of the request are wrong.
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

    @property
    def ended(self) -> bool:
        return self.status in ("done", "failed", "cancelled", "unknown")


@dataclass
class _Job:
    """One thing to be made, for any number of tickets. Guarded by the client's lock."""

    id: str
    key: str | None
    message: dict[str, Any]
    folder: Path
    status: Status = "waiting"
    share: float = 0.0
    what: str = "waiting"
    result: dict[str, Any] | None = None
    told: tuple[str, str] = ("", "")
    faults: tuple[Fault, ...] = ()
    tickets: set[str] = field(default_factory=set)
    process: subprocess.Popen | None = None
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    # where a running run answers
    run: RunDir | None = None
    offset: int = 0
    looked: float = 0.0

    def end(self, status: Status, message: str = "", remedy: str = "") -> None:
        self.status, self.told, self.ended = status, (message, remedy), time.monotonic()


class PreviewClient:
    """Requests in, states out. Thread-safe; nothing here waits for the worker.

    Args:
        folder: where results are put, in a folder each; the page must be allowed to show files from it.
        idle_s: after so many seconds without a request the worker gives its model's memory back; None = its own default.
        worker: the command that starts it.
    """

    def __init__(self, folder: Path, *, idle_s: float | None = None, worker: Sequence[str] = WORKER) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "worker.log"
        self._command = [*worker, *(["--idle", str(idle_s)] if idle_s is not None else [])]
        self._lock = threading.RLock()
        self._process: subprocess.Popen | None = None
        self._closed = False
        self._jobs: OrderedDict[str, _Job] = OrderedDict()  # all that are remembered, oldest first
        self._by_key: dict[str, _Job] = {}
        self._tickets: OrderedDict[str, tuple[_Job, bool]] = OrderedDict()  # ticket -> job, was it known already
        self._viewers: dict[str, str] = {}  # viewer -> the last ticket
        self._warming: str | None = None
        atexit.register(self.close)

    # -- asking ---------------------------------------------------------------------------------------------------------

    def warm_up(self, config: Mapping[str, Any] | None = None) -> str:
        """Start the worker and load a model (None: the default, the demo), so that the first picture comes sooner.

        Returns a ticket, for whoever wants to show it. Costs nothing when it has been done or is being done.
        """
        with self._lock:
            if (
                config is None
                and self._warming is not None
                and self._process is not None
                and self._process.poll() is None
            ):
                return self._warming
            id = uuid.uuid4().hex[:12]
            job = _Job(id, None, {"warm": dict(config or {}), "id": id}, self.folder / id)
            ticket = self._ticket(job, cached=False)
            self._warming = ticket
            self._dispatch(job)
            return ticket

    def request(self, record: Mapping[str, Any], viewer: str = "") -> str:
        """Ask for what `record` describes (`PreviewRequest.from_json`, `SampleRequest.from_json`); returns a ticket for `state`.

        Args:
            viewer: whoever asks; the newer request of one viewer cancels the older, unless another one waits for it too.
                "" = nobody's: it cancels nothing.

        Wrong fields do not raise: the ticket's state is failed, with `faults`.
        """
        record = dict(record)
        with self._lock:
            id = uuid.uuid4().hex[:12]
            job = _Job(id, None, {"ask": record, "id": id, "folder": str(self.folder / id)}, self.folder / id)
            cached = False
            try:
                request = read_request(record)
                job.key = request.key()
                known = self._by_key.get(job.key) if request.live is None else None
                if known is not None and (known.ended is None or (known.folder / request.proof).is_file()):
                    job, cached = known, known.status == "done"
                    if job.id in self._jobs:
                        self._jobs.move_to_end(job.id)
                elif request.live is not None:
                    self._ask_run(job, RunDir(request.live.path), record)
                else:
                    self._by_key[job.key] = job
                    self._dispatch(job)
            except ConfigError as error:
                job.faults = error.faults
                job.end("failed", str(error), "Correct the field named.")
            except PreviewError as error:
                job.end("failed", error.message, error.remedy)
            except RunError as error:
                job.end("failed", str(error), "Choose one of its checkpoints.")
            ticket = self._ticket(job, cached)
            if viewer:
                self._give_up(self._viewers.get(viewer))  # after the new one: had they the same job, it goes on
                self._viewers[viewer] = ticket
                self._viewers = dict(list(self._viewers.items())[-TICKETS_KEPT:])
            return ticket

    def state(self, ticket: str) -> PreviewState:
        """How far the request of this ticket is; unknown for one that was never given out or is long gone."""
        with self._lock:
            job, cached = self._tickets.get(ticket, (None, False))
            if job is None:
                return PreviewState("unknown", message="This preview is no longer kept.", remedy="Ask for it again.")
            if job.run is not None and job.ended is None:
                self._look(job)
            if ticket not in job.tickets and job.ended is None:  # this one was given up, the job goes on for others
                return PreviewState("cancelled")
            end = time.monotonic() if job.ended is None else job.ended
            return PreviewState(
                job.status, 1.0 if job.status == "done" else job.share, job.what, job.result, *job.told, job.faults,
                cached, 0.0 if cached else end - job.began,
            )  # fmt: skip

    def cancel(self, ticket: str) -> None:
        """Wait for this ticket no longer; what nobody waits for is not made."""
        with self._lock:
            self._give_up(ticket)

    def close(self) -> None:
        """End the worker. Called when the page's process ends; the client answers nothing afterwards."""
        with self._lock:
            self._closed, process = True, self._process
            self._process = None
            atexit.unregister(self.close)
        if process is None:
            return
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.close()  # the end of its input is its sign to end
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int | None:
        """The worker's process, None while there is none."""
        with self._lock:
            return None if self._process is None or self._process.poll() is not None else self._process.pid

    # -- the worker -----------------------------------------------------------------------------------------------------

    def _dispatch(self, job: _Job) -> None:
        """Send a job to the worker; starts one where there is none."""
        if self._closed:
            job.end("failed", "The page is ending.", "Start it again.")
            return
        self._jobs[job.id] = job
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
        except OSError as error:
            job.end("failed", f"The preview worker cannot be started: {error}.", "Free some memory, then ask again.")
            self._not_kept(job)
            return
        job.process = self._process
        self._write(job.process, job.message)

    def _start(self) -> None:
        self._process = platform_calls.start_helper(
            self._command, self.log, extra_env=platform_calls.worker_environment()
        )
        threading.Thread(target=self._hear, args=(self._process,), daemon=True, name="preview answers").start()

    @staticmethod
    def _write(process: subprocess.Popen, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has crashed: `_hear` is about to notice, and answers for all its jobs
            process.stdin.write(json.dumps(message, ensure_ascii=True).encode() + b"\n")
            process.stdin.flush()

    def _hear(self, process: subprocess.Popen) -> None:
        """The thread that reads one worker's answers, until it ends."""
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue  # half a line of a worker that was killed while it wrote
            with self._lock:
                self._take(answer)
        code = process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):  # what could not be written to it is of no use any more
            process.stdin.close()
        with self._lock:
            self._bury(process, code)

    def _take(self, answer: Mapping[str, Any]) -> None:
        job = self._jobs.get(answer.get("id"))
        if job is None or job.ended is not None:
            return
        match answer["status"]:
            case "working":
                job.status, job.share, job.what = "working", answer["share"], answer["what"]
            case "part":
                job.result = located_in(answer["result"], job.folder)
            case "done":
                if "ask" in job.message:
                    job.result = located_in(answer["result"], job.folder)
                job.end("done")
                self._forget_the_oldest()
            case "failed":
                job.end("failed", answer["message"], answer["remedy"])
                self._not_kept(job)
            case "cancelled":
                job.end("cancelled")
                self._not_kept(job)

    def _bury(self, process: subprocess.Popen, code: int) -> None:
        """A worker has ended: the job it was at has failed, the others go to a new one."""
        if self._process is process:
            self._process = None
        if self._closed:
            return
        left = [job for job in self._jobs.values() if job.process is process and job.ended is None]
        if not left:
            return
        words = " ".join(self._last_words().split())
        left[0].end(
            "failed",
            f"The preview worker ended unexpectedly (exit code {code}). {words}".strip(),
            "Ask again: it starts anew. If it ends again, this model may need more memory than there is.",
        )
        self._not_kept(left[0])
        for job in left[1:]:
            if job.tickets:
                job.status, job.share, job.what = "waiting", 0.0, "waiting"
                self._dispatch(job)
            else:
                job.end("cancelled")

    def _last_words(self) -> str:
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace").rstrip()
        except OSError:
            return ""
        return f"Its log ends: {text[-LAST_WORDS:]}" if text else ""

    # -- what is remembered ---------------------------------------------------------------------------------------------

    def _ticket(self, job: _Job, cached: bool) -> str:
        ticket = uuid.uuid4().hex[:12]
        job.tickets.add(ticket)
        self._tickets[ticket] = (job, cached)
        while len(self._tickets) > TICKETS_KEPT:
            old, (their, _) = self._tickets.popitem(last=False)
            their.tickets.discard(old)
        return ticket

    def _give_up(self, ticket: str | None) -> None:
        job, _ = self._tickets.get(ticket, (None, False))
        if job is None or job.ended is not None:
            return
        job.tickets.discard(ticket)
        if job.tickets:
            return
        if self._by_key.get(job.key) is job:  # whoever asks for the same again gets it made anew
            del self._by_key[job.key]
        if job.process is not None:
            self._write(job.process, {"cancel": job.id})
        else:  # a run's trainer cannot be told; its answer is not waited for
            job.end("cancelled")

    def _not_kept(self, job: _Job) -> None:
        """A job without a result: asking for the same again tries again."""
        if self._by_key.get(job.key) is job:
            del self._by_key[job.key]
        self._jobs.pop(job.id, None)
        if job.result is None:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _forget_the_oldest(self) -> None:
        done = [job for job in self._jobs.values() if job.ended is not None]
        for job in done[: max(0, len(done) - RESULTS_KEPT)]:
            self._not_kept(job)
            shutil.rmtree(job.folder, ignore_errors=True)
            for ticket in job.tickets:
                self._tickets.pop(ticket, None)

    # -- a running run --------------------------------------------------------------------------------------------------

    def _ask_run(self, job: _Job, run: RunDir, record: Mapping[str, Any]) -> None:
        if run.owner() is None:
            raise RunError(f"Run {run.name!r} is not running, so it cannot show its weights of now.")
        job.run, job.what = run, f"waiting for {run.name} to finish its step"
        self._jobs[job.id] = job
        with contextlib.suppress(FileNotFoundError):  # nothing told yet: from the beginning
            job.offset = run.events_path.stat().st_size
        job.message["command"] = run.send("drift", request=dict(record))

    def _look(self, job: _Job) -> None:
        """Whether the run has answered; looked up at most a few times a second, however many ask."""
        if time.monotonic() - job.looked < LIVE_LOOK_S:
            return
        job.looked, mine = time.monotonic(), job.message["command"]
        alive = job.run.owner() is not None  # before the events: its last words count
        events, job.offset = job.run.events(job.offset)
        for event in events:
            if event["event"] == "command" and event.get("id") == mine:
                job.status, job.what = "working", f"{job.run.name} is at it"
            elif event["event"] == "phase" and job.status == "working" and event.get("name") == "preview":
                job.share = event["done"] / max(1, event["total"])
            elif event["event"] == "preview" and event.get("id") == mine:
                self._take_from_run(job, event)
                return
        if not alive:
            job.end("failed", f"{job.run.name} ended before it answered.", "Choose its last checkpoint.")
            self._not_kept(job)

    def _take_from_run(self, job: _Job, event: Mapping[str, Any]) -> None:
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
            self._forget_the_oldest()
        except PreviewError as error:
            job.end("failed", error.message, error.remedy)
            self._not_kept(job)
        except (OSError, ValueError, KeyError, TypeError, shutil.Error) as error:
            job.end("failed", f"The run's answer cannot be read: {error}.", "Ask again.")
            self._not_kept(job)
