"""Going on from a checkpoint: which one, whether the run is still the same, and everything put back as it was."""

import platform
from typing import Any

import torch
from torch import Tensor

from ..adapters.trainable import load_adapter_state
from ..before.run_schedule import schedule_of
from ..config import OPTIONS, RunConfig, config_to_flat
from ..families.devices import resolve_device
from ..runs import checkpoint
from ..runs.checkpoint import WHOLE, Checkpoint, Share
from .outcome import Refused
from .session import Session
from .status import Status

FREE_ON_RESUME = frozenset(
    name for name, option in OPTIONS.items()
    if option.section in ("validation", "saving")
    or (option.section == "drift" and name not in ("drift_data_dir", "drift_holdout_images", "drift_seed"))  # these choose what trains
    or name in ("max_train_steps", "num_processes", "max_restarts", "report_to", "data_cache_dir", "data_cache_limit_gb", "device", "lora_layout", "lora_folder",
                "streamed_blocks", "compile", "shard_weights", "skip_broken_steps", "split_on_out_of_memory")
)  # fmt: skip
"""Options that may change between a checkpoint and its resume: none of them changes a step that goes well. `max_train_steps` may only
grow.
"""


def find_checkpoint(status: Status, resume: bool, share: Share = WHOLE) -> Checkpoint | None:
    """The newest whole checkpoint of a run that resumes, or a share of its rows; None for a fresh run.

    Raises: Refused where a fresh run would overwrite checkpoints, or there is none to resume from.
    """
    run, folder = status.run, status.run.checkpoints_path
    if status.ranks.is_main:
        checkpoint.remove_leftovers(folder)
    if not resume:
        there = checkpoint.checkpoints(folder)
        if there:
            raise Refused(
                f"{run.name} has checkpoints already, the newest of step {checkpoint.step_of(there[-1])}.",
                "Resume it, or make a new run: training would overwrite them.",
            )
        return None
    found, skipped = checkpoint.load_latest(folder, share)
    for reason in skipped:
        status.warn(f"A checkpoint was passed over: {reason}", "An older one is used; delete the damaged folder.")
    if found is None:
        raise Refused(f"{run.name} has no whole checkpoint to go on from.", "Clone the run and start the clone.")
    return found


def check_unchanged(found: Checkpoint, config: RunConfig, status: Status) -> None:
    """Warn of what makes a resumed run differ in its numbers. Raises: Refused where a setting that decides a step has changed."""
    was, now = _with_later_options(found.record["config"], config), config_to_flat(config)
    changed = list(checkpoint.differences(was, now, ignore=FREE_ON_RESUME))
    if now["max_train_steps"] < was["max_train_steps"]:
        changed.append(f"max_train_steps: {was['max_train_steps']} -> {now['max_train_steps']} (it may only grow)")
    if changed:
        raise Refused(
            f"The config differs from that of checkpoint step {found.step}: {'; '.join(changed)}.",
            "Put these back to resume, or clone the run to train with the new values from the start.",
        )
    if now["max_train_steps"] != was["max_train_steps"] and now["lr_scheduler"] not in (
        "constant",
        "constant_with_warmup",
    ):
        status.warn(
            f"max_train_steps grew from {was['max_train_steps']} to {now['max_train_steps']}: the {now['lr_scheduler']} schedule "
            "now ends later, so the learning rate jumps here.",
            "That is what a longer schedule means; nothing to do.",
        )
    here = versions(resolve_device(config.model.device), status.ranks.world_size)
    other = list(checkpoint.differences({"processes": 1, **found.record["versions"]}, here))
    if other:
        status.warn(
            f"Resuming, but not bit for bit: since checkpoint step {found.step} there changed {'; '.join(other)}.",
            "For exactly the same numbers resume with the same versions, device and number of threads and processes. Another number of processes "
            "trains on the same rows, noises, times and plans, and rounds its sums otherwise; only what lora_dropout drops is drawn anew.",
        )


def _with_later_options(was: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """A checkpoint's config, with the options that came after it as it trained without them: at their defaults, except that nothing
    bounded rolled rows on a path where something does by default now."""
    then = config_to_flat(RunConfig())
    if config.rollout.rolls_out and config.rollout.target == "consistent" and not schedule_of(config).path.is_flow:
        then["scheduled_sampling_snr_gamma"] = 0.0
    return {**{name: value for name, value in then.items() if name not in was}, **was}


def restore(session: Session, before: Checkpoint) -> None:
    """Put weights, moments, average and loss scale back. Raises: Refused where the pictures are not what they were."""
    changed = list(checkpoint.differences(before.record["data"], session.data_fingerprint()))
    if changed:
        raise Refused(
            f"The pictures differ from those of checkpoint step {before.step}: {'; '.join(changed)}.",
            "Put them back to resume, or clone the run to train on the new set from the start.",
        )
    moments = checkpoint.unflatten(before.record["optimizer"], before.tensors["optimizer"])
    weights, average = before.tensors["trainable"], before.tensors.get("ema", {})
    if session.shares is not None:
        own = dict(zip(session.names, session.parameters, strict=True))
        weights, average = (
            {name: session.shares.placed(value, own[name]) for name, value in named.items() if name in own}
            for named in (weights, average)
        )
        moments["state"] = {
            number: {
                name: session.shares.placed(value, session.parameters[number])
                if isinstance(value, Tensor) and value.ndim
                else value
                for name, value in each.items()
            }
            for number, each in moments["state"].items()
        }
    load_adapter_state(session.model, weights)
    session.optimizer.load_state_dict(moments)
    if session.average is not None:
        session.average.load([average[name] for name in session.names], before.record["ema_updates"])
    if session.accelerator.scaler is not None:
        session.accelerator.scaler.load_state_dict(before.record["scaler"])


def versions(device: torch.device, processes: int) -> dict[str, Any]:
    """What must be equal for a resumed run to give the same bits."""
    import accelerate
    import diffusers
    import peft
    import transformers

    libraries = {
        library.__name__: library.__version__ for library in (torch, diffusers, transformers, peft, accelerate)
    }
    return {
        **libraries,
        "python": platform.python_version(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
