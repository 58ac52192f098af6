"""A runs folder that is moved or takes nothing any more in the middle of a run, two pages on one folder, and a clock that jumps."""

import os
import sys
import threading
import time

import pytest
from rollout_studio.core.runs import process
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from tiny_run import at_step, events, last, losses

FLOW = "lumina2"


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder with open files")
def test_a_runs_folder_that_is_moved_amid_a_run_ends_it_in_words_and_the_run_goes_on_at_the_new_place(
    tiny_run, without_drift, capsys
):
    run, whole = (
        tiny_run(FLOW, max_train_steps=4, checkpoint_step_interval=1),
        tiny_run(FLOW, "whole", max_train_steps=4),
    )
    assert train(whole) == 0
    expected, moved = losses(whole), run.path.parent.with_name("moved")
    assert train(run, listen=at_step(2, lambda: run.path.parent.rename(moved))) == 70
    said = capsys.readouterr().err
    assert f"{run.path}: nothing can be written there any more" in said and "resume" in said
    store, there = RunStore(moved), RunDir(moved / run.name)
    for named in (there.lock_path, there.path / "heartbeat.json"):
        named.unlink()  # this very process, which lives on here
    [told] = store.reconcile()
    assert "crashed at step" in told.message and told.last_checkpoint >= 1 and told.resumable
    assert train(there, resume=True) == 0
    assert losses(there) == expected and last(there).step == 4


@pytest.mark.slow
def test_a_runs_folder_that_becomes_read_only_amid_a_run_ends_it_in_words_and_leaves_its_checkpoints(
    tiny_run, without_drift, monkeypatch, capsys
):
    run = tiny_run(FLOW, max_train_steps=5, checkpoint_step_interval=1)

    def read_only(*given, **more):
        raise OSError(30, "Read-only file system", str(run.path))

    def remount():
        monkeypatch.setattr(RunDir, "emit", read_only)
        monkeypatch.setattr(RunDir, "write_state", read_only)

    assert train(run, listen=at_step(3, remount)) == 70
    assert "nothing can be written there any more ([Errno 30] Read-only file system" in capsys.readouterr().err
    monkeypatch.undo()
    assert last(run).step >= 2 and run.owner() is None
    [told] = RunStore(run.path.parent).reconcile()
    assert told.resumable and "crashed at step" in told.message


def test_two_pages_on_one_folder_start_each_waiting_run_once_and_show_the_same(tmp_path):
    from rollout_studio.app.parts.watch import Watch

    worker = (
        "import os, sys; from rollout_studio.core.runs.folder import RunDir; run = RunDir(sys.argv[1])\n"
        "with run.lock():\n"
        "    handle = os.open(run.path.parent / 'starts.txt', os.O_WRONLY | os.O_APPEND | os.O_CREAT); os.write(handle, (run.name + chr(10)).encode())\n"
        "    run.emit('end', state='done'); run.write_state(state='done')\n"
    )
    pages = [Watch(tmp_path) for _ in range(2)]
    for page in pages:
        page.store = RunStore(tmp_path, worker=(sys.executable, "-c", worker))
    names = ["one", "two", "three"]
    for name in names:
        pages[0].store.create({"device": "cpu"}, name)
        pages[0].store.enqueue(name)
    until = time.monotonic() + 40

    def follow_it(page):
        while any(run.state != "done" for run in page.runs(fresh=True)) and time.monotonic() < until:
            time.sleep(0.01)

    threads = [threading.Thread(target=follow_it, args=(page,)) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "starts.txt").read_text().split() == names
    shown = [[(run.name, run.state, run.message) for run in page.runs(fresh=True)] for page in pages]
    assert shown[0] == shown[1] and {state for _, state, _ in shown[0]} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_by_a_day_changes_nothing_of_a_run(tiny_run, without_drift, monkeypatch, jump):
    run = tiny_run(FLOW, max_train_steps=4, checkpoint_step_interval=2)

    def jumped():
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + jump)

    assert train(run, listen=at_step(2, jumped)) == 0
    log, summary = follow(run), RunStore(run.path.parent).summary(run.name)
    assert (summary.state, summary.step) == ("done", 4) and log.series.steps == [1, 2, 3, 4]
    assert 0 < log.series.clock()[-1] < 600 and all(0 <= event["eta_s"] < 600 for event in events(run, "step"))


@pytest.mark.parametrize("jump", [-7200, 7200])
def test_a_dead_run_is_called_crashed_whatever_the_clock_does(tmp_path, monkeypatch, jump):
    """By the list alone, as in a folder that cannot be written."""
    store = RunStore(tmp_path)
    store.create({}, "dead").write_state(state="running", step=7)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + jump)
    assert store.summary("dead").state == "crashed" and "crashed at step 7" in store.summary("dead").message


def test_a_page_that_is_killed_while_it_starts_a_run_loses_no_place_in_the_queue(tmp_path, monkeypatch):
    """After it wrote that the run starts, before there is a process: nobody calls that a crash, and the run starts again by itself."""
    note = (
        "import sys; open(sys.argv[1] + '/../starts.txt', 'a').write('x')\n"
        "from rollout_studio.core.runs.folder import RunDir; RunDir(sys.argv[1]).write_state(state='done')"
    )
    store = RunStore(tmp_path, worker=(sys.executable, "-c", note))
    store.create({"device": "cpu"}, "first")
    store.enqueue("first")

    class Killed(BaseException):
        """Handled by nothing, as a kill."""

    def kill(*given, **more):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(process.platform_calls, "start_detached", kill)
        with pytest.raises(Killed):
            store.pump()
    assert store.get("first").read_state()["state"] == "starting"
    assert store.reconcile() == [] and store.pump() == [], "its worker may be there and not have said so yet"
    monkeypatch.setattr(process, "START_GRACE_S", 0.2)
    until = time.monotonic() + 20
    while store.summary("first").state != "done" and time.monotonic() < until:
        assert store.reconcile() == []
        store.pump()
        time.sleep(0.02)
    assert store.summary("first").state == "done" and store.queue() == []
    assert (tmp_path / "starts.txt").read_text() == "x", "once"


def test_one_who_is_killed_while_queueing_a_run_leaves_no_run_that_waits_for_ever(tmp_path, monkeypatch):
    """After it marked the run as waiting, before the queue knew: the run gets a place."""
    store = RunStore(tmp_path)
    for name in ("before", "killed"):
        store.create({"device": "cpu"}, name)
    store.enqueue("before")
    with monkeypatch.context() as patch:
        write_state = RunDir.write_state

        def killed(run, **more):
            write_state(run, **more)
            raise KeyboardInterrupt

        patch.setattr(RunDir, "write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            store.enqueue("killed")
    assert store.get("killed").read_state()["state"] == "queued" and [job.run for job in store.queue()] == ["before"]
    store.list()
    assert store.reconcile() == [] and [job.run for job in store.queue()] == ["before", "killed"]
    assert store.dequeue("killed") and store.reconcile() == [] and [job.run for job in store.queue()] == ["before"]
