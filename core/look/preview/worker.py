"""The process that answers previews, started by the page:

    python -m rollout_studio.core.look.preview.worker [--idle SECONDS]

One line of JSON in is a request, lines of JSON out are its progress and its answer (`Worker`). The worker keeps the last model, a few
LoRAs beside it, and the outputs of its network and its decoder, by content: a request with another solver, offset or
checkpoint costs only what is new. A running run answers with its own weights, between two of its steps, by the same code
(`answer.show_live`).
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...config.options import ConfigError
from ...memory import is_out_of_memory
from ...platform_calls import use_all_cores
from ..bench import Bench
from ..drift.settings import Stopped
from ..pictures.filmstrip import heat
from .answer import answer, explain
from .request import PreviewError, PreviewRequest

IDLE_S = 300.0
PROGRESS_S = 0.1  # between two lines of progress


class Worker:
    """Reads requests, answers them one after another.

    In: `{"ask": {...}, "id", "folder"}`, `{"warm": {...config}, "id"}`, `{"cancel": id}`. Out, each with the `id`:
    `{"status": "working", "share", "what"}`, `{"status": "growing" | "part" | "curves" | "done", "result"}`, `{"status": "failed", "message",
    "remedy"}`, `{"status": "cancelled"}`. At the end of the input, which is when the parent is gone, the process ends.
    """

    def __init__(self, out: Any, idle_s: float) -> None:
        self.out, self.idle_s, self.bench = out, idle_s, Bench()
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._cancelled: set[str] = set()
        self._reported = 0.0

    def send(self, **message: Any) -> None:
        line = json.dumps(message, ensure_ascii=True, allow_nan=False) + "\n"
        try:
            with self._lock:
                self.out.write(line.encode())
                self.out.flush()
        except OSError:  # the parent is gone
            os._exit(0)

    def listen(self, lines: Iterator[bytes]) -> None:
        """The thread that reads: a cancellation must take effect while the main thread computes."""
        for line in lines:
            try:
                message = json.loads(line)
                id = str(message["cancel"] if "cancel" in message else message["id"])
            except (ValueError, KeyError, TypeError) as error:
                self.send(
                    id=None, status="failed", message=f"No request: {error!r}", remedy="Send a JSON object a line."
                )
                continue
            with self._lock:
                if "cancel" not in message:
                    self._open.add(id)
                elif id in self._open:
                    self._cancelled.add(id)
            if "cancel" not in message:
                self.inbox.put(message)
        os._exit(0)  # at once: there is no reader left for what is computed now

    def run(self, lines: Iterator[bytes]) -> None:
        """Never returns: `listen` ends the process."""
        threading.Thread(target=self.listen, args=(lines,), daemon=True).start()
        while True:
            try:
                message = self.inbox.get(timeout=None if self.bench.model is None else self.idle_s)
            except queue.Empty:
                self.bench.free()
                print(f"idle for {self.idle_s:g} s: the model is given back", file=sys.stderr, flush=True)
                continue
            self.handle(message)
            with self._lock:
                self._open.discard(message["id"])
                self._cancelled.discard(message["id"])

    def handle(self, message: Mapping[str, Any]) -> None:
        """One request, whatever comes of it."""
        id = message["id"]
        try:
            if self.stopped(id):
                raise Stopped("Cancelled before it began.")
            if "warm" in message:
                self.warm(id, message["warm"])
                self.send(id=id, status="done", result={})
                return
            result = answer(
                self.bench,
                message["ask"],
                Path(message["folder"]),
                report_progress=lambda share, what: self.progress(id, share, what),
                part=lambda result: self.send(id=id, status="part", result=result),
                grow=lambda result: self.send(id=id, status="growing", result=result),
                on_curves=lambda result: self.send(id=id, status="curves", result=result),
                should_stop=lambda: self.stopped(id),
            )
            self.send(id=id, status="done", result=result)
        except Stopped:
            self.send(id=id, status="cancelled")
        except Exception as error:  # noqa: BLE001 - reported with its remedy; the traceback is in the log, and the worker goes on
            reason, remedy = explain(error)
            if not isinstance(error, PreviewError | ConfigError):
                traceback.print_exc()
            if is_out_of_memory(error):
                self.bench.free()
            self.send(id=id, status="failed", message=reason, remedy=remedy)

    def warm(self, id: str, config: Mapping[str, Any]) -> None:
        """Import and load what the first request will need. The model's code comes with the model."""
        self.progress(id, 0.0, "starting")
        request = PreviewRequest.from_json({"config": config, "image": "-"})
        self.bench.open(request.config)
        _warm_drawing()

    def progress(self, id: str, share: float, what: str) -> None:
        """Progress, ten times a second at most."""
        now = time.monotonic()
        if now - self._reported >= PROGRESS_S:
            self._reported = now
            self.send(id=id, status="working", share=round(share, 4), what=what)

    def stopped(self, id: str) -> bool:
        with self._lock:
            return id in self._cancelled


def _warm_drawing() -> None:
    """matplotlib's parts, which would cost the first picture half a second."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    heat(np.zeros((1, 1)))


def main(arguments: list[str]) -> int:
    """`[--idle SECONDS]`: free the model after so many seconds without a request."""
    if arguments and (len(arguments) != 2 or arguments[0] != "--idle"):
        print("usage: python -m rollout_studio.core.look.preview.worker [--idle SECONDS]", file=sys.stderr)
        return 78
    idle_s = float(arguments[1]) if arguments else IDLE_S
    # The protocol gets a channel of its own; what libraries print goes to the log.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    use_all_cores()
    Worker(out, idle_s).run(iter(sys.stdin.buffer.readline, b""))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
