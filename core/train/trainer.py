"""The training loop: a run's folder in, a trained adapter out. `docs/training.md` tells the same in words.

One optimizer step, from top to bottom (`Training.train_step`):

    batches       which rows: a function of (seed, step)                        dataset.batches
    window        noise, times and the remedy's plan of all its rows at once    draw_window
    per micro-step: the remedy's state, forward, loss, backward                 losses.batch_loss
    finite?       a loss or gradient that is not a number never reaches a weight
    clip, optimizer, moving average, event

Between two steps the run listens: commands, signals, a full disk. Every random draw is a function of (seed, step,
stream), so a run that is stopped and resumed is bit for bit the run that was not.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
from torch import LongTensor, Tensor

from ..adapters.check import check_export
from ..adapters.files import export
from ..adapters.header import ExportError
from ..adapters.trainable import adapter_state, attach, load_adapter_state, trainable_names, trainable_parameters
from ..before.estimate import time_estimate, ways_to_need_less
from ..before.plain_grid import grid_of
from ..before.preflight import cache_folder
from ..config import OPTIONS, ConfigError, RunConfig, config_to_flat, read_config
from ..data import DatasetError, prepare, scan
from ..errors import Trouble
from ..families import ModelError, load_model
from ..families.base import Model, resolve_device
from ..look.drift import measure as drift
from ..look.preview import answer as preview
from ..maths import reflexflow
from ..maths.rollout import Grid, build_grid
from ..maths.timesteps import sample_times
from ..memory import is_out_of_memory, memory_message
from ..randomness import generator, kept_random_state, row_noise, stream_seed
from ..remedies import remedy_for
from ..remedies.base import Batch, Ground, Plan, Remedy, rows_of
from ..runs import checkpoint
from ..runs.checkpoint import Checkpoint, is_disk_full
from ..runs.commands import Command
from ..runs.folder import RunDir
from ..runs.journal import Journal
from ..runs.pace import Pace, StepTime, still_due
from ..runs.run_log import PHASES
from .interrupt import Interrupt, StopNow
from .losses import BatchLoss, batch_loss
from .optimizers import Average, Schedule, make_optimizer

DONE, PREEMPTED, REFUSED, CRASHED = 0, 75, 78, 70
"""Exit codes: done or stopped on request; ended by a signal, resume me; the config or data cannot be trained; broke."""

POLL_S = 0.25  # how often a paused run looks for commands
HEARD_AT_ONCE = ("pause", "resume", "save", "stop", "stop-and-save")
"""Commands that are heard in the middle of preparing, drawing and measuring too; the others wait for the end of a step."""
PREVIEWS_KEPT = 6  # answers to drift previews that were asked of the running run
ROOM_POLL_S = 5.0  # how often a run that waits for disk space looks again
SKIPS_ALLOWED = (
    25  # fp16: the loss scale starts at 2^16 and may halve so often before the gradients themselves must be broken
)
FADED_AFTER, FADED_BELOW = 10, 1e-3  # after so many rolled steps, a mean spread of W under this is reported

_TOO_LITTLE_TO_LOOK = (
    "The memory is full. Training goes on; for pictures and drift reports close other programs that hold memory, take fewer or none "
    "(validation_step_interval and drift_step_interval 0), or a smaller resolution in a copy of this run."
)

FREE_ON_RESUME = frozenset(
    name for name, option in OPTIONS.items()
    if option.section in ("validation", "saving")
    or (option.section == "drift" and name not in ("drift_data_dir", "drift_holdout_images", "drift_seed"))  # these choose what trains
    or name in ("max_train_steps", "report_to", "data_cache_dir", "device")
)  # fmt: skip
"""Options that may change between a checkpoint and its resume: none of them changes a step. `max_train_steps` may only
grow.
"""


def _before_later_options(was: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """A checkpoint's config, with the options that came after it as it trained without them: at their defaults, except that nothing
    bounded rolled rows on a path where something does by default now."""
    then = {name: option.default for name, option in OPTIONS.items()}
    if config.rollout.walks and config.rollout.target == "consistent" and not grid_of(config).flow:
        then["scheduled_sampling_snr_gamma"] = 0.0
    return {**{name: value for name, value in then.items() if name not in was}, **was}


class Refused(Trouble):
    """The run cannot train as asked; `remedy` says what to do. Nothing was lost."""


class Broken(Trouble):
    """Training met something that must not go on, such as a loss that is not a number."""


class _Leave(Exception):
    """An orderly end before the last step."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


class _Abandoned(Exception):
    """Somebody ends the run while pictures are drawn: leave them, the loop decides."""


def train(
    run: RunDir,
    *,
    resume: bool = False,
    listen: Callable[[dict[str, Any]], None] | None = None,
    interrupt: Interrupt | None = None,
) -> int:
    """Train a run, from its start or from its newest whole checkpoint.

    Args:
        run: its folder, with config.json.
        resume: go on; everything that decides a step must be as it was (`FREE_ON_RESUME` may differ).
        listen: called with every event, as it is written.
        interrupt: one that listens already, so that a signal from before counts; None = this call listens by itself.

    Returns: 0 done, or stopped on request; 75 ended by a signal after a checkpoint, to be resumed; 78 the config, the
        data or the model cannot be trained; 70 anything else. The last event is `end`; before it comes `error` where
        there was one.

    The process's random state is afterwards what it was. In the main thread SIGTERM, SIGINT and SIGHUP end the run at
    the next step boundary.

    Raises: RunError when another process trains this run.
    """
    journal = Journal(run, listen)
    listening = Interrupt() if interrupt is None else nullcontext(interrupt)
    with run.lock(), listening as signals, kept_random_state():
        training: Training | None = None
        try:
            config = read_config(run.config_path)
            training = Training(run, config, journal, signals)
            training.run_through(resume)
            signals.over = True
            return _ended(journal, training, DONE, "done", None)
        except _Leave as leave:
            signals.over = True
            return _ended(journal, training, leave.code, "stopped", leave.message)
        except StopNow as stop:
            return _ended(
                journal,
                training,
                PREEMPTED,
                "stopped",
                f"{stop}: stopped at once; {_way_on(run)}.",
            )
        except (ConfigError, Refused, ModelError, DatasetError) as error:
            signals.over = True
            _report(journal, error, training)
            return _ended(journal, training, REFUSED, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - told with its traceback; the process ends with 70
            signals.over = True
            _report(journal, error, training)
            return _ended(journal, training, CRASHED, "failed", f"{type(error).__name__}: {error}")
        finally:
            if training is not None:
                training.close()


def _report(journal: Journal, error: Exception, training: "Training | None") -> None:
    message, remedy = _explained(error, training)
    journal.emit("error", message=message, remedy=remedy, traceback=traceback.format_exc())


def _explained(error: Exception, training: "Training | None") -> tuple[str, str]:
    """What went wrong, and what to do."""
    if training is not None and is_out_of_memory(error):
        return memory_message(error), (
            f"Close other programs that hold memory: {_way_on(training.run)}. Or train a copy of this run (settings that decide a step cannot change "
            f"in the run itself) with {ways_to_need_less(training.config)}."
        )
    if isinstance(error, Trouble | ModelError):
        return error.message, error.remedy
    if isinstance(error, ConfigError):
        return f"{type(error).__name__}: {error}", "Mend config.json, or make a new run."
    return f"{type(error).__name__}: {error}", (
        "See the traceback and log.txt; after mending the cause, resume from the last checkpoint."
    )


def _way_on(run: RunDir) -> str:
    """What a person can do with a run that has ended before its last step."""
    last = run.last_checkpoint()
    return (
        "there is no checkpoint yet, so retry it from the start" if last is None else f"resume goes on from step {last}"
    )


def _ended(journal: Journal, training: "Training | None", code: int, state: str, message: str | None) -> int:
    step = (journal.run.last_checkpoint() or 0) if training is None else training.step
    journal.emit("end", state=state, step=step, message=message)
    journal.state(state=state, step=step, message=message)
    return code


# ---------------------------------------------------------------------------------------- what one optimizer step draws


@dataclass(frozen=True)
class Draw:
    """A micro-step's share of its window: noise (B, C, h, w) float32 on the CPU, the remedy for latents of its shape, and the remedy's
    plan of its B rows.
    """

    noise: Tensor
    plan: Plan
    remedy: Remedy


def draw_window(
    model: Model,
    config: RunConfig,
    shapes: Sequence[Sequence[int]],
    is_class: Sequence[Tensor],
    step: int,
    grid_of: Callable[[tuple[int, ...]], Grid],
) -> list[Draw]:
    """Noise, times and the remedy's plans of one optimizer step, for every row of every micro-step at once.

    Rows are numbered over the whole window, instance rows first, and a row's draws depend on its number alone: four
    micro-steps of one row get what one micro-step of four rows gets.

    Args:
        shapes: (C, h, w) of each micro-step; is_class: (B,) bool of each micro-step, the rows of prior preservation.
    """
    seed, flow = config.training.seed, model.is_flow
    places = _row_numbers(is_class)
    rows = sum(len(part) for part in is_class)
    plans: dict[tuple[int, ...], tuple[Plan, Remedy]] = {}
    draws = []
    for shape, mine in zip(map(tuple, shapes), places, strict=True):
        if shape not in plans:  # shift and grid may depend on the shape, what is drawn does not
            t = sample_times(
                config.training,
                rows,
                generator(seed, step, "t"),
                is_flow=flow,
                shift=model.training_shift(shape),
                training_times=round(model.noise_path.t_max) + 1,
            )
            remedy = remedy_for(config, Ground(model.noise_path, model.prediction_type, grid_of(shape)))
            plans[shape] = remedy.plan(t, step=step, seed=seed), remedy
        plan, remedy = plans[shape]
        noise = torch.cat([row_noise((1, *shape), seed, step, first_row=int(number)) for number in mine])
        draws.append(Draw(noise, rows_of(plan, mine), remedy))
    return draws


def _row_numbers(is_class: Sequence[Tensor]) -> list[LongTensor]:
    """The number of each row in the window: instance rows of all micro-steps first, then class rows."""
    instance, of_class = 0, sum(int((~part).sum()) for part in is_class)
    numbers = []
    for part in is_class:
        mine = torch.where(part, of_class + part.cumsum(0) - 1, instance + (~part).cumsum(0) - 1)
        instance, of_class = instance + int((~part).sum()), of_class + int(part.sum())
        numbers.append(mine)
    return numbers


# --------------------------------------------------------------------------------------------------------- the training


class Training:
    """One run in memory. `step` counts finished optimizer steps."""

    def __init__(self, run: RunDir, config: RunConfig, journal: Journal, interrupt: Interrupt) -> None:
        self.run, self.config, self.journal, self.interrupt = run, config, journal, interrupt
        self.total, self.step = config.training.max_train_steps, 0
        self.saved_step: int | None = None
        self.accelerator: Any = None
        self.prepared = False  # there is an optimizer, so there is something to save
        self.looking = False  # pictures are being drawn: they may be left
        self.paused = False  # between two steps, by a command
        self.inbox: deque[Command] = deque()  # taken and not yet obeyed
        self.ending: Command | None = None  # a stop that was heard in the middle of something, which the loop obeys
        self._save_wanted = False  # heard before there was anything to save
        self._next_look = 0.0
        self._waited_s = 0.0  # how long somebody has had the run wait in the middle of something
        self._grids: dict[tuple[int, ...], Grid] = {}
        self.pace = Pace()
        self._skipped = 0
        self._spreads: list[float] | None = []

    def run_through(self, resume: bool) -> None:
        """Everything, in order."""
        before = self.find_checkpoint(resume)
        resumed_from = None if before is None else before.step
        if resumed_from is not None:
            self.run.forget_after(resumed_from)
        device, config_hash = str(resolve_device(self.config.model.device)), self.config.hash()
        self.journal.emit(
            "start",
            pid=os.getpid(),
            device=device,
            config_hash=config_hash,
            total_steps=self.total,
            resumed_from=resumed_from,
            expected_s=self.expected_s() if resumed_from is None else None,
        )
        step = 0 if resumed_from is None else resumed_from
        self.journal.state(state="running", step=step, total_steps=self.total, message=None)
        self.set_up(before)
        del before  # a whole copy of weights and moments
        self.prepared = True
        if self._save_wanted:
            self.save(asked=True)
        if resumed_from is None:
            with self.timed("samples"):
                self.take_samples()
            with self.timed("drift"):
                self.measure_drift()
        else:
            self.look_where_due(again=False)  # a run that died between its checkpoint and its pictures
        self.free_what_training_does_not_need()
        while self.step < self.total:
            self.listen()
            self.train_step()
            self.save_where_due()
            self.look_where_due()
        self.finish()

    def expected_s(self) -> list[float] | None:
        """What the training steps of the whole run were estimated to take: [low, likely, high] seconds; None where nothing is known.
        The run's page compares it with what they took."""
        span = time_estimate(self.config, self.run.path.parent).steps_s
        return None if span is None else [round(each, 2) for each in (span.low, span.likely, span.high)]

    # -- set up --------------------------------------------------------------------------------------------------------

    def find_checkpoint(self, resume: bool) -> Checkpoint | None:
        """The checkpoint to go on from, checked against the config; None for a fresh run."""
        folder = self.run.checkpoints_path
        checkpoint.remove_leftovers(folder)
        if not resume:
            there = checkpoint.checkpoints(folder)
            if there:
                raise Refused(
                    f"{self.run.name} has checkpoints already, the newest of step {checkpoint.step_of(there[-1])}.",
                    "Resume it, or make a new run: training would overwrite them.",
                )
            return None
        found, skipped = checkpoint.load_latest(folder)
        for reason in skipped:
            self.warn(f"A checkpoint was passed over: {reason}", "An older one is used; delete the damaged folder.")
        if found is None:
            raise Refused(
                f"{self.run.name} has no whole checkpoint to go on from.", "Clone the run and start the clone."
            )
        self.step = self.saved_step = found.step  # from here on an early end says where a resume goes on
        self._check_same_config(found)
        return found

    def _check_same_config(self, found: Checkpoint) -> None:
        was, now = _before_later_options(found.record["config"], self.config), config_to_flat(self.config)
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
            self.warn(
                f"max_train_steps grew from {was['max_train_steps']} to {now['max_train_steps']}: the {now['lr_scheduler']} schedule "
                "now ends later, so the learning rate jumps here.",
                "That is what a longer schedule means; nothing to do.",
            )
        here = _versions(resolve_device(self.config.model.device))
        other = list(checkpoint.differences(found.record["versions"], here))
        if other:
            self.warn(
                f"Resuming, but not bit for bit: since checkpoint step {found.step} there changed {'; '.join(other)}.",
                "For exactly the same numbers resume with the same versions, device and number of threads.",
            )

    def set_up(self, before: Checkpoint | None) -> None:
        """Model, data, adapter, optimizer; then, resuming, everything as the checkpoint says."""
        config, training = self.config, self.config.training
        self.make_accelerator()
        self.tell("model", 0, 1)
        self.model = load_model(config.model, flow_shift=training.flow_schedule_shift)
        try:
            self.reflexflow = reflexflow.is_on(config.rollout, self.model.noise_path)
        except ValueError as error:
            raise Refused(str(error), "Set scheduled_sampling_reflexflow to null or false.") from error
        if training.weighs_by_noise and not self.model.is_flow:
            raise Refused(
                f"{', '.join(training.weighs_by_noise)}: defined for flow models only, and {self.model.name} predicts "
                f"{self.model.prediction_type}.",
                "Leave it out; snr_gamma weighs by noise level there.",
            )
        self.tell("model", 1, 1)

        found = scan(config.data, self.tell)
        if found.errors:
            raise Refused(
                "The pictures cannot be used: " + " ".join(f"{fault.where}: {fault.message}" for fault in found.errors),
                " ".join(dict.fromkeys(fault.remedy for fault in found.errors)),
            )
        self.data = prepare(self.model, config, found, cache_folder(config, self.run.path.parent), self.tell)
        for problem in self.data.problems:
            if problem.level != "note":
                self.warn(f"{problem.where}: {problem.message}", problem.remedy)

        attach(self.model, config)
        if training.gradient_checkpointing:
            self.model.denoiser.enable_gradient_checkpointing()
        self.names, self.parameters = trainable_names(self.model), trainable_parameters(self.model)
        self.optimizer = make_optimizer(training, self.parameters)
        self.schedule = Schedule(training, self.optimizer)
        self.average = Average(self.parameters, training.ema_decay) if training.use_ema else None
        if before is not None:
            self.restore(before)

    def make_accelerator(self) -> None:
        """accelerate's part: mixed precision, its loss scale, and the trackers."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        training, device = self.config.training, resolve_device(self.config.model.device)
        self._foreign_state = bool(AcceleratorState._shared_state)
        try:
            self.accelerator = Accelerator(
                mixed_precision=training.mixed_precision,
                cpu=device.type == "cpu",
                project_dir=str(self.run.path),
                log_with=None if training.report_to == "none" else training.report_to,
            )
        except (ValueError, ImportError, RuntimeError) as error:
            raise Refused(
                f"mixed_precision = {training.mixed_precision} on {device}, report_to = {training.report_to}: {error}",
                "Choose mixed_precision no (or bf16 where the device has it), and report_to none or an installed tracker.",
            ) from error
        if training.report_to != "none":
            flat = {
                name: value if isinstance(value, int | float | str) else str(value)
                for name, value in config_to_flat(self.config).items()
            }
            self.accelerator.init_trackers(
                "rollout-studio", config=flat, init_kwargs={"wandb": {"name": self.run.name}}
            )

    def restore(self, before: Checkpoint) -> None:
        """Weights, moments, average and step of a checkpoint; the data must be what it was."""
        changed = list(checkpoint.differences(before.record["data"], self.describe_data()))
        if changed:
            raise Refused(
                f"The pictures differ from those of checkpoint step {before.step}: {'; '.join(changed)}.",
                "Put them back to resume, or clone the run to train on the new set from the start.",
            )
        load_adapter_state(self.model, before.tensors["trainable"])
        self.optimizer.load_state_dict(checkpoint.unflatten(before.record["optimizer"], before.tensors["optimizer"]))
        if self.average is not None:
            self.average.load([before.tensors["ema"][name] for name in self.names], before.record["ema_updates"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(before.record["scaler"])

    def describe_data(self) -> dict[str, str]:
        """Name -> fingerprint of a picture and its caption; of a large set one fingerprint for all. Order counts."""
        rows = [
            *((item.name, item.digest, item.caption) for item in self.data.items),
            *(
                (f"{row.name} at {shape}", row.latents, row.caption)
                for shape, rows in self.data.class_rows.items()
                for row in rows
            ),
        ]
        if len(rows) > 1000:
            return {f"{len(rows)} rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}
        return {
            name: hashlib.sha256(f"{place} {digest} {caption}".encode()).hexdigest()[:16]
            for place, (name, digest, caption) in enumerate(rows)
        }

    def free_what_training_does_not_need(self) -> None:
        """On an accelerator, text encoders and VAE make room; sampling brings back what it needs. On a CPU they stay:
        the memory is there.
        """
        if self.model.device.type != "cpu":
            self.model.free_text_encoders()
            self.model.free_vae()

    # -- one step ------------------------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """One optimizer step."""
        began, config, training, step = time.perf_counter(), self.config, self.config.training, self.step
        rate = self.schedule.set(step)
        batches = [self.data.batch(step, micro) for micro in range(training.gradient_accumulation_steps)]
        draws = draw_window(
            self.model,
            config,
            [batch.latents.shape[1:] for batch in batches],
            [batch.is_class for batch in batches],
            step,
            self.grid,
        )
        rows = sum(len(batch.latents) for batch in batches)
        self.optimizer.zero_grad(set_to_none=True)

        tally = _Tally(rows)
        for micro, (batch, draw) in enumerate(zip(batches, draws, strict=True)):
            # LoRA dropout draws from the global generator
            torch.manual_seed(stream_seed(training.seed, step, "dropout", micro))
            with self.accelerator.autocast():
                rows_here = Batch(
                    batch.latents, draw.noise.to(batch.latents.device), batch.conditioning, batch.is_class
                )
                found = batch_loss(self.model, config, draw.remedy, rows_here, draw.plan)
            loss = found.parts.total.sum() / rows  # the mean over the window, however it is split
            if not bool(torch.isfinite(loss)):
                self.give_up("loss", float(loss.detach()), batches)
            self.accelerator.backward(loss)
            tally.add(found, batch.is_class)

        norm = self.clipped_norm()
        if math.isfinite(norm):
            self._skipped = 0
        elif self.accelerator.scaler is None or self._skipped >= SKIPS_ALLOWED:
            self.give_up("gradient", norm, batches)
        else:
            self._skipped += 1  # fp16: the scaler leaves the weights alone and lowers its scale
        if self.accelerator.scaler is None:
            self.optimizer.step()
        else:
            self.accelerator.scaler.step(self.optimizer)
            self.accelerator.scaler.update()
        if self.average is not None and math.isfinite(norm):
            self.average.update()

        self.step += 1
        seconds = time.perf_counter() - began
        self.pace.step(StepTime(seconds, tally.rolled > 0))
        self.tell_step(tally, rate, norm, seconds)

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """The rollout's grid for latents of a shape (C, h, w)."""
        if shape not in self._grids:
            self._grids[shape] = build_grid(
                self.config.rollout,
                lambda steps: self.model.inference_times(steps, shape),
                lambda: self.model.training_times(shape),
            )
        return self._grids[shape]

    def clipped_norm(self) -> float:
        """The gradient's norm before clipping; clips to `max_grad_norm` where that is above 0."""
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.training.max_grad_norm > 0 and bool(torch.isfinite(norm)):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.training.max_grad_norm, norm)
        return float(norm)

    def give_up(self, what: str, value: float, batches: Iterable[Any]) -> None:
        """A number that is none: the weights are still those of the last good step, and are saved as such."""
        ids = ", ".join(name for batch in batches for name in batch.ids)
        self.save()
        raise Broken(
            f"The {what} at step {self.step + 1} is {value}; its pictures: {ids}. The weights were not touched and are saved as "
            f"step {self.step}.",
            "Lower learning_rate (half of it is a good try), use mixed_precision no or bf16, or remove the pictures named, in a "
            "clone of this run.",
        )

    def tell_step(self, tally: "_Tally", rate: float, norm: float, seconds: float) -> None:
        left = self.pace.left(self.total - self.step, self.still_due())
        told = {
            **tally.fields(),
            "lr": rate,
            "grad_norm": norm,
            "seconds": round(seconds, 4),
            "step_s": round(self.pace.step_s, 4),
            "eta_s": round(left.seconds, 1),
            "beside_s": round(left.beside_s, 1),
            "memory_mib": _memory_mib(self.model.device),
        }
        self.journal.emit("step", step=self.step, **told)
        self.journal.step(self.step)
        if self.config.training.report_to != "none":
            parts = {f"loss_{name}": value for name, value in told.pop("loss_parts").items()}
            self.accelerator.log({**told, **parts}, step=self.step)
        self._watch_frequency_weight(tally)

    def still_due(self) -> dict[str, int]:
        """How often samples, drift reports and checkpoints are still to come."""
        every = {
            "samples": self.config.validation.step_interval if self.config.validation.prompts else None,
            "drift": self.config.drift.step_interval,
            "save": self.config.saving.checkpoint_step_interval,
        }
        return {what: 0 if steps is None else still_due(self.step, self.total, steps) for what, steps in every.items()}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count what is done inside as `what`, which lies between two steps; not where it fails."""
        began, waited = time.perf_counter(), self._waited_s
        yield
        self.pace.took(what, time.perf_counter() - began - (self._waited_s - waited))

    def _watch_frequency_weight(self, tally: "_Tally") -> None:
        if (
            not self.reflexflow
            or self.config.rollout.reflexflow_alpha == 0
            or self._spreads is None
            or tally.rolled == 0
        ):
            return
        self._spreads.append(tally.spread)
        if len(self._spreads) == FADED_AFTER:
            mean = sum(self._spreads) / FADED_AFTER
            self._spreads = None
            if mean < FADED_BELOW:
                norm = self.config.rollout.reflexflow_norm
                self.warn(
                    f"The frequency weight of ReflexFlow spreads by {mean:.1e} around 1: with reflexflow_norm {norm} it does nothing.",
                    "Take reflexflow_norm max or mean, or reflexflow_alpha 0 to save its forward.",
                )

    # -- between two steps ---------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Signals, a full disk and commands, in this order. Returns when the next step may be taken."""
        self.leave_where_asked()
        if self.journal.blocked:
            self.with_room("events.jsonl", self.journal.flush)
        self.inbox.extend(self.run.take_commands())
        while self.inbox:
            self.obey(self.inbox.popleft())
            self.leave_where_asked()

    def leave_where_asked(self) -> None:
        """End the run between two steps where a signal or a command in the middle of something asked for it."""
        if self.interrupt.asked:
            self.save()
            raise _Leave(PREEMPTED, f"{self.interrupt.name}: saved at step {self.step}; resume goes on from here.")
        if self.ending is not None:
            self.end_as_asked(self.ending)

    def obey(self, command: Command) -> None:
        """Do what a command says, between two steps."""
        self.journal.emit("command", name=command.name, id=command.id, args=command.args)
        if command.name in ("stop", "stop-and-save"):
            self.end_as_asked(command)
        elif command.name == "save":
            self.save(asked=True)
        elif command.name in ("sample", "drift"):
            self.without_risk(f"The command {command.name}", lambda: self._look_as_asked(command))
        elif command.name == "pause" and not self.paused:
            self.pause()
        elif command.name == "resume":
            self.paused = False

    def end_as_asked(self, command: Command) -> NoReturn:
        if command.name == "stop":
            raise _Leave(DONE, f"stopped at step {self.step} as asked, without saving; {_way_on(self.run)}.")
        self.journal.state(state="stopping")
        self.save()
        self.export()
        raise _Leave(DONE, f"stopped at step {self.step} as asked; saved, and exported as it is.")

    def hear(self) -> bool:
        """Listen in the middle of something long, as often as one likes. Whether it must be left, so that the loop can end the run.

        `pause` holds it here, until `resume`; `save` saves what is trained, whatever is being looked at. What takes a look itself
        waits for the end of the step.
        """
        holds, began = False, time.monotonic()
        while not (self.interrupt.asked or self.ending is not None):
            if not holds and time.monotonic() < self._next_look:
                return False
            self._next_look = time.monotonic() + POLL_S
            self.inbox.extend(self.run.take_commands(HEARD_AT_ONCE))
            for command in [command for command in self.inbox if command.name in HEARD_AT_ONCE]:
                self.inbox.remove(command)
                self.journal.emit("command", name=command.name, id=command.id, args=command.args)
                if command.name in ("stop", "stop-and-save"):
                    self.ending = command
                    self.journal.state(state="stopping")
                    break
                if command.name == "save":
                    self.save_amid()
                elif command.name == "pause" and not (holds or self.paused):
                    holds, began = True, time.monotonic()
                    self._say_paused(True)
                elif command.name == "resume" and holds:
                    holds = False
                    self._waited_s += time.monotonic() - began
                    self._say_paused(False)
                elif command.name == "resume":
                    self.paused = False
            if holds:
                time.sleep(POLL_S)
        return True

    def save_amid(self) -> None:
        """Save as asked in the middle of something: before there is anything to save, as soon as there is."""
        if not self.prepared:
            self._save_wanted = True
            return
        with nullcontext() if self.average is None else self.average.set_aside():
            self.save(asked=True)

    def _say_paused(self, paused: bool) -> None:
        self.journal.emit("paused" if paused else "resumed", step=self.step)
        self.journal.state(state="paused" if paused else "running", step=self.step)

    def _look_as_asked(self, command: Command) -> None:
        known = {"sample": {"prompts", "negative_prompt", "steps", "guidance", "seed"}, "drift": {"request"}}[
            command.name
        ]
        if unknown := command.args.keys() - known:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: the command {command.name} takes {', '.join(sorted(known)) or 'no arguments'}."
            )
        if command.name == "drift" and "request" in command.args:
            self.show_drift(command)
        elif command.name == "drift":
            self.measure_drift()
        else:
            self.take_samples(folder=f"step-{self.step:06d}-{command.id}", **command.args)

    def pause(self) -> None:
        """Wait between two steps for `resume`; obey what else comes meanwhile."""
        self.paused = True
        self._say_paused(True)
        while self.paused:
            self.leave_where_asked()
            self.inbox.extend(self.run.take_commands())
            if self.inbox:
                self.obey(self.inbox.popleft())
            else:
                time.sleep(POLL_S)
        self._say_paused(False)

    def with_room(self, what: str, action: Callable[[], Any]) -> Any:
        """Do something that writes. Where the disk is full: say so, wait, and do it again, until there is room or
        somebody ends the run.
        """
        waiting, before = False, self.journal.told_state
        while True:
            try:
                result = action()
            except (_Leave, _Abandoned):
                raise
            except Exception as error:
                if not is_disk_full(error):
                    raise
                if not waiting:
                    self._say_that_the_disk_is_full(what, error)
                waiting = True
                self._wait_for_room()
                continue
            if waiting:
                # or as somebody wished meanwhile
                self.journal.emit("paused" if before == "paused" else "resumed", step=self.step)
                self.journal.state(state=before, message=None)
            return result

    def _say_that_the_disk_is_full(self, what: str, error: Exception) -> None:
        message = f"The disk is full: {what} cannot be written ({error})."
        remedy = f"Free some space on the disk of {self.run.path}: the run goes on by itself. Or stop it: older checkpoints are intact."
        self.warn(message, remedy)
        self.journal.emit("paused", step=self.step, reason="disk full")
        self.journal.state(state="paused", message=f"{message} {remedy}")

    def _wait_for_room(self) -> None:
        until = time.monotonic() + ROOM_POLL_S
        while time.monotonic() < until:
            if self.interrupt.asked:
                raise _Leave(
                    PREEMPTED,
                    f"{self.interrupt.name} while the disk was full; {_way_on(self.run)}.",
                )
            for command in self.run.take_commands():
                if command.name in ("stop", "stop-and-save"):
                    raise _Leave(DONE, f"stopped as asked while the disk was full; last checkpoint: {self.saved_step}.")
                self.warn(
                    f"The command {command.name} was dropped: the disk is full.", "Send it again when there is room."
                )
            time.sleep(min(POLL_S, ROOM_POLL_S))

    def without_risk(self, what: str, action: Callable[[], Any]) -> None:
        """Pictures and measurements must not cost a training its life: their failure is told, and training goes on."""
        try:
            action()
        except _Leave:
            raise
        except Exception as error:  # noqa: BLE001 - told with its traceback
            self.journal.emit(
                "warning",
                message=f"{what} at step {self.step} failed: {type(error).__name__}: {error}",
                remedy=_TOO_LITTLE_TO_LOOK if is_out_of_memory(error) else "Training goes on; see the traceback.",
                traceback=traceback.format_exc(),
            )

    def tell(self, name: str, done: int, total: int) -> None:
        """Progress of a phase, and the place where signals and commands are heard while nothing trains."""
        self.journal.progress(name, done, total)
        if not self.hear():
            return
        if self.looking:
            raise _Abandoned
        while_ = f"while {PHASES[name]}; nothing was lost: {_way_on(self.run)}."
        if self.interrupt.asked:
            raise _Leave(PREEMPTED, f"{self.interrupt.name} {while_}")
        raise _Leave(DONE, f"stopped as asked {while_}")

    def warn(self, message: str, remedy: str) -> None:
        self.journal.emit("warning", message=message, remedy=remedy)

    # -- what is kept --------------------------------------------------------------------------------------------------

    def save_where_due(self) -> None:
        every = self.config.saving.checkpoint_step_interval
        if every > 0 and self.step % every == 0 and self.step < self.total:
            with self.timed("save"):
                self.save()

    def save(self, asked: bool = False) -> None:
        """A checkpoint of this step, unless there is one; who `asked` is told of that one. Waits where the disk is full."""
        if self.saved_step == self.step:
            if asked:
                path = self.run.checkpoints_path / f"step-{self.step:06d}"
                size = sum(file.stat().st_size for file in path.iterdir())
                self.journal.emit("saved", step=self.step, path=self.relative(path), bytes=size)
            return
        structure, moments = checkpoint.flatten(self.optimizer.state_dict())
        tensors = {"trainable": adapter_state(self.model), "optimizer": moments}
        if self.average is not None:
            tensors["ema"] = dict(zip(self.names, self.average.values, strict=True))
        record = {
            "config": config_to_flat(self.config), "config_hash": self.config.hash(), "optimizer": structure, "data": self.describe_data(),
            "ema_updates": None if self.average is None else self.average.updates,
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "versions": _versions(self.model.device), "run": self.run.name,
        }  # fmt: skip
        saved = self.with_room(
            "a checkpoint",
            lambda: checkpoint.save(
                self.run.checkpoints_path, self.step, tensors, record, keep=self.config.saving.checkpoints_total_limit
            ),
        )
        self.saved_step = self.step
        self.journal.emit("saved", step=self.step, path=self.relative(saved.path), bytes=saved.bytes)
        self.journal.state(step=self.step)

    def export(self) -> None:
        """The file for others, and the proof that a stock pipeline does with it what this model does."""
        config, state = self.config, self.exported_state()
        lora = config.training.model_type == "lora"
        path = self.run.lora_path / (f"{self.run.name}.safetensors" if lora else self.run.name)
        self.journal.progress("export", 0, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.with_room("the exported file", lambda: export(self.model, path, config, state=state, step=self.step))
        self.journal.progress("export", 1, 2)
        check = check_export(path, config, self.model, state)
        self.journal.progress("export", 2, 2)
        self.journal.emit("exported", step=self.step, path=self.relative(path), check=check.as_dict())

    def exported_state(self) -> dict[str, Tensor] | None:
        """The moving average where there is one; None: the weights as they are."""
        return (
            None
            if self.average is None
            else {name: value.cpu() for name, value in zip(self.names, self.average.values, strict=True)}
        )

    def finish(self) -> None:
        """Checkpoint, export, load check, last pictures. A failed check fails the run, but only after the pictures."""
        self.save()
        failed: ExportError | None = None
        try:
            self.export()
        except ExportError as error:
            failed = error
        self.take_samples()
        self.measure_drift()
        if failed is not None:
            raise failed
        if self.interrupt.asked:  # everything is saved: only pictures may be missing
            raise _Leave(PREEMPTED, f"{self.interrupt.name} after the last step; resume takes the last pictures again.")
        if self.ending is not None:
            raise _Leave(
                DONE,
                "stopped as asked after the last step; everything is saved, and resume takes the last pictures again.",
            )

    # -- what is looked at ---------------------------------------------------------------------------------------------

    def look_where_due(self, again: bool = True) -> None:
        """Samples and drift at their intervals. `again` False: only those of this step that are not there yet."""
        if self.step == self.total:
            return  # `finish` looks
        due = (
            ("samples", self.config.validation.step_interval, self.take_samples, self.run.samples_path, "Samples"),
            ("drift", self.config.drift.step_interval, self.measure_drift, self.run.drift_path, "The drift report"),
        )
        for name, every, look, folder, what in due:
            if every > 0 and self.step % every == 0 and (again or not (folder / f"step-{self.step:06d}").exists()):

                def timed(name: str = name, look: Callable[[], None] = look) -> None:
                    with self.timed(name):
                        look()

                self.without_risk(what, timed)

    def weights_to_look_at(self) -> AbstractContextManager:
        """The moving average where there is one: it is what is exported, so it is what is shown."""
        return nullcontext() if self.average is None else self.average.in_place()

    def take_samples(
        self,
        *,
        folder: str | None = None,
        prompts: Sequence[str] | None = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
    ) -> None:
        """Pictures of the validation prompts by the stock pipeline with the weights of now. Unset arguments are the
        config's.
        """
        asked = self.config.validation
        prompts = list(asked.prompts if prompts is None else prompts)
        if not prompts:
            return
        side = self.config.data.resolution // self.model.size_multiple * self.model.size_multiple
        seed = asked.seed if seed is None else seed
        self.looking = True
        try:
            with self.weights_to_look_at():
                self.tell("samples", 0, len(prompts))
                images = self.model.sample(
                    prompts,
                    steps=asked.num_inference_steps if steps is None else steps,
                    guidance=asked.guidance if guidance is None else guidance,
                    negative_prompt=asked.negative_prompt if negative_prompt is None else negative_prompt,
                    seed=seed,
                    height=side,
                    width=side,
                    on_picture=lambda done, total: self.tell("samples", done, total),
                    on_step=lambda *_: self._go_on_drawing(),
                )
        except _Abandoned:
            return
        finally:
            self.looking = False
        place = self.run.samples_path / (f"step-{self.step:06d}" if folder is None else folder)
        self.with_room("samples", lambda: _write_images(place, images))
        self.journal.emit(
            "sample",
            step=self.step,
            images=[
                {"prompt": prompt, "seed": seed + number, "path": self.relative(place / _image_name(number))}
                for number, prompt in enumerate(prompts)
            ],
        )

    def _go_on_drawing(self) -> None:
        if self.hear():
            raise _Abandoned

    def measure_drift(self) -> None:
        """A drift report of the weights of now, base against tuned, on the held-out pictures and beside them on some
        that are trained on.
        """
        sets = [
            drift.ProbeSet(
                tuple(probe.latents),
                tuple(probe.conditioning),
                tuple(probe.captions),
                "held-out" if probe.held_out else "training",
            )
            for probe in (self.data.probe, self.data.training_probe)
            if probe is not None
        ]
        with self.weights_to_look_at():
            try:
                told = self.with_room(
                    "the drift report",
                    lambda: drift.probe(
                        self.model,
                        sets,
                        self.config,
                        self.run.drift_path,
                        step=self.step,
                        should_stop=self.hear,
                        progress=lambda done, total, what: self.journal.progress("drift", done, total),
                    ),
                )
            except drift.Stopped:
                return  # somebody ends the run: the loop decides
        self.journal.emit("drift", **told)

    def show_drift(self, command: Command) -> None:
        """Answer a request for a drift preview (`preview.show_live`) with the weights of now, by an event `preview`.

        It has the command's id, and `path` of the result or `message` and `remedy`. The last few results are kept.
        """
        folder = self.run.drift_path / "previews" / command.id
        try:
            with self.weights_to_look_at():
                result = preview.show_live(
                    self.model,
                    command.args["request"],
                    folder,
                    step=self.step,
                    should_stop=self.hear,
                    tell=lambda share, what: self.journal.progress("preview", round(100 * share), 100),
                )
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        except drift.Stopped:
            return  # somebody ends the run: the loop decides
        except _Leave:  # it was stopped while a save in the middle of this waited for room
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever asked; training goes on
            message, remedy = preview.explain(error)
            self.journal.emit("preview", id=command.id, step=self.step, message=message, remedy=remedy)
            return
        kept = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[:-PREVIEWS_KEPT]:
            shutil.rmtree(old)
        self.journal.emit("preview", id=command.id, step=self.step, path=self.relative(folder / "result.json"))

    def relative(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()

    def close(self) -> None:
        """Close the trackers and give back accelerate's global state, so that the next training in this process may
        differ.
        """
        if self.accelerator is None:
            return
        self.accelerator.end_training()
        if not self._foreign_state:
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


class _Tally:
    """What a step's event says, gathered over its micro-steps."""

    def __init__(self, rows: int) -> None:
        self.rows, self.rolled, self.offsets, self.moved = rows, 0, 0, 0
        self.network_rows = self.network_calls = 0
        self.parts = {"main": 0.0, "adr": 0.0, "prior": 0.0}
        self.spread = self.clamped = self.probability = 0.0

    def add(self, found: BatchLoss, is_class: Tensor) -> None:
        rows, counts, told = len(found.parts.main), found.counts, found.parts.told
        for name, value in found.parts.logged(is_class).items():
            self.parts[name] += value * rows / self.rows
        # sums over rolled rows until `fields` divides
        self.spread += told.get("frequency_weight_std", 0.0) * counts.rolled
        self.clamped += told.get("frequency_weight_clamped", 0.0) * counts.rolled
        self.rolled += counts.rolled
        self.offsets += counts.offsets
        self.moved += counts.moved
        self.network_rows += found.network_rows
        self.network_calls += found.network_calls
        self.probability = counts.probability

    def fields(self) -> dict[str, Any]:
        rolled = max(1, self.rolled)
        self.spread, self.clamped = self.spread / rolled, self.clamped / rolled
        return {
            "loss": sum(self.parts.values()),
            "loss_parts": dict(self.parts),
            "rows": self.rows,
            "rolled_rows": self.rolled,
            "source_noise_rows": self.moved,
            "mean_offset": self.offsets / rolled,
            "network_rows": self.network_rows,
            "network_calls": self.network_calls,
            "frequency_weight_std": self.spread,
            "frequency_weight_clamped": self.clamped,
            "effective_probability": self.probability,
        }


def _image_name(number: int) -> str:
    return f"{number:02d}.png"


def _write_images(folder: Path, images: Sequence[Any]) -> None:
    """All pictures or none: the folder appears when they are there."""
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        image.save(partial / _image_name(number))
    folder.mkdir(exist_ok=True)
    for number in range(len(images)):
        os.replace(partial / _image_name(number), folder / _image_name(number))
    partial.rmdir()


def _versions(device: torch.device) -> dict[str, Any]:
    """What must be equal for a resumed run to give the same bits."""
    import accelerate
    import diffusers
    import peft
    import transformers

    libraries = {
        library.__name__: library.__version__ for library in (torch, diffusers, transformers, peft, accelerate)
    }
    return {**libraries, "python": platform.python_version(), "device": device.type, "threads": torch.get_num_threads()}


def _memory_mib(device: torch.device) -> float:
    """Peak memory of the accelerator, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if device.type == "mps":
        return round(torch.mps.current_allocated_memory() / 2**20, 1)
    return round(psutil.Process().memory_info().rss / 2**20, 1)
