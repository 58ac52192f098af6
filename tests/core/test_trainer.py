"""What a training step is, what a run tells and keeps, and what it does when something comes between two steps."""

import errno
import json
import signal
import time
from dataclasses import replace

import pytest
import torch
from rollout_studio.core.config import TrainingConfig, config_from_flat, read_config
from rollout_studio.core.families import load_model
from rollout_studio.core.formats import FORMATS
from rollout_studio.core.maths.grid import Grid, shifted
from rollout_studio.core.maths.noise import Level, RectifiedFlow, target_output
from rollout_studio.core.maths.timesteps import sample_times, sampling_kind
from rollout_studio.core.randomness import generator, row_noise
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.errors import RunError
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.train import disk_room, listening, losses
from rollout_studio.core.train import step as training_step
from rollout_studio.core.train.looking import Viewer
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.optimizers import Average, Schedule, make_optimizer
from rollout_studio.core.train.outcome import DONE, PREEMPTED, Broken, NotFinite
from rollout_studio.core.train.window import draw_window
from safetensors.torch import load_file
from tiny_run import ROLLOUT, at_step, draw_pictures, events
from tiny_run import losses as reported_losses
from torch import nn

FLOW, EPSILON = "lumina2", "sd1"


def final_weights(run) -> dict[str, torch.Tensor]:
    return checkpoint.load_latest(run.checkpoints_path)[0].tensors["trainable"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------------------------- the plain step


@pytest.mark.parametrize("variant", [FLOW, EPSILON])
def test_without_rollout_a_step_is_the_plain_trainers(tiny_run, without_drift, variant):
    """The textbook step, written out: noise and time from their streams, one forward, mean squared error, AdamW."""
    run = tiny_run(variant, max_train_steps=2, max_grad_norm=0.0)
    assert train(run) == 0

    from rollout_studio.core.adapters import attach, trainable_parameters
    from rollout_studio.core.data import prepare, scan

    config = read_config(run.config_path)
    model = load_model(config.model)
    data = prepare(model, config, scan(config.data), run.path.parent / ".cache")
    attach(model, config)
    parameters = trainable_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=1e-2, fused=True)
    expected = []
    for step in range(2):
        batch = data.batch(step)
        noise = row_noise(batch.latents.shape, 42, step)
        t = sample_times(
            config.training,
            2,
            generator(42, step, "t"),
            is_flow=model.is_flow,
            shift=model.training_shift(batch.latents.shape),
        )
        level = model.noise_path.at(t)
        x_t = model.noise_path.noised(batch.latents, noise, level)
        output = model.denoise(x_t, level.t.float(), batch.conditioning)
        loss = (output - target_output(batch.latents, noise, level, model.prediction_type)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    assert reported_losses(run) == pytest.approx(expected, rel=1e-6)
    for name, value in final_weights(run).items():
        mine = dict(model.denoiser.named_parameters())[name]
        torch.testing.assert_close(value, mine, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("variant", "reflexflow"), [(FLOW, None), (FLOW, True), (FLOW, False), (EPSILON, None)])
def test_at_probability_0_a_step_is_bit_for_bit_the_plain_trainers(tiny_run, without_drift, variant, reflexflow):
    """Loss, gradient norm, weights, and the global random stream that dropout drew from."""
    plain = tiny_run(variant, "plain", lora_dropout=0.4)
    waiting = tiny_run(
        variant,
        "waiting",
        lora_dropout=0.4,
        **ROLLOUT | {"scheduled_sampling_start_step": 1000, "scheduled_sampling_reflexflow": reflexflow},
    )
    states = []

    def remember(event):
        if event["event"] == "step":
            states.append(torch.get_rng_state())

    assert train(plain, listen=remember) == train(waiting, listen=remember) == 0
    for a, b in zip(events(plain, "step"), events(waiting, "step"), strict=True):
        assert (a["loss"], a["grad_norm"], a["network_calls"]) == (b["loss"], b["grad_norm"], 1)
    assert same(final_weights(plain), final_weights(waiting))
    assert all(torch.equal(a, b) for a, b in zip(states[:3], states[3:], strict=True))


def test_a_rolled_step_is_another_step(tiny_run, without_drift):
    plain, rolled = tiny_run(FLOW, "plain"), tiny_run(FLOW, "rolled", **ROLLOUT)
    assert train(plain) == train(rolled) == 0
    assert sum(event["rolled_rows"] for event in events(rolled, "step")) > 0
    assert reported_losses(plain) != reported_losses(rolled)


# ----------------------------------------------------------------------------------------------------------- the window


def test_four_micro_steps_of_one_row_equal_one_of_four(tiny_run, without_drift, tmp_path):
    """One picture, so that the rows are the same; noise, times and offsets come by the row's number in the window."""
    one_picture = str(draw_pictures(tmp_path / "one", 1))
    setting = {**ROLLOUT, "instance_data_dir": one_picture, "max_train_steps": 2}
    split = tiny_run(FLOW, "split", **setting, train_batch_size=1, gradient_accumulation_steps=4)
    whole = tiny_run(FLOW, "whole", **setting, train_batch_size=4)
    assert train(split) == train(whole) == 0
    assert sum(event["rolled_rows"] for event in events(whole, "step")) >= 2
    for a, b in zip(events(split, "step"), events(whole, "step"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=1e-4
        )
        assert (a["rolled_rows"], a["mean_offset"], a["network_rows"]) == (
            b["rolled_rows"],
            b["mean_offset"],
            b["network_rows"],
        )
    assert all(
        torch.allclose(final_weights(split)[name], value, atol=1e-5) for name, value in final_weights(whole).items()
    )


class FlowModel:
    """As much of a model as a window's draws ask for."""

    is_flow, noise_path, prediction_type = True, RectifiedFlow(), "flow_matching"

    def training_shift(self, shape):
        return 3.0


def window(sizes, class_sizes=None, step=5):
    config = config_from_flat({"scheduled_sampling_max_step_offset": 3, "scheduled_sampling_probability": 0.6})
    class_sizes = [0] * len(sizes) if class_sizes is None else class_sizes
    instance, of_class = torch.arange(sum(sizes)), sum(sizes) + torch.arange(sum(class_sizes))
    own, other = instance.split(sizes), of_class.split(class_sizes)
    numbers = [torch.cat(pair) for pair in zip(own, other, strict=True)]
    grid = Grid(torch.linspace(1, 0, 9))
    rows = sum(sizes) + sum(class_sizes)
    return draw_window(FlowModel(), config, [(2, 3, 4)] * len(sizes), numbers, rows, step, lambda shape: grid)


@pytest.mark.parametrize(
    ("split", "class_split"),
    [([6], [0]), ([2, 4], [0, 0]), ([1] * 6, [0] * 6), ([3, 3], [3, 3]), ([2, 2, 2], [2, 2, 2])],
)
def test_what_a_row_draws_depends_on_its_number_in_the_window_alone(split, class_split):
    [whole], parts = window([6], [sum(class_split)]), window(split, class_split)

    def rows(draws, of_class, take):
        """Instance rows of all micro-steps, then class rows: the order of the numbers."""
        return torch.cat([take(draw)[own:] if of_class else take(draw)[:own] for draw, own in draws])

    for take in (lambda d: d.noise, lambda d: d.plan.t, lambda d: d.plan.k, lambda d: d.plan.source.sigma):
        pairs = list(zip(parts, split, strict=True))
        together = torch.cat([rows(pairs, False, take), rows(pairs, True, take)])
        assert torch.equal(together, take(whole))
    assert 0 < int(whole.plan.rolled.sum()) < len(whole.plan.k)


def test_another_step_draws_anew():
    [one], [other] = window([4], step=5), window([4], step=6)
    assert not torch.equal(one.noise, other.noise) and not torch.equal(one.plan.t, other.plan.t)


# ----------------------------------------------------------------------------------------------------- counts and parts


@pytest.mark.parametrize("changes", [{}, {"scheduled_sampling_guidance": 2.0}, {"scheduled_sampling_sampler": "rk4"},
                                     {"scheduled_sampling_reflexflow": False}, {"scheduled_sampling_reflexflow_mode": "paper"}],
                         ids=lambda changes: "-".join(changes) or "default")  # fmt: skip
def test_a_step_reports_the_rows_and_calls_that_the_network_really_saw(tiny_run, without_drift, monkeypatch, changes):
    run = tiny_run(FLOW, max_train_steps=2, train_batch_size=4, **ROLLOUT, **changes)
    seen = []
    from diffusers import Lumina2Transformer2DModel

    forward = Lumina2Transformer2DModel.forward

    def counted(self, hidden_states, *args, **kwargs):
        seen.append(len(hidden_states))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(Lumina2Transformer2DModel, "forward", counted)
    counts = []

    def listen(event):
        if event["event"] == "step":
            counts.append((len(seen), sum(seen)))
            assert (event["network_calls"], event["network_rows"]) == counts[-1]
            assert event["rolled_rows"] > 0
            seen.clear()

    assert train(run, listen=listen) == 0
    assert len(counts) == 2


def test_the_row_count_follows_its_formula(tiny_run, without_drift):
    """B + e * sum(k) + (ReflexFlow) rows with k > 0."""
    run = tiny_run(FLOW, train_batch_size=4, **ROLLOUT)
    assert train(run) == 0
    for event in events(run, "step"):
        walked = round(event["mean_offset"] * event["rolled_rows"])
        assert event["network_rows"] == 4 + walked + event["rolled_rows"]


def test_the_parts_of_the_loss_add_up_and_prior_rows_have_their_own(tiny_run, without_drift):
    prior = {
        "with_prior_preservation": True,
        "class_prompt": "a circle",
        "num_class_images": 2,
        "class_sample_steps": 1,
    }
    weighted = tiny_run(FLOW, "weighted", prior_loss_weight=0.5, **prior, **ROLLOUT)
    free = tiny_run(FLOW, "free", prior_loss_weight=0.0, **prior, **ROLLOUT)
    assert train(weighted) == train(free) == 0
    for event in events(weighted, "step"):
        assert event["loss"] == pytest.approx(sum(event["loss_parts"].values())) and event["loss_parts"]["prior"] > 0
    assert [event["loss_parts"]["prior"] for event in events(free, "step")] == [0.0] * 3


def test_a_step_event_has_the_fields_that_the_page_reads(tiny_run, without_drift):
    run = tiny_run(FLOW, max_train_steps=1, **ROLLOUT)
    assert train(run) == 0
    [event] = events(run, "step")
    assert {
        "step",
        "loss",
        "loss_parts",
        "lr",
        "grad_norm",
        "rows",
        "rolled_rows",
        "source_noise_rows",
        "mean_offset",
        "network_rows",
        "network_calls",
        "frequency_weight_std",
        "effective_probability",
        "seconds",
        "step_s",
        "eta_s",
        "beside_s",
        "memory_mib",
    } <= event.keys()
    assert event["step"] == 1 and event["effective_probability"] == 0.7 and event["lr"] == 1e-2


def test_one_speed_and_one_time_left_are_reported_and_the_page_reads_the_same(tiny_run, without_drift, monkeypatch):
    """Samples at 0, 2, 4, 6: after step 3 two more are due. They are no part of a step's time."""
    clock = iter(range(10**6))
    run = tiny_run(FLOW, max_train_steps=6, validation_prompts=["a circle"], validation_num_inference_steps=1, validation_step_interval=2,
                   checkpoint_step_interval=0)  # fmt: skip
    monkeypatch.setattr(Viewer, "take_samples", lambda self, **more: [next(clock) for _ in range(100)])
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert train(run) == 0
    monkeypatch.undo()
    reported = events(run, "step")
    third = reported[2]
    assert third["beside_s"] == pytest.approx(2 * 101, rel=0.03)  # threads of others may have looked at the clock
    assert third["step_s"] < 20 and third["eta_s"] == pytest.approx(third["step_s"] * 3 + third["beside_s"])
    assert reported[-1]["eta_s"] == reported[-1]["beside_s"] == pytest.approx(101, rel=0.03)
    assert follow(run).step_s == pytest.approx(reported[-1]["step_s"], abs=1e-4)


def test_a_fresh_start_reports_what_its_steps_are_expected_to_take_and_a_resume_does_not_report_it_anew(
    tiny_run, without_drift
):
    first = tiny_run(FLOW, "first", max_train_steps=9)
    assert train(first) == 0  # the pace that the second is estimated from
    run = tiny_run(FLOW, "second", max_train_steps=4, checkpoint_step_interval=2)
    train(run, listen=at_step(3, lambda: run.send("stop")))
    assert train(run, resume=True) == 0
    fresh, resumed = events(run, "start")
    low, likely, high = fresh["expected_s"]
    assert 0 < low <= likely <= high and resumed["expected_s"] is None
    assert follow(run).expected == ((low, likely, high), 4)


def test_a_frequency_weight_that_does_nothing_is_reported(tiny_run, without_drift):
    run = tiny_run(
        FLOW,
        max_train_steps=12,
        train_batch_size=4,
        scheduled_sampling_reflexflow_norm="l1",
        scheduled_sampling_reflexflow_alpha=0.001,
        **ROLLOUT,
    )
    assert train(run) == 0
    assert [event["message"] for event in events(run, "warning") if "does nothing" in event["message"]]


# ----------------------------------------------------------------------------------------------------------- the pieces


LEVEL = Level(
    torch.zeros(3),
    torch.tensor([0.95, 0.6, 0.1], dtype=torch.float64),
    torch.tensor([0.3122499, 0.8, 0.99498744], dtype=torch.float64),
)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_an_error_of_the_clean_image_alike_for_every_output(kind):
    """weight * |output error|^2 = min(SNR, gamma) * |x0 error|^2, with the x0 error as the output implies it."""
    from rollout_studio.core.maths.noise import prediction_from_output

    x, output = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64).unbind(0)
    off = torch.full_like(output, 0.01)
    moved = (
        prediction_from_output(output + off, x, LEVEL, kind).x0_hat
        - prediction_from_output(output, x, LEVEL, kind).x0_hat
    )
    snr = (LEVEL.alpha / LEVEL.sigma) ** 2
    expected = snr.clamp(max=5.0) * moved.square().flatten(1).mean(1)
    torch.testing.assert_close(losses.min_snr_weight(LEVEL, 5.0, kind) * off.square().flatten(1).mean(1), expected)


def test_min_snr_is_finite_at_pure_noise_and_holds_for_flow():
    end = Level(torch.ones(1), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert losses.min_snr_weight(end, 5.0, "epsilon") == 1 and losses.min_snr_weight(end, 5.0, "flow_matching") == 0
    middle = Level(torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([0.5]))
    # SNR 1, and an x0 error is sigma times a velocity error
    assert losses.min_snr_weight(middle, 5.0, "flow_matching") == 0.25


def test_huber_is_the_square_up_to_delta_and_straight_beyond():
    errors = torch.tensor([0.05, -0.1, 0.4])
    torch.testing.assert_close(
        losses.huber(errors, torch.zeros(3), 0.1), torch.tensor([0.0025, 0.01, 0.1 * (2 * 0.4 - 0.1)])
    )


def test_flow_times_are_logit_normal_and_shifted_towards_noise():
    config = TrainingConfig(logit_mean=0.5)
    t = sample_times(config, 4000, generator(0, 0, "t"), is_flow=True, shift=1.0)
    assert float(t.median()) == pytest.approx(0.6225, abs=0.02) and t.min() > 0 and t.max() < 1
    again = sample_times(config, 4000, generator(0, 0, "t"), is_flow=True, shift=3.0)
    torch.testing.assert_close(again, shifted(t, 3.0).clamp(1e-4, 1 - 1e-4))
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize("is_flow", [True, False], ids=["flow", "variance preserving"])
@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_logit_std_is_the_spread_of_the_logits(std, is_flow):
    config = TrainingConfig(timestep_sampling="logit_normal", logit_mean=-0.4, logit_std=std)
    t = sample_times(config, 4000, generator(0, 0, "t"), is_flow=is_flow, training_times=1000) / (1 if is_flow else 999)
    logits = torch.logit(t.double())
    assert float(logits.mean()) == pytest.approx(-0.4, abs=0.05 * std) and float(logits.std()) == pytest.approx(
        std, rel=0.04
    )


def test_auto_is_logit_normal_for_flow_and_whole_uniform_timesteps_otherwise():
    config = TrainingConfig()
    assert (sampling_kind(config, True), sampling_kind(config, False)) == ("logit_normal", "uniform")
    t = sample_times(config, 4000, generator(0, 0, "t"), is_flow=False, training_times=10)
    assert sorted(set(t.tolist())) == list(range(10)) and float(t.mean()) == pytest.approx(4.5, abs=0.2)
    spread = sample_times(
        TrainingConfig(timestep_sampling="logit_normal"), 100, generator(0, 0, "t"), is_flow=False, training_times=10
    )
    assert spread.min() >= 0 and spread.max() <= 9 and bool((spread != spread.round()).any())


@pytest.mark.parametrize("kind", ["uniform", "logit_normal"])
def test_the_first_rows_draw_the_same_times_in_a_larger_window(kind):
    config = TrainingConfig(timestep_sampling=kind)
    few, many = (sample_times(config, rows, generator(0, 3, "t"), is_flow=True) for rows in (5, 40))
    assert torch.equal(few, many[:5])


def test_a_learning_rate_belongs_to_its_step():
    config = TrainingConfig(lr_scheduler="linear", lr_warmup_steps=4, max_train_steps=12, learning_rate=0.5)
    schedule = Schedule(config, make_optimizer(config, [nn.Parameter(torch.ones(2))]))
    forwards = [schedule.set(step) for step in range(13)]
    assert forwards[0] == 0 and forwards[4] == 0.5 and forwards[8] == 0.25 and forwards[12] == 0
    assert [schedule.set(step) for step in reversed(range(13))] == forwards[::-1]


@pytest.mark.parametrize(("name", "rate"), [("adamw", 0.1), ("prodigy", 1.0), ("adafactor", 0.1)])
def test_every_optimizer_goes_downhill(name, rate):
    parameter = nn.Parameter(torch.tensor([3.0, -2.0, 1.0, 0.5]).reshape(2, 2))
    optimizer = make_optimizer(TrainingConfig(optimizer=name, learning_rate=rate), [parameter])
    start = float(parameter.detach().square().sum())
    for _ in range(60):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    assert float(parameter.detach().square().sum()) < 0.5 * start


def test_8_bit_adamw_without_its_package_and_nothing_to_train_are_refused(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="needs the package bitsandbytes.*choose optimizer = adamw"):
        make_optimizer(TrainingConfig(optimizer="adamw_8bit"), [nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="Nothing to train"):
        make_optimizer(TrainingConfig(), [])


def test_the_average_follows_with_a_warm_up_and_puts_everything_back_even_after_an_error():
    parameter = nn.Parameter(torch.zeros(2))
    average = Average([parameter], decay=0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update()
    assert average.values[0].tolist() == pytest.approx([1 - 2 / 11] * 2)  # the first update: decay (1 + 1) / (10 + 1)
    with pytest.raises(RuntimeError), average.in_place():
        assert torch.equal(parameter.detach(), average.values[0])
        raise RuntimeError
    assert parameter.tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------ what never reaches a weight


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights(tiny_run, without_drift, monkeypatch):
    run = tiny_run(FLOW, max_train_steps=5, skip_broken_steps=0)
    good = losses.batch_loss
    calls = []

    def broken(model, config, remedy, batch, plan):
        calls.append(None)
        return good(
            model, config, remedy, replace(batch, x0=batch.x0 * float("nan")) if len(calls) == 3 else batch, plan
        )

    monkeypatch.setattr(training_step, "batch_loss", broken)
    assert train(run) == 70
    error = events(run, "error")[-1]
    assert "The noisy state at step 3 is nan; its pictures:" in error["message"] and ".png" in error["message"]
    assert "learning_rate" in error["remedy"] and run.read_state()["state"] == "failed"
    saved = checkpoint.load_latest(run.checkpoints_path)[0]  # loading checks that every number is finite
    assert saved.step == 2

    monkeypatch.setattr(training_step, "batch_loss", good)
    sound = tiny_run(FLOW, "sound", max_train_steps=2)
    assert train(sound) == 0
    assert same(final_weights(sound), saved.tensors["trainable"])


def test_a_gradient_that_is_no_number_stops_the_run_before_the_weights(tiny_run, without_drift, monkeypatch):
    """The loss is fine, its gradient is not: the root of zero."""
    run = tiny_run(FLOW, max_train_steps=5, skip_broken_steps=0)
    good = losses.batch_loss
    calls = []

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * float("inf")

    def broken(*args, **kwargs):
        calls.append(None)
        found = good(*args, **kwargs)
        if len(calls) == 2:
            return replace(found, parts=replace(found.parts, main=Explodes.apply(found.parts.main)))
        return found

    monkeypatch.setattr(training_step, "batch_loss", broken)
    assert train(run) == 70
    error = events(run, "error")[-1]
    assert "The gradient at step 2 is" in error["message"]
    assert all(f"outcome.{kind.__name__}: " in error["traceback"] for kind in (NotFinite, Broken))
    assert checkpoint.load_latest(run.checkpoints_path)[0].step == 1


# ---------------------------------------------------------------------------------------------------- between two steps


def test_commands_are_received_between_steps_and_answered_by_their_id(tiny_run, without_drift):
    run = tiny_run(FLOW, max_train_steps=4)
    sent = []

    def ask():
        sent.append(run.send("save"))
        sent.append(run.send("sample", prompts=["a circle"], seed=7, steps=1))

    assert train(run, listen=at_step(2, ask)) == 0
    assert [event["id"] for event in events(run, "command")] == sent
    assert [event["step"] for event in events(run, "saved")] == [2, 4]
    [sample] = events(run, "sample")
    assert (
        sample["step"] == 2 and sample["images"][0]["seed"] == 7 and (run.path / sample["images"][0]["path"]).is_file()
    )


def test_pausing_waits_saves_when_asked_and_goes_on(tiny_run, without_drift):
    run = tiny_run(FLOW)

    def listen(event):
        if event["event"] == "step" and event["step"] == 1:
            run.send("pause")
        elif event["event"] == "paused":
            assert run.read_state()["state"] in ("running", "paused")
            run.send("save")
            run.send("resume")

    assert train(run, listen=listen) == 0
    order = [
        (event["event"], event.get("step"))
        for event in events(run)
        if event["event"] in ("paused", "saved", "resumed", "step")
    ]
    assert order == [("step", 1), ("paused", 1), ("saved", 1), ("resumed", 1), ("step", 2), ("step", 3), ("saved", 3)]


def test_stop_saves_nothing_and_stop_and_save_saves_and_exports(tiny_run, without_drift):
    for command, kept in (("stop", False), ("stop-and-save", True)):
        run = tiny_run(FLOW, command)
        assert train(run, listen=at_step(1, lambda: run.send(command))) == DONE  # noqa: B023 - called within this turn
        assert (
            len(events(run, "step")) == 1 and events(run, "end")[-1]["state"] == run.read_state()["state"] == "stopped"
        )
        assert (checkpoint.load_latest(run.checkpoints_path)[0] is not None) == kept
        assert (run.lora_path / f"{command}.safetensors").is_file() == kept


def test_a_command_that_cannot_be_done_is_reported_and_costs_nothing(tiny_run, without_drift):
    run = tiny_run(FLOW)
    assert train(run, listen=at_step(1, lambda: run.send("sample", prompts=["a circle"], colour="red"))) == 0
    assert any("colour: the command sample takes" in event["message"] for event in events(run, "warning"))
    assert len(events(run, "step")) == 3


def test_a_second_signal_stops_at_once(tiny_run, without_drift):
    run = tiny_run(FLOW, max_train_steps=50)

    def twice():  # SIGINT is ignored, and stays so, where a shell started the tests in the background
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    assert train(run, listen=at_step(2, twice)) == PREEMPTED
    assert len(events(run, "step")) == 2 and "second signal" in run.read_state()["message"]
    assert events(run, "saved") == []


def test_a_full_disk_pauses_a_save_and_the_run_goes_on_when_there_is_room(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.01)
    run = tiny_run(FLOW, max_train_steps=4, checkpoint_step_interval=2, checkpoints_total_limit=1)
    write, tries = checkpoint.save_file, []

    def full(tensors, path):
        if path.parent.name.endswith("-4"):  # the second checkpoint
            tries.append(None)
            if len(tries) < 3:
                assert checkpoint.load_latest(run.checkpoints_path)[0].step == 2  # the older one is intact
                raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train(run) == 0
    reported = [
        (event["event"], event.get("reason")) for event in events(run) if event["event"] in ("paused", "resumed")
    ]
    assert reported == [("paused", "disk full"), ("resumed", None)]
    assert any(
        "The disk is full" in event["message"] and "Free some space" in event["remedy"]
        for event in events(run, "warning")
    )
    assert checkpoint.load_latest(run.checkpoints_path)[0].step == 4


def test_events_that_a_full_disk_refuses_are_written_later_in_order(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.01)
    from rollout_studio.core.runs.folder import RunDir

    write, refused = RunDir.emit, []

    def emit(self, event, **fields):
        if event == "step" and fields["step"] == 2 and len(refused) < 4:
            refused.append(event)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, event, **fields)

    monkeypatch.setattr(RunDir, "emit", emit)
    run = tiny_run(FLOW)
    assert train(run) == 0
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3] and len(refused) == 4
    assert [event["reason"] for event in events(run, "paused")] == ["disk full"]


def test_a_run_that_waits_for_room_can_be_stopped(tiny_run, without_drift, monkeypatch):
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.01)
    run = tiny_run(FLOW, checkpoint_step_interval=1)

    def full(tensors, path):
        run.send("stop")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train(run) == DONE
    assert "while the disk was full" in run.read_state()["message"]


# ---------------------------------------------------------------------------------------------------------- a whole run


def test_a_whole_run_from_samples_at_step_0_to_the_checked_export(tiny_run):
    run = tiny_run(
        FLOW,
        trigger_word="zwx",
        validation_prompts=["a circle", "a square"],
        validation_step_interval=2,
        drift_step_interval=2,
        drift_holdout_images=1,
        checkpoint_step_interval=2,
        use_ema=True,
        **ROLLOUT,
    )
    state = torch.get_rng_state()
    assert train(run) == 0
    assert torch.equal(torch.get_rng_state(), state)

    reported = [
        (event["event"], event.get("step")) for event in events(run) if event["event"] not in ("phase", "warning")
    ]
    assert reported == [
        ("start", None),
        ("prepared", 0), ("step", 1), ("step", 2), ("saved", 2), ("sample", 0), ("drift", 0), ("sample", 2), ("drift", 2),
        ("step", 3), ("saved", 3), ("exported", 3), ("sample", 3), ("drift", 3), ("end", 3)]  # fmt: skip
    assert events(run, "start")[0] | {"time": 0, "pid": 0, "device": 0, "expected_mib": 0} == {
        "event": "start", "time": 0, "pid": 0, "device": 0, "expected_mib": 0, "config_hash": read_config(run.config_path).hash(), "total_steps": 3,
        "resumed_from": None, "expected_s": None}  # fmt: skip
    assert {"model", "pictures", "latents", "captions", "samples", "drift", "export"} <= {
        event["name"] for event in events(run, "phase")
    }

    for event in events(run, "sample"):
        assert [image["prompt"] for image in event["images"]] == ["a circle", "a square"]
        assert all((run.path / image["path"]).is_file() for image in event["images"])
    for event in events(run, "drift"):
        assert (run.path / event["path"]).is_file()
    weights = {
        curve["weights"] for curve in json.loads((run.path / events(run, "drift")[-1]["path"]).read_text())["curves"]
    }
    assert weights == {"base", "tuned"}

    [exported] = events(run, "exported")
    assert exported["check"]["missing"] == exported["check"]["unexpected"] == [] and exported["check"]["passed"]
    assert run.read_state() | {"updated": 0, "created": 0, "cwd": 0, "preset": None, "version": None} == {
        "state": "done", "step": 3, "total_steps": 3, "message": None, "updated": 0, "created": 0, "cwd": 0, "preset": None, "version": None,
        "format": FORMATS["run"]}  # fmt: skip
    assert run.owner() is None


def test_the_base_is_drawn_after_the_first_steps_of_an_adapter_and_looks_as_before_them(
    tiny_run, without_drift, monkeypatch
):
    """Before its first step a full fine-tune draws the very network from which the adapter starts."""
    monkeypatch.setattr(listening, "POLL_S", 0.01)  # two tiny pictures may be done before the next look
    wanted = {"validation_prompts": ["a circle", "a square"], "validation_step_interval": 0, "max_train_steps": 7}
    full = tiny_run(FLOW, "full", model_type="full", **wanted)
    assert train(full, listen=at_step(1, lambda: full.send("stop"))) == 0
    assert [event["event"] for event in events(full) if event["event"] in ("sample", "step")] == ["sample", "step"]

    quiet = tiny_run(FLOW, "quiet", use_ema=True, **ROLLOUT, **{**wanted, "validation_prompts": []})
    looked = tiny_run(FLOW, "looked", use_ema=True, checkpoint_step_interval=3, **ROLLOUT, **wanted)

    def stop_amid(event):
        if event["event"] == "phase" and event["name"] == "samples":
            looked.send("stop")

    assert train(quiet) == train(looked, listen=stop_amid) == 0
    assert not events(looked, "sample") and looked.read_state()["step"] == 5  # the first five steps were done
    assert train(looked, resume=True) == 0
    seen = [(event["event"], event["step"]) for event in events(looked) if event["event"] in ("sample", "step")]
    assert seen == [*(("step", n) for n in (1, 2, 3, 4, 5)), ("sample", 0), ("step", 6), ("step", 7), ("sample", 7)]
    assert reported_losses(looked) == reported_losses(quiet) and same(final_weights(looked), final_weights(quiet))
    for number in range(2):
        name = f"samples/step-000000/{number:02d}.png"
        assert (looked.path / name).read_bytes() == (full.path / name).read_bytes()
        assert (looked.path / name).read_bytes() != (looked.path / name.replace("000000", "000007")).read_bytes()


def test_the_average_is_what_is_exported(tiny_run, without_drift):
    run = tiny_run(FLOW, use_ema=True, ema_decay=0.9)
    assert train(run) == 0
    kept, file = checkpoint.load_latest(run.checkpoints_path)[0].tensors, load_file(run.lora_path / "tiny.safetensors")
    for name, average in kept["ema"].items():
        in_file = file["transformer." + name.replace(".default.", ".")]
        torch.testing.assert_close(in_file, average)
    assert not same(kept["ema"], kept["trainable"])


def test_what_cannot_train_is_refused_with_its_remedy(tiny_run, without_drift, tmp_path):
    broken = {
        "nowhere": ({"pretrained_model_name_or_path": str(tmp_path / "nowhere")}, "nowhere"),
        "epsilon": ({"pretrained_model_name_or_path": tiny_run(EPSILON, "other").read_config()["pretrained_model_name_or_path"],
                     "scheduled_sampling_reflexflow": True, **ROLLOUT}, "reflexflow"),
        "weighting": ({"pretrained_model_name_or_path": tiny_run(EPSILON, "third").read_config()["pretrained_model_name_or_path"],
                       "loss_weighting": "cosmap"}, "flow models only"),
        "empty": ({"instance_data_dir": str(tmp_path)}, "pictures"),
    }  # fmt: skip
    for name, (changes, word) in broken.items():
        run = tiny_run(FLOW, name, **changes)
        assert train(run) == 78
        error = events(run, "error")[-1]
        assert word in error["message"] and len(error["remedy"]) > 10 and events(run, "end")[-1]["state"] == "failed"


def test_a_broken_config_file_is_refused_with_all_its_faults(tiny_run):
    run = tiny_run(FLOW)
    run.config_path.write_text(json.dumps({**run.read_config(), "lora_rnak": 3, "learning_rate": -1}), encoding="utf-8")
    assert train(run) == 78
    assert "lora_rank" in events(run, "error")[-1]["message"] and "learning_rate" in events(run, "error")[-1]["message"]


def test_a_run_belongs_to_one_process(tiny_run):
    run = tiny_run(FLOW)
    with run.lock(), pytest.raises(RunError, match="already being trained"):
        train(run)


def test_sampling_that_fails_midway_is_reported_and_training_goes_on(tiny_run, without_drift, monkeypatch):
    run = tiny_run(FLOW, validation_prompts=["a circle"], validation_step_interval=1)
    from rollout_studio.core.families.base import Model

    sample, calls = Model.sample, []

    def sometimes(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("the pipeline stumbles")
        return sample(self, *args, **kwargs)

    monkeypatch.setattr(Model, "sample", sometimes)
    assert train(run) == 0
    assert [event["step"] for event in events(run, "sample")] == [0, 2, 3]
    assert any("the pipeline stumbles" in event["message"] for event in events(run, "warning"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_on_an_accelerator_a_run_trains_in_every_precision_and_resumes(tiny_run, precision):
    run = tiny_run(
        FLOW, max_train_steps=4, mixed_precision=precision, device="cuda", validation_prompts=["a circle"], **ROLLOUT
    )
    assert train(run, listen=at_step(2, lambda: run.send("stop-and-save"))) == 0
    assert train(run, resume=True) == 0
    assert all(event["memory_mib"] > 0 for event in events(run, "step"))
