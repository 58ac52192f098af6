"""A run is left within seconds while native code keeps the main thread: before the first step, where there is nothing to save."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.train import leaving, loop
from rollout_studio.core.train.interrupt import Interrupt
from tiny_run import events

# PBKDF2 stands for torch's compiler: one call of native code, for minutes, in which Python handles no signal. And it has a child.
BLOCKED = """
import hashlib, os, subprocess, sys
from rollout_studio.core.train import leaving, loop, worker

def compile_for_minutes(config, accelerator, listener):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    listener.progress("compile", 0, 5)
    print("child", child.pid, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

leaving.GRACE_S = 0.3
loop.open_session = compile_for_minutes
sys.exit(worker.main(sys.argv[1:]))
"""
STAND_IN = {"device": "cpu", "max_train_steps": 3}


def a_run(tmp_path) -> RunDir:
    """Its model is never opened."""
    from rollout_studio.core.config import config_from_flat
    from rollout_studio.core.runs.store import RunStore

    return RunStore(tmp_path / "runs").create(config_from_flat(STAND_IN), "mine")


def compiling(run):
    """The worker of a run, and the number of the process that it started, once it is amid native code."""
    process = subprocess.Popen([sys.executable, "-c", BLOCKED, str(run.path)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("child "):
            time.sleep(0.3)  # from the line to the call
            return process, int(line.split()[1])
    raise AssertionError(f"it ended with {process.wait()}: {events(run)}")


@pytest.mark.parametrize(
    ("ask", "code", "words"),
    [("a signal", 75, "SIGTERM while compiling the network"), ("a stop", 0, "stopped as asked while compiling the network")],
)  # fmt: skip
def test_a_run_leaves_amid_native_code_with_its_exit_code_state_and_children(tmp_path, ask, code, words):
    if ask == "a signal" and os.name == "nt":
        pytest.skip("Windows sends no SIGTERM to a process by its number")
    run = a_run(tmp_path)
    process, child = compiling(run)
    try:
        if ask == "a signal":
            process.send_signal(signal.SIGTERM)
        else:
            run.send("stop")
        assert process.wait(timeout=30) == code
    finally:
        process.kill()
    state = run.read_state()
    assert state["state"] == "stopped" and words in state["message"] and "retry it from the start" in state["message"]
    assert events(run)[-1]["event"] == "end" and [each["name"] for each in events(run, "command")] == (
        [] if code else ["stop"]
    )
    assert not run.pending_commands() and not (run.path / "heartbeat.json").exists()
    with run.lock():
        pass  # it is free
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


class Blocked:
    """In place of `open_session`: it works until it is released, and looks for nothing meanwhile."""

    def __init__(self, ends=60.0):
        self.released, self.ends = threading.Event(), ends

    def __call__(self, config, accelerator, listener):
        listener.progress("compile", 0, 5)
        if not self.released.wait(self.ends):
            listener.progress("compile", 1, 5)
        raise RuntimeError("released")


def test_a_process_that_is_not_the_runs_own_is_never_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(leaving, "GRACE_S", 0.0)
    monkeypatch.setattr(loop, "open_session", Blocked(ends=1.5))
    run = a_run(tmp_path)
    assert loop.train(run, listen=lambda event: run.send("stop") if event["event"] == "phase" else None) == 0
    assert "stopped as asked while compiling" in run.read_state()["message"]  # by the work itself


def test_work_that_answers_within_its_grace_leaves_by_itself(tmp_path, monkeypatch):
    left, blocked = [], Blocked(ends=0.7)
    monkeypatch.setattr(leaving, "GRACE_S", 30.0)
    monkeypatch.setattr(loop, "open_session", blocked)
    run = a_run(tmp_path)
    with Interrupt(leave=left.append) as interrupt:
        asked = lambda event: run.send("stop") if event["event"] == "phase" and event["done"] == 0 else None
        assert loop.train(run, listen=asked, interrupt=interrupt) == 0
    assert not left and [each["event"] for each in events(run)].count("end") == 1


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs it")
def test_a_signal_is_known_to_other_threads_before_python_handles_it():
    """In the main thread a handler waits for the next instruction; the bell rings at once."""
    with Interrupt() as interrupt:
        assert not interrupt.has_come()
        interrupt._bell[1].send(bytes([signal.SIGINT]))
        assert interrupt.has_come() and interrupt.name == "SIGINT" and not interrupt.is_requested
        signal.raise_signal(signal.SIGINT)  # the first one that is handled is no second one
        assert interrupt.is_requested and not interrupt.is_over
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(("number", "code", "exits"), [("0", 75, 0), ("1", 75, 0), ("0", 70, 70)])
def test_one_of_several_processes_that_leaves_so_is_no_crash_and_the_first_says_how_the_run_ended(
    tmp_path, monkeypatch, number, code, exits
):
    """Exit code 0 for the elastic agent, which else would start the processes again."""
    from rollout_studio.core.train import rank

    run, ended = a_run(tmp_path), []
    monkeypatch.setenv("RANK", number)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(loop, "train", lambda run, *, interrupt, **how: interrupt.leave(code) or code)
    assert rank.main([str(run.path), str(tmp_path)]) == exits and ended == [exits]
    assert (tmp_path / "code").exists() == (number == "0")
