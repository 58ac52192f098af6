"""What is shown of a model while it trains: samples, drift reports, and previews with the weights of now."""

import json
import shutil
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import platform_calls
from ..look.drift import measure as drift
from ..look.preview import answer as preview
from ..memory import is_out_of_memory
from ..runs.commands import Command
from .disk_room import DiskRoom
from .listening import Listener
from .outcome import Leave
from .reporting import Timer
from .session import Session
from .status import Status

BASE_AFTER = 5  # steps; then the first points of the loss are there to look at
PREVIEWS_KEPT = 6  # answers to previews that were requested of the running run

_COMMAND_ARGUMENTS = {"sample": {"prompts", "negative_prompt", "steps", "guidance", "seed"}, "drift": {"request"}}

_MEMORY_REMEDY = (
    "The memory is full. Training goes on; for pictures and drift reports close other programs that hold memory, take fewer or none "
    "(validation_step_interval and drift_step_interval 0), or a smaller resolution in a copy of this run."
)


class _Abandoned(Exception):
    """The run must end while samples are drawn: leave them, the loop decides."""


class Viewer:
    """Draws and measures with the weights that would be exported now. Weights, modes and random state are left as found.

    Whatever it does is left, and not written, where a signal or a stop comes in the middle of it. Rank 0 draws and measures.
    """

    def __init__(self, status: Status, session: Session, room: DiskRoom, listener: Listener, timer: Timer) -> None:
        self.status, self.session, self.room, self.listener, self.timer = status, session, room, listener, timer
        self._owed: dict[str, Callable[..., None]] = {}
        """What of the base was put off: kind -> what views it."""

    def view_base(self, is_resumed: bool) -> None:
        """Samples and the drift report of the untrained model, unless a resumed run has them. With an adapter they are put off: the base is then at
        hand at any time (`adapters_disabled`), and whoever watches sees the first steps first. A full fine-tune's base is gone with the first
        step, and so are text encoders that train.
        """
        run, can_wait = self.status.run, self.session.model.has_adapter and not self.session.config.text_encoder.is_on
        views = {
            "samples": (self.take_samples, run.samples_path, bool(self.session.config.validation.prompts)),
            "drift": (self.measure_drift, run.drift_path, True),
        }
        for name, (view, folder, is_wanted) in views.items():
            if not is_wanted or (is_resumed and (folder / "step-000000").exists()):
                continue
            if can_wait:
                self._owed[name] = view
            elif self.status.step == 0:
                with self.timer.timed(name):
                    view(step=0)

    def view_owed_base(self) -> None:
        """What of the base was put off. Where the run ends in the middle of it, a resume takes it up again (`view_base`)."""
        if not self._owed:
            return
        for name, view in self._owed.items():
            what = {"samples": "The samples of the base", "drift": "The drift report of the base"}[name]
            self._survive(what, partial(self.timer.timed(name)(view), step=0))
        self._owed = {}
        self.session.free_what_training_does_not_need()

    def view_if_due(self, only_missing: bool = False) -> None:
        """Samples and drift at their intervals. `only_missing`: those of this step that are not there yet."""
        if self.status.step in (0, self.status.total):
            return  # the beginning and the end of the run have their own
        run, config = self.status.run, self.session.config
        intervals = (config.validation.step_interval, config.drift.step_interval)
        if self.status.step >= BASE_AFTER or any(every and self.status.step % every == 0 for every in intervals):
            self.view_owed_base()  # before whatever is compared with it
        due = (
            ("samples", config.validation.step_interval, self.take_samples, run.samples_path, "Samples"),
            ("drift", config.drift.step_interval, self.measure_drift, run.drift_path, "The drift report"),
        )
        for name, every, view, folder, what in due:
            if every == 0 or self.status.step % every != 0:
                continue
            if not (only_missing and self.status.step_folder(folder).exists()):
                self._survive(what, self.timer.timed(name)(view))

    def view_on_command(self, command: Command) -> None:
        """Do what a command `sample` or `drift` requests. Its failure is reported, and training goes on."""
        self._survive(f"The command {command.name}", lambda: self._run_command(command))

    def _run_command(self, command: Command) -> None:
        known = _COMMAND_ARGUMENTS[command.name]
        if unknown := command.args.keys() - known:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: the command {command.name} takes {', '.join(sorted(known)) or 'no arguments'}."
            )
        if command.name == "sample":
            folder = self.status.step_folder(self.status.run.samples_path, f"-{command.id}")
            self.take_samples(folder=folder, **command.args)
        elif "request" in command.args:
            self.show_preview(command)
        else:
            self.measure_drift()

    def _survive(self, what: str, action: Callable[[], Any]) -> None:
        """Samples and measurements must not end a training: their failure is reported with its traceback, and training goes on."""
        try:
            action()
        except Leave:
            raise
        except Exception as error:  # noqa: BLE001 - reported with its traceback
            self.status.warn(
                f"{what} at step {self.status.step} failed: {type(error).__name__}: {error}",
                _MEMORY_REMEDY if is_out_of_memory(error) else "Training goes on; see the traceback.",
                traceback=traceback.format_exc(),
            )

    def take_samples(
        self,
        *,
        step: int | None = None,
        folder: Path | None = None,
        prompts: Sequence[str] | None = None,
        negative_prompt: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
    ) -> None:
        """Samples of the validation prompts by the stock pipeline with the weights of now, into `folder` (the step's).
        Unset arguments are the config's, the step that of now. Step 0 after the first step: the base's, with the adapter off, which are the same.
        """
        if not self.status.ranks.is_main:
            return
        config, model, status = self.session.config.validation, self.session.model, self.status
        prompts = list(config.prompts if prompts is None else prompts)
        if not prompts:
            return
        side = self.session.config.data.resolution // model.size_multiple * model.size_multiple
        seed = config.seed if seed is None else seed
        step = status.step if step is None else step
        is_base = step == 0 and status.step > 0
        try:
            with model.adapters_disabled() if is_base else self.session.displayed_weights():
                self._sampling_progress(0, len(prompts))
                images = model.sample(
                    prompts,
                    steps=config.num_inference_steps if steps is None else steps,
                    guidance=config.guidance if guidance is None else guidance,
                    negative_prompt=config.negative_prompt if negative_prompt is None else negative_prompt,
                    seed=seed,
                    height=side,
                    width=side,
                    on_picture=self._sampling_progress,
                    on_step=lambda *_: self._poll(),
                )
        except _Abandoned:
            return
        place = status.step_folder(status.run.samples_path, step=step) if folder is None else folder
        self.room.write("samples", lambda: _write_images(place, images))
        status.journal.emit(
            "sample",
            step=step,
            images=[
                {"prompt": prompt, "seed": seed + number, "path": status.relative(place / _image_name(number))}
                for number, prompt in enumerate(prompts)
            ],
        )

    def _sampling_progress(self, done: int, total: int) -> None:
        self.status.journal.progress("samples", done, total)
        self._poll()

    def _poll(self) -> None:
        if self.listener.poll():
            raise _Abandoned

    def measure_drift(self, step: int | None = None) -> None:
        """A drift report of the weights of now, base against tuned, on the held-out pictures and beside them on some
        that are trained on; of step 0, the base's.
        """
        if not self.status.ranks.is_main:
            return
        data, status = self.session.data, self.status
        live = self.session.model if self.session.config.text_encoder.is_on else None
        sets = [drift.ProbeSet.of(probe, live) for probe in (data.probe, data.training_probe) if probe is not None]

        def measure() -> dict[str, Any]:
            return drift.probe(
                self.session.model,
                sets,
                self.session.config,
                status.run.drift_path,
                step=status.step if step is None else step,
                should_stop=self.listener.poll,
                progress=lambda done, total, what: status.journal.progress("drift", done, total),
            )

        with self.session.displayed_weights():
            try:
                report = self.room.write("the drift report", measure)
            except drift.Stopped:
                return  # the run must end: the loop decides
        status.journal.emit("drift", **report)

    def show_preview(self, command: Command) -> None:
        """Answer a request for a preview (`preview.show_live`) with the weights of now, by an event `preview`.

        It has the command's id, and `path` of the result or `message` and `remedy`. The last few results are kept.
        """
        status = self.status
        folder = status.run.drift_path / "previews" / command.id
        try:
            with self.session.displayed_weights():
                result = preview.show_live(
                    self.session.model,
                    command.args["request"],
                    folder,
                    step=status.step,
                    should_stop=self.listener.poll,
                    report_progress=lambda share, what: status.journal.progress("preview", round(100 * share), 100),
                )
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        except drift.Stopped:
            return  # the run must end: the loop decides
        except Leave:  # it was stopped while a save in the middle of this waited for room
            raise
        except Exception as error:  # noqa: BLE001 - reported to whoever sent the request; training goes on
            message, remedy = preview.explain(error)
            status.emit("preview", id=command.id, message=message, remedy=remedy)
            return
        kept = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in kept[:-PREVIEWS_KEPT]:
            shutil.rmtree(old)
        status.emit("preview", id=command.id, path=status.relative(folder / "result.json"))


def _image_name(number: int) -> str:
    return f"{number:02d}.png"


def _write_images(folder: Path, images: Sequence[Any]) -> None:
    """All pictures or none: the folder appears when they are there."""
    with platform_calls.replacing_folder(folder) as partial:
        partial.mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(partial / _image_name(number))
