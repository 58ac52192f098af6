"""S19: words in the environment that must be nowhere afterwards: a run to its end, one that crashes, the queue, and everything that is handed on."""

import os
import zipfile
from pathlib import Path

import pytest
from rollout_studio.app.parts.problem import write_problem
from rollout_studio.app.runs.report import write_run_report
from rollout_studio.core.runs import process
from rollout_studio.core.runs.archive import pack
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.step import Stepper
from rollout_studio.core.train.worker import _log
from tiny_run import without_drift  # noqa: F401 - a fixture

CANARY = "c4naryWord"


@pytest.fixture
def canaries(monkeypatch):
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "ROLLOUT_STUDIO_LOGIN",
        "SOME_COOKIE",
        "HARMLESS",
    ):
        monkeypatch.setenv(name, f"{CANARY}{name}")


def hits(folder):
    """(files looked at, places of the word): in names and contents, and inside of what is packed."""
    looked, found = 0, []
    for path in Path(folder).rglob("*"):
        if CANARY in path.name:
            found.append(str(path))
        if not path.is_file():
            continue
        looked += 1
        contents = [path.read_bytes()]
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed:
                contents += [packed.read(name) for name in packed.namelist()]
        found += [
            str(path) for content in contents if CANARY.encode() in content or CANARY.encode("utf-16-le") in content
        ]
    return looked, found


def hand_on(store, run, tmp_path):
    """Everything that a person may give away of a run."""
    if run.last_event("step") is not None:
        write_run_report(run, store.summary(run.name))
    pack(run, tmp_path / f"{run.name}.zip", checkpoints=True)
    write_problem(run, tmp_path / f"{run.name}-problem.zip")


@pytest.mark.usefixtures("without_drift")
def test_a_run_and_a_crash_leave_no_word_of_the_environment_anywhere(tiny_run, canaries, tmp_path, monkeypatch, capsys):
    whole = tiny_run("sd3", "whole", max_train_steps=2, device="cpu")
    assert train(whole, listen=_log) == 0
    broken = tiny_run("sd3", "broken", max_train_steps=2, device="cpu")

    def breaks(self, step):
        environment = dict(os.environ)  # as a library has it at hand where it fails
        raise RuntimeError(f"it broke with {len(environment) > 0} settings")

    monkeypatch.setattr(Stepper, "take", breaks)
    assert train(broken, listen=_log) == 70
    written = capsys.readouterr()
    whole.log_path.write_text(written.out + written.err)  # where the store sends what a worker prints
    store, started = RunStore(tmp_path / "runs"), []

    def remembered(command, log, **how):
        started.append((command, how["extra_env"]))
        raise OSError("not here")

    monkeypatch.setattr(process.platform_calls, "start_detached", remembered)
    queued = store.clone("whole", "queued")
    store.enqueue(queued.name)
    store.pump()
    assert started and CANARY not in repr(started)
    for run in (whole, broken):
        hand_on(store, run, tmp_path)
    looked, found = hits(tmp_path)
    assert looked > 20 and not found
