"""One optimizer step: draws, losses, gradient, update. Nothing that is not a finite number reaches a weight."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from accelerate.utils import AutocastKwargs
from torch import LongTensor, Tensor

from ..data import Batch
from ..families.base import Model
from ..maths.grid import Grid, build_grid
from ..maths.noise import sent
from ..memory import Portions, is_out_of_memory, return_memory
from ..randomness import seed_global, stream_seed
from ..remedies.base import Batch as Rows
from ..remedies.base import Calls, State
from .live_text import conditioning_of, let_rest
from .losses import batch_loss
from .outcome import Broken, NotFinite
from .ranks import Ranks
from .reporting import StepTally, read_together
from .session import Session
from .sharding import whole_value
from .splitting import parts_of
from .together import states_of
from .window import Draw, draw_window

SKIPS_ALLOWED = (
    25  # fp16: the loss scale starts at 2^16 and may halve so often before the gradients themselves must be broken
)

_WEIGHTS = "largest trained weight"


@dataclass(frozen=True)
class StepResult:
    """What a step was. `rate`: the learning rate; `gradient_norm`: before clipping; not finite where the loss scale (fp16) left the weights as they
    were; `seconds`: of the step alone."""

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
        self.split = 1
        """Parts that each micro-batch goes through the network in; doubled where the memory does not hold them (`split_on_out_of_memory`)."""
        self.portions = Portions()
        """Rows that the network is asked for at once without a gradient."""
        self._grids: dict[tuple[int, ...], Grid] = {}
        self.scaled_in_a_row = 0
        """Steps in a row, up to now, that the loss scale left out (fp16)."""

    def take(self, step: int) -> StepResult:
        """Optimizer step `step`, counted from 0. Raises: NotFinite, on every rank, and then weights and moments are as they were before it."""
        session, began = self.session, time.perf_counter()
        rate = session.schedule.set(step)
        tally, losses, states = self._gradient(step)
        let_rest(session.config, session.names, session.parameters, step)
        if session.shares is None:  # else the backward has
            self.ranks.add_gradients(session.parameters)
        # The first number of the step that is read: until here nothing waits for the device.
        read = read_together([session.largest_weight(), self._clipped_norm(), *states, *losses], tally)
        largest, norm, states_read, losses_read = read[0], read[1], read[2 : 2 + len(states)], read[2 + len(states) :]
        led = "rolled-out state" if tally.rolled else "noisy state"
        overflowed, scaler = not math.isfinite(norm), session.accelerator.scaler
        # fp16: then the loss scaler leaves the weights alone and lowers its scale
        may_overflow = scaler is not None and self.scaled_in_a_row < SKIPS_ALLOWED
        gradient = [norm] if overflowed and not may_overflow else []
        try:
            self._refuse(
                step, [(_WEIGHTS, [largest]), (led, states_read), ("loss", losses_read), ("gradient", gradient)]
            )
        except NotFinite:
            if scaler is not None:
                scaler.update()  # as after a step: the next one unscales anew
            raise
        self.scaled_in_a_row = self.scaled_in_a_row + 1 if overflowed else 0
        tally = tally.of_all(self.ranks)
        self._update(norm)
        return StepResult(tally, rate, norm, time.perf_counter() - began)

    def check_weights(self, step: int) -> None:
        """Raises: NotFinite where step `step`, from 0, has left weights or an average that are not finite. Waits for the device."""
        self._refuse(step, [(_WEIGHTS, [self.session.largest_weight().item()])])

    def pictures(self, step: int) -> list[str]:
        """Names of the whole global batch of a step, counted from 0; the same on every rank. Loads the batch: for rare events."""
        micro_steps = range(self.session.config.training.gradient_accumulation_steps)
        return [name for micro in micro_steps for name in self.session.data.batch(step, micro).ids]

    def _gradient(self, step: int) -> tuple[StepTally, list[Tensor], list[Tensor]]:
        """Forward and backward of all accumulation steps; of each its loss and its largest state, on the device. Where the memory does not
        hold a batch, all is done again in twice as many parts."""
        session = self.session
        micro_steps = session.config.training.gradient_accumulation_steps
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
        if step + 1 < session.config.training.max_train_steps:
            session.data.read_ahead(step + 1, self.ranks.share)
        rows, shares, agreed = max(len(batch.ids) for batch in batches), session.shares, [Calls(0, 0)] * micro_steps
        if shares is not None:
            agreed = shares.agree([draw.remedy.calls(draw.plan, session.model.guidance) for draw in draws])
        while True:
            tally, found, full = StepTally(rows=session.data.rows_per_step), [], None
            session.optimizer.zero_grad(set_to_none=True)
            try:
                numbers, parts = self._parts(batches, draws)
                for number, part, state in zip(numbers, parts, self._states(parts, tally), strict=True):
                    micro = number % micro_steps
                    found.append(self._micro_step(step, number, *part, state, tally, agreed[micro]))
            except Exception as error:
                if not is_out_of_memory(error) or shares is not None:
                    raise  # processes that share weights wait for each other's calls in the middle of this one
                full = error
            if not self.ranks.any(full is not None):
                return tally, [loss for loss, _ in found], [state for _, state in found]
            if not (session.config.training.split_on_out_of_memory and self.ranks.any(self.split < rows)):
                raise (
                    full
                    if full is not None
                    else Broken(
                        "The memory of another process is full.", "See the log of that process: it names what to lower."
                    )
                )
            self.split *= 2
            del tally, found, full  # the failed attempt's graph hangs on them
            session.optimizer.zero_grad(set_to_none=True)
            return_memory()

    def _parts(self, batches: list[Batch], draws: list[Draw]) -> tuple[list[int], list[tuple[Batch, Draw]]]:
        """What goes through the network with gradient, one after the other, and the number of each in the step's dropout."""
        each = [
            (micro + part * len(batches), rows)
            for micro, (batch, draw) in enumerate(zip(batches, draws, strict=True))
            for part, rows in enumerate(parts_of(batch, draw, self.split))
        ]
        return [number for number, _ in each], [rows for _, rows in each]

    def _states(self, parts: list[tuple[Batch, Draw]], tally: StepTally) -> list[State | None]:
        """Of each part where its rows train, where the network is asked for several of them at once; None else."""
        session = self.session
        # Text encoders that train encode each part's captions in its own micro-step, with its own dropout; processes that share the
        # weights agree on the calls of each micro-step.
        if session.config.text_encoder.is_on or session.shares is not None:
            return [None] * len(parts)
        with session.accelerator.autocast():
            checkpointed = session.config.training.gradient_checkpointing
            return states_of(session.model, parts, self.portions, tally, checkpointed=checkpointed)

    def _micro_step(
        self, step: int, number: int, batch: Batch, draw: Draw, state: State | None, tally: StepTally, agreed: Calls
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of an accumulation step, or of part of one; returns its loss and its largest state, numbers on the device.
        `state`: where its rows train, where that is known already. `agreed`: the calls that every process makes, where they share the weights."""
        session, shares = self.session, self.session.shares
        # LoRA dropout draws from the global generator, another stream on every rank
        index = number * self.ranks.world_size + self.ranks.rank
        seed_global(stream_seed(session.config.training.seed, step, "dropout", index), session.model.device)
        portions = self.portions if shares is None else None
        # Of divided weights casts are not kept: they would outlive the weights of their block.
        casts = None if shares is None else AutocastKwargs(cache_enabled=False)
        with session.accelerator.autocast(casts), nullcontext() if shares is None else shares.counted(agreed):
            noise, mask = sent(draw.noise, batch.latents), batch.mask
            given = conditioning_of(session.model, session.config, batch, step)
            rows = Rows(batch.latents, noise, given, batch.is_class, batch.class_conditioning, mask, portions, state)
            found = batch_loss(session.model, session.config, draw.remedy, rows, draw.plan)
            ask = partial(_ask_one, session.model, rows, draw.plan.t)
            nothing = None if shares is None else shares.fill(agreed, ask)
        loss = found.parts.total.sum() / tally.rows  # the mean over the global batch, however it is split
        session.accelerator.backward(loss if nothing is None else loss + nothing)
        tally.add(found, batch.is_class)
        return loss.detach(), found.largest_state

    def _clipped_norm(self) -> Tensor:
        """The gradient's norm before clipping, a number on the device; clips to `max_grad_norm` where that is above 0. A gradient that is not
        finite is none afterwards, and no update may follow."""
        session = self.session
        if session.accelerator.scaler is not None:
            session.accelerator.scaler.unscale_(session.optimizer)
        gradients = [parameter.grad for parameter in session.parameters if parameter.grad is not None]
        norm = whole_value(torch.nn.utils.get_total_norm(gradients))
        limit = session.config.training.max_grad_norm
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(session.parameters, limit, norm)
        return norm

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

    def _refuse(self, step: int, numbers: list[tuple[str, list[float]]]) -> None:
        """Raises: NotFinite, on every rank, where one of the numbers is not finite on any of them; the first kind of the list counts. Every rank
        must call it."""
        mine = next(
            (
                (place, value)
                for place, (_, values) in enumerate(numbers)
                for value in values
                if not math.isfinite(value)
            ),
            None,
        )
        if not self.ranks.any(mine is not None):
            return
        place, value = min((each for each in self.ranks.gather(mine) if each is not None), key=lambda each: each[0])
        raise NotFinite(numbers[place][0], value, step, self.pictures(step), in_weights=place == 0)

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


def _ask_one(model: Model, rows: Rows, t: Tensor) -> Tensor:
    """What the network answers for the first row of a batch: a call that is made because others make it."""
    first: LongTensor = torch.zeros(1, dtype=torch.long)  # type: ignore[assignment]
    return model.denoise(rows.x0[:1], t[:1].to(rows.x0), rows.conditioning.select(first))
