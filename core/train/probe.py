"""Measure what a step of a config takes on this device: `python -m rollout_studio.core.train.probe CONFIG RUNS_DIR`.

A few real optimizer steps on the pictures of the largest shape with the longest caption, every row rolled out where the config has a rollout;
what they need is taken from the cache or put there. Prints one line of JSON: `before.probes.Probe`'s fields, or `message` and `remedy`.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import torch

from ..before.estimate import known_facts, memory_estimate
from ..before.needing_less import ways_to_need_less
from ..before.preflight import cache_folder
from ..before.probes import Probe
from ..config import RunConfig, read_config, with_changes
from ..data import Scan
from ..data.buckets import Size
from ..errors import Trouble
from ..families.devices import resolve_device
from ..memory import is_out_of_memory, memory_message
from ..runs.folder import RunDir
from .accelerator import opened_accelerator
from .interrupt import Interrupt
from .listening import Listener
from .ranks import Ranks
from .reporting import memory_mib
from .session import open_session
from .status import SilentJournal, Status
from .step import Stepper

FEWEST_STEPS, MOST_STEPS = 2, 8
"""The moments of an optimizer are there after the first step; further ones are taken until a row was rolled out in a later one."""
_EVERY_S = 0.02


def probe(config: RunConfig, runs_dir: Path) -> Probe:
    """Take the steps in this process.

    Raises: what `open_session` and `Stepper` raise.
    """
    shapes = memory_estimate(config, known_facts(config.model)).total
    device = resolve_device(config.model.device)
    with tempfile.TemporaryDirectory(prefix="rollout-studio-probe-", ignore_cleanup_errors=True) as folder:
        run, like = RunDir(Path(folder) / "probe"), probed_config(config, runs_dir)
        status = Status(run, SilentJournal(run), Ranks())
        with opened_accelerator(like, run) as accelerator:
            with peak_of(device) as opening:
                session = open_session(like, accelerator, Listener(status, Interrupt()), largest)
                session.free_what_training_does_not_need()
            stepper, rolled, mib = Stepper(session, Ranks()), [], 0.0
            with peak_of(device) as steps:
                for step in range(MOST_STEPS):
                    rolled.append(stepper.take(step).tally.rolled > 0)
                    mib = max(mib, memory_mib(device))
                    if step + 1 >= FEWEST_STEPS and (any(rolled[1:]) or not like.rollout.rolls_out):
                        break
    estimated = None if shapes is None else round(shapes.likely / 2**20, 1)
    return Probe(mib, max(mib, steps.mib), opening.mib, str(device), len(rolled), sum(rolled), estimated)


def probed_config(config: RunConfig, runs_dir: Path) -> RunConfig:
    """The config whose steps take what those of `config` take at most, with nothing beside them.

    Class pictures are rows like any others: a batch twice as large stands for them, so that none need be drawn.
    """
    training, data = config.training, config.data
    changes = {
        "train_batch_size": training.train_batch_size * (2 if data.with_prior_preservation else 1),
        "with_prior_preservation": False,
        "gradient_accumulation_steps": min(2, training.gradient_accumulation_steps),
        "max_train_steps": MOST_STEPS,
        "lr_warmup_steps": 0,
        "report_to": "none",
        "data_cache_dir": str(cache_folder(config, Path(runs_dir))),
        "validation_prompts": [],
        "drift_data_dir": None,
        "drift_holdout_images": 0,
        "drift_num_images": 1,
        "text_encoder_steps": None,
        "new_token_steps": None,
        "new_token_steps_alone": 0,
        "compile": False,
    }
    if config.rollout.is_active:
        changes |= {
            "scheduled_sampling_probability": 1.0,
            "scheduled_sampling_ramp_steps": 0,
            "scheduled_sampling_start_step": 0,
        }
    return with_changes(config, changes)


def largest(found: Scan, batch_size: int) -> Scan:
    """The first pictures of the shape with most pixels, as many as a batch has, each with the longest of all captions."""
    size: Size = max((item.bucket for item in found.items), key=lambda bucket: (bucket[0] * bucket[1], bucket))
    caption = max((item.caption for item in found.items), key=len)
    chosen = [item for item in found.items if item.bucket == size][:batch_size]
    return replace(found, items=tuple(replace(item, caption=caption) for item in chosen), class_items=())


class _Peak:
    mib = 0.0


@contextmanager
def peak_of(device: torch.device) -> Iterator[_Peak]:
    """The most memory during the block: what an NVIDIA card's allocator says, elsewhere looked at fifty times a second."""
    peak = _Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.mib = memory_mib(device)
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            peak.mib = max(peak.mib, memory_mib(device))

    watcher = threading.Thread(target=watch, daemon=True, name="memory")
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak.mib = max(peak.mib, memory_mib(device))


def main(arguments: list[str]) -> int:
    """See the module. The exit code is 0 with an answer, whatever it is."""
    from ..platform_calls import use_all_cores

    use_all_cores()
    config = read_config(Path(arguments[0]))
    try:
        answer = asdict(probe(config, Path(arguments[1])))
    except Exception as error:  # noqa: BLE001 - the answer says what it was; the log has its traceback
        import traceback

        traceback.print_exc()
        answer = _refusal(error, config)
    print(json.dumps(answer), flush=True)
    return 0


def _refusal(error: Exception, config: RunConfig) -> dict[str, str]:
    if is_out_of_memory(error):
        free = psutil.virtual_memory().available / 2**30
        remedy = f"Close other programs that hold memory ({free:.1f} GiB of main memory are free now), or take {ways_to_need_less(config, known_facts(config.model))}."
        return {"message": memory_message(error), "remedy": remedy}
    if isinstance(error, Trouble):
        return {"message": error.message, "remedy": error.remedy}
    return {
        "message": f"{type(error).__name__}: {error}",
        "remedy": "Check the settings; “Check first” says what is wrong with them.",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
