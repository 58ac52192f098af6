"""Running out of memory, recognised whichever library reports it, and work in portions that fit. What can be lowered then:
`before.needing_less.ways_to_need_less`. No torch.
"""

import gc
import re
import sys
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

_WORDS = re.compile(
    r"out of memory"  # CUDA, MPS ("MPS backend out of memory"), ROCm, XPU
    r"|can't allocate memory|not enough memory: you tried"  # torch on a CPU: Linux and macOS; Windows
    r"|cannot allocate memory"  # a system call that maps a file or starts a process
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|invalid buffer size"  # Metal: one tensor larger than a buffer may be
    r"|paging file is too small|std::bad_alloc|bad allocation",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, means that memory ran out: on a GPU, on Apple's, or the computer's own."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _WORDS.search(str(error)):
            return True
        error = error.__cause__ if error.__cause__ is not None else error.__context__
    return False


def memory_message(error: BaseException) -> str:
    """What happened, with the allocator's own words; Python's MemoryError has none."""
    return f"The memory is full ({type(error).__name__}{f': {error}' if str(error) else ''})."


def return_memory() -> None:
    """Give back what a failed attempt left: its objects, then the blocks that torch's allocators keep, where torch is there."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class Portions:
    """How many rows, or pictures, are computed at once where no gradient is kept: half as many whenever the memory does not hold them."""

    def __init__(self) -> None:
        self.most: int | None = None
        """None: all."""

    def ask(self, rows: int, answer: Callable[[slice], Answer], at_most: int | None = None) -> list[Answer]:
        """What `answer` gives for all of `rows` rows, portion by portion, of no more than `at_most` rows. Raises: what it raises, out of
        memory only for a single row."""
        while True:
            size = max(1, min(each for each in (rows, self.most, at_most) if each is not None))
            try:
                return [answer(slice(begin, min(begin + size, rows))) for begin in range(0, max(1, rows), size)]
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            self.most = size // 2
            return_memory()
