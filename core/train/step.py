"""One optimizer step: draws, losses, gradient, update. Nothing that is not a finite number reaches a weight."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Batch
from ..maths.grid import Grid, build_grid
from ..maths.noise import sent
from ..randomness import seed_global, stream_seed
from ..remedies.base import Batch as Rows
from .live_text import conditioning_of, let_rest
from .losses import batch_loss
from .outcome import Broken
from .ranks import Ranks
from .reporting import StepTally, read_together
from .session import Session
from .window import Draw, draw_window

SKIPS_ALLOWED = (
    25  # fp16: the loss scale starts at 2^16 and may halve so often before the gradients themselves must be broken
)


@dataclass(frozen=True)
class StepResult:
    """What a step was. `rate`: the learning rate; `gradient_norm`: before clipping; `seconds`: of the step alone."""

    tally: StepTally
    rate: float
    gradient_norm: float
    seconds: float


class Stepper:
    """Takes optimizer steps on a session. A step is a function of the weights, moments and its number, so that a run that was stopped
    and resumed is bit for bit the run that was not.
    """

    def __init__(self, session: Session, ranks: Ranks) -> None:
        self.session, self.ranks = session, ranks
        self._grids: dict[tuple[int, ...], Grid] = {}
        self._skipped = 0  # steps in a row that the loss scaler left out

    def take(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0. Raises: Broken, and then weights and moments are as they were before it."""
        session, began = self.session, time.perf_counter()
        micro_steps = session.config.training.gradient_accumulation_steps
        rate = session.schedule.set(step)
        batches = [session.data.batch(step, micro, self.ranks.share) for micro in range(micro_steps)]
        draws = draw_window(
            session.model,
            session.config,
            [batch.latents.shape[1:] for batch in batches],
            [batch.numbers for batch in batches],
            session.data.rows_per_step,
            step,
            self.grid,
        )
        tally = StepTally(rows=session.data.rows_per_step)
        session.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._micro_step(step, micro, batch, draw, tally)
            for micro, (batch, draw) in enumerate(zip(batches, draws, strict=True))
        ]
        let_rest(session.config, session.names, session.parameters, step)
        self.ranks.add_gradients(session.parameters)
        # The first number of the step that is read: until here nothing waits for the device.
        norm, *losses_read = read_together([self._clipped_norm(), *losses], tally)
        loss = next((value for value in losses_read if not math.isfinite(value)), 0.0)
        if self.ranks.any(not math.isfinite(loss)):
            raise self._not_finite("loss", loss, step, batches)
        tally = tally.of_all(self.ranks)
        if self.ranks.any(not self._may_update(norm)):
            raise self._not_finite("gradient", norm, step, batches)
        self._update(norm)
        return StepResult(tally, rate, norm, time.perf_counter() - began)

    def _micro_step(self, step: int, micro: int, batch: Batch, draw: Draw, tally: StepTally) -> Tensor:
        """Forward and backward of one accumulation step; returns its loss, a number on the device."""
        session = self.session
        # LoRA dropout draws from the global generator, another stream on every rank
        index = micro * self.ranks.world_size + self.ranks.rank
        seed_global(stream_seed(session.config.training.seed, step, "dropout", index), session.model.device)
        with session.accelerator.autocast():
            noise, mask = sent(draw.noise, batch.latents), batch.mask
            given = conditioning_of(session.model, session.config, batch, step)
            rows = Rows(batch.latents, noise, given, batch.is_class, batch.class_conditioning, mask)
            found = batch_loss(session.model, session.config, draw.remedy, rows, draw.plan)
        loss = found.parts.total.sum() / tally.rows  # the mean over the global batch, however it is split
        session.accelerator.backward(loss)
        tally.add(found, batch.is_class)
        return loss.detach()

    def _clipped_norm(self) -> Tensor:
        """The gradient's norm before clipping, a number on the device; clips to `max_grad_norm` where that is above 0. A gradient that is not
        finite is none afterwards, and no update may follow."""
        session = self.session
        if session.accelerator.scaler is not None:
            session.accelerator.scaler.unscale_(session.optimizer)
        gradients = [parameter.grad for parameter in session.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        limit = session.config.training.max_grad_norm
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(session.parameters, limit, norm)
        return norm

    def _may_update(self, norm: float) -> bool:
        """Whether the gradient is finite, or the loss scaler will leave the weights alone and lower its scale (fp16)."""
        if math.isfinite(norm):
            self._skipped = 0
            return True
        self._skipped += 1
        return self.session.accelerator.scaler is not None and self._skipped <= SKIPS_ALLOWED

    def _update(self, norm: float) -> None:
        """Optimizer, loss scale, moving average."""
        session, scaler = self.session, self.session.accelerator.scaler
        if scaler is None:
            session.optimizer.step()
        else:
            scaler.step(session.optimizer)
            scaler.update()
        if session.average is not None and math.isfinite(norm):
            session.average.update()

    def _not_finite(self, what: str, value: float, step: int, batches: Sequence[Any]) -> Broken:
        """Of all ranks: the value that is not finite, and every picture of the step. Every rank must call it."""
        mine = value, [name for batch in batches for name in batch.ids]
        everyone = self.ranks.gather(mine)
        value = next((each for each, _ in everyone if not math.isfinite(each)), value)
        ids = ", ".join(name for _, names in everyone for name in names)
        return Broken(
            f"The {what} at step {step + 1} is {value}; its pictures: {ids}. The weights were not touched and are saved as "
            f"step {step}.",
            "Lower learning_rate (half of it is a good try), use mixed_precision no or bf16, or remove the pictures named, in a "
            "clone of this run.",
        )

    def grid(self, shape: tuple[int, ...]) -> Grid:
        """The rollout's grid for latents of a shape (C, h, w)."""
        if shape not in self._grids:
            model = self.session.model
            self._grids[shape] = build_grid(
                self.session.config.rollout,
                lambda steps: model.inference_times(steps, shape),
                lambda: model.training_times(shape),
            )
        return self._grids[shape]
