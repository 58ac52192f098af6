"""What the page says of a run whose process hangs, and of one whose process was killed: within seconds, with the way on."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from html import unescape

import gradio as gr
import pytest
from rollout_studio.app.parts.watch import Watch
from rollout_studio.app.runs.head import hangs
from rollout_studio.app.runs.run_list import run_choices
from rollout_studio.app.runs.tab import RunsTab
from rollout_studio.core import platform_calls
from rollout_studio.core.runs import heartbeat
from rollout_studio.core.runs.store import RunStore

WORKER = """
    import sys, time
    from rollout_studio.core.runs import heartbeat
    from rollout_studio.core.runs.folder import RunDir
    heartbeat.EVERY_S = 0.05
    run = RunDir(sys.argv[1])
    with run.lock(), heartbeat.Heartbeat(run, on_request=True) as beat:
        run.write_state(state="running")
        for step in range(1, 10_000):
            run.emit("step", step=step, loss=0.5, seconds=0.05)
            if step == 2:
                (run.checkpoints_path / "step-000002").mkdir(parents=True)
                (run.checkpoints_path / "step-000002" / "manifest.json").write_text("{}")
            beat.mark()
            time.sleep(0.05)
"""


@pytest.fixture
def live(tmp_path, monkeypatch):
    """(watch, tab, process) of a run that a process of its own trains; the queue's worker is the same."""
    monkeypatch.setattr(heartbeat, "SILENT_S", 0.5)
    worker = (sys.executable, "-c", textwrap.dedent(WORKER))
    watch = Watch(tmp_path / "runs")
    watch.store = RunStore(tmp_path / "runs", worker=worker)
    with gr.Blocks():
        tab = RunsTab(watch)
    run = watch.store.create({}, "mine")
    process = subprocess.Popen([*worker, str(run.path)])
    yield watch, tab, process
    for one in (process.pid, (run.owner() or {}).get("pid")):
        if one is not None:
            platform_calls.kill(platform_calls.identity(one))
    process.wait()


def shown(tab, part):
    """A part of the Runs tab as a fresh viewer is sent it."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", str(tab.view("mine", {})[part]))))


def seconds_until(condition, limit=20.0):
    """How long until it holds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit
        time.sleep(0.1)
    return time.monotonic() - began


def test_a_killed_run_is_called_crashed_with_its_step_and_checkpoint_within_ten_seconds_and_resume_works(live):
    watch, tab, process = live
    seconds_until(lambda: watch.store.summary("mine").last_checkpoint == 2)
    process.kill()
    process.wait()
    took = seconds_until(lambda: "crashed" in shown(tab, tab.head))
    step = watch.store.get("mine").last_event("step")["step"]
    assert took < 10 and f"crashed at step {step}, last checkpoint 2" in shown(tab, tab.messages)
    assert tab.buttons.shown(watch.run("mine"), hangs=False)["again"] == "Resume from step 2"
    assert "goes on from step 2" in tab.buttons.start_again("mine")
    assert seconds_until(lambda: watch.runs() and watch.store.summary("mine").state == "running") < 10


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_a_stopped_run_has_no_heartbeat_and_can_be_ended_from_the_page(live):
    watch, tab, process = live
    seconds_until(lambda: watch.store.summary("mine").last_checkpoint == 2)
    assert "heartbeat" not in shown(tab, tab.head) and "force" not in tab.buttons.shown(watch.run("mine"), hangs=False)
    os.kill(process.pid, signal.SIGSTOP)
    assert seconds_until(lambda: "No heartbeat for" in shown(tab, tab.head)) < 10
    head, [run] = shown(tab, tab.head), watch.runs()
    assert "It is stopped, as by Ctrl+Z" in head and "it can then go on from its checkpoint of step 2" in head
    assert "training, no heartbeat" in run_choices([run], [])[0][0]
    assert tab.buttons.shown(run, hangs(run) is not None)["force"] == "Force stop"
    assert tab.buttons._force_stop("mine").startswith("Ended.")
    process.wait()
    assert seconds_until(lambda: "crashed" in shown(tab, tab.head)) < 10


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_what_a_frozen_process_was_doing_is_shown_as_text_once_it_could_write_it(live):
    watch, tab, process = live
    seconds_until(
        lambda: watch.store.summary("mine").state == "running" and heartbeat.has_heartbeat(watch.store.get("mine"))
    )
    os.kill(process.pid, signal.SIGSTOP)
    seconds_until(lambda: "No heartbeat for" in shown(tab, tab.head))
    os.kill(process.pid, signal.SIGCONT)
    run = watch.store.get("mine")
    seconds_until(lambda: "Thread" in heartbeat.stacks(run))
    os.kill(process.pid, signal.SIGSTOP)
    seconds_until(lambda: "What its process is doing" in shown(tab, tab.messages))
    assert "<string>" in shown(tab, tab.messages), "as text: a file's name is no markup"
