"""One start of automatic captions, in a process of its own, as whoever started it sees it. No torch. Thread-safe."""

import contextlib
import json
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import platform_calls
from .folder import Skipped
from .settings import CaptionSettings

COMMAND = (sys.executable, "-m", "rollout_studio.core.captioning.worker")
STOP_PATIENCE_S = 20.0  # for the batch that is under way; then the process is ended, which leaves no half caption
_LAST_WORDS = 600  # characters of a crashed worker's log that are shown


@dataclass(frozen=True)
class JobState:
    """How far a start is. `phase`: starting, downloading, opening, writing, finished, stopped or failed."""

    phase: str = "starting"
    model: str = ""
    device: str = ""
    total: int = 0
    done: int = 0
    kept: int = 0
    written: int = 0
    last: str = ""
    skipped: tuple[Skipped, ...] = field(default=())
    bytes_: tuple[int, int] = (0, 0)
    message: str = ""
    remedy: str = ""

    @property
    def over(self) -> bool:
        return self.phase in ("finished", "stopped", "failed")


class CaptionJob:
    """Starts at once. `state` is the latest; `stop` ends it after the batch that is under way."""

    def __init__(self, folder: Path, settings: CaptionSettings) -> None:
        self.folder, self.settings = folder, settings
        self._state, self._lock, self._stopping = JobState(), threading.Lock(), False
        self._place = tempfile.TemporaryDirectory(prefix="rollout-studio-captions-", ignore_cleanup_errors=True)
        request, self._log = Path(self._place.name) / "request.json", Path(self._place.name) / "log.txt"
        request.write_text(json.dumps({"folder": str(folder), "settings": asdict(settings)}), encoding="utf-8")
        self._process = platform_calls.start_helper(
            [*COMMAND, str(request)], self._log, extra_env=platform_calls.worker_environment()
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name="captions")
        self._reader.start()

    @property
    def state(self) -> JobState:
        with self._lock:
            return self._state

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        with self._lock:
            return self._stopping

    def stop(self) -> None:
        """Stop after the current batch; at the latest after `STOP_PATIENCE_S`. Returns at once."""
        with self._lock:
            if self._stopping or self._state.over:
                return
            self._stopping = True
        self._end_input()
        timer = threading.Timer(STOP_PATIENCE_S, self._process.kill)
        timer.daemon = True
        timer.start()

    def wait(self, timeout_s: float | None = None) -> JobState:
        """The state when it is over, or after `timeout_s`."""
        self._reader.join(timeout_s)
        return self.state

    def _read(self) -> None:
        answers = self._process.stdout
        assert answers is not None  # `start_helper` gives pipes
        for line in answers:
            event = json.loads(line)
            with self._lock:
                self._state = _after(self._state, event)
        self._process.wait()
        self._end_input()
        answers.close()
        with self._lock:
            if not self._state.over:
                self._state = self._ended()
        self._place.cleanup()

    def _end_input(self) -> None:
        assert self._process.stdin is not None  # see `_read`
        with contextlib.suppress(OSError):  # it has ended by itself
            self._process.stdin.close()

    def _ended(self) -> JobState:
        """The process ended without an answer."""
        if self._stopping:
            return replace(self._state, phase="stopped")
        words = " ".join(self._log.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].split())
        return replace(
            self._state, phase="failed", message=f"The process that writes captions ended without an answer (exit code {self._process.returncode}). Its log ends: {words}",
            remedy="The system ends a process so where main memory runs out: take fewer pictures at once or a smaller model, then start again; what was written stays.",
        )  # fmt: skip


def _after(state: JobState, event: dict[str, Any]) -> JobState:
    """The state after an event of the worker."""
    name = event["event"]
    if name == "plan":
        return replace(state, total=event["total"], kept=event["kept"] + event["done"])
    if name == "download":
        return replace(state, phase="downloading", last=event["file"], bytes_=(event["done"], event["total"]))
    if name == "model":
        return replace(state, phase="opening", model=event["name"], last="", bytes_=(0, event["bytes"]))
    if name == "opened":
        return replace(state, phase="writing", device=event["device"])
    if name == "written":
        return replace(
            state, done=event["done"], written=state.written + 1, last=f"{event['picture']}: {event['caption']}"
        )
    if name == "skipped":
        return replace(
            state,
            done=event["done"],
            skipped=(*state.skipped, Skipped(event["picture"], event["reason"], event["remedy"])),
        )
    if name == "finished":
        return replace(state, phase="finished" if event["left"] == 0 else "stopped")
    return replace(state, phase="failed", message=event["message"], remedy=event["remedy"])
