"""Several processes that are started by us, or by torchrun: they train, resume bit for bit, and what a killed one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from rollout_studio.core.config import config_from_flat, idle_remarks
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train.outcome import CRASHED, DONE, PREEMPTED
from tiny_run import ROLLOUT, events, losses

SHORT = {
    **ROLLOUT, "num_processes": 2, "checkpoint_step_interval": 2, "max_train_steps": 4, "drift_step_interval": 0,
    "lora_dropout": 0.2, "use_ema": True,
}  # fmt: skip


DIVIDED = {"model_type": "full", "shard_weights": True, "learning_rate": 1e-3}
COMMAND_LINE = "import sys; from rollout_studio.app.cli.main import main; sys.exit(main())"
"""What the script `rollout-studio` is."""


def started(run, *flags):
    """The run's worker, which starts the others."""
    command = [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path), *flags]
    log = open(run.path / "log.txt", "ab")  # noqa: SIM115 - the process's
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def trained(run, *flags):
    """What the run's log says, once it is done."""
    code = started(run, *flags).wait(400)
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    assert code == DONE, log
    return log


def state_of(run):
    """Weights, moments and average of the newest checkpoint."""
    found, _ = checkpoint.load_latest(run.checkpoints_path)
    return {f"{part}.{name}": value for part, named in found.tensors.items() for name, value in named.items()}


def rank_process(worker, number, patience_s=300):
    """The process of a rank, once it is there."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        for child in psutil.Process(worker.pid).children(recursive=True):
            try:
                if "rollout_studio.core.train.rank" in child.cmdline() and child.environ().get("RANK") == str(number):
                    return child
            except psutil.Error:  # it ended, or has only just begun
                continue
        time.sleep(0.05)
    raise AssertionError(f"no rank {number}")


def wait_for_step(run, worker, step, patience_s=300):
    until = time.monotonic() + patience_s
    while not any(event["step"] >= step for event in events(run, "step")):
        assert worker.poll() is None and time.monotonic() < until, (run.path / "log.txt").read_text(encoding="utf-8")
        time.sleep(0.02)


def long_run(tiny_run, name, **changes):
    return tiny_run("lumina2", name, **{**SHORT, "checkpoint_step_interval": 3, "max_train_steps": 120, **changes})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_processes_resume_bit_for_bit_and_another_number_is_told(tiny_run):
    whole, parts = (
        tiny_run("lumina2", "whole", **SHORT),
        tiny_run("lumina2", "parts", **{**SHORT, "max_train_steps": 2}),
    )
    trained(whole)
    trained(parts)
    config = {**parts.read_config(), "max_train_steps": 4}
    parts.config_path.write_text(json.dumps(config), encoding="utf-8")
    assert "not bit for bit" not in trained(parts, "--resume")
    assert losses(parts) == losses(whole) and len(losses(whole)) == 4
    there, again = state_of(whole), state_of(parts)
    assert there.keys() == again.keys() and all(value.equal(again[name]) for name, value in there.items())

    parts.config_path.write_text(json.dumps({**config, "max_train_steps": 5, "num_processes": 1}), encoding="utf-8")
    trained(parts, "--resume")
    assert any("processes: 2 -> 1" in event["message"] for event in events(parts, "warning"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_run_clearly(tiny_run, killed):
    run = long_run(tiny_run, "killed")
    worker = started(run)
    wait_for_step(run, worker, 4)
    rank_process(worker, killed).kill()
    assert worker.wait(120) == CRASHED
    error = events(run, "error")[-1]
    assert "process" in error["message"] and "resume goes on from step" in error["remedy"]
    assert events(run, "end")[-1]["state"] == "failed" == run.read_state()["state"]
    assert run.owner() is None


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("what", [{}, DIVIDED], ids=["lora", "divided weights"])
def test_after_a_kill_all_are_started_again_from_the_last_checkpoint(tiny_run, what):
    settings = {"max_train_steps": 40, "max_restarts": 1, **what}
    whole, run = long_run(tiny_run, "whole", **settings), long_run(tiny_run, "killed", **settings)
    trained(whole)
    worker = started(run)
    wait_for_step(run, worker, 5)
    rank_process(worker, 1).kill()
    assert worker.wait(300) == DONE
    starts = events(run, "start")
    assert len(starts) == 2 and starts[1]["resumed_from"] in range(3, 40, 3)
    assert losses(run) == losses(whole) and len(losses(run)) == 40
    there, again = state_of(whole), state_of(run)
    assert all(value.equal(again[name]) for name, value in there.items())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows hands signals of a console to every process by itself")
def test_a_signal_to_the_worker_saves_and_is_no_crash(tiny_run):
    """Even with restarts: they are for what was not asked for."""
    run = long_run(tiny_run, "ended", max_restarts=3, max_train_steps=400)
    worker = started(run)
    wait_for_step(run, worker, 2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == PREEMPTED
    end = events(run, "end")
    assert len(end) == 1 and end[0]["state"] == "stopped" and run.last_checkpoint() == end[0]["step"] >= 2
    assert len(events(run, "start")) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_starts_the_command_line(tiny_run):
    """The same losses as the worker's own launch."""
    made = tiny_run("lumina2", "worker", **{**SHORT, "lora_dropout": 0.0})
    store = made.path.parent
    config = {**made.read_config(), "num_processes": 1}
    file = store.parent / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    trained(made)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    train = [
        sys.executable,
        "-c",
        COMMAND_LINE,
        "train",
        "--config",
        str(file),
        "--runs-dir",
        str(store),
        "--run-name",
        "by-torchrun",
    ]
    done = subprocess.run([*start, *train], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = type(made)(store / "by-torchrun")
    assert losses(run) == losses(made) and len(losses(run)) == 4
    assert done.stderr.count("Training on cpu") == 1


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("is_killed", [False, True], ids=["undisturbed", "one is killed"])
@pytest.mark.parametrize("what", [{}, DIVIDED], ids=["lora", "divided weights"])
def test_two_agents_as_on_two_computers_train_one_run_in_a_shared_folder(tiny_run, what, is_killed):
    """Two torchruns, each of one process, which know each other by address and number alone."""
    settings = {**what, "max_train_steps": 40} if is_killed else what
    made = long_run(tiny_run, "worker", **settings) if is_killed else tiny_run("lumina2", "worker", **{**SHORT, **what})
    store = made.path.parent
    trained(made)
    file = store.parent / "config.json"
    file.write_text(json.dumps(made.read_config()), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train = ["train", "--config", str(file), "--runs-dir", str(store), "--run-name", "nodes"]
    logs = [(store.parent / f"node-{node}.txt").open("w+b") for node in range(2)]
    agents = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
                "--master-addr", "127.0.0.1", "--master-port", str(port), "--max-restarts", "1", "--no-python",
                sys.executable, "-c", COMMAND_LINE, *train,
            ],
            stdout=logs[node], stderr=subprocess.STDOUT,
        )
        for node in range(2)
    ]  # fmt: skip
    run = type(made)(store / "nodes")

    def said():
        return "\n".join((store.parent / f"node-{node}.txt").read_text(encoding="utf-8") for node in range(2))

    if is_killed:
        until = time.monotonic() + 300
        while not (run.events_path.exists() and any(event["step"] >= 5 for event in events(run, "step"))):
            assert time.monotonic() < until and all(agent.poll() is None for agent in agents), said()
            time.sleep(0.02)
        (child,) = psutil.Process(agents[1].pid).children()
        child.kill()
    assert [agent.wait(300) for agent in agents] == [0, 0], said()
    assert len(events(run, "start")) == (2 if is_killed else 1)
    assert losses(run) == losses(made) and len(losses(run)) == made.read_config()["max_train_steps"]
    there, again = state_of(made), state_of(run)
    assert all(value.equal(again[name]) for name, value in there.items())


def test_more_processes_than_rows_are_refused_and_restarts_of_one_process_are_idle():
    with pytest.raises(ConfigError, match="num_processes = 3: they divide the 2 rows of train_batch_size"):
        config_from_flat({"num_processes": 3, "train_batch_size": 2})
    config = config_from_flat({"max_restarts": 2})
    assert any("max_restarts is not used" in remark for remark in idle_remarks(config))
    config = config_from_flat({"max_restarts": 2, "num_processes": 2, "train_batch_size": 2})
    assert not any("max_restarts" in remark for remark in idle_remarks(config))
