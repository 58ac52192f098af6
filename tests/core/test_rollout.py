"""Plan and the batched rollout, and that every scheduled sampling option does what it says."""

import pytest
import torch
from oracles import PATHS, PREDICTION_TYPES, Gaussian, grid_for, random_pair, true_pair, vp_times
from rollout_studio.core.before.cost import offset_distribution
from rollout_studio.core.config import RolloutConfig
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.noise import RectifiedFlow, consistent_target, prediction_from_output, target_output
from rollout_studio.core.maths.rollout import (
    draw_offsets,
    make_plan,
    plan_from_noise,
    plan_offsets,
    roll_out,
    rollout,
    training_target,
    undisturbed,
)
from rollout_studio.core.maths.solvers import SOLVERS, make_solver
from rollout_studio.core.randomness import generator

ALL = [(name, order) for name, kind in SOLVERS.items() for order in (kind.orders or (2,))]
FLOW = RectifiedFlow()
ON = {"max_step_offset": 3, "probability": 1.0}


def plan_with(rows=4096, step=0, seed=7, t=0.5, **options):
    """A plan of many rows at one time on the 30-step flow grid."""
    return make_plan(RolloutConfig(**options), torch.full((rows,), t), FLOW, grid_for(FLOW), step=step, seed=seed)


def some_plan(path, k=(0, 1, 3, 7), shift=3.0):
    """Four rows with their own times and offsets, well inside the grid."""
    t = torch.tensor([0.11, 0.35, 0.62, 0.4]) * path.t_max
    return plan_offsets(t, torch.tensor(k), path, grid := grid_for(path, shift=shift)), grid


# --- plan ---


def test_the_source_is_k_whole_steps_noisier_and_the_target_is_the_time_as_drawn():
    t = torch.tensor([0.123456789, 0.6])
    plan = plan_offsets(t, torch.tensor([2, 5]), FLOW, grid := grid_for(FLOW))
    assert torch.equal(plan.t, t) and torch.equal(plan.target.t, t.double())
    assert grid.index(plan.source.t) == pytest.approx(grid.index(t) - plan.k.numpy())
    assert (plan.source.sigma > plan.target.sigma).all()


def test_fractional_timesteps_stay_fractional_on_the_variance_preserving_path():
    plan = plan_offsets(torch.tensor([500.25]), torch.tensor([1]), PATHS["vp"], Grid(vp_times(1000 - 1)))
    assert plan.target.t.item() == 500.25 and plan.source.t.item() == pytest.approx(501.25)


def test_a_source_beyond_the_noisiest_node_is_brought_in_by_reducing_k():
    grid = Grid(torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]))
    plan = plan_offsets(torch.tensor([0.6, 0.3, 0.95, 0.9]), torch.tensor([4, 9, 3, 2]), FLOW, grid)
    assert plan.k.tolist() == [1, 3, 0, 0]
    assert plan.drawn_k.tolist() == [4, 9, 3, 2]
    assert plan.source.t.tolist() == pytest.approx([0.8, 0.9, 0.95, 0.9])


def test_a_source_with_less_signal_than_alpha_002_is_brought_in_by_reducing_k():
    grid = Grid(torch.tensor([1.0, 0.99, 0.97, 0.9, 0.8]))
    assert plan_offsets(torch.tensor([0.8]), torch.tensor([4]), FLOW, grid).k.tolist() == [2]


def test_a_float32_time_on_a_node_keeps_its_whole_way():
    """The node itself is float64: rounding may put the time a little above it, and the source beyond the first node."""
    grid = Grid(torch.linspace(0.95, 0.0, 1001, dtype=torch.float64))
    index = torch.arange(1, 1000)
    t = torch.from_numpy(grid.nodes)[index].float()
    assert (grid.index(t) < index.numpy()).any()
    assert torch.equal(plan_offsets(t, index, FLOW, grid).k, index)
    assert torch.equal(plan_from_noise(t, FLOW, grid).k, index)


def test_offsets_towards_clean_are_refused():
    with pytest.raises(ValueError, match="at least 0 grid steps"):
        plan_offsets(torch.tensor([0.5]), torch.tensor([-1]), FLOW, grid_for(FLOW))


def test_max_step_offset_bounds_the_offsets_and_is_reached():
    for maximum in (1, 4, 9):
        plan = plan_with(max_step_offset=maximum, probability=1.0)
        assert plan.k.min() == 0 and plan.k.max() == maximum
    assert not plan_with(max_step_offset=0, probability=1.0).rolled.any()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_probability_is_the_share_of_rows_that_are_chosen(probability):
    plan = plan_with(max_step_offset=1, probability=probability)
    assert plan.probability == probability
    # half of the chosen draw k = 0
    assert float(plan.rolled.double().mean()) == pytest.approx(probability / 2, abs=0.03)


def test_the_ramp_sets_the_probability_of_a_step():
    def at(step, **options):
        base = {"max_step_offset": 3, "prob_start": 0.1, "prob_end": 0.9, "ramp_steps": 100}
        return plan_with(rows=4, step=step, **base | options).probability

    assert [at(0), at(50), at(100), at(500)] == pytest.approx([0.1, 0.5, 0.9, 0.9])
    assert at(25, ramp_shape="cosine") < at(25) == pytest.approx(0.3)
    assert at(50, start_step=50) == pytest.approx(0.1) and at(100, start_step=50) == pytest.approx(0.5)
    assert at(50, ramp_steps=200) == pytest.approx(0.3)
    assert at(50, prob_start=0.0) == pytest.approx(0.45) and at(50, prob_end=0.3) == pytest.approx(0.2)
    assert at(0, prob_start=0.0) == 0.0
    assert at(50, probability=1.0) == pytest.approx(0.5)


def test_without_a_ramp_nothing_rolls_before_start_step():
    options = ON | {"start_step": 10}
    assert not plan_with(step=9, **options).rolled.any()
    assert plan_with(step=10, **options).rolled.any()


@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
def test_offsets_follow_the_distribution_of_the_strategy(strategy):
    rows, maximum = 20_000, 5
    plan = plan_with(rows=rows, max_step_offset=maximum, probability=1.0, strategy=strategy)
    shares = torch.bincount(plan.k, minlength=maximum + 1) / rows
    torch.testing.assert_close(shares, torch.tensor(offset_distribution(strategy, maximum)), atol=0.015, rtol=0)


@pytest.mark.parametrize("min_sigma", [0.02, 0.3])
def test_rows_under_min_sigma_are_not_rolled_out(min_sigma):
    t = torch.tensor([0.01, 0.0199, 0.021, 0.29, 0.31, 0.6]).repeat(64)
    options = RolloutConfig(**ON, min_sigma=min_sigma)
    plan = make_plan(options, t, FLOW, grid_for(FLOW), step=0, seed=1)
    assert set(t[plan.rolled].tolist()) == {value for value in t.tolist() if value >= min_sigma}


def test_a_plan_depends_on_seed_step_and_micro_step_and_on_nothing_else():
    def draw(**where):
        where = {"step": 3, "seed": 5, "index": 0} | where
        return make_plan(RolloutConfig(**ON), torch.full((64,), 0.5), FLOW, grid_for(FLOW), **where).k.tolist()

    before = torch.get_rng_state()
    assert draw() == draw()
    assert len({tuple(draw(**other)) for other in ({}, {"step": 4}, {"seed": 6}, {"index": 1})}) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
def test_who_is_rolled_out_and_how_far_come_from_a_stream_each(strategy):
    options = {"max_step_offset": 5, "probability": 0.3, "strategy": strategy}
    drawn = plan_with(rows=300, step=4, seed=9, **options).drawn_k
    chosen = torch.rand(300, generator=generator(9, 4, "mask"), dtype=torch.float64) < 0.3
    assert torch.equal(drawn, torch.where(chosen, draw_offsets(strategy, 5, 300, generator(9, 4, "k")), 0))


@pytest.mark.parametrize("strategy", ["biased_early", "biased_late"])
def test_chosen_rows_are_rolled_out_as_far_as_the_strategy_says_however_few_are_chosen(strategy):
    """From one stream, the rows that draw a low number for being chosen would draw a low one for their offset too."""
    rows, maximum = 40_000, 5
    drawn = plan_with(rows=rows, max_step_offset=maximum, probability=0.3, strategy=strategy).drawn_k
    shares = torch.bincount(drawn, minlength=maximum + 1)[1:] / (0.3 * rows)
    torch.testing.assert_close(shares, torch.tensor(offset_distribution(strategy, maximum)[1:]), atol=0.02, rtol=0)


def test_who_rolls_does_not_depend_on_how_far():
    near, far = (plan_with(max_step_offset=k, probability=0.5).drawn_k for k in (200, 201))
    agree = (near > 0) == (far > 0)
    assert agree.double().mean() > 0.98  # but for offsets drawn as 0


# --- rollout ---


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ALL)
def test_the_true_pair_lands_exactly(name, order, path, shift):
    """The strongest invariant: every solver, order, offset, path and shift."""
    path = PATHS[path]
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    for k in ((0, 1, 3, 7), (5, 5, 5, 5), (9, 0, 2, 1)):
        plan, grid = some_plan(path, k, shift)
        assert plan.k.tolist() == list(k)
        rolled = rollout(true_pair(x0, noise), x0, noise, plan, grid, path, make_solver(name, order))
        torch.testing.assert_close(rolled.x, path.noised(x0, noise, plan.target), atol=1e-9, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ALL)
def test_the_true_pair_lands_in_float32_too(name, order, path):
    path = PATHS[path]
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(path)
    rolled = rollout(true_pair(x0, noise), x0, noise, plan, grid, path, make_solver(name, order))
    torch.testing.assert_close(rolled.x, path.noised(x0, noise, plan.target), atol=2e-5, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ALL)
def test_mixed_offsets_in_one_batch_equal_the_stacked_single_rows(name, order, path):
    path, oracle = PATHS[path], Gaussian()
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    plan, grid = some_plan(path, (3, 0, 7, 1))
    together = rollout(oracle.predict, x0, noise, plan, grid, path, make_solver(name, order)).x
    for row in range(4):
        one = slice(row, row + 1)
        single = plan_offsets(plan.t[one], plan.k[one], path, grid)
        alone = rollout(oracle.predict, x0[one], noise[one], single, grid, path, make_solver(name, order)).x
        torch.testing.assert_close(together[one], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "order"), ALL)
@pytest.mark.parametrize("k", [(3, 0, 7, 1), (2, 2, 2, 2), (0, 0, 0, 0)])
def test_the_network_is_called_on_the_rows_in_flight_only(name, order, k):
    sizes, solver = [], make_solver(name, order)

    def predict(x, level, rows):
        sizes.append(len(x))
        assert len(x) == len(level) == len(rows)
        return Gaussian().predict(x, level)

    plan, grid = some_plan(FLOW, k)
    rolled = rollout(predict, *random_pair((4, 3, 4, 5)), plan, grid, FLOW, solver)
    assert rolled.calls == len(sizes) == solver.calls_per_step * max(k)
    assert rolled.rows_evaluated == sum(sizes) == solver.calls_per_step * sum(k)


@pytest.mark.parametrize("path", PATHS)
def test_a_long_rollout_on_gaussian_data_follows_the_exact_flow(path):
    path, oracle = PATHS[path], Gaussian()
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    plan, grid = some_plan(path, (0, 1, 3, 7), shift=1.0)
    rolled = rollout(oracle.predict, x0, noise, plan, grid, path, make_solver("rk4"))
    exact = oracle.flow(path.noised(x0, noise, plan.source), plan.source, plan.target)
    torch.testing.assert_close(rolled.x, exact, atol=1e-4, rtol=0)


def test_rows_see_their_own_time_and_place():
    plan, grid = some_plan(FLOW, (1, 0, 2, 1))
    seen = []

    def predict(x, level, rows):
        seen.append(dict(zip(rows.tolist(), level.t.tolist(), strict=True)))
        return Gaussian().predict(x, level)

    rollout(predict, *random_pair((4, 3, 4, 5)), plan, grid, FLOW, make_solver("euler"))
    times = [[float(grid.time(plan.index[row] - back)) for back in (0, 1, 2)] for row in range(4)]
    assert seen[0] == pytest.approx({2: times[2][2]})
    assert seen[1] == pytest.approx({0: times[0][1], 2: times[2][1], 3: times[3][1]})


def test_plain_rows_are_the_plain_state_bit_for_bit():
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(FLOW, (0, 4, 0, 2))
    rolled = rollout(Gaussian().predict, x0, noise, plan, grid, FLOW, make_solver("unipc"))
    plain = FLOW.noised(x0, noise, FLOW.at(plan.t))
    assert torch.equal(rolled.x[[0, 2]], plain[[0, 2]])
    assert not torch.equal(rolled.x[[1, 3]], plain[[1, 3]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_state_is_float32_whatever_the_network_computes_in(dtype):
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(FLOW)
    x0, noise = x0.to(dtype), noise.to(dtype)

    def predict(x, level, rows):
        assert x.dtype == level.t.dtype == torch.float32
        implied = Gaussian().predict(x, level)
        return type(implied)(implied.x0_hat.to(dtype), implied.noise_hat.to(dtype))

    for name in SOLVERS:
        assert rollout(predict, x0, noise, plan, grid, FLOW, make_solver(name)).x.dtype == torch.float32
    exactly = rollout(true_pair(x0, noise), x0, noise, plan, grid, FLOW, make_solver("euler")).x
    torch.testing.assert_close(exactly, FLOW.noised(x0, noise, plan.target), atol=1e-5, rtol=0)


def test_random_state_train_flags_and_gradient_mode_are_as_before():
    network = torch.nn.Sequential(
        torch.nn.Dropout(0.5), torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Dropout(0.5))
    )
    network.train()
    network[1][1].eval()  # a part that was frozen on purpose stays so
    plan, grid = some_plan(FLOW)
    seen = []

    def predict(x, level, rows):
        torch.rand(3)  # a network that draws
        seen.append((any(part.training for part in network.modules()), torch.is_grad_enabled()))
        return prediction_from_output(network(x), x, level, "flow_matching")

    before = torch.get_rng_state()
    x = rollout(predict, *random_pair((4, 3, 4, 5)), plan, grid, FLOW, make_solver("unipc"), modules=[network]).x
    assert torch.equal(torch.get_rng_state(), before)
    assert seen and set(seen) == {(False, False)} and not x.requires_grad and torch.is_grad_enabled()
    assert [part.training for part in network.modules()] == [True, True, True, True, False]


def test_an_error_inside_the_rollout_still_restores_everything():
    network, before = torch.nn.Dropout(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="network broke"), undisturbed(network):
        torch.rand(1)
        raise RuntimeError("network broke")
    assert network.training and torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), before)


def test_the_trajectory_holds_every_state_from_source_to_target():
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(FLOW, (2, 0, 3, 3))
    rolled = rollout(Gaussian().predict, x0, noise, plan, grid, FLOW, make_solver("unipc"), trajectory=True)
    rows = [moment.rows.tolist() for moment in rolled.trajectory]
    assert rows == [[2, 3], [2, 3, 0], [2, 3, 0], [2, 3, 0]]
    first, last = rolled.trajectory[0], rolled.trajectory[-1]
    torch.testing.assert_close(first.x, FLOW.noised(x0, noise, plan.source)[[2, 3]])
    assert torch.equal(last.x, rolled.x[[2, 3, 0]]) and torch.equal(last.level.t, plan.target.t[[2, 3, 0]])
    assert last.prediction is None
    for moment in rolled.trajectory[:-1]:
        torch.testing.assert_close(moment.prediction.x0_hat, Gaussian().predict(moment.x, moment.level).x0_hat)


@pytest.mark.parametrize("path", PATHS)
def test_a_start_at_noise_uses_the_noise_alone_and_uses_the_whole_grid(path):
    path = PATHS[path]
    x0, noise = random_pair(dtype=torch.float64)
    grid = grid_for(path, steps=120, shift=1.0)
    plan = plan_from_noise(torch.from_numpy(grid.nodes)[[120, 75]], path, grid)
    assert plan.k.tolist() == [120, 75]
    rolled = rollout(
        Gaussian().predict, x0, noise, plan, grid, path, make_solver("unipc"), trajectory=True, start="noise"
    )
    assert torch.equal(rolled.trajectory[0].x, noise[:1]) and len(rolled.trajectory) == 121
    exact = Gaussian().flow(noise, plan.source, plan.target)
    torch.testing.assert_close(rolled.x, exact, atol=0.03, rtol=0)


def test_sampler_and_order_choose_the_solver_of_the_training_rollout():
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    plan, grid = some_plan(FLOW)
    results = {}
    for name, order in ALL:
        config = RolloutConfig(**ON, sampler=name, order=order)
        rolled = roll_out(config, Gaussian().predict, x0, noise, plan, grid, FLOW)
        direct = rollout(Gaussian().predict, x0, noise, plan, grid, FLOW, make_solver(name, order))
        assert torch.equal(rolled.x, direct.x) and rolled.calls == direct.calls
        results[name, order] = rolled.x[3]
    different = {
        key: value for key, value in results.items() if key != ("dpm", 1)
    }  # on Gaussian flow data dpm 1 is euler
    values = list(different.values())
    assert all((a - b).abs().max() > 1e-7 for i, a in enumerate(values) for b in values[:i])


def test_no_rolled_row_means_no_call():
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(FLOW, (0, 0, 0, 0))
    rolled = roll_out(RolloutConfig(**ON), None, x0, noise, plan, grid, FLOW)
    assert rolled.calls == rolled.rows_evaluated == 0
    assert torch.equal(rolled.x, FLOW.noised(x0, noise, FLOW.at(plan.t)))


# --- target ---


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_target_chooses_what_a_rolled_row_regresses_to_and_leaves_plain_rows_alone(name, kind):
    path = PATHS[name]
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    plan, grid = some_plan(path, (0, 1, 3, 7))
    xr = rollout(Gaussian().predict, x0, noise, plan, grid, path, make_solver("unipc")).x
    plain = target_output(x0, noise, plan.target, kind)
    original, consistent = (
        training_target(RolloutConfig(target=target), xr, x0, noise, plan, kind)
        for target in ("original", "consistent")
    )
    assert torch.equal(original, plain) and torch.equal(consistent[0], plain[0])
    torch.testing.assert_close(consistent[1:], consistent_target(xr, x0, plan.target, kind)[1:])
    assert kind == "sample" or (consistent - original)[1:].abs().amax((1, 2, 3)).min() > 1e-3
    implied = prediction_from_output(consistent, xr, plan.target, kind)
    torch.testing.assert_close(implied.x0_hat, x0)


@pytest.mark.parametrize(("name", "order"), ALL)
def test_the_plan_stays_on_the_cpu_and_the_network_sees_only_the_device_of_the_latents(name, order):
    """On the meta device nothing is computed, but mixing devices raises and reading a value (a wait for a GPU) does too."""
    plan, grid = some_plan(FLOW, (3, 0, 7, 1))
    x0, noise = torch.empty(4, 3, 4, 5, device="meta"), torch.empty(4, 3, 4, 5, device="meta")
    seen = []

    def predict(x, level, rows):
        seen.append({tensor.device.type for tensor in (x, level.t, level.alpha, level.sigma, rows)})
        return prediction_from_output(x * 2, x, level, "flow_matching")

    rolled = rollout(predict, x0, noise, plan, grid, FLOW, make_solver(name, order), trajectory=True)
    assert seen and all(devices == {"meta"} for devices in seen)
    assert rolled.x.device.type == "meta" and plan.k.device.type == "cpu"
    for target in ("consistent", "original"):
        goal = training_target(RolloutConfig(target=target), rolled.x, x0, noise, plan, "flow_matching")
        assert goal.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("name", SOLVERS)
def test_a_rollout_on_the_device_equals_the_one_on_the_cpu(name):
    device = "cuda" if torch.cuda.is_available() else "mps"
    x0, noise = random_pair((4, 3, 4, 5))
    plan, grid = some_plan(FLOW)
    seen = []

    def predict(x, level, rows):
        seen.append({tensor.device.type for tensor in (x, level.t, level.alpha, rows)})
        return Gaussian().predict(x, level)

    here = rollout(predict, x0, noise, plan, grid, FLOW, make_solver(name)).x
    seen.clear()
    there = rollout(predict, x0.to(device), noise.to(device), plan, grid, FLOW, make_solver(name)).x
    assert seen and all(devices == {device} for devices in seen)
    torch.testing.assert_close(there.cpu(), here, atol=2e-5, rtol=0)
