"""Pause, stop and save are received also while pictures are prepared or drawn and while drift is measured: within two seconds.

From a command to its answer each long thing is made longer by sleeps in the network, so that its end cannot be what was waited for.
"""

import json
import time

import pytest
import torch
from PIL import Image
from rollout_studio.core.families import sampling
from rollout_studio.core.families.base import Model
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.journal import Journal
from rollout_studio.core.runs.pace import Pace
from rollout_studio.core.runs.run_log import PHASES, follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train import listening
from rollout_studio.core.train.loop import train
from tiny_run import ROLLOUT, events

RESPONSE_S = 2.0
SLOW_S = (
    0.1  # a call of the network, or a picture through the autoencoder; what is waited for takes four seconds or more
)
WHERE = {
    "latents": {},
    "class pictures": {
        "with_prior_preservation": True,
        "class_prompt": "a circle",
        "num_class_images": 4,
        "class_sample_steps": 40,
    },
    "samples": {"validation_prompts": ["a circle"], "validation_num_inference_steps": 40},
    "drift": {"drift_num_images": 2, "drift_offsets": [1, 2, 3, 4], "drift_fine_factor": 8, "drift_holdout_images": 1},
}


@pytest.fixture(scope="module")
def many_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        Image.new("RGB", (48, 48), (6 * number, 255 - 6 * number, 128)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a colour", encoding="utf-8")
    return folder


class Slowness:
    """What every call of the network and of the autoencoder takes longer, in seconds; `During` sets it while a command waits."""

    def __init__(self):
        self.seconds = 0.0

    def before(self, function):
        def call(*arguments, **how):
            time.sleep(self.seconds)
            return function(*arguments, **how)

        return call


@pytest.fixture
def slow(monkeypatch):
    slowness = Slowness()
    for owner, name in ((Model, "predict"), (Model, "encode_images"), (sampling, "_after_step")):
        monkeypatch.setattr(owner, name, slowness.before(getattr(owner, name)))
    return slowness


def run_in(tiny_run, many_pictures, where, name="tiny", **changes):
    return tiny_run(
        "lumina2", name, **{"instance_data_dir": str(many_pictures), "max_train_steps": 2, **WHERE[where], **changes}
    )


class During:
    """A listener that acts once, shortly after a phase began, and notes when; `answered_after` is how long the command then took.
    Until what it wants has happened, everything is slow."""

    DONE = ("paused", "saved", "end")

    def __init__(self, run, where, *commands, slow=None):
        self.run, self.where, self.commands, self.sent, self.seen = run, where, list(commands), None, []
        self.slow = Slowness() if slow is None else slow

    def __call__(self, event):
        self.seen.append((time.monotonic(), event))
        if (
            event["event"] == "phase"
            and event["name"] == self.where
            and self.sent is None
            and event["done"] < event["total"]
        ):
            self.sent = time.monotonic()
            self.slow.seconds = SLOW_S if self.commands else 0.0
            for command in self.commands:
                self.run.send(command)
        elif event["event"] in self.DONE:
            self.slow.seconds = 0.0

    def answered_after(self, kind="command", **fields):
        at = next(
            at
            for at, event in self.seen
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items())
        )
        return at - self.sent


@pytest.mark.parametrize("where", WHERE)
def test_a_stop_is_received_and_ends_the_run_within_two_seconds(tiny_run, many_pictures, slow, where):
    # a full fine-tune's base is drawn and measured before the first step, an adapter's after some
    run = run_in(tiny_run, many_pictures, where, **({"model_type": "full"} if where in ("samples", "drift") else {}))
    during = During(run, where, "stop", slow=slow)
    assert train(run, listen=during) == 0
    assert during.answered_after(name="stop") < RESPONSE_S and during.answered_after("end") < RESPONSE_S
    state = run.read_state()
    assert (state["state"], state["step"]) == ("stopped", 0) and "as asked" in state["message"]
    assert "retry it from the start" in state["message"]  # nothing was saved, and nobody is told to resume


@pytest.mark.parametrize("where", [where for where in WHERE if where != "drift"])
def test_a_pause_holds_within_two_seconds_and_the_run_then_does_what_it_would_have_done(
    tiny_run, many_pictures, without_drift, slow, monkeypatch, where
):
    monkeypatch.setattr(listening, "POLL_S", 0.05)
    run = run_in(tiny_run, many_pictures, where)
    during, held = During(run, where, "pause", slow=slow), []

    def listen(event):
        during(event)
        if event["event"] == "paused":
            held.append(event)
            run.send("resume")

    assert train(run, listen=listen) == 0
    assert len(held) == 1 and during.answered_after("paused") < RESPONSE_S
    assert len(events(run, "paused")) == len(events(run, "resumed")) == 1
    assert run.read_state()["state"] == "done" and [event["step"] for event in events(run, "step")] == [1, 2]


@pytest.mark.slow
def test_a_pause_while_drift_is_measured_changes_none_of_its_numbers(tiny_run, many_pictures, monkeypatch):
    monkeypatch.setattr(listening, "POLL_S", 0.02)
    reports = []
    for name in ("whole", "held"):
        run = run_in(tiny_run, many_pictures, "drift", name, max_train_steps=1)
        during = During(run, "drift", *(["pause"] if name == "held" else []))

        def listen(event, run=run, during=during):
            during(event)
            if event["event"] == "paused":
                run.send("resume")

        assert train(run, listen=listen) == 0
        report = json.loads((run.path / events(run, "drift")[-1]["path"]).read_text(encoding="utf-8"))
        reports.append(report["curves"])
        reported = [event["event"] for event in events(run) if event["event"] in ("paused", "drift")]
        assert reported == (["paused", "drift", "drift"] if name == "held" else ["drift", "drift"])
    assert reports[0] == reports[1]


SHORT = {
    "samples": {"validation_num_inference_steps": 10},
    "drift": {"drift_offsets": [1], "drift_fine_factor": 2, "drift_num_images": 1},
}


def after_a_step(during):
    """The same listener, asleep until the first step is done."""

    def listen(event):
        if any(each["event"] == "step" for _, each in during.seen):
            during(event)
        else:
            during.seen.append((time.monotonic(), event))

    return listen


@pytest.mark.slow
@pytest.mark.parametrize("where", ["samples", "drift"])
def test_a_save_amid_pictures_or_drift_keeps_what_is_trained_not_the_average_that_is_looked_at(
    tiny_run, many_pictures, slow, monkeypatch, where
):
    """The average stands in the weights' place while one looks; the checkpoint must hold both as they are, and disturb nothing."""
    monkeypatch.setattr(listening, "POLL_S", 0.05)
    changes = {
        **ROLLOUT,
        "use_ema": True,
        "ema_decay": 0.5,
        "validation_step_interval": 1,
        "drift_step_interval": 1,
        "lora_dropout": 0.3,
    }
    whole, saved = (
        run_in(tiny_run, many_pictures, where, name, **changes, **SHORT[where]) for name in ("whole", "saved")
    )
    assert train(whole) == 0
    during = During(saved, where, "save", slow=slow)
    assert train(saved, listen=after_a_step(during)) == 0
    assert during.answered_after("saved", step=1) < RESPONSE_S
    answer = {"samples": "sample", "drift": "drift"}[where]
    assert during.answered_after("saved", step=1) < during.answered_after(answer, step=1)  # in the middle, not after it
    amid = checkpoint.load(saved.checkpoints_path / "step-000001").tensors
    assert any(not torch.equal(amid["trainable"][key], amid["ema"][key]) for key in amid["ema"])
    assert_same_end(whole, saved)
    (saved.checkpoints_path / "step-000002").rename(saved.path / "aside")
    assert train(saved, resume=True) == 0  # from the checkpoint of the middle
    assert_same_end(whole, saved)


def assert_same_end(one, other):
    ends = [checkpoint.load(run.checkpoints_path / "step-000002").tensors for run in (one, other)]
    for group in ("trainable", "ema", "optimizer"):
        assert ends[0][group].keys() == ends[1][group].keys()
        assert all(torch.equal(ends[0][group][key], ends[1][group][key]) for key in ends[0][group]), group


def test_a_save_before_anything_is_prepared_is_received_at_once_and_done_when_it_can_be(
    tiny_run, many_pictures, without_drift, slow
):
    run = run_in(tiny_run, many_pictures, "latents")
    during = During(run, "latents", "save", slow=slow)
    assert train(run, listen=during) == 0
    assert during.answered_after(name="save") < RESPONSE_S
    assert [event["step"] for event in events(run, "saved")] == [0, 2]


def test_a_save_where_the_step_is_saved_already_is_answered(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(listening, "POLL_S", 0.01)
    run = tiny_run("lumina2", checkpoint_step_interval=1)
    asked = []

    def listen(event):
        if event["event"] == "saved" and event["step"] == 1 and not asked:
            asked.append(run.send("save"))

    assert train(run, listen=listen) == 0
    assert [event["step"] for event in events(run, "saved")] == [1, 1, 2, 3]
    assert follow(run).answered[0]["id"] == asked[0]


def test_stop_and_save_amid_pictures_leaves_a_checkpoint_and_the_weights_for_others(
    tiny_run, many_pictures, without_drift, slow
):
    run = run_in(tiny_run, many_pictures, "samples", validation_step_interval=1, validation_num_inference_steps=12)
    during = During(run, "samples", "stop-and-save", slow=slow)
    assert train(run, listen=after_a_step(during)) == 0
    assert during.answered_after(name="stop-and-save") < RESPONSE_S
    assert not events(run, "sample")  # the pictures were left: the base's, and those of step 1
    assert run.last_checkpoint() == 1 and events(run, "exported")[-1]["step"] == 1
    assert RunStore(run.path.parent).summary(run).resumable


def test_what_draws_or_measures_itself_waits_for_the_step_and_is_shown_as_pending_until_then(
    tiny_run, many_pictures, without_drift, slow, monkeypatch
):
    monkeypatch.setattr(listening, "POLL_S", 0.01)
    run = run_in(tiny_run, many_pictures, "samples", validation_step_interval=1, validation_num_inference_steps=5)
    during, waiting = During(run, "samples", "sample", "pause", slow=slow), []

    def listen(event):
        during(event)
        if event["event"] == "paused":
            waiting.append([command.name for command in run.pending_commands()])
            run.send("resume")

    assert train(run, listen=listen) == 0
    assert waiting == [["sample"]]
    assert [event["name"] for event in events(run, "command")] == ["pause", "resume", "sample"]
    assert [event["step"] for event in events(run, "sample")] == [0, 1, 1, 2]


def test_commands_that_came_together_with_a_pause_are_obeyed_during_it(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(listening, "POLL_S", 0.01)
    run = tiny_run("lumina2")

    def listen(event):
        if event["event"] == "step" and event["step"] == 1:
            run.send("pause")
            run.send("save")
        if event["event"] == "saved" and event["step"] == 1:
            run.send("resume")

    assert train(run, listen=listen) == 0
    assert [event["event"] for event in events(run) if event["event"] in ("paused", "saved", "resumed")] == [
        "paused",
        "saved",
        "resumed",
        "saved",
    ]


def test_the_time_of_a_pause_amid_pictures_is_not_taken_for_that_of_the_pictures(
    tiny_run, many_pictures, without_drift, monkeypatch
):
    monkeypatch.setattr(listening, "POLL_S", 0.05)
    run, held, paused_s = run_in(tiny_run, many_pictures, "samples"), [], 3.0
    during, took = During(run, "samples", "pause"), []
    monkeypatch.setattr(Pace, "took", lambda self, what, seconds: took.append((what, seconds)))

    def listen(event):
        during(event)
        if event["event"] == "paused":
            time.sleep(paused_s)
            held.append(run.send("resume"))

    assert train(run, listen=listen) == 0
    assert held
    # From the phase's first report to the pictures, the pause included; how long the pictures themselves take depends on the machine.
    whole_s = during.answered_after("sample")
    assert next(seconds for what, seconds in took if what == "samples") < whole_s - paused_s / 2


# -- words -----------------------------------------------------------------------------------------------------------------------


def test_every_phase_that_is_reported_has_words_for_people(tiny_run, many_pictures):
    few = {
        "class_sample_steps": 2,
        "num_class_images": 2,
        "drift_holdout_images": 1,
        "validation_prompts": ["a circle"],
    }
    run = run_in(tiny_run, many_pictures, "class pictures", **few)
    assert train(run) == 0
    reported = {event["name"] for event in events(run, "phase")}
    assert reported == PHASES.keys() - {"preview", "compile"}
    assert all(words.split()[0].endswith("ing") for words in PHASES.values())
    with pytest.raises(ValueError, match="not a phase that viewers can name"):
        Journal(run).progress("latnets", 0, 1)


def test_a_phase_that_stands_still_is_reported_once(tiny_run):
    run = tiny_run("lumina2")
    journal = Journal(run)
    for _ in range(5):
        journal.progress("class pictures", 0, 8)
    assert len(events(run, "phase")) == 1
