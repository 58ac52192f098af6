"""The page's side of the preview worker: one process for all viewers, started when first wanted, restarted after a crash.

No torch here. `request` gives a ticket at once; `state` reports how far it is, at any time. What was asked
before is answered from the shown files; what two viewers ask at once is measured once; what no viewer waits for any more is
cancelled. A request for the weights of a running run goes to that run.
"""

import atexit
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError
from ...core.look.preview.request import PreviewError, located_in
from ...core.look.sample_request import read_request
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from .preview_jobs import Job, PreviewState, ask_run, poll_run
from .preview_process import PreviewProcess, end

WORKER = (sys.executable, "-m", "rollout_studio.core.look.preview.worker")
RESULTS_KEPT, TICKETS_KEPT = 32, 512


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
        command = [*worker, *(["--idle", str(idle_s)] if idle_s is not None else [])]
        self._lock = threading.RLock()
        self._worker = PreviewProcess(command, self.log, self._answered, self._worker_ended)
        self._closed = False
        self._jobs: OrderedDict[str, Job] = OrderedDict()  # all that are remembered, oldest first
        self._by_key: dict[str, Job] = {}
        self._tickets: OrderedDict[str, tuple[Job, bool]] = OrderedDict()  # ticket -> job, was it known already
        self._viewers: dict[str, str] = {}  # viewer -> the last ticket
        self._warming: str | None = None
        atexit.register(self.close)

    # -- asking ---------------------------------------------------------------------------------------------------------

    def warm_up(self, config: Mapping[str, Any] | None = None) -> str:
        """Start the worker and load a model (None: the default, the demo), so that the first picture comes sooner.

        Returns a ticket, for a page that shows it. Costs nothing when it has been done or is being done.
        """
        with self._lock:
            if config is None and self._warming is not None and self._worker.is_running:
                return self._warming
            id = uuid.uuid4().hex[:12]
            job = Job(id, None, {"warm": dict(config or {}), "id": id}, self.folder / id)
            ticket = self._ticket(job, cached=False)
            self._warming = ticket
            self._dispatch(job)
            return ticket

    def request(self, record: Mapping[str, Any], viewer: str = "") -> str:
        """Ask for what `record` describes (`PreviewRequest.from_json`, `SampleRequest.from_json`); returns a ticket for `state`.

        Args:
            viewer: who requests it; the newer request of one viewer cancels the older, unless another one waits for it too.
                "" = no viewer: it cancels nothing.

        Wrong fields do not raise: the ticket's state is failed, with `faults`.
        """
        record = dict(record)
        with self._lock:
            id = uuid.uuid4().hex[:12]
            job = Job(id, None, {"ask": record, "id": id, "folder": str(self.folder / id)}, self.folder / id)
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
                    ask_run(job, RunDir(request.live.path), record)
                    self._jobs[job.id] = job
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
                poll_run(job)
                self._settled(job)
            if ticket not in job.tickets and job.ended is None:  # this one was given up, the job goes on for others
                return PreviewState("cancelled")
            until = time.monotonic() if job.ended is None else job.ended
            return PreviewState(
                job.status, 1.0 if job.status == "done" else job.share, job.what, job.result, *job.problem, job.faults,
                cached, 0.0 if cached else until - job.began, job.growing if job.result is None else None,
                job.curves if job.ended is None else None,
            )  # fmt: skip

    def cancel(self, ticket: str) -> None:
        """Wait for this ticket no longer; what no viewer waits for is not made."""
        with self._lock:
            self._give_up(ticket)

    def close(self) -> None:
        """End the worker. Called when the page's process ends; the client answers nothing afterwards."""
        with self._lock:
            self._closed, process = True, self._worker.current
            self._worker.current = None
            atexit.unregister(self.close)
        if process is not None:
            end(process)

    @property
    def pid(self) -> int | None:
        """The worker's process, None while there is none."""
        with self._lock:
            return self._worker.current.pid if self._worker.is_running else None

    # -- the worker -----------------------------------------------------------------------------------------------------

    def _dispatch(self, job: Job) -> None:
        """Send a job to the worker; starts one where there is none."""
        if self._closed:
            job.end("failed", "The page is ending.", "Start it again.")
            return
        self._jobs[job.id] = job
        try:
            job.process = self._worker.send(job.message)
        except OSError as error:
            job.end("failed", f"The preview worker cannot be started: {error}.", "Free some memory, then ask again.")
            self._not_kept(job)

    def _answered(self, answer: Mapping[str, Any]) -> None:
        with self._lock:
            self._take(answer)

    def _worker_ended(self, process: subprocess.Popen, code: int) -> None:
        with self._lock:
            self._bury(process, code)

    def _take(self, answer: Mapping[str, Any]) -> None:
        job = self._jobs.get(answer.get("id"))
        if job is None or job.ended is not None:
            return
        match answer["status"]:
            case "working":
                job.status, job.share, job.what = "working", answer["share"], answer["what"]
            case "growing":
                job.growing = located_in(answer["result"], job.folder)
            case "curves":
                job.curves = answer["result"]["curves"]
            case "part":
                job.result = located_in(answer["result"], job.folder)
            case "done":
                if "ask" in job.message:
                    job.result = located_in(answer["result"], job.folder)
                job.end("done")
            case "failed":
                job.end("failed", answer["message"], answer["remedy"])
            case "cancelled":
                job.end("cancelled")
        self._settled(job)

    def _settled(self, job: Job) -> None:
        """A job that has ended: its result is kept for the next request of the same, or it is forgotten."""
        if job.status == "done":
            self._forget_the_oldest()
        elif job.ended is not None:
            self._not_kept(job)

    def _bury(self, process: subprocess.Popen, code: int) -> None:
        """A worker has ended: the job it was at has failed, the others go to a new one."""
        if self._worker.current is process:
            self._worker.current = None
        if self._closed:
            return
        left = [job for job in self._jobs.values() if job.process is process and job.ended is None]
        if not left:
            return
        left[0].end(
            "failed",
            f"The preview worker ended unexpectedly (exit code {code}). {self._worker.last_words()}".strip(),
            "Ask again: it starts anew. If it ends again, this model may need more memory than there is.",
        )
        self._not_kept(left[0])
        for job in left[1:]:
            if job.tickets:
                job.status, job.share, job.what = "waiting", 0.0, "waiting"
                self._dispatch(job)
            else:
                job.end("cancelled")

    # -- what is remembered ---------------------------------------------------------------------------------------------

    def _ticket(self, job: Job, cached: bool) -> str:
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
        if self._by_key.get(job.key) is job:  # the next request of the same makes it anew
            del self._by_key[job.key]
        if job.process is not None:
            self._worker.write(job.process, {"cancel": job.id})
        else:  # a run's trainer cannot take a request back; its answer is not waited for
            job.end("cancelled")

    def _not_kept(self, job: Job) -> None:
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
