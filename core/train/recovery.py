"""What becomes of a step that must not reach a weight: it is skipped, or the run goes back to its last good checkpoint with half the
learning rate, once, or it ends. `skip_broken_steps` says how many in a row are skipped; with 0 the first one ends the run.

Every rank decides the same: what is decided on is agreed (`Stepper.take`) or the same on all of them (`Standing`, the checkpoint).
"""

from pathlib import Path
from typing import Any

from ..memory import is_out_of_memory
from ..runs import checkpoint
from ..runs.checkpoint import Checkpoint, CheckpointError, Share
from .keeping import Keeper
from .outcome import Broken, NotFinite, agreed_end
from .resuming import restore
from .session import Session
from .sharding import share_of
from .standing import OUTLIER, Standing
from .status import Status
from .step import SKIPS_ALLOWED, Stepper, StepResult

SLOWER = 0.5
"""What the learning rate is multiplied by when a run goes back."""
_NAMED = 24  # pictures in a message; the event has them all


class Recovery:
    """Takes the steps of a run, and handles those that break."""

    def __init__(self, status: Status, session: Session, keeper: Keeper, stepper: Stepper) -> None:
        self.status, self.session, self.keeper, self.stepper = status, session, keeper, stepper
        session.schedule.factor = status.standing.rate_factor
        stepper.split, stepper.portions.most = status.standing.split, status.standing.portion
        stepper.scaled_in_a_row = status.standing.scaled_in_a_row
        self._share = share_of(session.config, status.ranks)

    def take(self) -> StepResult | None:
        """The next step. None where there was none: then `status.step` is one further, the step was skipped, and weights and moments are
        as they were; or it is that of the checkpoint that the run went back to.

        Raises: Broken where the run must end.
        """
        status = self.status
        try:
            with status.heartbeat.step(status.step + 1):
                done = self.stepper.take(status.step)
                self._check_what_will_be_kept()
        except NotFinite as broken:
            self._handle(broken)
            return None
        status.step += 1
        status.standing.broken_in_a_row = 0
        self._report_memory()
        self._report_scale()
        self._watch_loss(done)
        return done

    def _check_what_will_be_kept(self) -> None:
        """Weights that this step has made infinite would be found in the next one: too late for a checkpoint in between."""
        every, done = self.session.config.saving.checkpoint_step_interval, self.status.step + 1
        if done == self.status.total or (every > 0 and done % every == 0):
            self.stepper.check_weights(self.status.step)

    def _handle(self, broken: NotFinite) -> None:
        status, allowed = self.status, self.session.config.training.skip_broken_steps
        standing = status.standing
        if not broken.in_weights and standing.broken_in_a_row < allowed:
            standing.broken_in_a_row += 1
            status.step += 1
            status.emit(
                "skipped",
                message=f"{broken.message} The step was skipped ({standing.broken_in_a_row} of at most {allowed} in a row); the weights are as before it.",
                remedy="It goes on by itself. A single one is no harm; if they come again and again, lower learning_rate.",
                what=broken.what,
                value=broken.value,
                pictures=broken.pictures,
                in_a_row=standing.broken_in_a_row,
                allowed=allowed,
            )
            status.journal.step(status.step)
            return
        found = self._last_good() if allowed > 0 and standing.went_back_to is None else None
        if found is None:
            self._end(broken)
        else:
            self._go_back(found, broken)

    def _end(self, broken: NotFinite) -> None:
        status, standing = self.status, self.status.standing
        told = [broken.message]
        if standing.broken_in_a_row:
            told.append(
                f"The {standing.broken_in_a_row} step{'s' if standing.broken_in_a_row > 1 else ''} before it broke too and "
                f"{'were' if standing.broken_in_a_row > 1 else 'was'} skipped; their pictures: {_names(self._pictures_of_the_row())}."
            )
        if standing.went_back_to is not None:
            told.append(
                f"The run had gone back to step {standing.went_back_to} before, with half the learning rate, which did not help."
            )
        elif self.session.config.training.skip_broken_steps:
            told.append("There is no good checkpoint to go back to.")
        if broken.in_weights:
            told.append(f"Nothing of it was saved: {status.how_to_continue()}.")
        else:
            with agreed_end(status.ranks), self.session.led():
                self.keeper.save()
            told.append(f"The weights were not touched and are saved as step {status.step}.")
        raise Broken(" ".join(told), broken.remedy) from broken

    def _pictures_of_the_row(self) -> list[str]:
        """Of the steps before this one that broke."""
        step = self.status.step
        return [
            name
            for each in range(step - self.status.standing.broken_in_a_row, step)
            for name in self.stepper.pictures(each)
        ]

    def _last_good(self) -> Checkpoint | None:
        """The newest whole checkpoint that was not saved while steps broke; the same on every rank. None: there is none."""
        mine: Checkpoint | None = None
        if self.status.ranks.is_main:
            for path in reversed(checkpoint.checkpoints(self.status.run.checkpoints_path)):
                mine = _good(path, self._share)
                if mine is not None:
                    break
        path = self.status.ranks.gather(None if mine is None else str(mine.path))[0]
        if path is None or mine is not None:
            return mine
        return checkpoint.load(Path(path), self._share)

    def _go_back(self, found: Checkpoint, broken: NotFinite) -> None:
        status, session = self.status, self.session
        left, row = status.step, self._pictures_of_the_row()
        restore(session, found)
        standing = Standing.of(found.record)
        standing.rate_factor = session.schedule.factor = SLOWER
        standing.went_back_to = found.step
        standing.split, standing.portion = self.stepper.split, self.stepper.portions.most
        self.stepper.scaled_in_a_row = standing.scaled_in_a_row
        status.standing, status.step, status.saved = standing, found.step, None
        status.ranks.any(False)  # every rank has read the checkpoint
        if status.ranks.is_main:
            # Those after it are of weights that broke. It is written again with the lower rate, so that a resume does not repeat all this.
            checkpoint.remove_after(status.run.checkpoints_path, found.step)
            status.run.forget_after(found.step)
        with agreed_end(status.ranks), session.led():
            self.keeper.save()
        pictures = list(dict.fromkeys([*row, *broken.pictures]))
        status.emit(
            "back",
            left=left,
            what=broken.what,
            value=broken.value,
            pictures=pictures,
            rate_factor=SLOWER,
        )
        status.journal.state(step=status.step)
        status.warn(
            f"{broken.message} The run went back to its checkpoint of step {found.step}, with half the learning rate from there on.",
            "It goes on by itself. If it ends the same way, take a lower learning_rate, mixed_precision no or bf16, or leave out the "
            f"pictures of the steps that broke: {_names(pictures)}.",
        )

    def _watch_loss(self, done: StepResult) -> None:
        loss, usual = sum(done.tally.parts.values()), self.status.standing.usual_loss
        if not self.status.standing.stands_out(loss):
            return
        step = self.status.step  # of the step that was just done, from 1
        now, before = self.stepper.pictures(step - 1), self.stepper.pictures(step - 2)
        self.status.warn(
            f"The loss at step {step} is {loss:.3g}, more than {OUTLIER} times the {usual:.3g} that is usual here. Its pictures: {_names(now)}; "
            f"those of the step before, which changed the weights last: {_names(before)}.",
            "Look at these pictures and their captions. If it happens again and again, lower learning_rate.",
            step=step,
            pictures=now,
            pictures_before=before,
        )

    def _report_scale(self) -> None:
        """Count and say that the loss scale of fp16 left a step out. That is no broken step: the scale finds its size that way."""
        standing, in_a_row = self.status.standing, self.stepper.scaled_in_a_row
        standing.scaled_in_a_row = in_a_row
        if not in_a_row:
            return
        standing.scaled += 1
        scale, step = self.session.accelerator.scaler.get_scale(), self.status.step
        last = f"the last {in_a_row} of them in a row" if in_a_row > 1 else "the last one"
        self.status.emit(
            "scaled",
            message=f"mixed_precision fp16: the gradient of {standing.scaled} of {step} steps overflowed, {last} up to step {step}. Such a step leaves the "
            f"weights as they are, and halves the factor by which the loss is scaled, now {scale:g}.",
            remedy=f"A few at the start, and one now and then, are usual; after {SKIPS_ALLOWED} in a row such a step counts as broken. If many "
            "steps are lost, take mixed_precision bf16.",
            scale=scale,
            total=standing.scaled,
            in_a_row=in_a_row,
        )

    def _report_memory(self) -> None:
        """Say once, and keep, that less goes through the network at once than was set."""
        standing, stepper = self.status.standing, self.stepper
        if stepper.portions.most != standing.portion:
            if standing.portion is None:
                self.status.warn(
                    f"The memory is too small for the rollout of all rows at once: from step {self.status.step} on they go through the network in "
                    f"portions of {stepper.portions.most} row{'s' if stepper.portions.most != 1 else ''}. What is learned is the same up to rounding.",
                    "Nothing to do. A smaller train_batch_size with more gradient_accumulation_steps needs less from the start.",
                )
            standing.portion = stepper.portions.most
        if stepper.split != standing.split:
            standing.split = stepper.split
            self.status.warn(
                f"The memory is too small for a batch: from step {self.status.step} on each goes through the network in {stepper.split} parts. A step "
                "trains on the same rows with the same draws (only what lora_dropout drops is drawn anew); what is learned is the same up to rounding.",
                f"Nothing to do. For the next run: {self._smaller_batch()}. To end instead, set split_on_out_of_memory to false.",
            )

    def _smaller_batch(self) -> str:
        training = self.session.config.training
        rows = max(1, training.train_batch_size // self.stepper.split)
        steps = -(-training.train_batch_size * training.gradient_accumulation_steps // rows)
        return f"train_batch_size {rows} with gradient_accumulation_steps {steps}"


def _good(path: Path, share: Share) -> Checkpoint | None:
    """A share of a checkpoint that is whole and was not saved while steps broke; None else."""
    try:
        found = checkpoint.load(path, share)
    except (CheckpointError, OSError, checkpoint.SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        return None
    return None if Standing.of(found.record).broken_in_a_row else found


def _names(pictures: list[str]) -> str:
    different: Any = list(dict.fromkeys(pictures))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return ", ".join(different[:_NAMED]) + more
