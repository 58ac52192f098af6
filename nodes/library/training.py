"""Training, going on with a run, choosing a checkpoint, and exporting the LoRA."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ...core import platform_calls
from ...core.config import OPTIONS, with_changes
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ..execute import following, pictures
from ..graph import values
from ..graph.declaration import Output, Socket, local, node, of_option
from ..graph.parts import config_from_parts
from ..graph.provenance import copy_with_metadata
from ..graph.values import Checkpoint, File, Images, NodeError, manifest_of, sha256

if TYPE_CHECKING:
    from ...core.adapters.lora_layers import Layout

TRAINED = (
    Output("run", values.RUN, "The finished run."),
    Output("checkpoint", values.CHECKPOINT, "Its last checkpoint."),
    Output("loss", values.LOSS_MAP, "The loss of every step."),
    Output("lora", values.LORA_MODEL, "The LoRA's weights; nothing after a full fine-tune."),
    Output("samples", values.IMAGE, "The run's last sample pictures, where it has validation prompts."),
)

_SOCKETS = (
    Socket("model", values.MODEL, "The model to start from."),
    Socket("dataset", values.DATASET, "What is trained on."),
    Socket("adapter", values.ADAPTER, "What is trained; without it: a LoRA with its defaults.", True),
    Socket("rollout", values.ROLLOUT, "Scheduled sampling; without it: plain training.", True),
    Socket("optimizer", values.OPTIMIZER, "The update rule; without it: its defaults.", True),
    Socket("settings", values.TRAINING, "Length, batch and saving; without it: their defaults.", True),
    Socket("validation", values.VALIDATION, "Sample pictures; without it: none.", True),
    Socket("drift", values.DRIFT, "Drift reports; without it: at the start and the end, on held-out pictures.", True),
)  # fmt: skip
PART_SOCKETS = {socket.name: socket for socket in _SOCKETS}
"""The parts of a training (`parts.PARTS`), as inputs."""


@node(
    "Train", "Train", "Training",
    inputs=(
        *PART_SOCKETS.values(),
        local("name", "str", "graph", "Beginning of the run's name.", cosmetic=True),
        local("again", "int", 0, "Raise it to train once more on purpose; the same number never trains twice.", ge=0, le=1_000_000),
    ),
    outputs=TRAINED,
    lane="run",
    shows=True,
    aliases=("fine-tune", "dreambooth"),
)  # fmt: skip
def train(context, name, again, **parts):
    """Train as a run of the run store, a process of its own. The same settings and pictures train once: a run that is already there
    is joined while it trains, resumed where it was stopped, and used as it is when it is done."""
    return _results(following.train(context, config_from_parts(parts), name, again))


def _results(run: RunDir) -> tuple:
    folders = sorted(run.samples_path.glob("step-*")) if run.samples_path.is_dir() else []
    files = pictures.in_folder(folders[-1]) if folders else []
    samples = Images(tuple(map(values.file_at, files)), _captions(run, len(files))) if files else None
    return *following.results(run), samples


def _captions(run: RunDir, number: int) -> tuple[str, ...]:
    prompts = following.config_of(run.path).validation.prompts
    return tuple(prompts) if len(prompts) == number else ()


@node(
    "Resume", "Resume", "Training",
    inputs=(
        Socket("run", values.RUN, "The run to go on with; or name one.", True),
        local("name", "str", "", "Name of a run of the run store, where no run is linked."),
        of_option("max_train_steps", default=None),
    ),
    outputs=TRAINED,
    lane="run",
    shows=True,
    effect=True,  # the store decides what is to be done, not the inputs alone; a finished run answers at once
    check=lambda inputs, linked: (
        () if ("run" in linked) != bool(inputs["name"] or "name" in linked) else (("name", "link a run or name one, not both."),)
    ),
)  # fmt: skip
def resume(context, run, name, max_train_steps):
    """Go on with a run that was stopped or crashed, exactly where its last checkpoint is. With more max_train_steps than it had, a
    copy of the run goes on from there; the run itself stays as it is."""
    store = context.store
    try:
        there = store.get(name) if run is None else RunDir(run.path)
        if max_train_steps is not None:
            there = _longer(context, there, max_train_steps)
        summary, start = following.settled(context, there), 0
        if summary.resumable:
            start = there.events()[1]
            store.enqueue(there.name, resume=True)
        elif summary.state != "done" and summary.state not in following.OPEN:
            raise NodeError(
                f"Run {there.name} is {summary.state} and has no checkpoint.", "Start it anew with a Train node."
            )
        elif summary.state == "created":
            store.enqueue(there.name)
    except RunError as error:
        raise NodeError(str(error)) from None
    if summary.state != "done":
        following.follow(context, there, start)
    return _results(there)


def _longer(context, run: RunDir, steps: int) -> RunDir:
    """The run's copy that trains to `steps`: the one made before, or a new one with the newest checkpoint in it."""
    config = following.config_of(run.path)
    if steps == config.training.max_train_steps:
        return run
    if steps < config.training.max_train_steps:
        raise NodeError(
            f"max_train_steps = {steps}: run {run.name} already goes to {config.training.max_train_steps}.",
            "Take more steps.",
        )
    last = run.last_checkpoint()
    if last is None:
        raise NodeError(f"Run {run.name} has no checkpoint to go on from.", "Let it train until it has saved one.")
    source = manifest_of(run.path, last)
    name = f"{run.name[:40]}-to-{steps}-{sha256(source)[:8]}"
    if (context.store.root / name / "config.json").is_file():
        return context.store.get(name)
    longer = context.store.create(with_changes(config, {"max_train_steps": steps}), name)
    shutil.copytree(source.parent, longer.checkpoints_path / source.parent.name)
    longer.write_state(state="stopped", step=last)
    return longer


@node(
    "CheckpointPicker", "Checkpoint Picker", "Training",
    inputs=(
        Socket("run", values.RUN, "A run."),
        local("step", "int", None, "The step whose checkpoint is taken; empty = the newest.", ge=1, le=OPTIONS["max_train_steps"].maximum),
    ),
    outputs=(Output("checkpoint", values.CHECKPOINT, "That checkpoint."),),
    lane="files",
)  # fmt: skip
def checkpoint_picker(context, run, step):
    """One of the checkpoints that a run has kept."""
    chosen = run.step if step is None else step
    manifest = manifest_of(Path(run.path), chosen)
    if not manifest.is_file():
        there = sorted(int(path.name[5:]) for path in RunDir(run.path).checkpoints_path.glob("step-*"))
        raise NodeError(
            f"Run {run.name} has no checkpoint of step {chosen}.", f"There are: {', '.join(map(str, there))}."
        )
    return (Checkpoint(run.path, run.name, chosen, sha256(manifest)),)


@node(
    "ExportLoRA", "Export LoRA", "Training",
    inputs=(
        Socket("checkpoint", values.CHECKPOINT, "The weights."),
        local("name", "str", "lora", "Beginning of the file's name: letters, digits, dots, hyphens, underscores.", rule=pictures.name_fault),
    ),
    outputs=(Output("path", values.STRING, "The file."), Output("lora", values.LORA_MODEL, "Its weights.")),
    lane="device",
    shows=True,
    effect=True,
)  # fmt: skip
def export_lora(context, checkpoint, name):
    """The checkpoint as one LoRA file in the output folder, with its training settings and, if they may name folders and texts, this workflow inside."""
    target = exported(context, checkpoint, name, context.out)
    return str(target), values.Lora(File(str(target), sha256(target)))


def exported(context, checkpoint, name: str, folder: Path, layout: "Layout | None" = None) -> Path:
    """The checkpoint's LoRA file in a folder, made where it is not there; its name tells the step and the weights.

    `layout`: instead of the run's own. One with new tokens has a folder of its own below, because its embedding file beside it is named after the trigger word alone.
    """
    run = RunDir(checkpoint.run)
    config = following.config_of(run.path)
    if config.training.model_type != "lora":
        raise NodeError(
            f"Run {run.name} is a full fine-tune: there is no LoRA.", f"Its model lies in {run.lora_path / run.name}."
        )
    stem = f"{name}-step-{checkpoint.step}-{checkpoint.digest[:6]}"
    target = (folder / stem if config.text_encoder.new_tokens else folder) / f"{stem}.safetensors"
    if target.is_file():
        return target
    ready = run.lora_path / f"{run.name}.safetensors"
    if layout is not None or checkpoint.step != config.training.max_train_steps or not ready.is_file():
        ready = _exported(context, run, config, checkpoint.step, layout)
    copy_embedding(ready, target.parent)
    may_tell = config.saving.publish_folders and config.saving.publish_texts  # a workflow has both
    copy_with_metadata(ready, target, context.provenance if may_tell else {})
    return target


def copy_embedding(lora: Path, folder: Path) -> None:
    """Put the embedding file of a LoRA with new tokens into `embeddings` below a folder. Raises NodeError where there is none."""
    from ...core.adapters.embedding_files import file_beside
    from ...core.adapters.lora_file import LoraError

    try:
        embedding = file_beside(lora)
    except LoraError as error:
        raise NodeError(str(error)) from None
    if embedding is not None:
        target = folder / embedding.parent.name / embedding.name
        target.parent.mkdir(parents=True, exist_ok=True)
        platform_calls.write_atomically(target, embedding.read_bytes())


def _exported(context, run: RunDir, config, step: int, layout: "Layout | None") -> Path:
    """The LoRA of a checkpoint, written and checked against a stock pipeline as the trainer does."""
    from ...core.adapters import check_export, export_lora
    from ...core.adapters.embedding_files import check_embedding, export_embedding, path_beside
    from ...core.adapters.files import files_of
    from ...core.adapters.header import ExportError
    from ...core.families import ModelError, load_model
    from ...core.look.revisit import load_weights, open_checkpoint
    from ...core.runs.checkpoint import CheckpointError

    try:
        found = open_checkpoint(run, step)
        model = load_model(config.model, flow_shift=config.training.flow_schedule_shift, for_training=False)
        load_weights(model, config, found)
        path = context.work / "lora.safetensors"
        export_lora(model, path, config, step=step, layout=files_of(config, path)[0][0] if layout is None else layout)
        check_export(path, config, model)
        if config.text_encoder.new_tokens:
            embedding = path_beside(path, str(config.data.trigger_word))
            check_embedding(export_embedding(model, embedding, config, step=step), path, config, model)
    except (CheckpointError, ExportError, ModelError) as error:
        raise NodeError(str(error)) from None
    return path
