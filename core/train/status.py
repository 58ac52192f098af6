"""How far a run is, and where it reports: the one small record that everything in a training shares."""

import sys
from pathlib import Path
from typing import Any

from ..runs.folder import RunDir
from ..runs.heartbeat import Heartbeat
from ..runs.journal import Journal
from .ranks import Ranks
from .standing import Standing


class SilentJournal(Journal):
    """The journal of a rank that does not write."""

    def emit(self, event: str, **fields: Any) -> None:
        """Write nothing; print an error, which nobody else may know of."""
        if event == "error":
            print(
                fields["traceback"],
                f"error of another rank: {fields['message']}",
                sep="\n",
                file=sys.stderr,
                flush=True,
            )

    def state(self, **fields: Any) -> None:
        """Write nothing."""


class Status:
    """The steps that are done, and the run's folder and journal. Only the loop counts steps; only `Keeper` sets `saved`."""

    def __init__(self, run: RunDir, journal: Journal, ranks: Ranks) -> None:
        self.run, self.journal, self.ranks = run, journal, ranks
        self.step = run.last_checkpoint() or 0
        """Optimizer steps that are done."""
        self.total = 0
        """Optimizer steps of the whole run."""
        self.expected_mib: list[float] | None = None
        """(low, likely, high) MiB that a step was estimated to take; None where that is not known."""
        self.peak_mib: float | None = None
        """The most that a step of this process took."""
        self.heartbeat = Heartbeat(run)
        """Of this process; beats where it was entered."""
        self.standing = Standing()
        """What the run's mishaps have left behind; only `Recovery` changes it."""
        self.saved: int | None = None
        """The step of the newest checkpoint, where this process wrote it or goes on from it."""

    def emit(self, event: str, **fields: Any) -> None:
        """Write an event of the current step."""
        self.journal.emit(event, step=self.step, **fields)

    def warn(self, message: str, remedy: str, **fields: Any) -> None:
        """Write a `warning` event: what is the case, and what to do about it."""
        self.journal.emit("warning", message=message, remedy=remedy, **fields)

    def set_paused(self, is_paused: bool) -> None:
        """Report that the run waits for `resume`, or goes on."""
        self.emit("paused" if is_paused else "resumed")
        self.journal.state(state="paused" if is_paused else "running", step=self.step)

    def relative(self, path: Path) -> str:
        """A path in the run's folder, as events name it."""
        return path.relative_to(self.run.path).as_posix()

    def step_folder(self, folder: Path, suffix: str = "", step: int | None = None) -> Path:
        """What belongs to a step, the current one if unset, in one of the run's folders, such as samples/step-000250."""
        return folder / f"step-{self.step if step is None else step:06d}{suffix}"

    def how_to_continue(self) -> str:
        """What a person can do with a run that ends before its last step, as half a sentence."""
        last = self.run.last_checkpoint()
        if last is None:
            return "there is no checkpoint yet, so retry it from the start"
        return f"resume goes on from step {last}"
