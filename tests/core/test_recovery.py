"""What a run does with a step that breaks: it never reaches a weight, and the run goes on, goes back once, or ends; and all is as bit-equal as ever."""

import math
import os
from dataclasses import replace

import pytest
import torch
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.train import accelerator, losses
from rollout_studio.core.train import step as training_step
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.optimizers import Average, Schedule
from rollout_studio.core.train.standing import Standing
from rollout_studio.core.train.step import Stepper
from tiny_run import ROLLOUT, as_ranks, assert_same, at_step, events, last

FLOW = "lumina2"


class Explodes(torch.autograd.Function):
    """Its value is that of its argument, its gradient is infinite."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * float("inf")


class Faults:
    """Breaks steps of a training, counted from 1, whenever they are taken at a learning rate above `above`. `spoil`: what becomes of a batch's loss."""

    def __init__(self, monkeypatch, steps, spoil, above=0.0):
        self.step, self.rate, self.taken = 0, 0.0, []
        good, take, set_rate = losses.batch_loss, Stepper.take, Schedule.set

        def noted(stepper, step):
            self.step = step + 1
            self.taken.append(self.step)
            return take(stepper, step)

        def rated(schedule, step):
            self.rate = set_rate(schedule, step)
            return self.rate

        def broken(*given):
            return spoil(good, *given) if self.step in steps and self.rate > above else good(*given)

        monkeypatch.setattr(Stepper, "take", noted)
        monkeypatch.setattr(Schedule, "set", rated)
        monkeypatch.setattr(training_step, "batch_loss", broken)


def nan_pictures(good, model, config, remedy, batch, plan):
    return good(model, config, remedy, replace(batch, x0=batch.x0 * float("nan")), plan)


def infinite_loss(good, *given):
    found = good(*given)
    return replace(found, parts=replace(found.parts, main=found.parts.main * float("inf")))


def infinite_gradient(good, *given):
    found = good(*given)
    return replace(found, parts=replace(found.parts, main=Explodes.apply(found.parts.main)))


SPOILED = {"noisy state": nan_pictures, "loss": infinite_loss, "gradient": infinite_gradient}
ALL = {"use_ema": True, "lora_dropout": 0.3, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what == "loss" else pytest.mark.slow) for what in SPOILED]
)
def test_a_broken_step_is_skipped_said_and_reaches_no_weight(tiny_run, without_drift, monkeypatch, what):
    """A run whose second step broke is the run that never took it: same weights, moments and average."""
    run = tiny_run(FLOW, max_train_steps=2, **ALL)
    Faults(monkeypatch, {2}, SPOILED[what])
    assert train(run) == 0
    [skipped] = events(run, "skipped")
    assert skipped["step"] == 2 and skipped["what"] == what and skipped["value"] in ("nan", "inf", "NaN", "Infinity")
    assert len(skipped["pictures"]) == 2 and all(name.endswith(".png") for name in skipped["pictures"])
    assert [event["step"] for event in events(run, "step")] == [1] and last(run).step == 2
    assert "was skipped (1 of at most 3 in a row)" in follow(run).warnings[-1]["message"], "on the page"

    monkeypatch.undo()
    monkeypatch.setattr("rollout_studio.core.train.looking.Viewer.measure_drift", lambda self, step=None: None)
    alone = tiny_run(FLOW, "alone", max_train_steps=1, **ALL)
    assert train(alone) == 0
    for group in ("trainable", "optimizer", "ema"):
        for name, tensor in last(alone).tensors[group].items():
            assert torch.equal(tensor, last(run).tensors[group][name]), f"{group} {name}"


@pytest.mark.slow
def test_rolled_out_latents_that_run_away_are_named(tiny_run, without_drift, monkeypatch):
    run = tiny_run(FLOW, max_train_steps=2, **{**ROLLOUT, "scheduled_sampling_probability": 1.0})
    Faults(monkeypatch, {2}, nan_pictures)
    assert train(run) == 0
    assert [event["what"] for event in events(run, "skipped")] == ["rolled-out state"]


@pytest.mark.parametrize("damage", ["weights", pytest.param("average", marks=pytest.mark.slow)])
def test_weights_or_an_average_that_break_are_never_saved_and_the_run_goes_back(
    tiny_run, without_drift, monkeypatch, damage
):
    """An update may overflow though its gradient is finite: what is damaged then cannot be skipped."""
    run = tiny_run(FLOW, max_train_steps=5, checkpoint_step_interval=2, **ALL)
    update, done = Stepper._update, []

    def damaging(stepper, norm):
        update(stepper, norm)
        done.append(None)
        if len(done) == 4:  # the last before a checkpoint
            session = stepper.session
            with torch.no_grad():
                (session.parameters[0] if damage == "weights" else session.average.values[0]).view(-1)[0] = float("nan")

    monkeypatch.setattr(Stepper, "_update", damaging)
    assert train(run) == 0
    [back] = events(run, "back")
    assert (back["left"], back["step"], back["rate_factor"]) == (3, 2, 0.5) and back["what"] == "largest trained weight"
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 4, 5]
    for path in checkpoint.checkpoints(run.checkpoints_path):
        checkpoint.load(path)  # raises where a number is not finite


def test_after_so_many_broken_steps_in_a_row_the_run_goes_back_with_half_the_rate_and_recovers(
    tiny_run, without_drift, monkeypatch
):
    run = tiny_run(FLOW, max_train_steps=8, checkpoint_step_interval=3, skip_broken_steps=2, learning_rate=1e-3)
    faults = Faults(monkeypatch, {4, 5, 6}, nan_pictures, above=6e-4)
    assert train(run) == 0
    assert faults.taken == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]
    assert [event["lr"] for event in events(run, "step")] == pytest.approx([1e-3] * 3 + [5e-4] * 5)
    assert [event["step"] for event in events(run, "step")] == list(range(1, 9)), "every step is told once"
    [back] = events(run, "back")
    assert (back["left"], back["step"]) == (5, 3) and len(set(back["pictures"])) >= 2
    warning = events(run, "warning")[-1]
    assert "went back to its checkpoint of step 3, with half the learning rate" in warning["message"]
    assert ".png" in warning["remedy"]
    assert last(run).record["standing"]["rate_factor"] == 0.5
    log = follow(run)
    assert log.series.steps == list(range(1, 9)) and any("went back" in each["message"] for each in log.warnings)


@pytest.mark.slow
def test_a_run_that_went_back_and_is_stopped_and_resumed_is_the_undisturbed_one(tiny_run, without_drift, monkeypatch):
    """Stopped amid the broken steps, and after it went back."""
    setting = {
        "max_train_steps": 8, "checkpoint_step_interval": 3, "skip_broken_steps": 2, "gradient_accumulation_steps": 2, **ROLLOUT, **ALL,
        "checkpoints_total_limit": 1,
    }  # fmt: skip
    Faults(monkeypatch, {4, 5, 6}, infinite_loss, above=6e-4)
    whole, parts = tiny_run(FLOW, "whole", **setting), tiny_run(FLOW, "parts", **setting)
    assert train(whole) == 0
    ended = [train(parts, listen=on(parts, "skipped", 5))]
    ended += [train(parts, resume=True, listen=at_step(7, lambda: parts.send("stop-and-save")))]
    ended += [train(parts, resume=True)]
    assert ended == [0, 0, 0]
    assert_same(whole, parts)
    assert last(whole).record["standing"] == last(parts).record["standing"]
    assert len(events(parts, "back")) == 1


def on(run, kind, step):
    """Stop and save when this event comes."""

    def listen(event):
        if event["event"] == kind and event["step"] == step:
            run.send("stop-and-save")

    return listen


@pytest.mark.slow
def test_a_run_that_goes_back_in_vain_ends_with_its_pictures_named(tiny_run, without_drift, monkeypatch):
    run = tiny_run(FLOW, max_train_steps=9, checkpoint_step_interval=2, skip_broken_steps=1, train_batch_size=1)
    faults = Faults(monkeypatch, {3, 4, 5}, nan_pictures)
    assert train(run) == 70
    assert faults.taken == [1, 2, 3, 4, 3, 4]
    error = events(run, "error")[-1]
    assert "The noisy state at step 4 is nan" in error["message"] and error["message"].count(".png") == 2
    assert "had gone back to step 2 before, with half the learning rate, which did not help" in error["message"]
    assert last(run).step == 3 and len(events(run, "back")) == 1
    assert train(run, resume=True) == 70 and len(events(run, "back")) == 1, "once means once, also after a resume"


@pytest.mark.slow
def test_without_a_checkpoint_to_go_back_to_the_run_ends_and_says_so(tiny_run, without_drift, monkeypatch):
    run = tiny_run(FLOW, max_train_steps=9, skip_broken_steps=1)
    Faults(monkeypatch, {2, 3}, nan_pictures)
    assert train(run) == 70
    assert "There is no good checkpoint to go back to" in events(run, "error")[-1]["message"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_ranks_skip_and_go_back_together(tiny_run, without_drift, monkeypatch):
    """The first rank's rows break, the second's are sound."""
    run = tiny_run(FLOW, max_train_steps=6, checkpoint_step_interval=2, skip_broken_steps=1, learning_rate=1e-3)

    def on_the_first(good, *given):
        return nan_pictures(good, *given) if os.environ["RANK"] == "0" else good(*given)

    Faults(monkeypatch, {3, 4}, on_the_first, above=6e-4)
    assert as_ranks(monkeypatch, run) == [0, 0]
    [back] = events(run, "back")
    assert back["step"] == 2 and len(back["pictures"]) >= 2
    assert [event["step"] for event in events(run, "step")] == list(range(1, 7))
    assert [event["lr"] for event in events(run, "step")] == pytest.approx([1e-3] * 2 + [5e-4] * 4)


@pytest.mark.slow
def test_a_loss_that_stands_out_is_named_with_the_pictures_of_its_step_and_of_the_one_before(
    tiny_run, without_drift, monkeypatch
):
    run = tiny_run(FLOW, max_train_steps=14, train_batch_size=1, learning_rate=1e-5)

    def large(good, *given):
        found = good(*given)
        return replace(found, parts=replace(found.parts, main=found.parts.main * 5000))

    Faults(monkeypatch, {12}, large)
    assert train(run) == 0
    [told] = [
        event for event in events(run, "warning") if "stands" in event["message"] or "usual here" in event["message"]
    ]
    assert "The loss at step 12" in told["message"] and told["step"] == 12
    assert len(told["pictures"]) == 1 and len(told["pictures_before"]) == 1
    assert told["pictures"][0] in told["message"] and told["pictures_before"][0] in told["message"]
    order = run_order(run, 12)
    assert (told["pictures_before"], told["pictures"]) == (order[10], order[11])


def run_order(run, steps):
    """The pictures of each step, as the schedule deals them."""
    from rollout_studio.core.config import read_config
    from rollout_studio.core.data.batches import Schedule

    config = read_config(run.config_path)
    schedule = Schedule([(32, 32)] * 4, repeats=1, batch_size=1, seed=config.training.seed)
    return [[f"{row}.png" for row in schedule.rows(step)] for step in range(steps)]


def test_a_usual_loss_is_the_running_mean_and_an_outlier_moves_it_little():
    standing = Standing()
    assert not any(standing.stands_out(1.0) for _ in range(20))
    assert not standing.stands_out(49.0) and standing.stands_out(1e6) and standing.stands_out(1e6)
    assert standing.usual_loss < 10
    early = Standing()
    assert not any([early.stands_out(1.0), early.stands_out(1e9)]), "the first losses judge nothing"


def test_the_largest_weight_is_not_finite_where_one_number_is_not():
    parameters = [torch.zeros(3, requires_grad=True), torch.ones(2, 2, requires_grad=True)]
    average = Average(parameters, 0.9)
    session = training_step.Session(None, None, None, None, [], parameters, None, None, average)
    assert session.largest_weight().item() == 1
    for place in (parameters[0].data, average.values[1]):
        for bad in (float("nan"), float("inf"), -float("inf")):
            kept = place.view(-1)[1].item()
            place.view(-1)[1] = bad
            assert not torch.isfinite(session.largest_weight())
            place.view(-1)[1] = kept


# fp16: the loss scale ------------------------------------------------------------------------------------------------------

TOO_LARGE = 2.0**18
"""As a scale: half of it, with two rows, is more than a half float holds, and so is a quarter."""


class InHalf(torch.autograd.Function):
    """Its value is that of its argument; its gradient goes through 16 bits, as a card's does."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient.half().float()


@pytest.fixture
def scaled(monkeypatch, without_drift):
    """Call it for trainings whose loss is scaled, from the start by this factor, with torch's own scaler."""
    plain, good = accelerator._accelerator, losses.batch_loss

    def start(scale=TOO_LARGE):
        def with_scaler(*given):
            made = plain(*given)
            made.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            return made

        def in_half(*given):
            found = good(*given)
            return replace(found, parts=replace(found.parts, main=InHalf.apply(found.parts.main)))

        monkeypatch.setattr(accelerator, "_accelerator", with_scaler)
        monkeypatch.setattr(training_step, "batch_loss", in_half)

    return start


def test_a_step_that_overflows_is_counted_and_said_and_changes_no_weight(tiny_run, scaled):
    scaled()
    run = tiny_run(FLOW, max_train_steps=6, checkpoint_step_interval=1, checkpoints_total_limit=9, use_ema=True)
    assert train(run) == 0
    norms = [float(event["grad_norm"]) for event in events(run, "step")]
    left_out = sum(not math.isfinite(norm) for norm in norms)
    assert left_out == 2 and [event["step"] for event in events(run, "step")] == [1, 2, 3, 4, 5, 6]
    told = events(run, "scaled")
    assert [event["total"] for event in told] == list(range(1, left_out + 1))
    assert told[-1]["scale"] == TOO_LARGE / 2**left_out and "fp16" in told[-1]["message"]
    assert not events(run, "skipped") and not events(run, "back")
    [shown] = [each for each in follow(run).warnings if each["event"] == "scaled"]
    assert f"of {left_out} of" in shown["message"], "on the page, all of them in one remark"
    assert_no_change(run, left_out)


def assert_no_change(run, steps):
    """The weights and their average after each of the first steps are those of the start."""
    loaded = [checkpoint.load(path).tensors for path in checkpoint.checkpoints(run.checkpoints_path)]
    for group in ("trainable", "ema"):
        for at in range(1, steps):
            assert all(torch.equal(loaded[at][group][name], tensor) for name, tensor in loaded[0][group].items())
        assert not all(torch.equal(loaded[-1][group][name], tensor) for name, tensor in loaded[0][group].items())


def test_a_run_that_was_stopped_while_its_scale_finds_its_size_is_the_one_that_was_not(tiny_run, scaled, monkeypatch):
    """The second overflow in a row is one too many, also where the first was before the stop."""
    scaled()
    monkeypatch.setattr(training_step, "SKIPS_ALLOWED", 1)
    whole, stopped = (tiny_run(FLOW, name, max_train_steps=6, use_ema=True) for name in ("whole", "stopped"))
    assert train(whole) == 0
    assert train(stopped, listen=at_step(1, lambda: stopped.send("stop-and-save"))) == 0
    assert last(stopped).record["standing"]["scaled_in_a_row"] == 1
    assert train(stopped, resume=True) == 0
    assert_same(whole, stopped)
    assert [event["step"] for event in events(stopped, "skipped")] == [2] and len(events(stopped, "scaled")) == 1
    assert last(stopped).record["standing"] == last(whole).record["standing"]
    assert last(stopped).record["scaler"] == last(whole).record["scaler"]


def test_a_loss_that_is_none_breaks_the_step_also_with_a_scaler_and_the_next_one_is_taken(
    tiny_run, scaled, monkeypatch
):
    scaled(2.0)
    run = tiny_run(FLOW, max_train_steps=3)
    Faults(monkeypatch, {2}, infinite_loss)
    assert train(run) == 0
    assert [event["what"] for event in events(run, "skipped")] == ["loss"] and not events(run, "scaled")
    assert [event["step"] for event in events(run, "step")] == [1, 3]
    assert last(run).record["standing"]["broken_in_a_row"] == last(run).record["standing"]["scaled"] == 0


def test_a_gradient_that_no_scale_makes_finite_is_broken_after_so_many_steps(tiny_run, scaled, monkeypatch):
    scaled(2.0)
    monkeypatch.setattr(training_step, "SKIPS_ALLOWED", 2)
    run = tiny_run(FLOW, max_train_steps=6, skip_broken_steps=3)
    Faults(monkeypatch, {2, 3, 4, 5}, infinite_gradient)
    assert train(run) == 0
    assert [event["in_a_row"] for event in events(run, "scaled")] == [1, 2]
    assert [(event["step"], event["what"], event["in_a_row"]) for event in events(run, "skipped")] == [
        (4, "gradient", 1),
        (5, "gradient", 2),
    ]
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 6]
