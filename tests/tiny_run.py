"""Runs of a few tiny steps on tiny models: for everything that needs a training.

def test_something(tiny_run):
    run = tiny_run("lumina2", max_train_steps=3)     # a RunDir, ready for `train(run)`
    assert train(run) == 0
    assert losses(run) == ...
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.checkpoint import Checkpoint
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore

BASE = {
    "resolution": 32, "aspect_buckets": False, "lora_rank": 3, "learning_rate": 1e-2, "max_train_steps": 3, "train_batch_size": 2,
    "checkpoint_step_interval": 0, "validation_num_inference_steps": 2, "drift_holdout_images": 0,
    "drift_num_images": 1, "drift_offsets": [1], "drift_fine_factor": 2, "scheduled_sampling_grid_steps": 6,
}  # fmt: skip
ROLLOUT = {
    "scheduled_sampling_max_step_offset": 2,
    "scheduled_sampling_probability": 0.7,
    "scheduled_sampling_reflexflow_beta1": 1.0,
}
"""A rollout that happens in most steps."""


def draw_pictures(folder: Path, number: int) -> Path:
    """Captioned pictures, each another colour and size."""
    folder.mkdir()
    for i in range(number):
        picture = Image.new("RGB", (48 + 8 * i, 64 - 8 * i), (40 * i, 255 - 40 * i, 128))
        ImageDraw.Draw(picture).ellipse((4 + i, 8, 30, 34 + i), fill=(255 - 50 * i, 20 * i, 60))
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a circle, number {i}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Four captioned pictures."""
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "set", 4)


@pytest.fixture
def tiny_run(tiny_folder, pictures, tmp_path) -> Callable[..., RunDir]:
    """Variant of `tiny.BUILDERS` and flat options -> a run, in a store of the test's own."""
    store = RunStore(tmp_path / "runs")

    def make(variant: str, name: str = "tiny", **changes) -> RunDir:
        flat = {
            **BASE,
            "pretrained_model_name_or_path": str(tiny_folder(variant)),
            "instance_data_dir": str(pictures),
            **changes,
        }
        return store.create(config_from_flat(flat), name)

    return make


@pytest.fixture
def without_drift(monkeypatch) -> None:
    """No drift reports: a test that is not about them need not wait for them."""
    from rollout_studio.core.train.looking import Viewer

    monkeypatch.setattr(Viewer, "measure_drift", lambda self, step=None: None)


def events(run: RunDir, kind: str | None = None) -> list[dict]:
    """The run's events, all of them or one kind."""
    return [event for event in run.events()[0] if kind is None or event["event"] == kind]


def losses(run: RunDir) -> list[float]:
    """The loss of every step event, in the order reported."""
    return [event["loss"] for event in events(run, "step")]


def at_step(step: int, action: Callable[[], object]) -> Callable[[dict], None]:
    """A listener for `train` that acts once, when the step's event comes: the trainer hears of it before the next
    step.
    """
    done = []

    def listen(event: dict) -> None:
        if event["event"] == "step" and event["step"] == step and not done:
            done.append(step)
            action()

    return listen


def quietly(bench, record, folder, **more):
    """The bench's answer, with nobody to tell of its progress."""
    from rollout_studio.core.look.preview.answer import answer

    nothing = {"report_progress": lambda share, what: None, "part": lambda result: None, "should_stop": lambda: False}
    return answer(bench, record, folder, **nothing, **more)


def asked_of(run, pictures, **more):
    """A request about a run on its own model."""
    return {
        "config": run.read_config(),
        "image": str(pictures / "0.png"),
        "target": 0.3,
        "offset": 2,
        "columns": 2,
        **more,
    }


def last(run: RunDir) -> Checkpoint:
    """The newest checkpoint of a run; none may be damaged."""
    found, skipped = checkpoint.load_latest(run.checkpoints_path)
    assert found is not None and skipped == []
    return found


def assert_same(one: RunDir, other: RunDir) -> None:
    """Weights, average, moments, and every number that a step tells except for time and memory."""
    import torch

    a, b = last(one), last(other)
    assert a.step == b.step
    for group in ("trainable", "ema", "optimizer"):
        assert a.tensors[group].keys() == b.tensors[group].keys() != set()
        for name, tensor in a.tensors[group].items():
            assert torch.equal(tensor, b.tensors[group][name]), f"{group} {name}"
    assert a.record["optimizer"] == b.record["optimizer"]

    def reported(run: RunDir) -> list[dict]:
        timing = {"time", "seconds", "step_s", "beside_s", "eta_s", "memory_mib"}
        return [{key: value for key, value in event.items() if key not in timing} for event in events(run, "step")]

    assert reported(one) == reported(other)


def as_ranks(
    monkeypatch, run: RunDir, count: int = 2, *, resume: bool = False, prepare=lambda rank: None, **environment
) -> list[int | None]:
    """Train a run in forked processes, each with what torchrun tells its own; their exit codes. Forked, so that no one imports anew.
    `prepare`: called in each with its rank, before it trains."""
    from rollout_studio.core.train.loop import train

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1], "WORLD_SIZE": count, **environment}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))

    def rank(number):
        os.environ.update(RANK=str(number), LOCAL_RANK=str(number))
        prepare(number)
        os._exit(train(run, resume=resume))

    processes = [multiprocessing.get_context("fork").Process(target=rank, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(170)
    return [process.exitcode for process in processes]
