"""A Train node's work: find or start the run that its config and pictures describe, and follow it to its end.

A run is found by its identity: the hash of the whole config, the fingerprint of pictures and model, and a number that a person
raises to train again on purpose. The first ten digits of that stand in the run's name, so the same graph finds its run again
after the cache is gone, from another graph, or while it still trains. Nothing that has trained is ever overwritten.
"""

import hashlib
import time
from pathlib import Path

from ...core.config import RunConfig, config_from_flat, config_to_flat
from ...core.config.options import ConfigError
from ...core.names import slug
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from ...core.runs.rows import RunSummary
from ...core.runs.run_log import PHASES
from ...core.runs.store import RunStore
from ..graph.values import Checkpoint, File, Interrupted, Lora, Losses, NodeError, Run, manifest_of, sha256
from . import fingerprints
from .context import Context

POLL_S = 0.2
OPEN = ("created", "queued", "starting", "running", "paused", "stopping")


def identity(config: RunConfig, again: int) -> str:
    """What decides whether two trainings are the same one."""
    parts = f"{config.hash()} {fingerprints.of_flat(config_to_flat(config))} {again}"
    return hashlib.sha256(parts.encode()).hexdigest()


def find(store: RunStore, digest: str) -> list[RunDir]:
    """The runs of an identity, oldest first; usually none or one."""
    short = digest[:10]
    found = [path for path in store.root.glob(f"*-{short}*") if path.name.partition(f"-{short}")[2].lstrip("-").isdigit()
             or path.name.endswith(f"-{short}")]  # fmt: skip
    return [
        RunDir(path)
        for path in sorted(found, key=lambda path: (len(path.name), path.name))
        if (path / "config.json").is_file()
    ]


def train(context: Context, config: RunConfig, name: str, again: int) -> RunDir:
    """The finished run of this training: found, joined, resumed or started. Raises NodeError when it fails."""
    store, digest = context.store, identity(config, again)
    there = find(store, digest)
    run = there[-1] if there else None
    start = 0
    if run is not None:
        summary = settled(context, run)
        if summary.state == "done":
            return run
        if summary.resumable:
            start = run.events()[1]
            store.enqueue(run.name, resume=True)
        elif summary.state == "created":
            store.enqueue(run.name)
        elif summary.state not in OPEN:
            run = None  # it failed before its first checkpoint: a new one, beside it
    if run is None:
        stem = f"{slug(name)[:40]}-{digest[:10]}"
        try:
            run = store.create(config, stem if not there else f"{stem}-{len(there) + 1}")
            store.enqueue(run.name)
        except RunError:
            run = RunDir(store.path_of(stem))  # another process was quicker: join its run
            if not run.config_path.is_file():
                raise
    follow(context, run, start)
    return run


def settled(context: Context, run: RunDir) -> RunSummary:
    """The summary of a run that is not about to stop: one that saves its last checkpoint, or whose process is ending, is waited for.
    Only then it can be resumed. Raises Interrupted when a stop of the waiting was requested.
    """
    while True:
        summary = context.store.summary(run)
        stopping = any(command.name in ("stop", "stop-and-save") for command in run.pending_commands())
        leaving = summary.state == "stopping" or stopping or summary.state not in (*OPEN, "done")
        if not (summary.alive and leaving):
            return summary
        context.progress(summary.step or 0, summary.total_steps or 0, "waiting for the run that is stopping")
        time.sleep(POLL_S)


def follow(context: Context, run: RunDir, start: int = 0) -> None:
    """Wait until a run is done, reporting its progress and pictures. An interrupt lets it save first, then raises Interrupted.

    Args:
        start: bytes of the events file to skip: what a resumed run has written before.

    Raises: NodeError when the run ends otherwise than done.
    """
    context.trains(run.name)
    store, offset, total, stopping = context.store, start, 0, False
    while True:
        store.pump()
        events, offset = run.events(offset)
        for event in _newest(events):
            total = event.get("total_steps", total) if event["event"] == "start" else total
            _report(context, run, event, total)
        summary = store.summary(run)
        if summary.state not in OPEN and not events:
            break
        if context.stop() and not stopping:
            stopping = True
            if not summary.alive and (summary.state == "created" or store.dequeue(run.name)):
                raise Interrupted
            run.send("stop-and-save")
            context.report(summary.step or 0, total, "saving a checkpoint")
        time.sleep(POLL_S)
    if summary.state == "done":
        return
    if stopping:
        raise Interrupted
    failure = store.failure(run.name)
    if failure is not None:
        raise NodeError(f"Run {run.name}: {failure['message']}", failure.get("remedy") or "")
    raise NodeError(
        f"Run {run.name} is {summary.state} at step {summary.step}: {summary.message or 'it was stopped'}.",
        "Run the graph again to go on from its last checkpoint.",
    )


def _newest(events: list[dict]) -> list[dict]:
    """The last event of each kind, in order: joining a run that has trained for hours reports where it is, not all that it did."""
    last = {event["event"]: number for number, event in enumerate(events)}
    return [events[number] for number in sorted(last.values())]


def _report(context: Context, run: RunDir, event: dict, total: int) -> None:
    match event["event"]:
        case "start" if event.get("resumed_from") is not None:
            context.report(event["resumed_from"], total, f"going on from step {event['resumed_from']}")
        case "step":
            loss = event["loss"]
            context.report(
                event["step"], total, f"loss {loss:.4f}" if isinstance(loss, int | float) else f"loss {loss}"
            )
        case "phase":
            context.report(event["done"], event["total"], PHASES.get(event["name"], event["name"]))
        case "sample":
            for image in event["images"]:
                context.show(run.path / image["path"])
        case "drift":
            picture = (run.path / event["path"]).with_name("filmstrip.png")
            if picture.is_file():
                context.show(picture)


def results(run: RunDir) -> tuple[Run, Checkpoint, Losses, Lora | None]:
    """What a finished run puts on the wires; the LoRA file is None after a full fine-tune."""
    step = run.last_checkpoint()
    if step is None:
        raise NodeError(f"Run {run.name} has no checkpoint.", "Let it train until it has saved one.")
    digest = sha256(manifest_of(run.path, step))
    file = run.lora_path / f"{run.name}.safetensors"
    lora = Lora(File(str(file), sha256(file))) if file.is_file() else None
    where = str(run.path)
    return Run(where, run.name, step, digest), Checkpoint(where, run.name, step, digest), Losses(where, step), lora


def config_of(run: str | Path) -> RunConfig:
    """The config that a run trains with. Raises NodeError where it cannot be read."""
    try:
        return config_from_flat(RunDir(run).read_config())
    except (RunError, ConfigError) as error:
        raise NodeError(str(error), "Choose another run.") from None
