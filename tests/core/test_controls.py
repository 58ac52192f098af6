"""The controls of a run: what they change and what not, how the equal time is found, and that the source's noise is exactly the plan's."""

import pytest
import torch
from oracles import PATHS, grid_for
from rollout_studio.core.before import controls
from rollout_studio.core.before.controls import KINDS, PlainStep, control, controls_of, plain_step, queue_control
from rollout_studio.core.before.cost import rollout_cost
from rollout_studio.core.before.remarks import remarks
from rollout_studio.core.config import RolloutConfig, config_from_flat, config_to_flat, rollout_level_of
from rollout_studio.core.look.drift.settings import Settings
from rollout_studio.core.maths.rollout import make_plan
from rollout_studio.core.runs.errors import RunError
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.train import step as training_step
from rollout_studio.core.train.loop import train
from tiny_run import ROLLOUT, events

P = "scheduled_sampling_"
ROLLED = {
    f"{P}max_step_offset": 3,
    f"{P}probability": 0.6,
    f"{P}sampler": "dpm",
    f"{P}grid_steps": 20,
    "max_train_steps": 50,
}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path)


def written_run(store, name="mine", plain_s=0.2, rolled_s=0.5, steps=40, plain_every=2, state="done", **config):
    """A run whose steps took these seconds, after three slow ones; every so many steps nothing was rolled out (0 = never)."""
    run = store.create({**ROLLED, **config}, name)
    run.emit("start", resumed_from=None)
    for step in range(1, steps + 1):
        plain = plain_every and step % plain_every == 0
        seconds = 9.0 if step <= 3 else plain_s if plain else rolled_s
        run.emit("step", step=step, loss=1.0, rolled_rows=0 if plain else 2, rows=4, seconds=seconds)
    run.emit("end", state=state, step=steps)
    run.write_state(state=state, step=steps)
    return run


# -- the source's noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
def test_source_noise_trains_exactly_the_planned_sources_and_rolls_out_nothing(path, strategy):
    t = torch.linspace(0.01, 0.97, 500) * path.t_max
    given = {"max_step_offset": 4, "probability": 0.6, "strategy": strategy}
    rolled, moved = (
        make_plan(RolloutConfig(**given, control=control), t, path, grid_for(path), step=3, seed=5)
        for control in ("none", "source_noise")
    )
    assert not moved.rolled.any() and not moved.rows.numel()
    for part in ("t", "alpha", "sigma"):
        assert torch.equal(getattr(moved.target, part), getattr(rolled.source, part))
    assert (
        torch.equal(moved.t, rolled.t)
        and torch.equal(moved.drawn_k, rolled.drawn_k)
        and moved.probability == rolled.probability
    )
    assert (
        torch.equal(moved.at_source_noise, rolled.rolled) and not rolled.at_source_noise.any()
    )  # the rows rolled out there train at source noise here
    assert 100 < int(moved.at_source_noise.sum()) < 400


def test_a_source_noise_run_has_the_pictures_noise_and_rows_of_the_run_and_only_plain_forwards(
    tiny_run, without_drift, monkeypatch
):
    seen = {}
    batch_loss = training_step.batch_loss

    def spied(model, config, remedy, batch, plan):
        found = batch_loss(model, config, remedy, batch, plan)
        seen.setdefault(config.rollout.control, []).append(
            (batch.x0, batch.noise, plan, found.network_rows, found.network_calls)
        )
        return found

    monkeypatch.setattr(training_step, "batch_loss", spied)
    mine = tiny_run("lumina2", "mine", train_batch_size=4, **ROLLOUT)
    other = tiny_run("lumina2", "other", train_batch_size=4, **ROLLOUT, scheduled_sampling_control="source_noise")
    assert train(mine) == train(other) == 0
    for (x0, noise, plan, *_), (x0_other, noise_other, plan_other, rows, calls) in zip(
        seen["none"], seen["source_noise"], strict=True
    ):
        assert torch.equal(x0, x0_other) and torch.equal(noise, noise_other)
        assert torch.equal(plan.source.sigma, plan_other.target.sigma)
        assert (rows, calls) == (4, 1)
    for a, b in zip(events(mine, "step"), events(other, "step"), strict=True):
        assert (a["rolled_rows"], a["source_noise_rows"]) == (b["source_noise_rows"], b["rolled_rows"])
        assert b["loss_parts"]["adr"] == b["mean_offset"] == 0 and a["rows"] == b["rows"] == 4
    assert sum(event["source_noise_rows"] for event in events(other, "step")) > 0


def test_source_noise_costs_nothing_and_says_what_has_no_effect():
    config = config_from_flat({**ROLLED, f"{P}control": "source_noise", f"{P}guidance": 2.0})
    assert rollout_cost(config).mean_ratio == 1.0
    [said] = [remark for remark in remarks(config) if "source_noise" in remark]
    assert "scheduled_sampling_guidance" in said
    assert rollout_level_of(config) is None


# -- what a control changes ----------------------------------------------------------------------------------------------


def test_each_control_changes_only_what_it_is_about():
    config = config_from_flat({**ROLLED, "seed": 7})
    plain = PlainStep(seconds=0.2, rolled_seconds=0.4, steps=50, rolled_steps=25, measured=True, how="")
    changed = {kind: control(kind, config, plain).changes for kind in KINDS}
    assert changed == {
        "plain-steps": {f"{P}max_step_offset": 0},
        "plain-time": {f"{P}max_step_offset": 0, "max_train_steps": 75},
        "source-noise": {f"{P}control": "source_noise"},
    }
    for changes in changed.values():
        # The drift probe stays the same, so that the reports can be compared sample by sample.
        other = config_from_flat(config_to_flat(config) | changes)
        assert Settings.between_steps(other) == Settings.between_steps(config) and not other.rollout.rolls_out


def test_a_plain_run_and_a_control_have_no_controls(store):
    for number, changes in enumerate(({f"{P}max_step_offset": 0}, {f"{P}control": "source_noise"})):
        run = written_run(store, f"run-{number}", **changes)
        for kind in KINDS:
            with pytest.raises(RunError, match="Nothing is rolled out"):
                queue_control(store, run.name, kind)


# -- equal time ----------------------------------------------------------------------------------------------------------


def test_equal_time_counts_plain_and_rolled_steps_at_the_medians_of_one_process(store):
    run = written_run(store, plain_every=2)
    found = plain_step(config_from_flat(run.read_config()), follow(run))
    # the first three, slow ones do not count
    assert found.measured and (found.seconds, found.rolled_seconds) == (
        0.2,
        0.5,
    )
    assert (found.steps, found.rolled_steps, found.equal_time_steps) == (40, 20, round(20 + 20 * 0.5 / 0.2))
    assert found.problem is None


def test_steps_that_something_else_slowed_do_not_change_the_equal_time(store):
    quiet = written_run(store, "quiet", steps=60)
    run = written_run(store, steps=20)
    for step in range(21, 61):
        slowed = 30.0 if step in (31, 32, 33, 34) else 1.0  # a minute in which the machine did something else
        plain = step % 2 == 0
        run.emit(
            "step", step=step, loss=1.0, rolled_rows=0 if plain else 2, rows=4, seconds=slowed * (0.2 if plain else 0.5)
        )
    config = config_from_flat(run.read_config())
    assert plain_step(config, follow(run)).equal_time_steps == plain_step(config, follow(quiet)).equal_time_steps


def test_both_kinds_come_from_one_process_because_the_machine_is_not_the_same_in_another(store):
    """Rolled steps of a slow day beside plain ones of a fast day would give too many steps."""
    run = written_run(store, steps=40)
    run.emit("start", resumed_from=40)
    for step in range(41, 61):
        run.emit("step", step=step, loss=1.0, rolled_rows=2, rows=4, seconds=5.0)
    found = plain_step(config_from_flat(run.read_config()), follow(run))
    assert (found.seconds, found.rolled_seconds, found.steps, found.rolled_steps) == (0.2, 0.5, 60, 40)


def test_without_both_kinds_in_one_process_the_ratio_is_estimated_by_the_cost_and_marked(store):
    run = written_run(store, plain_every=0)
    config = config_from_flat(run.read_config())
    found = plain_step(config, follow(run))
    assert (
        not found.measured
        and "estimated" in found.how
        and found.seconds == pytest.approx(0.5 / rollout_cost(config).mean_ratio)
    )
    assert found.run_seconds == pytest.approx(0.5) and found.equal_time_steps == round(
        40 * rollout_cost(config).mean_ratio
    )


@pytest.mark.parametrize("rolled_s", [0.19, 0.2])
def test_equal_time_is_never_fewer_steps_than_the_run_had(store, rolled_s):
    run = written_run(store, rolled_s=rolled_s)
    found = plain_step(config_from_flat(run.read_config()), follow(run))
    assert found.problem is None and found.equal_time_steps == 40


@pytest.mark.parametrize(("rolled_s", "forwards", "calls"), [
    (0.1, None, None),  # rolled steps that take less time than plain ones
    (0.2, 5.0, 7.0),  # four more forwards for each row, and no time for them
    (2.0, 1.5, 3.0),  # two more calls, and eight more steps' time
])  # fmt: skip
def test_a_ratio_that_the_rollout_cannot_explain_is_refused_with_the_reason(store, rolled_s, forwards, calls):
    run = store.create(ROLLED, "mine")
    run.emit("start", resumed_from=None)
    for step in range(1, 41):
        plain = step % 2 == 0
        written_run = (
            {}
            if forwards is None
            else {"network_rows": 4 if plain else 4 * forwards, "network_calls": 1 if plain else calls}
        )
        run.emit(
            "step",
            step=step,
            loss=1.0,
            rolled_rows=0 if plain else 2,
            rows=4,
            seconds=0.2 if plain else rolled_s,
            **written_run,
        )
    run.emit("end", state="done", step=40)
    run.write_state(state="done", step=40)
    with pytest.raises(
        RunError, match=r"Equal time cannot be computed: a rolled step of this run took .* quiet machine"
    ):
        queue_control(store, "mine", "plain-time")
    queue_control(store, "mine", "plain-steps")


def test_a_ratio_that_the_forwards_explain_is_taken(store):
    """Two further calls for half of the rows: a step of 2 + 1 to 2 + 2 forwards where a plain one is 2."""
    run = store.create(ROLLED, "mine")
    run.emit("start", resumed_from=None)
    for step in range(1, 41):
        plain = step % 2 == 0
        run.emit("step", step=step, loss=1.0, rolled_rows=0 if plain else 2, rows=4, seconds=0.2 if plain else 0.33,
                 network_rows=4 if plain else 8, network_calls=1 if plain else 3)  # fmt: skip
    found = plain_step(config_from_flat(run.read_config()), follow(run))
    assert found.problem is None and found.equal_time_steps == round(20 + 20 * 0.33 / 0.2)


def test_a_run_that_has_not_ended_gets_no_equal_time(store):
    written_run(store, state="running")
    with pytest.raises(RunError, match="must have ended"):
        queue_control(store, "mine", "plain-time")
    queue_control(store, "mine", "plain-steps")  # needs no seconds


def test_the_clock_of_a_resumed_run_counts_each_step_once(store):
    run = written_run(store, steps=10, plain_every=0)
    run.emit("start", resumed_from=6)
    for step in range(7, 11):
        run.emit("step", step=step, rolled_rows=1, seconds=1.0)
    series = follow(run).series
    assert (
        series.clock_at(0) == 0
        and series.clock_at(6) == pytest.approx(27 + 1.5)
        and series.clock_at(10) == pytest.approx(32.5)
    )
    assert [len(pace.rolled) for pace in follow(run).paces] == [7, 1]  # after each start the first three are slow


# -- in the store --------------------------------------------------------------------------------------------------------


def test_a_control_waits_in_the_queue_with_a_clear_name_and_knows_its_run(store):
    run = written_run(store)
    for kind in KINDS:
        made, planned = queue_control(store, "mine", kind)
        summary = store.summary(made.name)
        assert (made.name, summary.state, summary.control, summary.control_of) == (
            f"mine-{kind}",
            "queued",
            kind,
            "mine",
        )
        assert made.read_config() == {**run.read_config(), **planned.changes}
    assert [job.run for job in store.queue()] == [f"mine-{kind}" for kind in KINDS]
    assert {kind: each.name for kind, each in controls_of(store.summary("mine"), store.list()).items()} == {
        kind: f"mine-{kind}" for kind in KINDS
    }
    with pytest.raises(RunError, match="is this control already"):
        queue_control(store, "mine", "plain-steps")


def test_a_control_that_failed_may_be_queued_again_and_a_retried_one_stays_a_control(store):
    written_run(store)
    made, _ = queue_control(store, "mine", "plain-steps")
    store.dequeue(made.name)
    made.emit("start")
    made.write_state(state="failed")
    assert store.retry(made.name).name == "mine-plain-steps-2"
    found = controls_of(store.summary("mine"), store.list())["plain-steps"]
    assert (found.name, found.control_of) == ("mine-plain-steps-2", "mine")
    other = store.clone(made.name, "changed", {"seed": 1})
    assert store.summary(other).control is None  # with changes it controls nothing


def test_a_long_name_leaves_room_for_the_kind(store):
    written_run(store, "m" * 64)
    made, _ = queue_control(store, "m" * 64, "source-noise")
    assert len(made.name) <= 64 and made.name.endswith("-source-noise")


def test_the_controls_of_a_deleted_run_are_not_those_of_another_of_its_name(store):
    written_run(store)
    queue_control(store, "mine", "plain-steps")
    store.delete("mine")
    written_run(store)
    assert controls_of(store.summary("mine"), store.list()) == {}


def test_reading_controls_loads_no_torch():
    import subprocess
    import sys

    code = f"import sys; import {controls.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
