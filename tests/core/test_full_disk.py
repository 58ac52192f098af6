"""A full disk: what a run tells on it, and what can still be looked at. The slow tests fill a real volume of a few MiB."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rollout_studio.app.cli import main as cli
from rollout_studio.core import platform_calls
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.runs import folder
from rollout_studio.core.runs.errors import RunError, StorageError
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.journal import Journal
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train import disk_room
from rollout_studio.core.train.loop import train
from tiny_run import BASE, events


@pytest.fixture
def no_new_blocks(monkeypatch):
    """New files and longer files are refused, as on a full disk; `free()` gives room again."""
    full = [True]
    write, emit = platform_calls.write_atomically, RunDir.emit

    def refuse(*arguments, **fields):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        platform_calls, "write_atomically", lambda path, data: (refuse if full[0] else write)(path, data)
    )
    monkeypatch.setattr(
        RunDir, "emit", lambda self, event, **fields: (refuse if full[0] else emit)(self, event, **fields)
    )
    return lambda: full.clear() or full.append(False)


def run_in(folder: Path) -> RunDir:
    return RunStore(folder / "runs").create({}, "mine")


def test_a_state_is_written_where_it_lies_when_there_is_no_room_for_a_new_file(tmp_path, request):
    run = run_in(tmp_path)
    run.write_state(state="running", step=7)
    request.getfixturevalue("no_new_blocks")
    run.write_state(state="paused", message="The disk is full. " * 20)
    state = RunDir(run.path).read_state()
    assert (state["state"], state["step"]) == ("paused", 7) and "disk is full" in state["message"]
    run.write_state(message=None)
    assert run.read_state()["message"] is None  # and nothing of the longer one is left


def test_a_state_that_is_longer_than_its_place_is_refused_and_the_old_one_stays(tmp_path, request):
    run = run_in(tmp_path)
    request.getfixturevalue("no_new_blocks")
    with pytest.raises(OSError, match="No space"):
        run.write_state(message="x" * 10_000)
    assert run.read_state()["state"] == "created"


def test_a_state_is_reported_though_the_events_before_it_must_wait(tmp_path, request):
    run = run_in(tmp_path)
    free = request.getfixturevalue("no_new_blocks")
    journal = Journal(run)
    journal.emit("step", step=1)
    journal.state(state="paused", message="The disk is full.")
    assert run.read_state()["state"] == "paused" and journal.blocked
    free()
    journal.flush()
    assert [event["event"] for event in run.events()[0]] == ["step"] and not journal.blocked


def test_a_run_that_waits_for_room_is_shown_so_and_as_it_was_when_there_is_some(tiny_run, without_drift, monkeypatch):
    """Every face of the page and the command line reads the state."""
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.01)
    run, shown = tiny_run("lumina2"), []
    store, emit, write = RunStore(run.path.parent), RunDir.emit, platform_calls.write_atomically

    def full():
        now = store.summary(run)
        shown.append((now.state, now.message))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        RunDir,
        "emit",
        lambda self, event, **fields: (
            full() if event == "step" and fields["step"] == 2 and len(shown) < 12 else emit(self, event, **fields)
        ),
    )
    monkeypatch.setattr(
        platform_calls, "write_atomically", lambda path, data: full() if 0 < len(shown) < 12 else write(path, data)
    )
    assert train(run) == 0
    assert shown[0][0] == "running"
    assert shown[-1][0] == "paused" and "The disk is full" in shown[-1][1] and "Free some space" in shown[-1][1]
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3]
    assert store.summary(run).message is None


def test_a_run_that_a_person_had_paused_stays_paused_when_there_is_room_again(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.01)
    from rollout_studio.core.runs import checkpoint

    run, save, tries = tiny_run("lumina2"), checkpoint.save_file, []

    def full(tensors, path):
        tries.append(None)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    def listen(event):
        if event["event"] == "step" and event["step"] == 1:
            run.send("pause")
        if event["event"] == "paused" and not tries:
            run.send("save")
        if event["event"] == "saved" and event["step"] == 1:
            seen.append(run.read_state()["state"])
            run.send("resume")

    seen = []
    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train(run, listen=listen) == 0
    assert seen == ["paused"]


def test_no_worker_is_started_on_a_full_disk_and_the_run_keeps_its_place(tmp_path, monkeypatch):
    run = run_in(tmp_path)
    store = RunStore(tmp_path / "runs", worker=(sys.executable, "-c", "raise SystemExit"))
    store.enqueue("mine")
    monkeypatch.setattr(platform_calls, "free_bytes", lambda path: 1000)
    with pytest.raises(StorageError, match="is full .* Free some space"):
        store.pump()
    assert [job.run for job in store.queue()] == ["mine"] and run.read_state()["state"] == "queued"


def test_a_command_that_cannot_be_left_is_reported_with_the_remedy(tmp_path, request):
    run = run_in(tmp_path)
    request.getfixturevalue("no_new_blocks")
    with pytest.raises(RunError, match="stop cannot be sent: .*Free some space on that disk, and send it again"):
        run.send("stop")
    with pytest.raises(RunError, match="cannot train. Free some space there"), run.lock():
        pass


# -- a real volume -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path):
    """A file system of 6 MiB; `fill()` takes all of it, `free()` gives it back."""
    folder = tmp_path / "volume"
    folder.mkdir()
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if sys.platform == "linux"
        else None
    )
    if done is None or done.returncode:
        pytest.skip("needs Linux and the right to mount")
    filler = folder / "filler"

    def fill():
        with open(filler, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC

    folder_and = type("Volume", (), {"path": folder, "fill": staticmethod(fill), "free": staticmethod(filler.unlink)})
    yield folder_and
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_on_a_full_volume_runs_are_listed_and_deleting_one_makes_room(volume, capsys):
    store = RunStore(volume.path / "runs")
    for name in ("done", "dead", "waiting", "big"):
        store.create({}, name)
    store.get("done").write_state(state="done", step=5)
    store.get("dead").write_state(state="running", step=3, updated=0)
    (store.get("big").path / "log.txt").write_bytes(b"x" * (3 << 20))
    store.enqueue("waiting")
    volume.fill()
    time.sleep(2.1)  # a state is not called crashed within two seconds of its last word
    assert cli.main(["runs", "--runs-dir", str(store.root)]) == 0
    output = capsys.readouterr()
    states = {line.split()[0]: line.split()[1] for line in output.out.splitlines()}
    assert states == {"done": "done", "dead": "crashed", "waiting": "queued", "big": "created"}
    assert "is full" in output.err and "no waiting run starts" in output.err and "Traceback" not in output.err
    assert cli.main(["runs", "show", "done", "--runs-dir", str(store.root)]) == 0
    assert cli.main(["runs", "delete", "big", "--for-good", "--yes", "--runs-dir", str(store.root)]) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert platform_calls.free_bytes(store.root) > 2 << 20


@pytest.mark.slow
def test_on_a_full_volume_a_run_is_shown_as_waiting_and_goes_on_by_itself_when_there_is_room(
    volume, tiny_folder, pictures, monkeypatch, capsys
):
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.2)
    flat = {**BASE, "pretrained_model_name_or_path": str(tiny_folder("lumina2")), "instance_data_dir": str(pictures), "checkpoint_step_interval": 2,
            "checkpoints_total_limit": 1, "max_train_steps": 5}  # fmt: skip
    store = RunStore(volume.path / "runs")
    run = store.create(config_from_flat(flat), "mine")
    lines = []

    def watcher():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not lines:
            done = subprocess.run(
                [sys.executable, "-m", "rollout_studio.app", "runs", "--json", "--runs-dir", str(store.root)],
                capture_output=True,
                text=True,
                check=False,
            )
            [row] = json.loads(done.stdout)
            if row["state"] != "running":
                lines.append((row["state"], row["message"], done.returncode, done.stderr))
        volume.free()

    threads = []

    def listen(event):
        if event["event"] == "step" and event["step"] == 3:
            volume.fill()
            threads.append(threading.Thread(target=watcher))
            threads[0].start()

    assert train(run, listen=listen) == 0
    threads[0].join()
    [(state, message, code, errors)] = lines
    assert state == "paused" and "The disk is full" in message and "Free some space on the disk of" in message
    assert code == 0 and "Traceback" not in errors
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 4, 5]
    assert run.read_state()["state"] == "done" and os.path.getsize(run.state_path) % folder._STATE_BLOCK == 0
