"""How a training ends: exit codes, the errors that end it, and the last events that it writes."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..before.estimate import known_facts
from ..before.needing_less import ways_to_need_less
from ..config import ConfigError, RunConfig
from ..data import DatasetError
from ..errors import Trouble
from ..families import ModelError
from ..memory import is_out_of_memory, memory_message
from ..runs.checkpoint import NewerCheckpoint
from .interrupt import Interrupt, StopNow
from .ranks import Ranks
from .status import Status

DONE, PREEMPTED, REFUSED, CRASHED = 0, 75, 78, 70
"""Exit codes: done or stopped on request; ended by a signal, resume me; the config or data cannot be trained; broke."""

_LOST = ("closed by peer", "Connection reset", "Broken pipe", "Timed out waiting", "gloo/transport")
"""What torch's gloo says where a process of the group is gone."""


class Refused(Trouble):
    """The run cannot train as requested; `remedy` says what to do. Nothing was lost."""


class Broken(Trouble):
    """Training met something that must not go on, such as a loss that is not finite."""


class NotFinite(Broken):
    """A number of a step is not finite. Weights and moments are as before the step, except where `in_weights`: then they are damaged.

    Args:
        what: the loss, the gradient, the weights, ...; value: nan, inf or -inf; step: counted from 0; pictures: of the whole step.
    """

    def __init__(self, what: str, value: float, step: int, pictures: list[str], *, in_weights: bool = False) -> None:
        self.what, self.value, self.step, self.pictures, self.in_weights = what, value, step, pictures, in_weights
        super().__init__(
            f"The {what} at step {step + 1} is {value}; its pictures: {', '.join(pictures)}.",
            "Lower learning_rate (half of it is a good try), use mixed_precision no or bf16, or remove the pictures named, in a "
            "clone of this run.",
        )


class Leave(Exception):
    """An orderly end before the last step."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


@contextmanager
def agreed_end(ranks: Ranks) -> Iterator[None]:
    """Where one rank leaves or fails inside, all leave at the end of the block: rank 0 alone receives stops and waits for a full disk.

    Raises: Leave, on every rank that did not fail. In one process the block's own.
    """
    leave: Leave | None = None
    try:
        yield
    except Leave as error:
        leave = error
    except Exception as error:
        if not is_lost_rank(error):
            ranks.any(True)
        raise
    if ranks.any(leave is not None):
        raise leave if leave is not None else Leave(DONE, "another rank has ended the run.")


@contextmanager
def main_first(ranks: Ranks) -> Iterator[None]:
    """Rank 0 does the block, then the others, who find what it wrote. Inside `agreed_end`.

    Raises: Leave, on the others, where rank 0 left or failed.
    """
    if not ranks.is_main and ranks.any(False):
        raise Leave(DONE, "another rank has ended the run.")
    try:
        yield
    except Exception:
        if ranks.is_main:
            ranks.any(True)
        raise
    if ranks.is_main:
        ranks.any(False)


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone: gloo and NCCL have types of their own, or only these words."""
    is_own_kind = isinstance(error, torch.distributed.DistBackendError | torch.distributed.DistNetworkError)
    return is_own_kind or (isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST))


def report_end(status: Status, config: RunConfig | None, interrupt: Interrupt, error: BaseException | None) -> int:
    """Write the last events of a run: `error` where there was one, then `end`; and its last state.

    Args:
        config: the run's, None where it could not be read; error: what ended the run, None after its last step.
    Returns: the exit code.
    """
    if isinstance(error, StopNow):
        return _end(status, PREEMPTED, "stopped", f"{error}: stopped at once; {status.how_to_continue()}.")
    interrupt.is_over = True
    match error:
        case None:
            return _end(status, DONE, "done", None)
        case Leave():
            return _end(status, error.code, "stopped", error.message)
        case ConfigError() | Refused() | ModelError() | DatasetError() | NewerCheckpoint():
            code, last_words = REFUSED, str(error)
        case _ if status.ranks.world_size > 1 and is_lost_rank(error):
            code, last_words = CRASHED, "another process of the run is gone."
        case _:
            code, last_words = CRASHED, f"{type(error).__name__}: {error}"
    message, remedy = _explained(error, status, config)
    status.journal.emit("error", message=message, remedy=remedy, traceback="".join(traceback.format_exception(error)))
    return _end(status, code, "failed", last_words)


def report_elsewhere(status: Status, error: BaseException, why: OSError) -> int:
    """Say on stderr (log.txt of a worker) how a run ended whose folder takes no event: it was moved, or became read-only. Returns the exit code."""
    traceback.print_exception(error)
    print(
        f"{status.run.path}: nothing can be written there any more ({why}). The run has ended after step {status.step}; its checkpoints are where the "
        "folder is now. Open that folder (--runs-dir), where it can be written, and resume the run.",
        file=sys.stderr,
        flush=True,
    )
    return CRASHED


def _end(status: Status, code: int, state: str, message: str | None) -> int:
    memory = {"memory_mib": status.peak_mib, "expected_mib": status.expected_mib}
    status.journal.emit("end", state=state, step=status.step, message=message, **memory)
    status.journal.state(state=state, step=status.step, message=message)
    return code


def _explained(error: BaseException, status: Status, config: RunConfig | None) -> tuple[str, str]:
    """(what went wrong, what to do)."""
    if config is not None and is_out_of_memory(error):
        return memory_message(error), (
            f"Close other programs that hold memory: {status.how_to_continue()}. Or train a copy of this run (settings that decide a step cannot change "
            f"in the run itself) with {ways_to_need_less(config, known_facts(config.model))}."
        )
    if status.ranks.world_size > 1 and is_lost_rank(error):
        return f"Another of the {status.ranks.world_size} processes of this run is gone ({error}).", (
            f"See log.txt for how it ended (killed, out of memory, ...): {status.how_to_continue()}. max_restarts above 0 does that by itself."
        )
    if isinstance(error, Trouble) and error.remedy:
        return error.message, error.remedy
    if isinstance(error, ConfigError):
        return f"{type(error).__name__}: {error}", "Mend config.json, or make a new run."
    return f"{type(error).__name__}: {error}", (
        "See the traceback and log.txt; after mending the cause, resume from the last checkpoint."
    )
