"""`scheduled_sampling_shared_offsets`: rows share draws, so that processes roll out alike; each row keeps its chances."""

import pytest
import torch
from oracles import grid_for
from rollout_studio.core.before.cost import offset_distribution, waiting, waiting_sentence
from rollout_studio.core.config import RolloutConfig, config_from_flat, idle_remarks
from rollout_studio.core.families.guidance import CLASSIFIER_FREE
from rollout_studio.core.maths.noise import RectifiedFlow
from rollout_studio.core.maths.rollout import make_plan, shared_slots
from rollout_studio.core.remedies import Ground, remedy_for
from rollout_studio.core.remedies.base import rows_of
from rollout_studio.core.train.ranks import Ranks

FLOW, P = RectifiedFlow(), "scheduled_sampling_"
BATCH = 8


def drawn(step, rows=2 * BATCH, t=0.5, **options):
    """The plan of a step of two batches; far from both ends of the schedule, so that no offset is reduced."""
    config = RolloutConfig(**{"max_step_offset": 4, "probability": 0.6, **options})
    return make_plan(config, torch.full((rows,), t), FLOW, grid_for(FLOW), step=step, seed=7, batch_size=BATCH)


@pytest.mark.parametrize(
    ("strategy", "exact_share", "shared"),
    [("uniform", False, 1), ("uniform", True, 2), ("biased_early", False, 3), ("biased_late", True, 1)],
)
def test_each_row_keeps_its_chances(strategy, exact_share, shared):
    plans = [drawn(step, strategy=strategy, exact_share=exact_share, shared_offsets=shared) for step in range(500)]
    k = torch.stack([plan.k for plan in plans])
    chances = [0.6 * chance for chance in offset_distribution(strategy, 4)]
    chances[0] += 0.4
    for offset, chance in enumerate(chances):
        assert (k == offset).double().mean(0).tolist() == pytest.approx([chance] * len(k[0]), abs=0.075)


@pytest.mark.parametrize(("world_size", "shared"), [(1, 3), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1)])
def test_all_ranks_and_all_batches_have_the_same_offsets_and_make_the_same_number_of_calls(world_size, shared):
    flat = {f"{P}max_step_offset": 9, f"{P}probability": 0.7, f"{P}shared_offsets": shared, "train_batch_size": BATCH}
    config = config_from_flat(flat)
    remedy = remedy_for(config, Ground(FLOW, "flow_matching", grid_for(FLOW)))
    seen = set()
    for step in range(20):
        plan = remedy.plan(torch.full((2 * BATCH,), 0.5), step=step, seed=3)
        batches = torch.arange(2 * BATCH).split(BATCH)
        mine = [rows_of(plan, rows[Ranks(rank, world_size).share]) for rows in batches for rank in range(world_size)]
        assert len({tuple(sorted(each.k.tolist())) for each in mine}) == 1
        calls = {remedy.calls(each, CLASSIFIER_FREE) for each in mine}
        assert len(calls) == 1
        seen |= calls
    assert len(seen) > 3


def test_without_it_every_row_draws_as_ever_and_ranks_differ():
    alone, unlike = RolloutConfig(max_step_offset=4, probability=0.6), 0
    for step in range(8):
        k = make_plan(alone, torch.full((16,), 0.5), FLOW, grid_for(FLOW), step=step, seed=7).k
        assert torch.equal(drawn(step, shared_offsets=0).k, k)
        unlike += k[:BATCH:2].tolist() != k[1:BATCH:2].tolist()
    assert unlike > 4


@pytest.mark.parametrize("shared", range(1, BATCH + 1))
def test_draws_are_dealt_to_runs_of_neighbours_as_evenly_as_can_be(shared):
    slots = shared_slots(2 * BATCH, BATCH, shared).tolist()
    assert slots[:BATCH] == slots[BATCH:] == sorted(slots[:BATCH])
    counts = [slots[:BATCH].count(slot) for slot in range(shared)]
    assert sum(counts) == BATCH and max(counts) - min(counts) <= 1


def test_an_exact_share_of_shared_draws_is_exact_over_the_rows():
    counts = {int((drawn(s, exact_share=True, probability=0.5, shared_offsets=4, max_step_offset=1000, t=0.9).drawn_k > 0).sum()) for s in range(50)}  # fmt: skip
    assert counts <= {8, 4}  # two of four draws, each of four rows; an offset of 0 is drawn once in 1000


def test_of_more_offsets_than_rows_each_row_of_a_batch_has_its_own_and_the_batches_are_alike():
    slots = shared_slots(2 * BATCH, BATCH, 20).tolist()
    assert slots[:BATCH] == slots[BATCH:] and len(set(slots)) == BATCH and max(slots) < 20


def test_the_mode_paper_draws_for_each_row():
    paper = {f"{P}max_step_offset": 1, f"{P}probability": 0.5, f"{P}reflexflow_mode": "paper", "model_family": "sd3"}
    one, other = (config_from_flat({**paper, f"{P}shared_offsets": n, "train_batch_size": 8}) for n in (0, 2))
    assert any("shared_offsets" in remark for remark in idle_remarks(other))
    t, grid = torch.full((8,), 0.5), grid_for(FLOW)
    plans = [make_plan(each.rollout, t, FLOW, grid, step=1, seed=2, batch_size=8) for each in (one, other)]
    assert torch.equal(plans[0].k, plans[1].k) and 0 < int(plans[0].k.sum()) < 8


# --- what the processes wait for ---


def asked(ranks, **options):
    flat = {"max_step_offset": 10, "probability": 1.0, "sampler": "euler", **options}
    return config_from_flat({
        **{P + name: value for name, value in flat.items()},
        "train_batch_size": ranks, "num_processes": ranks,
    })  # fmt: skip


def test_independent_offsets_make_ranks_wait_as_the_largest_of_uniform_draws():
    """One row a rank: E[max of n draws from 0..10] = 5.0, 6.8, 8.3, 9.2."""
    found = [waiting(asked(ranks)) for ranks in (1, 2, 4, 8)]
    assert [round(each.of_all, 1) for each in found] == [5.0, 6.8, 8.3, 9.2]
    assert {round(each.of_one, 3) for each in found} == {5.0}


@pytest.mark.parametrize(
    ("exact_share", "shared", "strategy"),
    [(False, 0, "biased_late"), (True, 0, "uniform"), (False, 2, "uniform"), (True, 2, "biased_late")],
)
def test_what_is_told_of_the_longest_rollout_is_what_plans_have(exact_share, shared, strategy):
    options = {"max_step_offset": 4, "probability": 0.4, "exact_share": exact_share, "shared_offsets": shared, "strategy": strategy}  # fmt: skip
    flat = {P + name: value for name, value in {**options, "sampler": "rk4"}.items()}
    told = waiting(config_from_flat({**flat, "train_batch_size": BATCH, "num_processes": 4, "gradient_accumulation_steps": 2}))  # fmt: skip
    plans = [drawn(step, **options) for step in range(500)]
    k = 4 * torch.stack([plan.k[:BATCH] for plan in plans]).double()
    assert told.of_all == pytest.approx(float(k.amax(1).mean()), rel=0.08)
    assert told.of_one == pytest.approx(float(k[:, 0::4].amax(1).mean()), rel=0.08)
    assert (told.of_one == told.of_all) == (shared == 2)


def test_the_sentence_is_about_several_processes_that_roll_out():
    assert waiting_sentence(asked(1)) == "" == waiting_sentence(asked(2, probability=0.0))
    assert "6.8 evaluations on average, where that of one process alone takes 5.0" in waiting_sentence(asked(2))
    assert "5.0 evaluations on average, in each of the 2 processes alike" in waiting_sentence(asked(2, shared_offsets=1))  # fmt: skip
