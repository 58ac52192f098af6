"""The noise path: the two closed forms, the conversions between predictions, and what is refused."""

import pytest
import torch
from oracles import PATHS, PREDICTION_TYPES, random_pair, stable_diffusion_abar
from rollout_studio.core.maths.noise import (
    Level,
    RectifiedFlow,
    VariancePreserving,
    consistent_target,
    prediction_from_output,
    target_output,
)

TIMES = {"flow": torch.tensor([0.3, 0.85]), "vp": torch.tensor([120.0, 731.25])}


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_the_true_output_implies_the_true_pair(name, kind):
    path, (x0, noise) = PATHS[name], random_pair(dtype=torch.float64)
    level = path.at(TIMES[name])
    implied = prediction_from_output(target_output(x0, noise, level, kind), path.noised(x0, noise, level), level, kind)
    torch.testing.assert_close(implied.x0_hat, x0)
    torch.testing.assert_close(implied.noise_hat, noise)
    torch.testing.assert_close(implied.velocity, noise - x0)


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_any_output_implies_a_pair_that_makes_up_the_state(name, kind):
    path, (x, output) = PATHS[name], random_pair(seed=1, dtype=torch.float64)
    level = path.at(TIMES[name])
    implied = prediction_from_output(output, x, level, kind)
    torch.testing.assert_close(path.noised(implied.x0_hat, implied.noise_hat, level), x)


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_the_consistent_target_implies_the_true_clean_image_at_any_state(name, kind):
    path, (x0, anywhere) = PATHS[name], random_pair(seed=2, dtype=torch.float64)
    level = path.at(TIMES[name])
    target = consistent_target(anywhere, x0, level, kind)
    torch.testing.assert_close(prediction_from_output(target, anywhere, level, kind).x0_hat, x0)


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_at_the_plain_state_the_consistent_target_is_the_plain_target(name, kind):
    path, (x0, noise) = PATHS[name], random_pair(dtype=torch.float64)
    level = path.at(TIMES[name])
    at_plain = consistent_target(path.noised(x0, noise, level), x0, level, kind)
    torch.testing.assert_close(at_plain, target_output(x0, noise, level, kind))


def test_v_is_alpha_noise_minus_sigma_x0_and_u_is_noise_minus_x0():
    x0, noise = random_pair()
    level = Level(torch.zeros(2), torch.tensor([0.6, 0.8]), torch.tensor([0.8, 0.6]))
    v = target_output(x0, noise, level, "v_prediction")
    torch.testing.assert_close(v[1], 0.8 * noise[1] - 0.6 * x0[1])
    torch.testing.assert_close(target_output(x0, noise, level, "flow_matching"), noise - x0)


def test_rectified_flow_has_alpha_one_minus_sigma_and_t_is_sigma():
    level = RectifiedFlow().at(torch.tensor([0.0, 0.25, 1.0]))
    assert level.sigma.tolist() == level.t.tolist() == [0.0, 0.25, 1.0]
    assert level.alpha.tolist() == [1.0, 0.75, 0.0]
    assert level.lam.tolist() == [float("inf"), pytest.approx(1.0986, abs=1e-4), float("-inf")]


def test_variance_preserving_meets_the_table_at_whole_timesteps():
    abar = stable_diffusion_abar()
    level = PATHS["vp"].at(torch.tensor([0.0, 1.0, 500.0, 999.0]))
    torch.testing.assert_close(level.alpha, abar[[0, 1, 500, 999]].sqrt())
    torch.testing.assert_close(level.sigma, (1 - abar[[0, 1, 500, 999]]).sqrt())


def test_between_timesteps_the_level_lies_between_and_on_the_circle():
    whole, between = (PATHS["vp"].at(torch.tensor(t)) for t in ([500.0, 501.0], [500.25]))
    assert whole.sigma[0] < between.sigma[0] < whole.sigma[1]
    torch.testing.assert_close(between.alpha**2 + between.sigma**2, torch.ones(1, dtype=torch.float64))


def test_a_table_that_ends_at_zero_signal_stays_finite_between_timesteps():
    abar = torch.cat([stable_diffusion_abar()[:-1], torch.zeros(1)])
    level = VariancePreserving(abar).at(torch.tensor([998.5, 999.0]))
    assert 0 < level.alpha[0] < abar[998].sqrt() and level.alpha[1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_the_ode_time_is_inverted(name):
    path = PATHS[name]
    level = path.at(TIMES[name])
    back = path.at_ode_time(path.ode_time(level))
    for field in ("t", "alpha", "sigma"):
        torch.testing.assert_close(getattr(back, field), getattr(level, field))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_are_float32_whatever_the_network_answers_in(dtype):
    x0, noise = (a.to(dtype) for a in random_pair())
    level = RectifiedFlow().at(torch.tensor([0.3, 0.9]))
    assert RectifiedFlow().noised(x0, noise, level).dtype == torch.float32
    assert prediction_from_output(x0, noise, level, "flow_matching").x0_hat.dtype == torch.float32
    assert target_output(x0, noise, level, "flow_matching").dtype == torch.float32


def test_each_row_has_its_own_level():
    x0, noise = random_pair()
    path = RectifiedFlow()
    both = path.noised(x0, noise, path.at(torch.tensor([0.2, 0.9])))
    for row, t in enumerate([0.2, 0.9]):
        alone = path.noised(x0[row : row + 1], noise[row : row + 1], path.at(torch.tensor([t])))
        assert torch.equal(both[row : row + 1], alone)


@pytest.mark.parametrize(("name", "t"), [("flow", 1.5), ("flow", -0.1), ("vp", 1000.0), ("flow", float("nan"))])
def test_a_time_that_belongs_to_another_axis_is_refused(name, t):
    with pytest.raises(ValueError, match="must lie in 0"):
        PATHS[name].at(torch.tensor([0.5, t]))


def test_float32_rounding_beyond_the_end_is_no_error():
    assert RectifiedFlow().at(torch.tensor([1.0000001])).alpha.item() == 0.0


@pytest.mark.parametrize("table", [[[0.9, 0.5]], [0.5], [0.5, 0.9], [0.9, 0.9]])
def test_a_table_that_does_not_fall_is_refused(table):
    with pytest.raises(ValueError, match="strictly decreasing"):
        VariancePreserving(torch.tensor(table))


@pytest.mark.parametrize(("name", "kind"), [("flow", "epsilon"), ("vp", "flow_matching")])
def test_a_prediction_type_of_the_other_path_is_refused(name, kind):
    with pytest.raises(ValueError, match="path takes"):
        PATHS[name].check(kind)


def test_an_unknown_prediction_type_is_refused_everywhere():
    x0, noise = random_pair()
    level = RectifiedFlow().at(torch.tensor([0.3, 0.9]))
    for convert in (prediction_from_output, target_output, consistent_target):
        arguments = (x0, noise, level, "score")
        with pytest.raises(ValueError, match="'score'.*must be one of"):
            convert(*arguments)
