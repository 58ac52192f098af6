"""Running out of memory: recognised whoever says it, and what to do about it in this project's own words. No torch."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import RunConfig

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
    """Whether `error`, or what it came from, says that memory ran out: on a GPU, on Apple's, or the computer's own."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _WORDS.search(str(error)):
            return True
        error = error.__cause__ if error.__cause__ is not None else error.__context__
    return False


def memory_message(error: BaseException) -> str:
    """What happened, with the allocator's own words; Python's MemoryError has none."""
    return f"The memory is full ({type(error).__name__}{f': {error}' if str(error) else ''})."


def ways_to_need_less(config: "RunConfig") -> str:
    """What in a training's settings takes memory and can be lowered, in the order in which to try; what is done already is left out."""
    training, ways = config.training, []
    size = training.train_batch_size
    if size > 1:
        accumulated = size * training.gradient_accumulation_steps
        ways.append(f"train_batch_size 1 instead of {size} (with gradient_accumulation_steps {accumulated} a step trains the same rows)")
    if not training.gradient_checkpointing:
        ways.append("gradient_checkpointing on")
    if training.model_type == "full":
        ways.append("model_type lora")
    elif config.model.base_model_precision == "float32":
        ways.append("base_model_precision bfloat16")
    ways.append(f"a resolution below {config.data.resolution}")
    return ", or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]
