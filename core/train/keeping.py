"""What a training keeps: checkpoints, and the exported file for others."""

import errno
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..adapters.check import check_export
from ..adapters.embedding_files import check_embedding, export_embedding, path_beside
from ..adapters.files import export, export_lora, files_of
from ..adapters.header import ExportError
from ..adapters.lora_layers import Layout
from ..adapters.placing import place, write_sidecar
from ..config import RunConfig, config_to_flat
from ..families.base import Model
from ..runs import checkpoint
from .disk_room import DiskRoom
from .outcome import NotFinite
from .resuming import versions
from .session import Session
from .sharding import Shares, own_part, share_of
from .status import Status


class Keeper:
    """Writes a session's state into its run's folder. Where the disk is full it waits for room."""

    def __init__(self, status: Status, session: Session, room: DiskRoom) -> None:
        self.status, self.session, self.room = status, session, room

    def is_checkpoint_due(self) -> bool:
        """Whether the interval says so. The last step's checkpoint is saved whatever the interval."""
        every, step, saved = self.session.config.saving.checkpoint_step_interval, self.status.step, self.status.saved
        if every == 0 or step >= self.status.total or self.status.standing.broken_in_a_row:
            return False  # while steps break nothing is learned, and what may be needed to go back is not pruned for it
        return step // every > (0 if saved is None else saved) // every

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one. Rank 0 writes."""
        status, session = self.status, self.session
        if status.saved == status.step or not status.ranks.is_main:
            return
        self._check_finite(session.largest_weight().item())
        structure, tensors = self._state()
        record = {
            "config": config_to_flat(session.config), "config_hash": session.config.hash(), "optimizer": structure,
            "data": session.data_fingerprint(),
            "ema_updates": None if session.average is None else session.average.updates,
            "scaler": None if session.accelerator.scaler is None else session.accelerator.scaler.state_dict(),
            "versions": versions(session.model.device, status.ranks.world_size), "run": status.run.name,
            "standing": status.standing.record(),
        }  # fmt: skip
        # One more while steps break: the last good one may be needed to go back.
        limit = session.config.saving.checkpoints_total_limit + (status.standing.broken_in_a_row > 0)
        saved = self.room.write(
            "a checkpoint",
            lambda: checkpoint.save(
                status.run.checkpoints_path, status.step, tensors, record,
                keep=limit, share=share_of(session.config, status.ranks), beside=None if session.shares is None else partial(self._have_others_write, session.shares),
            ),
        )  # fmt: skip
        status.saved = status.step
        status.emit("saved", path=status.relative(saved.path), bytes=saved.bytes)
        status.journal.state(step=status.step)

    def _check_finite(self, largest: float) -> None:
        if not math.isfinite(largest):
            raise NotFinite("largest trained weight", largest, self.status.step - 1, [], in_weights=True)

    def _state(self) -> tuple[Any, dict[str, dict[str, Tensor]]]:
        """(the structure of the optimizer's state, all tensors of a checkpoint); of divided weights the rows of this rank."""
        session = self.session
        structure, moments = checkpoint.flatten(session.optimizer.state_dict())
        tensors = {"trainable": dict(zip(session.names, session.parameters, strict=True)), "optimizer": moments}
        if session.average is not None:
            tensors["ema"] = dict(zip(session.names, session.average.values, strict=True))
        return structure, {
            group: {name: own_part(value) for name, value in named.items()} for group, named in tensors.items()
        }

    def _have_others_write(self, shares: Shares, folder: Path) -> Callable[[], checkpoint.Files]:
        """The other ranks write their shares into a checkpoint that is being made. Returns what waits for them, and gives their files."""
        shares.ask("save", str(folder))

        def wait() -> checkpoint.Files:
            files: checkpoint.Files = {}
            for done, largest in self.status.ranks.gather(({}, 0.0)):
                self._check_finite(largest)
                if isinstance(done, OSError):
                    raise done
                files |= done
            return files

        return wait

    def write_share(self, folder: str) -> None:
        """This rank's part of a checkpoint that rank 0 makes. What goes wrong here is raised there: a full disk is rank 0's to wait for."""
        done: checkpoint.Files | OSError
        ranks, largest = self.status.ranks, self.session.largest_weight().item()
        try:
            done = checkpoint.write_tensors(Path(folder), self._state()[1], share_of(self.session.config, ranks))
        except (OSError, checkpoint.SafetensorError) as error:
            number = errno.ENOSPC if checkpoint.is_disk_full(error) else errno.EIO
            done = OSError(number, f"{error} (process {ranks.rank})")
        ranks.gather((done, largest))

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
        if self.status.ranks.is_main:
            with self.session.displayed_weights():
                self._export()

    def _export(self) -> None:
        config, model, status = self.session.config, self.session.model, self.status
        run = status.run
        is_lora = config.training.model_type == "lora"
        files = files_of(config, run.lora_path / (f"{run.name}.safetensors" if is_lora else run.name))
        run.lora_path.mkdir(parents=True, exist_ok=True)
        checked = []
        for number, (layout, path) in enumerate(files):
            status.journal.progress("export", 2 * number, 2 * len(files))
            self.room.write("the exported file", partial(_write, model, path, config, status.step, layout))
            status.journal.progress("export", 2 * number + 1, 2 * len(files))
            check = check_export(path, config, model)
            checked.append({"path": status.relative(path), "layout": layout, "check": check.as_dict()})
        if config.text_encoder.new_tokens:
            checked.append(self._embedding(files[0][1]))
        status.journal.progress("export", 2 * len(files), 2 * len(files))
        placed = self._place([path for _, path in files]) if is_lora else None
        status.emit("exported", path=checked[0]["path"], check=checked[0]["check"], files=checked, placed=placed)

    def _embedding(self, lora: Path) -> dict[str, Any]:
        """Write the new tokens beside the LoRA, and prove both together; what the event says of it."""
        config, model, status = self.session.config, self.session.model, self.status
        path = path_beside(lora, str(config.data.trigger_word))
        write = partial(export_embedding, model, path, config, step=status.step)
        self.room.write("the embedding file", write)
        check = check_embedding(path, lora, config, model)
        return {"path": status.relative(path), "layout": check.layout, "check": check.as_dict()}

    def _place(self, files: list[Path]) -> str | None:
        """Write the sidecar, and the copy in the folder that the config names: of both layouts the one of other tools. The run's own file
        is safe by then, so a folder that takes nothing is a warning."""
        config, status = self.session.config, self.status
        for path in files:
            version = self.session.model.facts.header["ss_base_model_version"]
            self.room.write("the LoRA's sidecar", partial(write_sidecar, path, config, version))
        if config.lora.folder is None:
            return None
        name, folder = status.run.name, Path(config.lora.folder).expanduser()
        embedding = path_beside(files[0], str(config.data.trigger_word)) if config.text_encoder.new_tokens else None
        try:
            target = place(files[-1], folder, name, status.run.lora_path, embedding)
        except ExportError as error:
            status.warn(str(error), f"It lies in {status.run.lora_path}; copy it from there.")
            return None
        if target.stem != name:
            status.warn(
                f"{folder} has another file named {name}.safetensors, which was kept: this run's LoRA is {target.name} there.",
                "Rename or remove the one that you do not want.",
            )
        return str(target)


def _write(model: Model, path: Path, config: RunConfig, step: int, layout: Layout) -> Path:
    if config.training.model_type == "lora":
        return export_lora(model, path, config, step=step, layout=layout)
    return export(model, path, config, step=step)
