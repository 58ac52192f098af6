"""Running out of memory is reported with the same concrete remedies, whatever runs out and however it is worded."""

import numpy
import pytest
import torch
from rollout_studio.core.before.needing_less import ways_to_need_less
from rollout_studio.core.config import config_from_flat, with_changes
from rollout_studio.core.families.source import ModelError
from rollout_studio.core.look.preview.answer import explain
from rollout_studio.core.memory import is_out_of_memory, memory_message
from rollout_studio.core.train.loop import train
from tiny_run import at_step, events


def raised(action):
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def wrapped():
    try:
        raise MemoryError
    except MemoryError as error:
        raise ModelError("the model cannot be loaded", "Check the path.") from error


ERRORS = {
    "torch on a cpu": lambda: raised(lambda: torch.empty(2**60)),
    "torch on a cpu, Windows": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4294967296 bytes."),
    "python": lambda: raised(lambda: bytearray(2**62)),
    "numpy": lambda: raised(lambda: numpy.zeros(2**55)),
    "the system": lambda: OSError(12, "Cannot allocate memory"),
    "Windows' paging file": lambda: OSError("The paging file is too small for this operation to complete. (os error 1455)"),
    "MPS": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 17.98 GB, other allocations: 1.2 GB, max allowed: 18.13 GB)."),
    "Metal": lambda: RuntimeError("Invalid buffer size: 20.25 GB"),
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "inside another": lambda: raised(wrapped),
}  # fmt: skip


@pytest.mark.parametrize("who", ERRORS)
def test_it_is_recognised_from_any_source(who):
    assert is_out_of_memory(ERRORS[who]())


@pytest.mark.parametrize(
    "error",
    [RuntimeError("expected scalar type Float"), OSError(28, "No space left on device"), ValueError("memory_format")],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_an_error_without_words_gets_some():
    assert memory_message(MemoryError()) == "The memory is full (MemoryError)."


def test_only_what_is_not_done_yet_is_advised_with_its_values():
    wide = config_from_flat({"train_batch_size": 4, "gradient_accumulation_steps": 2, "resolution": 768})
    ways = ways_to_need_less(wide)
    assert (
        "train_batch_size 1 instead of 4 (with gradient_accumulation_steps 8" in ways
        and "gradient_checkpointing on" in ways
    )
    assert "base_model_precision bfloat16" in ways and "a resolution below 768" in ways
    least = config_from_flat(
        {"train_batch_size": 1, "gradient_checkpointing": True, "base_model_precision": "bfloat16", "resolution": 512,
         "base_model_quantization": "nf4", "device": "cuda"}
    )  # fmt: skip
    assert ways_to_need_less(least) == "a resolution below 512"
    assert "base_model_quantization nf4 or int8 or int8_bnb or fp8" in ways_to_need_less(
        with_changes(least, {"base_model_quantization": "none"})
    )
    full = config_from_flat({"train_batch_size": 1, "model_type": "full"})
    assert "model_type lora" in ways_to_need_less(full) and "base_model_precision" not in ways_to_need_less(full)


@pytest.mark.parametrize("who", ["torch on a cpu", "python", "MPS", "CUDA"])
def test_a_training_says_what_to_lower_and_from_where_it_can_go_on(tiny_run, without_drift, who):
    run = tiny_run("lumina2", checkpoint_step_interval=1, max_train_steps=4)

    def full():
        raise ERRORS[who]()

    assert train(run, listen=at_step(3, full)) == 70
    error = events(run, "error")[-1]
    assert error["message"].startswith("The memory is full") and "traceback" not in error["remedy"]
    assert "train_batch_size 1 instead of 2" in error["remedy"] and "gradient_checkpointing on" in error["remedy"]
    assert "resume goes on from step 2" in error["remedy"] and "copy of this run" in error["remedy"]


def test_without_a_checkpoint_no_resume_is_advised(tiny_run, without_drift):
    run = tiny_run("lumina2")

    def full():
        raise MemoryError

    assert train(run, listen=at_step(1, full)) == 70
    assert (
        "retry it from the start" in events(run, "error")[-1]["remedy"]
        and "resume" not in events(run, "error")[-1]["remedy"]
    )


def test_samples_that_do_not_fit_are_reported_with_the_remedy_and_training_goes_on(
    tiny_run, without_drift, monkeypatch
):
    from rollout_studio.core.families.base import Model

    sample, calls = Model.sample, []

    def sometimes(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise MemoryError
        return sample(self, *args, **kwargs)

    monkeypatch.setattr(Model, "sample", sometimes)
    run = tiny_run("lumina2", validation_prompts=["a circle"], validation_step_interval=1)
    assert train(run) == 0
    [warning] = [event for event in events(run, "warning") if "MemoryError" in event["message"]]
    assert "The memory is full" in warning["remedy"]


@pytest.mark.parametrize("who", ["torch on a cpu", "python", "MPS", "CUDA", "inside another"])
def test_a_drift_preview_says_what_to_choose_instead(who):
    message, remedy = explain(ERRORS[who]())
    assert "not enough memory" in message and "smaller picture" in remedy
