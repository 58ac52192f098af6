"""The preview worker as a process of the page's: one at a time, started when something is sent, its answers read by a thread of their own."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core import platform_calls

PATIENCE_S = 3.0  # for a worker whose input has ended
LAST_WORDS = 600  # characters of a crashed worker's log that are shown


class PreviewProcess:
    """Guarded by its owner's lock, but for the thread that reads.

    Args:
        command: what starts the worker. log: where it writes what is no answer.
        answered: gets every answer. ended: gets the process and its exit code; both are called by the reading thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        answered: Callable[[Mapping[str, Any]], None],
        ended: Callable[[subprocess.Popen, int], None],
    ) -> None:
        self._command, self._log, self._answered, self._ended = list(command), log, answered, ended
        self.current: subprocess.Popen | None = None

    @property
    def is_running(self) -> bool:
        return self.current is not None and self.current.poll() is None

    def send(self, message: Mapping[str, Any]) -> subprocess.Popen:
        """Send to the worker, which is started where there is none; returns its process. Raises OSError when it cannot be started."""
        if not self.is_running:
            self.current = platform_calls.start_helper(
                self._command, self._log, extra_env=platform_calls.worker_environment()
            )
            threading.Thread(target=self._read, args=(self.current,), daemon=True, name="preview answers").start()
        self.write(self.current, message)
        return self.current

    @staticmethod
    def write(process: subprocess.Popen, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(
            OSError
        ):  # it has crashed: `_read` is about to notice, and `ended` answers for all its jobs
            process.stdin.write(json.dumps(message, ensure_ascii=True).encode() + b"\n")
            process.stdin.flush()

    def _read(self, process: subprocess.Popen) -> None:
        """The thread that reads one worker's answers, until it ends."""
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue  # half a line of a worker that was killed while it wrote
            self._answered(answer)
        code = process.wait()
        process.stdout.close()
        with contextlib.suppress(OSError):  # what could not be written to it is of no use any more
            process.stdin.close()
        self._ended(process, code)

    def last_words(self) -> str:
        """How the log of the worker ends, on one line."""
        try:
            text = self._log.read_text(encoding="utf-8", errors="replace").rstrip()
        except OSError:
            return ""
        return f"Its log ends: {' '.join(text[-LAST_WORDS:].split())}" if text else ""


def end(process: subprocess.Popen) -> None:
    """Let a worker end, and wait for it; it is killed when it does not."""
    with contextlib.suppress(OSError):  # it may be gone already
        process.stdin.close()  # the end of its input is its sign to end
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
