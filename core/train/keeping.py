"""What a training keeps: checkpoints, and the exported file for others."""

from ..adapters.check import check_export
from ..adapters.files import export
from ..adapters.trainable import adapter_state
from ..config import config_to_flat
from ..runs import checkpoint
from .disk_room import DiskRoom
from .resuming import versions
from .session import Session
from .status import Status


class Keeper:
    """Writes a session's state into its run's folder. Where the disk is full it waits for room."""

    def __init__(self, status: Status, session: Session, room: DiskRoom) -> None:
        self.status, self.session, self.room = status, session, room

    def is_checkpoint_due(self) -> bool:
        """Whether the interval says so. The last step's checkpoint is saved whatever the interval."""
        every, step = self.session.config.saving.checkpoint_step_interval, self.status.step
        return every > 0 and step % every == 0 and step < self.status.total

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one. Rank 0 writes."""
        status, session = self.status, self.session
        if status.saved == status.step or not status.ranks.is_main:
            return
        structure, moments = checkpoint.flatten(session.optimizer.state_dict())
        tensors = {"trainable": adapter_state(session.model), "optimizer": moments}
        if session.average is not None:
            tensors["ema"] = dict(zip(session.names, session.average.values, strict=True))
        record = {
            "config": config_to_flat(session.config), "config_hash": session.config.hash(), "optimizer": structure,
            "data": session.data_fingerprint(),
            "ema_updates": None if session.average is None else session.average.updates,
            "scaler": None if session.accelerator.scaler is None else session.accelerator.scaler.state_dict(),
            "versions": versions(session.model.device), "run": status.run.name,
        }  # fmt: skip
        limit = session.config.saving.checkpoints_total_limit
        saved = self.room.write(
            "a checkpoint",
            lambda: checkpoint.save(status.run.checkpoints_path, status.step, tensors, record, keep=limit),
        )
        status.saved = status.step
        status.emit("saved", path=status.relative(saved.path), bytes=saved.bytes)
        status.journal.state(step=status.step)

    def save_on_command(self) -> None:
        """A checkpoint of this step, reported again where there was one: the sender of the command waits for the event.

        May come in the middle of sampling or measuring, while the weights hold the moving average.
        """
        status = self.status
        if status.saved == status.step:
            path = status.step_folder(status.run.checkpoints_path)
            size = sum(file.stat().st_size for file in path.iterdir())
            status.emit("saved", path=status.relative(path), bytes=size)
            return
        with self.session.trained_weights():
            self.save()

    def export(self) -> None:
        """Write the file for others, and prove that a stock pipeline does with it what this model does. Rank 0 writes.

        Raises: ExportError where it does not.
        """
        if not self.status.ranks.is_main:
            return
        config, model, status = self.session.config, self.session.model, self.status
        run, state = status.run, self.session.average_on_cpu()
        path = run.lora_path / (f"{run.name}.safetensors" if config.training.model_type == "lora" else run.name)
        status.journal.progress("export", 0, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.room.write("the exported file", lambda: export(model, path, config, state=state, step=status.step))
        status.journal.progress("export", 1, 2)
        check = check_export(path, config, model, state)
        status.journal.progress("export", 2, 2)
        status.emit("exported", path=status.relative(path), check=check.as_dict())
