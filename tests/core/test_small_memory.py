"""A memory that does not hold what was set: less goes through the network at once, and what is learned stays the same. `Small` stands for the card."""

import os
import sys
import time
from itertools import chain

import pytest
import torch
from rollout_studio.core.before.estimate import known_facts, memory_estimate
from rollout_studio.core.before.needing_less import ways_to_need_less
from rollout_studio.core.config import config_from_flat, read_config, with_changes
from rollout_studio.core.memory import Portions
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train import session as training_session
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.step import Stepper
from tiny_run import ROLLOUT, as_ranks, assert_same, at_step, events, last, losses

FLOW = "lumina2"
BATCH = {"train_batch_size": 4, "max_train_steps": 3, "learning_rate": 1e-3}


class Small:
    """While steps are taken, a memory that holds `rows` rows of a call of the network with gradient, and `without` rows without one; None: any number.
    `rank`: of this process alone."""

    def __init__(self, monkeypatch, rows=None, without=None, rank=None):
        self.asked = []
        open_model, take = training_session._open_model, Stepper.take
        self.in_step = False

        def taken(stepper, step):
            self.in_step = True
            try:
                return take(stepper, step)
            finally:
                self.in_step = False

        def opened(config, listener):
            model = open_model(config, listener)
            denoise = model.denoise

            def limited(x, t, conditioning):
                if not self.in_step:
                    return denoise(x, t, conditioning)
                has_gradient = torch.is_grad_enabled()
                limit = rows if has_gradient else without
                if limit is not None and rank in (None, os.environ.get("RANK")) and len(x) > limit:
                    raise torch.OutOfMemoryError(f"CUDA out of memory: {len(x)} rows")
                self.asked.append((has_gradient, len(x)))
                return denoise(x, t, conditioning)

            monkeypatch.setattr(model, "denoise", limited)
            return model

        monkeypatch.setattr(training_session, "_open_model", opened)
        monkeypatch.setattr(Stepper, "take", taken)


@pytest.fixture
def gradients(monkeypatch):
    """Every optimizer step's gradient, as it is before clipping."""
    taken, clip = [], Stepper._clipped_norm

    def noted(stepper):
        taken.append(torch.cat([each.grad.flatten().clone() for each in stepper.session.parameters]))
        return clip(stepper)

    monkeypatch.setattr(Stepper, "_clipped_norm", noted)
    return taken


EVERYTHING = {
    **ROLLOUT, "with_prior_preservation": True, "class_prompt": "a circle", "num_class_images": 4, "class_sample_steps": 1,
    "output_preservation_weight": 0.5, "masked_training": "soft",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes", [pytest.param({}, id="plain"), pytest.param(EVERYTHING, id="everything", marks=pytest.mark.slow)]
)
def test_a_batch_that_does_not_fit_goes_in_parts_with_the_same_gradient(
    tiny_run, without_drift, monkeypatch, gradients, changes
):
    whole, parts = tiny_run(FLOW, "whole", **BATCH, **changes), tiny_run(FLOW, "parts", **BATCH, **changes)
    assert train(whole) == 0
    expected, gradients[:] = list(gradients), []
    Small(monkeypatch, rows=2)
    assert train(parts) == 0
    assert len(gradients) == len(expected) == 3
    for mine, theirs in zip(gradients, expected, strict=True):
        assert (mine - theirs).abs().max() < 1e-6 and theirs.abs().max() > 1e-4
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)
    for alone, together in zip(events(whole, "step"), events(parts, "step"), strict=True):
        for counted in ("rows", "rolled_rows", "mean_offset", "source_noise_rows"):
            assert alone[counted] == together[counted], counted
        assert together["loss_parts"] == pytest.approx(alone["loss_parts"], abs=1e-6)
    [told] = [event for event in events(parts, "warning") if "too small for a batch" in event["message"]]
    assert "train_batch_size" in told["remedy"] and told in follow(parts).warnings
    assert last(parts).record["standing"]["split"] == (4 if changes else 2)


@pytest.mark.slow
def test_a_resumed_run_that_was_split_is_the_undisturbed_one(tiny_run, without_drift, monkeypatch):
    setting = {**BATCH, "max_train_steps": 5, "use_ema": True, "lora_dropout": 0.3, **ROLLOUT}
    Small(monkeypatch, rows=2, without=1)
    whole, halves = tiny_run(FLOW, "whole", **setting), tiny_run(FLOW, "halves", **setting)
    assert train(whole) == 0
    assert train(halves, listen=at_step(3, lambda: halves.send("stop-and-save"))) == 0
    assert train(halves, resume=True) == 0
    assert_same(whole, halves)
    assert last(halves).record["standing"] == last(whole).record["standing"]


@pytest.mark.slow
def test_a_rollout_alone_that_does_not_fit_takes_portions_and_says_so_once(tiny_run, without_drift, monkeypatch):
    setting = {**BATCH, **ROLLOUT, "scheduled_sampling_probability": 1.0, "split_on_out_of_memory": False}
    whole, small = tiny_run(FLOW, "whole", **setting), tiny_run(FLOW, "small", **setting)
    assert train(whole) == 0
    memory = Small(monkeypatch, without=1)
    assert train(small) == 0
    assert losses(small) == pytest.approx(losses(whole), abs=1e-5)
    told = [event["message"] for event in events(small, "warning") if "rollout of all rows" in event["message"]]
    assert len(told) == 1 and "portions of 1 row." in told[0]
    assert {rows for has_gradient, rows in memory.asked if has_gradient} == {4}, "the training pass stays whole"
    asked = sum(rows for _, rows in memory.asked)
    assert sum(event["network_rows"] for event in events(small, "step")) == asked, "what failed is not counted"
    assert last(small).record["standing"]["split"] == 1


def test_where_it_may_not_split_or_a_single_row_is_too_much_it_ends_with_what_each_way_saves(
    tiny_run, without_drift, monkeypatch
):
    run, single = tiny_run(FLOW, "off", **BATCH, split_on_out_of_memory=False), tiny_run(FLOW, "single", **BATCH)
    Small(monkeypatch, rows=0)
    for each in (run, single):
        assert train(each) == 70
        error = events(each, "error")[-1]
        assert "The memory is full (OutOfMemoryError: CUDA out of memory" in error["message"]
        assert "train_batch_size 1 instead of 4 (" in error["remedy"] and "gradient_checkpointing on" in error["remedy"]
    config = read_config(run.config_path)
    wide = with_changes(config, {"train_batch_size": 256})
    facts = known_facts(config.model)
    ways = ways_to_need_less(wide, facts)
    saved = (
        memory_estimate(wide, facts).total.likely
        - memory_estimate(with_changes(wide, {"train_batch_size": 1}), facts).total.likely
    )
    assert (
        f"train_batch_size 1 instead of 256 (about {saved / 2**20:.0f} MiB less; with gradient_accumulation_steps 256"
        in ways
    )
    assert " less" not in ways_to_need_less(wide)


@pytest.mark.slow
def test_two_ranks_split_together_when_one_of_them_is_full(tiny_run, without_drift, monkeypatch):
    whole, parts = tiny_run(FLOW, "whole", **BATCH), tiny_run(FLOW, "parts", **BATCH)
    assert train(whole) == 0
    Small(monkeypatch, rows=1, rank="0")
    assert as_ranks(monkeypatch, parts) == [0, 0]
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)
    assert last(parts).record["standing"]["split"] == 2


def test_portions_halve_until_they_fit_and_stay_so():
    portions, sizes = Portions(), []

    def answer(rows):
        sizes.append(rows.stop - rows.start)
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(8))[rows]

    assert [*chain(*portions.ask(8, answer))] == list(range(8)) and portions.most == 2
    sizes.clear()
    assert [*chain(*portions.ask(5, answer))] == list(range(5)) and sizes == [2, 2, 1]
    assert portions.ask(0, lambda rows: "asked once") == ["asked once"]
    with pytest.raises(ValueError, match="another error"):
        portions.ask(4, lambda rows: (_ for _ in ()).throw(ValueError("another error")))
    with pytest.raises(torch.OutOfMemoryError):
        portions.ask(1, lambda rows: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))


def test_after_a_job_that_ran_out_of_memory_the_queue_starts_the_next(tmp_path):
    worker = (
        "import sys; from rollout_studio.core.runs.folder import RunDir; run = RunDir(sys.argv[1]); print(run.name, flush=True)\n"
        "with run.lock():\n"
        "    run.emit('error', message='The memory is full', remedy='', traceback='')\n"
        "    run.emit('end', state='failed', step=0, message='OutOfMemoryError'); run.write_state(state='failed')\n"
        "sys.exit(70)"
    )
    store = RunStore(tmp_path, worker=(sys.executable, "-c", worker))
    for name in ("large", "next"):
        store.create(config_from_flat({}), name)
        store.enqueue(name)
    assert store.pump() == ["large"]
    until = time.monotonic() + 20
    while store.summary("large").alive and time.monotonic() < until:
        time.sleep(0.02)
    assert store.pump() == ["next"] and store.summary("large").state == "failed"
