"""accelerate's part of a training: mixed precision, its loss scale, and the trackers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..config import RunConfig, config_to_flat
from ..families.devices import current, resolve_device
from ..runs.folder import RunDir
from .outcome import Refused

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def opened_accelerator(config: RunConfig, run: RunDir) -> Iterator["Accelerator"]:
    """An accelerator for a run; afterwards its trackers are closed and accelerate's global state is given back, so that the next
    training in this process may differ.

    Raises: Refused for a precision or a tracker that this machine lacks.
    """
    from accelerate.state import AcceleratorState, GradientState

    device = resolve_device(config.model.device)
    is_foreign = bool(AcceleratorState._shared_state)
    with current(device):
        accelerator = _accelerator(config, run, device)
        if device.type == "cuda":  # of several processes accelerate has just taken the GPU of the process's number
            torch.cuda.set_device(device)
        try:
            if config.training.report_to != "none":
                flat = {
                    name: value if isinstance(value, int | float | str) else str(value)
                    for name, value in config_to_flat(config).items()
                }
                accelerator.init_trackers("rollout-studio", config=flat, init_kwargs={"wandb": {"name": run.name}})
            yield accelerator
        finally:
            accelerator.end_training()
            if not is_foreign:
                AcceleratorState._reset_state(reset_partial_state=True)
                GradientState._reset_state()


def _accelerator(config: RunConfig, run: RunDir, device: torch.device) -> "Accelerator":
    from accelerate import Accelerator

    training = config.training
    try:
        return Accelerator(
            mixed_precision=training.mixed_precision,
            cpu=device.type == "cpu",
            project_dir=str(run.path),
            log_with=None if training.report_to == "none" else training.report_to,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise Refused(
            f"mixed_precision = {training.mixed_precision} on {device}, report_to = {training.report_to}: {error}",
            "Choose mixed_precision no (or bf16 where the device has it), and report_to none or an installed tracker.",
        ) from error
