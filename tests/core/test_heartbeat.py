"""A process that hangs is recognised, whatever hangs in it; one that is slow, or saves for long, or is paused never is."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rollout_studio.core import platform_calls
from rollout_studio.core.runs import heartbeat
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.heartbeat import Heartbeat, stacks, stall_of
from rollout_studio.core.runs.store import RunStore


@pytest.fixture
def run(tmp_path):
    return RunStore(tmp_path / "runs").create({}, "tiny")


@pytest.fixture
def quick(monkeypatch):
    """A minute is half a second."""
    monkeypatch.setattr(heartbeat, "EVERY_S", 0.05)
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.5)


def wait_for(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


WORKER = """
    import sys, time
    from rollout_studio.core.runs import heartbeat
    from rollout_studio.core.runs.folder import RunDir
    heartbeat.EVERY_S, heartbeat.SILENT_S = 0.05, 0.5
    run = RunDir(sys.argv[1])
    def endless_loop():
        while True:
            pass
    with run.lock(), heartbeat.Heartbeat(run, on_request=True) as beat:
        run.write_state(state="running", step=3)
        for number in range(1, 5):
            with beat.step(number):
                pass
        if sys.argv[2] == "loop":
            with beat.step(5):
                endless_loop()
        while True:
            beat.mark()
            time.sleep(0.05)
"""


@pytest.fixture
def worker(run):
    """Starts a process that owns the run."""
    started = []

    def start(what):
        started.append(subprocess.Popen([sys.executable, "-c", textwrap.dedent(WORKER), str(run.path), what]))
        assert wait_for(lambda: heartbeat.has_heartbeat(run) and run.owner() is not None)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_a_stopped_process_has_no_heartbeat_says_why_and_shows_its_stacks_when_it_goes_on(run, worker, quick):
    process, store = worker("work"), RunStore(run.path.parent)
    time.sleep(0.7)
    assert store.summary("tiny").stalled is None and store.stacks("tiny") == ""
    os.kill(process.pid, signal.SIGSTOP)
    told = wait_for(lambda: store.summary("tiny").stalled)
    assert told.startswith("No heartbeat for 0 s: its process") and f"kill -CONT {process.pid}" in told
    assert store.summary("tiny").alive and store.summary("tiny").state == "running"
    store.stacks("tiny")  # asks
    os.kill(process.pid, signal.SIGCONT)
    assert wait_for(lambda: "Thread" in store.stacks("tiny"))
    assert wait_for(lambda: store.summary("tiny").stalled is None), "it goes on, and no one thinks otherwise"
    os.kill(process.pid, signal.SIGSTOP)
    assert wait_for(lambda: store.summary("tiny").stalled)
    assert store.kill("tiny") and not store.summary("tiny").alive, "a stopped process can be ended"


def test_an_endless_loop_in_a_step_is_recognised_and_writes_where_it_is(run, worker, quick):
    worker("loop")
    store = RunStore(run.path.parent)
    told = wait_for(lambda: store.summary("tiny").stalled)
    assert "No heartbeat of its work" in told and "step 5 does not end" in told
    assert wait_for(lambda: "in endless_loop" in store.stacks("tiny"))


def test_a_long_step_of_a_slow_machine_a_long_save_and_opening_a_model_do_not_look_hung(run, quick, monkeypatch):
    """With a minute as .5 s and a step that takes .3 s, one may take 6 s."""
    with Heartbeat(run) as beat:
        for number in range(1, 4):
            with beat.step(number):
                time.sleep(0.3 if number == 2 else 0)
        with beat.step(4):
            time.sleep(1.0)
            assert stall_of(run) is None
        for doing, allowed in (("saving", heartbeat.PATIENCE_S), ("opening the model", None)):
            with beat.during(doing, allowed):
                time.sleep(0.6)
                assert stall_of(run) is None
        with beat.during("a step", 0.2):
            assert wait_for(lambda: stall_of(run)), "and still what is too long is"
        assert wait_for(lambda: stall_of(run) is None)
    assert stall_of(run) is None and not heartbeat.has_heartbeat(run)


def test_a_wall_clock_that_jumps_and_another_boot_change_nothing(run, quick, monkeypatch):
    with Heartbeat(run):
        for jump in (-7200, 7200):
            monkeypatch.setattr(time, "time", lambda now=time.time, jump=jump: now() + jump)
            assert stall_of(run) is None
            monkeypatch.undo()
    beat = Heartbeat(run)
    beat._write()
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 3600)
    assert stall_of(run) is not None
    monkeypatch.setattr(platform_calls, "boot_id", lambda: "another")
    assert stall_of(run) is None


def test_while_the_whole_process_stood_still_its_work_was_not_late(run, quick, monkeypatch):
    """A laptop that slept, a process that was stopped for an hour."""
    beat = Heartbeat(run)
    with beat.during("a step", 1.0):
        times = iter([0.0, 3600.0, 3600.0, 3600.0])
        waits = iter([False, True])
        monkeypatch.setattr(beat._over, "wait", lambda seconds: next(waits))
        monkeypatch.setattr(heartbeat.time, "monotonic", lambda: next(times))
        beat._marked = -0.5
        beat._beat()
        assert beat._marked == 3599.5 and stacks(run) == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe", b'{"monotonic": "soon"}'])
def test_a_heartbeat_that_cannot_be_read_is_none(run, content):
    (run.path / "heartbeat.json").write_bytes(content)
    assert stall_of(run) is None and not heartbeat.has_heartbeat(run)


def test_a_folder_that_takes_no_heartbeat_ends_no_run(tmp_path):
    with Heartbeat(RunDir(tmp_path / "gone"), on_request=True) as beat:
        beat.mark()


TRAINING = """
    import sys, time
    from rollout_studio.core.runs import heartbeat
    heartbeat.EVERY_S, heartbeat.SILENT_S, heartbeat.TIMES_SLOWEST = 0.1, 2.0, 5
    from rollout_studio.core.train import step, worker
    good, calls = step.batch_loss, []
    def batch_loss(*given):
        calls.append(None)
        while len(calls) > 6 and sys.argv[2] == "loop":
            pass
        return good(*given)
    step.batch_loss = batch_loss
    sys.exit(worker.main([sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_training_that_loops_for_ever_is_recognised_ended_and_resumed(tiny_run):
    """The worker itself, with a minute as two seconds."""
    run = tiny_run("lumina2", max_train_steps=8, checkpoint_step_interval=2)
    store = RunStore(run.path.parent)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(TRAINING), str(run.path), "loop"])
    told = wait_for(lambda: store.summary("tiny").stalled, 300)
    assert "step 7 does not end" in told and wait_for(lambda: "in batch_loss" in store.stacks("tiny"))
    assert store.kill("tiny")
    process.wait()
    summary = store.summary("tiny")
    assert (summary.state, summary.last_checkpoint, summary.stalled) == ("crashed", 6, None)
    again = subprocess.run(
        [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path), "--resume"],
        check=False,
        capture_output=True,
    )
    assert again.returncode == 0 and store.summary("tiny").state == "done"
    assert not (run.path / "heartbeat.json").exists()
