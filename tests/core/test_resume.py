"""An interrupted and resumed run is, bit for bit, the run that was never interrupted."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from rollout_studio.core.config import OPTIONS
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.outcome import PREEMPTED
from tiny_run import ROLLOUT, assert_same, at_step, draw_pictures, events, last

STEPS = 24
EVERYTHING = {
    **ROLLOUT, "max_train_steps": STEPS, "gradient_accumulation_steps": 2, "lora_dropout": 0.3, "use_ema": True, "ema_decay": 0.8,
    "random_flip": True, "caption_dropout_probability": 0.3, "lr_scheduler": "cosine", "snr_gamma": 5.0,
}  # fmt: skip
"""All that draws or remembers: rollout, dropout of adapter and captions, flips, moments, average, schedule,
accumulation.
"""


def in_a_new_process(run: RunDir, *flags: str) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path), *flags]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.returncode


@pytest.mark.parametrize("variant", ["lumina2", pytest.param("sd1", marks=pytest.mark.slow)])
def test_stopping_at_steps_1_7_and_13_changes_no_bit(tiny_run, without_drift, variant):
    whole, parts = tiny_run(variant, "whole", **EVERYTHING), tiny_run(variant, "parts", **EVERYTHING)
    assert train(whole) == 0
    assert sum(event["rolled_rows"] for event in events(whole, "step")) > STEPS  # the rollout does take part
    for number, step in enumerate((1, 7, 13)):
        assert train(parts, resume=number > 0, listen=at_step(step, lambda: parts.send("stop-and-save"))) == 0
        assert last(parts).step == step and parts.read_state()["state"] == "stopped"
    if variant == "lumina2":
        in_a_new_process(parts, "--resume")
    else:
        assert train(parts, resume=True) == 0
    assert [event["resumed_from"] for event in events(parts, "start")] == [None, 1, 7, 13]
    assert_same(whole, parts)


def assert_resumes_exactly(tiny_run, **changes) -> None:
    """Three steps at once against one step, a stop, and two more."""
    setting = {**EVERYTHING, "max_train_steps": 3, **changes}
    whole, parts = tiny_run("sd1", "whole", **setting), tiny_run("sd1", "parts", **setting)
    assert train(whole) == 0
    assert train(parts, listen=at_step(1, lambda: parts.send("stop-and-save"))) == 0
    assert train(parts, resume=True) == 0
    assert_same(whole, parts)


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        ("prodigy", 1.0),
        ("adafactor", 1e-2),
        *(pytest.param(name, 1e-3, marks=pytest.mark.slow) for name in ("lion", "came")),
    ],
)
def test_every_optimizer_goes_on_as_it_stood(tiny_run, without_drift, optimizer, rate):
    if optimizer in ("lion", "came"):
        pytest.importorskip("pytorch_optimizer")
    assert_resumes_exactly(tiny_run, optimizer=optimizer, learning_rate=rate)


@pytest.mark.parametrize("kind", ["dora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("loha", "lokr"))])
def test_every_kind_of_adapter_goes_on_as_it_stood(tiny_run, without_drift, kind):
    files = {} if kind == "dora" else {"lora_layout": "kohya", "lora_dropout": 0.0}
    assert_resumes_exactly(tiny_run, lora_type=kind, lora_rank_pattern=["to_q=2:1"], **files)


def test_text_encoders_that_train_go_on_as_they_stood(tiny_run, without_drift):
    tokens = {"new_tokens": 2, "trigger_word": "qrx", "new_token_initializer": "dog", "new_token_steps": 2}
    assert_resumes_exactly(
        tiny_run, train_text_encoder=True, text_encoder_learning_rate=3e-3, text_encoder_steps=2, **tokens
    )


def test_a_full_fine_tune_goes_on_as_it_stood(tiny_run, without_drift):
    assert_resumes_exactly(tiny_run, model_type="full", learning_rate=1e-4)


def test_prior_preservation_goes_on_as_it_stood(tiny_run, without_drift):
    prior = {
        "with_prior_preservation": True,
        "class_prompt": "a circle",
        "num_class_images": 3,
        "class_sample_steps": 2,
    }
    assert_resumes_exactly(tiny_run, **prior)


def test_output_preservation_goes_on_as_it_stood(tiny_run, without_drift):
    assert_resumes_exactly(tiny_run, class_prompt="a circle", output_preservation_weight=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    {"mixed_precision": "bf16"}, {"base_model_precision": "bfloat16"}, {"loss_type": "huber"}, {"gradient_checkpointing": True},
    {"scheduled_sampling_sampler": "rk4"}, {"scheduled_sampling_guidance": 2.0}, {"scheduled_sampling_grid": "training"},
], ids=lambda change: "-".join(map(str, next(iter(change.items())))))  # fmt: skip
def test_resuming_is_exact_under_every_kind_of_training(tiny_run, without_drift, change):
    assert_resumes_exactly(tiny_run, **change)


def test_pictures_in_between_change_no_bit(tiny_run, without_drift):
    quiet = tiny_run("lumina2", "quiet", **EVERYTHING | {"max_train_steps": 4})
    busy = tiny_run(
        "lumina2",
        "busy",
        **EVERYTHING
        | {
            "max_train_steps": 4,
            "validation_prompts": ["a circle"],
            "validation_step_interval": 1,
            "checkpoint_step_interval": 1,
        },
    )
    assert train(quiet) == train(busy) == 0
    assert [event["step"] for event in events(busy, "sample")] == [0, 1, 2, 3, 4]
    assert_same(quiet, busy)


def test_a_run_killed_between_two_checkpoints_repeats_the_lost_steps_exactly(tiny_run, without_drift):
    setting = {**EVERYTHING, "max_train_steps": 6, "checkpoint_step_interval": 2}
    whole, killed = tiny_run("lumina2", "whole", **setting), tiny_run("lumina2", "killed", **setting)
    assert train(whole) == 0

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with pytest.raises(Killed):
        train(killed, listen=at_step(5, kill))
    assert train(killed, resume=True) == 0
    assert [event["step"] for event in events(killed, "step")] == [1, 2, 3, 4, 5, 6]
    reported = {event["step"]: event["loss"] for event in events(killed, "step")}
    assert list(reported.values()) == [event["loss"] for event in events(whole, "step")]
    assert all(
        torch.equal(tensor, last(killed).tensors["trainable"][name])
        for name, tensor in last(whole).tensors["trainable"].items()
    )


# ---------------------------------------------------------------------------------------- what may differ, and what not


def stopped_at_two(tiny_run, **changes) -> RunDir:
    run = tiny_run("lumina2", **{"max_train_steps": 4, **changes})
    assert train(run, listen=at_step(2, lambda: run.send("stop-and-save"))) == 0
    return run


def change_config(run: RunDir, **changes) -> None:
    import json

    run.config_path.write_text(json.dumps({**run.read_config(), **changes}), encoding="utf-8")


@pytest.mark.parametrize(("name", "value", "difference"), [
    ("lora_rank", 5, "lora_rank: 3 -> 5"), ("learning_rate", 0.5, "learning_rate: 0.01 -> 0.5"), ("seed", 1, "seed: 42 -> 1"),
    ("scheduled_sampling_max_step_offset", 3, "scheduled_sampling_max_step_offset: 0 -> 3"),
    ("max_train_steps", 3, r"max_train_steps: 4 -> 3 \(it may only grow\)"),
])  # fmt: skip
def test_another_config_is_refused_with_the_exact_difference(tiny_run, without_drift, name, value, difference):
    run = stopped_at_two(tiny_run)
    change_config(run, **{name: value})
    assert train(run, resume=True) == 78
    import re

    error = events(run, "error")[-1]
    assert re.search(difference, error["message"]) and "clone the run" in error["remedy"]
    assert last(run).step == 2


def test_more_steps_and_other_intervals_are_welcome(tiny_run, without_drift):
    run = stopped_at_two(tiny_run)
    change_config(run, max_train_steps=6, validation_step_interval=3, checkpoints_total_limit=1, drift_offsets=[2])
    assert train(run, resume=True) == 0
    assert last(run).step == 6


@pytest.mark.parametrize(
    ("variant", "refused"), [("lumina2", None), ("sd1", "scheduled_sampling_snr_gamma: 0.0 -> 5.0")]
)
def test_a_checkpoint_from_before_an_option_goes_on_unless_it_trained_otherwise(
    tiny_run, without_drift, monkeypatch, variant, refused
):
    """Nothing bounded rolled rows then: a run on a variance-preserving path must be told, every other goes on."""
    run = tiny_run(variant, **ROLLOUT, max_train_steps=2)
    assert train(run) == 0
    newest = checkpoint.load_latest

    def older(folder, share):
        found, skipped = newest(folder, share)
        since_then = [name for name, option in OPTIONS.items() if option.since not in ("0.1", "0.2")]
        for name in (
            *since_then,
            "scheduled_sampling_snr_gamma",
            "loss_weighting",
            "mode_scale",
            "precondition_outputs",
        ):
            del found.record["config"][name]
        return found, skipped

    monkeypatch.setattr(checkpoint, "load_latest", older)
    change_config(run, max_train_steps=3)
    assert train(run, resume=True) == (0 if refused is None else 78)
    if refused is not None:
        assert refused in events(run, "error")[-1]["message"]


def test_other_pictures_are_refused_by_name(tiny_run, without_drift, tmp_path):
    own = draw_pictures(tmp_path / "own", 3)
    run = stopped_at_two(tiny_run, instance_data_dir=str(own))
    (own / "1.txt").write_text("a square", encoding="utf-8")
    assert train(run, resume=True) == 78
    assert "1.png" in events(run, "error")[-1]["message"]


def test_other_versions_are_reported_and_allowed(tiny_run, without_drift, monkeypatch):
    run = stopped_at_two(tiny_run)
    from rollout_studio.core.train import resuming

    here = resuming.versions
    monkeypatch.setattr(resuming, "versions", lambda *given: {**here(*given), "torch": "9.9"})
    assert train(run, resume=True) == 0
    assert any("torch" in event["message"] and "9.9" in event["message"] for event in events(run, "warning"))


def test_a_damaged_newest_checkpoint_is_passed_over_and_reported(tiny_run, without_drift):
    run = tiny_run("lumina2", max_train_steps=4, checkpoint_step_interval=1, checkpoints_total_limit=9)
    assert train(run, listen=at_step(3, lambda: run.send("stop"))) == 0
    newest = checkpoint.checkpoints(run.checkpoints_path)[-1]
    file = newest / "trainable.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    assert train(run, resume=True) == 0
    assert events(run, "start")[-1]["resumed_from"] == checkpoint.step_of(newest) - 1
    assert any("passed over" in event["message"] for event in events(run, "warning"))


def test_there_must_be_something_to_resume_and_nothing_to_overwrite(tiny_run, without_drift):
    run = tiny_run("lumina2", max_train_steps=1)
    assert train(run, resume=True) == 78
    assert train(run) == 0
    before = last(run)
    assert train(run) == 78
    assert "has checkpoints already" in events(run, "error")[-1]["message"]
    assert last(run).record == before.record


def test_a_signal_saves_at_the_next_step_boundary_and_the_run_goes_on_from_there(tiny_run, without_drift):
    whole, run = (
        tiny_run("lumina2", name, max_train_steps=4, **{k: v for k, v in EVERYTHING.items() if k != "max_train_steps"})
        for name in ("whole", "signalled")
    )
    assert train(whole) == 0
    before = signal.getsignal(signal.SIGTERM)
    assert train(run, listen=at_step(2, lambda: signal.raise_signal(signal.SIGTERM))) == PREEMPTED
    assert signal.getsignal(signal.SIGTERM) is before
    assert last(run).step == 2 and "SIGTERM" in run.read_state()["message"]
    assert train(run, resume=True) == 0
    assert_same(whole, run)


@pytest.mark.parametrize("phase", ["model", "pictures", "latents"])
def test_a_signal_while_a_resume_prepares_leaves_a_run_that_says_where_it_goes_on(tiny_run, without_drift, phase):
    run = stopped_at_two(tiny_run)

    def signal_in(event):
        if event["event"] == "phase" and event["name"] == phase:
            signal.raise_signal(signal.SIGTERM)

    assert train(run, resume=True, listen=signal_in) == PREEMPTED
    state = run.read_state()
    assert (state["state"], state["step"]) == ("stopped", 2)
    assert "SIGTERM" in state["message"] and "resume goes on from step 2" in state["message"]
    assert events(run, "end")[-1]["step"] == 2
    assert RunStore(run.path.parent).summary(run).resumable
    assert train(run, resume=True) == 0 and last(run).step == 4


def test_a_signal_while_the_libraries_load_leaves_a_run_that_says_where_it_goes_on(tiny_run, without_drift):
    """The import of torch alone takes seconds, in which a machine may be asked to shut down."""
    run = stopped_at_two(tiny_run)
    code = textwrap.dedent("""
        import builtins, signal, sys
        from rollout_studio.core.train import worker
        real = builtins.__import__

        def importing(name, *rest, **kinds):
            if name == "torch" and "torch" not in sys.modules:
                signal.raise_signal(signal.SIGTERM)
            return real(name, *rest, **kinds)

        builtins.__import__ = importing
        sys.exit(worker.main([sys.argv[1], "--resume"]))
    """)
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert done.returncode == PREEMPTED, done.stderr
    state = run.read_state()
    assert (state["state"], state["step"]) == ("stopped", 2) and "resume goes on from step 2" in state["message"]


def test_a_resume_that_is_refused_keeps_the_step_that_it_could_go_on_from(tiny_run, without_drift):
    run = stopped_at_two(tiny_run)
    change_config(run, lora_rank=5)
    assert train(run, resume=True) == 78
    assert run.read_state()["step"] == 2


@pytest.mark.parametrize(
    ("interval", "advice"),
    [(2, "resume goes on from step 2"), (0, "there is no checkpoint yet, so retry it from the start")],
)
def test_a_second_signal_ends_at_once_with_advice_that_is_true(tiny_run, without_drift, interval, advice):
    run = tiny_run("lumina2", max_train_steps=5, checkpoint_step_interval=interval)

    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    assert train(run, listen=at_step(3, twice)) == PREEMPTED
    state = run.read_state()
    assert (state["state"], state["step"]) == ("stopped", 3)
    assert "second signal" in state["message"] and advice in state["message"]
    assert (run.last_checkpoint() is not None) == (interval > 0)


def test_a_third_signal_does_not_disturb_the_end(tiny_run, without_drift):
    run = tiny_run("lumina2", max_train_steps=5)

    def listen(event):
        if event["event"] == "step" and event["step"] == 2:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        if event["event"] == "end":
            signal.raise_signal(signal.SIGTERM)

    assert train(run, listen=listen) == PREEMPTED
    assert run.read_state()["state"] == "stopped"


def test_a_second_signal_while_the_first_ones_end_is_written_does_not_disturb_it(tiny_run, without_drift):
    run = tiny_run("lumina2", max_train_steps=5)

    def listen(event):
        if (event["event"], event.get("step")) in (("step", 2), ("end", 2)):
            signal.raise_signal(signal.SIGTERM)

    assert train(run, listen=listen) == PREEMPTED
    assert run.read_state()["state"] == "stopped" and "saved at step 2" in run.read_state()["message"]


def test_a_killed_and_resumed_run_reports_every_step_sample_and_checkpoint_once(tiny_run, without_drift):
    """With a real kill -9; a viewer that followed all the time has every step once as well."""
    from rollout_studio.core.runs.run_log import RunLog

    looks = {"validation_prompts": ["a circle"], "validation_step_interval": 2}
    run = tiny_run("lumina2", max_train_steps=300, checkpoint_step_interval=5, checkpoints_total_limit=2, **looks)
    child = subprocess.Popen(
        [sys.executable, "-m", "rollout_studio.core.train.worker", str(run.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    viewer, deadline = RunLog(run), time.monotonic() + 120
    while viewer.update().last_step is None or viewer.last_step["step"] < 8 or viewer.last_step["step"] % 5 < 3:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    child.wait()
    reached, saved = viewer.update().last_step["step"], run.last_checkpoint()
    assert reached > saved
    assert train(run, resume=True, listen=at_step(reached + 3, lambda: run.send("stop"))) == 0
    assert events(run, "start")[-1]["resumed_from"] == saved
    for kind in ("step", "saved", "sample"):
        reported = [event["step"] for event in events(run, kind)]
        assert reported == sorted(set(reported)), kind
    assert [event["step"] for event in events(run, "step")] == list(range(1, reached + 4))
    assert viewer.update().series.steps == list(range(1, reached + 4))
