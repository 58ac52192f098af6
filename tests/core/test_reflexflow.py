"""ReflexFlow's two terms, the loss of a row put together, and what rollout costs and blurs."""

import pytest
import torch
from oracles import PATHS, Gaussian, grid_for, random_pair
from rollout_studio.core.before.cost import (
    blur_factor,
    expected_cost,
    offset_distribution,
    plain_step_in_forwards,
    rollout_cost,
)
from rollout_studio.core.config import RolloutConfig, config_from_flat
from rollout_studio.core.maths.grid import FlowPath
from rollout_studio.core.maths.noise import RectifiedFlow
from rollout_studio.core.maths.reflexflow import (
    Reflex,
    anti_drift,
    frequency_weight,
    is_on,
    is_two_pass,
    starts_at_the_drawn_time,
)
from rollout_studio.core.maths.rollout import plan_offsets, rollout
from rollout_studio.core.maths.row_loss import row_losses as losses_of_rows
from rollout_studio.core.maths.row_loss import squared_error
from rollout_studio.core.maths.solvers import make_solver

NORMS = ["max", "mean", "l2", "l1"]
ON = {"max_step_offset": 3, "probability": 1.0}


def tensors(count, shape=(4, 2, 3, 5), seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draws) for _ in range(count)]


def reflex(output, rows=(1, 3), seed=3, **options):
    """ReflexFlow on two of four rows, single-pass: the biased prediction is the training output."""
    u_clean, xr, x0 = tensors(3, seed=seed)
    rows = torch.tensor(rows)
    config = RolloutConfig(**ON, **options)
    return Reflex.of(config, rows, u_rolled=output[rows], u_clean=u_clean[rows], xr=xr[rows], x0=x0[rows])


def row_losses(output, target, reflex=None, mask=None, **more):
    """The loss of every row, with ReflexFlow's terms."""
    terms = None if reflex is None else reflex.terms(len(output), mask)
    return losses_of_rows(output, target, mask=mask, terms=terms, **more)


# --- anti-drift rectification ---


def test_anti_drift_is_zero_for_the_consistent_velocity_and_four_for_its_opposite():
    """The sign trap: with the paper's data-ward x0 - xr both would be the other way round."""
    xr, x0 = tensors(2)
    torch.testing.assert_close(anti_drift((xr - x0) / 0.3, xr, x0), torch.zeros(4))
    torch.testing.assert_close(anti_drift(x0 - xr, xr, x0), torch.full((4,), 4.0))


def test_anti_drift_is_twice_one_minus_the_cosine_and_blind_to_length():
    u, xr, x0 = tensors(3)
    cosine = torch.cosine_similarity(u.flatten(1), (xr - x0).flatten(1))
    torch.testing.assert_close(anti_drift(u, xr, x0), 2 * (1 - cosine))
    torch.testing.assert_close(
        anti_drift(u * torch.tensor([1.0, 7, 0.1, 3]).reshape(4, 1, 1, 1), xr, x0), 2 * (1 - cosine)
    )


def test_anti_drift_masks_inside_both_norms():
    u, xr, x0 = tensors(3)
    mask = torch.zeros(4, 1, 3, 5)
    mask[..., :2] = 1
    part = [a[..., :2] for a in (u, xr, x0)]
    torch.testing.assert_close(anti_drift(u, xr, x0, mask), anti_drift(*part))


def test_anti_drift_of_a_zero_velocity_is_finite_with_a_finite_gradient():
    u, xr, x0 = tensors(3)
    u = torch.zeros_like(u).requires_grad_()
    loss = anti_drift(u, xr, x0)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.ones(4))
    assert u.grad.isfinite().all()


def test_the_gradient_of_anti_drift_flows_through_the_prediction_only():
    u, xr, x0 = (a.requires_grad_() for a in tensors(3))
    anti_drift(u, xr, x0).sum().backward()
    assert u.grad.abs().max() > 0 and xr.grad is None and x0.grad is None


# --- frequency compensation ---


@pytest.mark.parametrize(("norm", "size"), [
    ("max", lambda d: d.abs().amax()), ("mean", lambda d: d.abs().mean()), ("l2", lambda d: d.norm()), ("l1", lambda d: d.abs().sum()),
])  # fmt: skip
def test_the_weight_is_one_plus_the_data_ward_bias_over_its_norm(norm, size):
    rolled, clean = tensors(2)
    weight = frequency_weight(rolled, clean, 0.5, norm)
    for row in range(4):
        bias = clean[row] - rolled[row]
        torch.testing.assert_close(weight[row], (1 + 0.5 * bias / size(bias)).clamp_min(0))


def test_max_keeps_weights_within_alpha_of_one_and_larger_strengths_are_clamped_at_zero():
    rolled, clean = tensors(2)
    weight = frequency_weight(rolled, clean, 0.7, "max")
    assert weight.min() >= 0.3 - 1e-6 and weight.max() <= 1.7 + 1e-6
    assert weight.max() - weight.min() > 0.7
    assert frequency_weight(rolled, clean, 5.0, "max").min() == 0


@pytest.mark.parametrize("norm", NORMS)
def test_no_bias_means_weight_one(norm):
    u = tensors(1)[0]
    assert torch.equal(frequency_weight(u, u, 1.0, norm), torch.ones_like(u))


@pytest.mark.parametrize("norm", NORMS)
def test_the_weight_carries_no_gradient(norm):
    rolled, clean = (a.requires_grad_() for a in tensors(2))
    assert not frequency_weight(rolled, clean, 1.0, norm).requires_grad


@pytest.mark.parametrize(("norm", "same"), [("max", True), ("mean", True), ("l2", False), ("l1", False)])
def test_tiling_a_latent_leaves_the_loss_unchanged_with_max_and_mean(norm, same):
    def loss(tiling):
        output, target, u_clean, xr, x0 = (a.repeat(1, 1, *tiling) for a in tensors(5))
        rows = torch.arange(4)
        config = RolloutConfig(**ON, reflexflow_norm=norm)
        return row_losses(
            output, target, reflex=Reflex.of(config, rows, u_rolled=output, u_clean=u_clean, xr=xr, x0=x0)
        )

    assert torch.allclose(loss((1, 1)).total, loss((2, 2)).total, rtol=1e-5) == same
    torch.testing.assert_close(loss((1, 1)).extra, loss((2, 2)).extra)


def test_l1_is_in_effect_off_on_a_latent_of_real_size_and_the_log_shows_it():
    output, target, u_clean, xr, x0 = tensors(5, (1, 4, 64, 64))

    def spread(norm):
        config = RolloutConfig(**ON, reflexflow_norm=norm)
        part = Reflex.of(config, torch.tensor([0]), u_rolled=output, u_clean=u_clean, xr=xr, x0=x0)
        return row_losses(output, target, reflex=part).reported["frequency_weight_std"]

    assert spread("l1") < 1e-3
    assert 0.1 < spread("max") < spread("mean")


# --- the loss of a row ---


def plain(output, target):
    return squared_error(output, target).flatten(1).mean(1)


@pytest.mark.parametrize("norm", NORMS)
def test_alpha_0_beta1_0_beta2_1_is_bit_for_bit_the_loss_without_reflexflow(norm):
    results = []
    for on in (False, True):
        output, target = (a.requires_grad_() for a in tensors(2))
        off = reflex(output, reflexflow_alpha=0.0, reflexflow_beta1=0.0, reflexflow_beta2=1.0, reflexflow_norm=norm)
        weights = torch.tensor([1.0, 0.3, 2.0, 0.7])
        parts = row_losses(output, target, timestep_weight=weights, reflex=off if on else None)
        parts.total.mean().backward()
        results.append((parts.total.detach(), output.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_without_weights_the_loss_is_the_plain_mean():
    output, target = tensors(2)
    assert torch.equal(row_losses(output, target).total, plain(output, target))


def test_plain_rows_have_no_anti_drift_weight_one_and_no_beta2():
    output, target = tensors(2)
    parts = row_losses(output, target, reflex=reflex(output, rows=(1, 3), reflexflow_beta2=5.0))
    expected = plain(output, target)
    assert torch.equal(parts.total[[0, 2]], expected[[0, 2]]) and torch.equal(parts.extra[[0, 2]], torch.zeros(2))
    assert (parts.total[[1, 3]] != expected[[1, 3]]).all() and (parts.extra[[1, 3]] > 0).all()


def test_a_rolled_row_is_beta2_times_the_weighted_loss_plus_beta1_times_anti_drift():
    output, target = tensors(2)
    on = reflex(output, rows=(1, 3), reflexflow_alpha=0.6, reflexflow_beta1=4.0, reflexflow_beta2=0.25)
    parts = row_losses(output, target, reflex=on)
    weight = frequency_weight(output[[1, 3]], on.u_clean, 0.6, "max")
    weighted = (weight * squared_error(output, target)[[1, 3]]).flatten(1).mean(1)
    torch.testing.assert_close(parts.main[[1, 3]], 0.25 * weighted)
    torch.testing.assert_close(parts.extra[[1, 3]], 4.0 * anti_drift(output[[1, 3]], on.xr, on.x0))
    assert parts.reported["frequency_weight_std"] == pytest.approx(float(weight.flatten(1).std(1, correction=0).mean()))


@pytest.mark.parametrize("change", [
    {"reflexflow_alpha": 0.5}, {"reflexflow_beta1": 1.0}, {"reflexflow_beta2": 2.0}, {"reflexflow_norm": "mean"},
    {"reflexflow_norm": "l2"}, {"reflexflow_norm": "l1"},
])  # fmt: skip
def test_every_strength_changes_the_loss_of_a_rolled_row(change):
    output, target = tensors(2)
    base, changed = (row_losses(output, target, reflex=reflex(output, **options)).total for options in ({}, change))
    assert (base != changed).tolist() == [False, True, False, True]


def test_timestep_weights_multiply_the_main_part_only_and_the_prior_weight_the_whole_row():
    output, target = tensors(2)
    on = reflex(output)
    bare = row_losses(output, target, reflex=on)
    by_time = torch.tensor([0.5, 2.0, 3.0, 0.25])
    timed = row_losses(output, target, reflex=on, timestep_weight=by_time)
    torch.testing.assert_close(timed.main, bare.main * by_time)
    assert torch.equal(timed.extra, bare.extra)
    prior = row_losses(
        output, target, reflex=on, timestep_weight=by_time, prior_weight=torch.tensor([1.0, 0.1, 0.1, 1.0])
    )
    torch.testing.assert_close(prior.total, timed.total * torch.tensor([1.0, 0.1, 0.1, 1.0]))


def test_the_weight_multiplies_any_elementwise_loss_before_mask_and_mean():
    output, target = tensors(2)
    mask = (torch.arange(5) < 3).float().expand(4, 1, 3, 5)

    def huber(a, b):
        return torch.nn.functional.huber_loss(a, b, reduction="none", delta=0.1)

    on = reflex(output, rows=(0, 1, 2, 3), reflexflow_beta1=0.0)
    parts = row_losses(output, target, elementwise=huber, mask=mask, reflex=on)
    weight = frequency_weight(output[..., :3], on.u_clean[..., :3], 1.0, "max")  # the mask acts in its norm, too
    torch.testing.assert_close(parts.total, (weight * huber(output[..., :3], target[..., :3])).flatten(1).mean(1))


def test_the_logged_parts_add_up_to_the_mean_loss():
    output, target = tensors(2)
    parts = row_losses(output, target, reflex=reflex(output), prior_weight=torch.tensor([1.0, 1.0, 0.3, 0.3]))
    logged = parts.logged(torch.tensor([False, False, True, True]))
    assert logged.keys() == {"main", "adr", "prior"} and all(value > 0 for value in logged.values())
    assert sum(logged.values()) == pytest.approx(float(parts.total.mean()), rel=1e-5)
    assert parts.logged()["prior"] == 0


def test_the_main_loss_moves_the_training_output_alone_and_anti_drift_the_prediction_at_the_rolled_state():
    """As in the paper's mode, where the two are different passes; the clean prediction moves by neither."""
    u_source, u_clean, target, u_rolled, xr, x0 = (a.requires_grad_() for a in tensors(6))
    rows = torch.arange(4)
    both = Reflex.of(RolloutConfig(**ON), rows, u_rolled=u_rolled, u_clean=u_clean, xr=xr, x0=x0)
    parts = row_losses(u_source, target, reflex=both)
    main_to, adr_to = (torch.autograd.grad(part.sum(), (u_source, u_rolled, u_clean), allow_unused=True, retain_graph=True)
                       for part in (parts.main, parts.extra))  # fmt: skip
    assert main_to[0] is not None and main_to[1] is None and main_to[2] is None
    assert adr_to[0] is None and adr_to[1].abs().max() > 0 and adr_to[2] is None


def test_a_consistent_prediction_has_zero_anti_drift_at_the_rolled_state():
    """Zero at the oracle: a network that hits the consistent target has neither loss left."""
    path = RectifiedFlow()
    x0, noise = random_pair((4, 3, 4, 5))
    grid = grid_for(path)
    plan = plan_offsets(torch.tensor([0.2, 0.4, 0.6, 0.5]), torch.tensor([1, 2, 3, 4]), path, grid)
    xr = rollout(Gaussian().predict, x0, noise, plan, grid, path, make_solver("unipc")).x
    u = (xr - x0) / plan.target.like(xr).sigma
    parts = row_losses(u, u, reflex=Reflex.of(RolloutConfig(**ON), plan.rows, u_rolled=u, u_clean=u + 1, xr=xr, x0=x0))
    torch.testing.assert_close(parts.total, torch.zeros(4), atol=1e-5, rtol=0)


# --- when it is on ---


def test_unset_means_on_for_flow_models_when_scheduled_sampling_is_active():
    flow, vp = PATHS["flow"], PATHS["vp"]
    assert is_on(RolloutConfig(**ON), flow) and not is_on(RolloutConfig(**ON), vp)
    assert not is_on(RolloutConfig(), flow) and not is_on(RolloutConfig(reflexflow=True), flow)
    assert not is_on(RolloutConfig(**ON, reflexflow=False), flow)
    assert is_on(RolloutConfig(**ON, reflexflow=True), flow)


def test_asking_for_it_on_another_model_is_refused():
    with pytest.raises(ValueError, match="flow models only"):
        is_on(RolloutConfig(**ON, reflexflow=True), PATHS["vp"])


def test_the_mode_option_asks_for_two_passes():
    assert not is_two_pass(RolloutConfig(**ON), PATHS["flow"])
    assert is_two_pass(RolloutConfig(**ON, reflexflow_mode="paper"), PATHS["flow"])
    assert not is_two_pass(RolloutConfig(**ON, reflexflow=False, reflexflow_mode="paper"), PATHS["flow"])
    control = RolloutConfig(**ON, reflexflow_mode="paper", control="source_noise")
    assert not is_two_pass(control, PATHS["flow"]) and starts_at_the_drawn_time(control, PATHS["flow"])


# --- cost and blur ---


def source_of(sigma, k, steps=30, shift=3.0):
    path, grid = PATHS["flow"], grid_for(PATHS["flow"], steps, shift)
    return plan_offsets(torch.tensor([sigma]), torch.tensor([k]), path, grid)


@pytest.mark.parametrize(
    ("k", "consistent", "original"),
    [(1, 0.89, 0.89), (2, 0.78, 0.79), (3, 0.69, 0.70), (5, 0.52, 0.55), (10, 0.21, 0.29)],
)
def test_the_blur_factor_has_known_values(k, consistent, original):
    """30 steps, shift 3, target sigma .75 (docs/mathematics.md, "Blur limit")."""
    plan = source_of(0.75, k)
    assert blur_factor(plan.source, plan.target) == pytest.approx(consistent, abs=0.006)
    assert blur_factor(plan.source, plan.target, "original") == pytest.approx(original, abs=0.006)


def test_blur_is_weak_at_low_noise_and_absent_without_rollout():
    at = FlowPath().at
    assert blur_factor(at(0.525), at(0.5)) == pytest.approx(0.95, abs=0.005)
    assert blur_factor(at(0.325), at(0.3)) == pytest.approx(0.98, abs=0.005)
    for regression in ("consistent", "original"):
        assert blur_factor(at(0.4), at(0.4), regression) == pytest.approx(1.0)


@pytest.mark.parametrize("regression", ["consistent", "original"])
def test_the_blur_factor_is_the_slope_that_a_regression_on_rolled_states_finds(regression):
    path, oracle = PATHS["flow"], Gaussian(0.0, 1.0)
    x0, noise = random_pair((200_000, 1), dtype=torch.float64)
    source, target = path.at(torch.tensor([0.9])), path.at(torch.tensor([0.75]))
    xr = oracle.flow(path.noised(x0, noise, source), source, target)
    goal = (xr - x0) / target.sigma if regression == "consistent" else noise - x0
    slope = (xr * goal).sum() / xr.square().sum()
    x0_hat = 1 - target.sigma * slope  # per unit of xr
    perfect = target.alpha / oracle.v(target)
    assert blur_factor(source, target, regression) == pytest.approx(float(x0_hat / perfect), abs=0.01)


def test_the_blur_of_the_original_target_is_refused_off_the_flow():
    level = PATHS["vp"].at(torch.tensor([500.0]))
    with pytest.raises(ValueError, match="rectified flow only"):
        blur_factor(level, level, "original")


@pytest.mark.parametrize(("m", "p", "c", "n", "relative"), [
    (10, 1.0, 2, 5.91, 3.95), (10, 1.0, 3, 5.91, 2.97), (3, 1.0, 2, 2.25, 2.12), (2, 1.0, 3, 1.67, 1.56), (1, 0.5, 2, 0.50, 1.25),
])  # fmt: skip
def test_the_cost_has_known_values(m, p, c, n, relative):
    """ReflexFlow single-pass with euler (docs/mathematics.md, "Cost of a step")."""
    cost = expected_cost(RolloutConfig(max_step_offset=m, probability=p, sampler="euler"), c, reflexflow=True)
    assert cost.forwards_mean == pytest.approx(n, abs=0.01) and cost.relative_time == pytest.approx(relative, abs=0.01)
    assert cost.forwards_max == m + 1
    assert str(cost).startswith(f"up to {m + 1} extra forwards per row, about {cost.relative_time:.2f} times")


def test_the_cost_counts_evaluations_guidance_strategy_ramp_and_mode():
    def mean(reflexflow=False, **options):
        return expected_cost(RolloutConfig(**ON | options), 2.0, reflexflow).forwards_mean

    assert mean() == 1.5 and mean(sampler="rk4") == 6.0
    assert mean(guidance=3.0) == 3.0
    assert mean(strategy="biased_early") < 1.5 < mean(strategy="biased_late")
    assert mean(ramp_steps=10, prob_end=0.5) == 0.75
    assert mean(reflexflow=True) == 2.25
    # every chosen row: a second gradient pass and one forward on the clean state; the step costs no forward of its own
    assert mean(reflexflow=True, reflexflow_mode="paper") == 1 + 2
    assert (
        expected_cost(RolloutConfig()).relative_time == 1 and str(expected_cost(RolloutConfig())) == "no extra forwards"
    )
    assert expected_cost(RolloutConfig(**ON), probability=0.0).relative_time == 1
    assert [
        plain_step_in_forwards(*kind) for kind in (("lora", False), ("lora", True), ("full", False), ("full", True))
    ] == [2, 3, 3, 4]


def test_the_cost_of_a_run_averages_its_ramp():
    ramp = {"scheduled_sampling_max_step_offset": 3, "scheduled_sampling_ramp_steps": 1000, "max_train_steps": 1000,
            "scheduled_sampling_prob_end": 0.5, "pretrained_model_name_or_path": "demo-epsilon"}  # fmt: skip
    cost = rollout_cost(config_from_flat(ramp))
    assert cost.mean_forwards == pytest.approx(0.25 * 1.5, rel=0.01) and cost.most_forwards == 3
    assert cost.mean_ratio == pytest.approx(1 + 0.25 * 1.5 / 2, rel=0.01)
    assert cost.peak_ratio == pytest.approx(1 + 0.5 * 1.5 / 2, rel=0.01)
    flow = rollout_cost(config_from_flat(ramp | {"pretrained_model_name_or_path": "demo-flow"}))
    assert flow.mean_forwards == pytest.approx(0.25 * 2.25, rel=0.01) and flow.most_forwards == 4


@pytest.mark.parametrize(("strategy", "mean"), [("uniform", 1 / 2), ("biased_early", 1 / 3), ("biased_late", 2 / 3)])
def test_offset_distributions_sum_to_one_and_have_the_stated_means(strategy, mean):
    for maximum in (1, 2, 10, 50):
        chances = offset_distribution(strategy, maximum)
        assert len(chances) == maximum + 1 and sum(chances) == pytest.approx(1) and min(chances) > 0
    assert sum(k * chance for k, chance in enumerate(chances)) / 50 == pytest.approx(mean, abs=0.01)
    assert offset_distribution(strategy, 0) == [1.0]
