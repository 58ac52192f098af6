"""Corrections while sampling, against their formulas on Gaussian data, whose best answers and exact flow are known."""

import dataclasses

import pytest
import torch
from oracles import PATHS, PREDICTION_TYPES, Gaussian, grid_for, random_pair
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.look.drift.corrected import corrected, told_level
from rollout_studio.core.look.drift.correction import UNCORRECTED, SamplingCorrection, correction_of
from rollout_studio.core.look.drift.curve import curve_of_tables
from rollout_studio.core.look.drift.rollouts import measure_samples
from rollout_studio.core.look.drift.settings import Settings, settings_record
from rollout_studio.core.look.drift.states import output_of
from rollout_studio.core.look.preview.request import PreviewRequest, showcase
from rollout_studio.core.maths.noise import Prediction, prediction_from_output

ORACLE = Gaussian(mu=0.2, s=0.5)
ROWS = torch.arange(4)
SETTINGS = Settings(
    levels=(0.3, 0.5), loss_levels=(0.5,), offsets=(1, 3), fine_samples=2, samples=4, trajectory_samples=2, shown=3
)
NEUTRAL = [
    SamplingCorrection(correction="epsilon_scaling", epsilon_scale=1.0),
    SamplingCorrection(correction="shifted_time", time_window=0.0),
]


def scaling(scale: float) -> SamplingCorrection:
    return SamplingCorrection(correction="epsilon_scaling", epsilon_scale=scale)


def shifting(window: float, cutoff: float = 0.0) -> SamplingCorrection:
    return SamplingCorrection(correction="shifted_time", time_window=window, time_cutoff=cutoff)


def states(path, share: float, oracle: Gaussian = ORACLE, rows: int = 4):
    """(states, level) of Gaussian pictures at a part of the path's times."""
    x0, noise = random_pair((rows, 3, 16, 18), dtype=torch.float64)
    level = path.at(torch.full((rows,), share * path.t_max, dtype=torch.float64))
    return path.noised(oracle.mu + oracle.s * x0, noise, level), level


def curve(predict, path, kind, correction=UNCORRECTED, oracle: Gaussian = ORACLE):
    x0, noise = random_pair((4, 3, 6, 8))
    settings = dataclasses.replace(SETTINGS, correction=correction)
    table, rows, calls = measure_samples(
        predict, oracle.mu + oracle.s * x0, noise, path=path, prediction_type=kind, grid=grid_for(path), settings=settings,
        evaluations=1, exact_flow=oracle.flow,
    )  # fmt: skip
    return curve_of_tables(
        [table], path, label="a", weights="tuned", role="held-out", pictures=4, network_rows=rows, network_calls=calls
    )


def drifts(found) -> list[float]:
    """What the model adds to the exact flow: of the fine rollouts."""
    return [point.measures["model"].value for point in found.short]


def own_states(found) -> list[float]:
    """Of the coarse rollouts and of the trajectory, with the outputs there."""
    short = [point.measures[name].value for point in found.short for name in ("distance", "cos_truth")]
    return short + [point.measures["distance"].value for point in found.trajectory]


# Epsilon scaling -------------------------------------------------------------------------------------------------------


def overestimating(path, factor: float):
    """A model of noise whose answer is the best one times `factor`."""

    def predict(x, level, rows):
        return prediction_from_output(ORACLE.predict(x, level).noise_hat * factor, x, level, "epsilon")

    return predict


def test_the_noise_is_divided_and_the_picture_follows_from_it():
    path = PATHS["vp"]
    x, level = states(path, 0.6)
    answer = corrected(ORACLE.predict, scaling(1.04), path, "epsilon")(x, level, ROWS)
    v = ORACLE.v(level).reshape(-1, 1, 1, 1)
    alpha, sigma = (part.reshape(-1, 1, 1, 1) for part in (level.alpha, level.sigma))
    noise_hat = sigma / v * (x - alpha * ORACLE.mu) / 1.04
    assert torch.allclose(answer.noise_hat, noise_hat, rtol=1e-12)
    assert torch.allclose(answer.x0_hat, (x - sigma * noise_hat) / alpha, rtol=1e-12)


def test_a_model_that_overestimates_the_noise_by_a_factor_is_exact_when_it_is_divided_by_it():
    path = PATHS["vp"]
    perfect, biased = curve(ORACLE.predict, path, "epsilon"), curve(overestimating(path, 1.05), path, "epsilon")
    right = curve(overestimating(path, 1.05), path, "epsilon", scaling(1.05))
    wrong = curve(overestimating(path, 1.05), path, "epsilon", scaling(0.96))
    assert drifts(right) == pytest.approx(drifts(perfect), rel=1e-3, abs=1e-6)
    assert own_states(right) == pytest.approx(own_states(perfect), abs=1e-5)
    assert own_states(biased) != pytest.approx(own_states(perfect), abs=1e-3)
    strengths = [[point.measures["norm_ratio"].value for point in each.short] for each in (right, perfect)]
    assert strengths[0] == pytest.approx([each / 1.05 for each in strengths[1]], rel=1e-5), (
        "of the corrected answer at the own state, against the uncorrected one at the true state"
    )
    for too_much, far, fine in zip(drifts(wrong), drifts(biased), drifts(right), strict=True):
        assert too_much > far > 3 * fine


@pytest.mark.parametrize(("name", "kind"), [each for each in PREDICTION_TYPES if each[1] != "epsilon"])
def test_epsilon_scaling_is_refused_where_no_noise_is_predicted(name, kind):
    with pytest.raises(ConfigError, match="shifted_time") as refused:
        curve(ORACLE.predict, PATHS[name], kind, scaling(1.01))
    assert refused.value.faults[0].options == ("correction",)


# Shifted time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_told_level_is_the_one_whose_noise_has_the_variance_of_the_state(path):
    """Data N(0, s^2): Var(x) = alpha^2 s^2 + sigma^2 = sigma(tau)^2."""
    oracle = Gaussian(mu=0.0, s=0.3)
    x, level = states(path, 0.7, oracle)
    told, shifted = told_level(x, level, path, shifting(0.5))
    assert shifted.all()
    assert torch.allclose(told.sigma, x.flatten(1).var(1).sqrt(), rtol=1e-5)
    assert torch.allclose(
        told.sigma**2, oracle.v(level), rtol=0.15
    )  # of 864 elements: four standard errors of a variance are 19 %


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_it_lies_within_the_window_and_only_above_the_cutoff(path):
    x, level = states(path, 0.7, Gaussian(mu=0.0, s=3.0))  # far more variance than any level has
    told, shifted = told_level(x, level, path, shifting(0.01))
    assert shifted.all() and torch.allclose(told.t, level.t + 0.01 * path.t_max)
    told, _ = told_level(0.01 * x, level, path, shifting(0.01))
    assert torch.allclose(told.t, level.t - 0.01 * path.t_max)
    told, shifted = told_level(x, level, path, shifting(0.01, cutoff=0.71))
    assert not shifted.any() and torch.equal(told.sigma, level.sigma)


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_the_output_of_the_told_level_is_used_at_the_nominal_one(name, kind):
    path = PATHS[name]
    x, level = states(path, 0.7)
    correction = shifting(0.03)
    answer = corrected(ORACLE.predict, correction, path, kind)(x, level, ROWS)
    told, _ = told_level(x, level, path, correction)
    output = output_of(ORACLE.predict(x, told), told, kind)
    assert torch.allclose(output_of(answer, level, kind), output, rtol=1e-9, atol=1e-9)
    implied = level.like(x).alpha * answer.x0_hat + level.like(x).sigma * answer.noise_hat
    assert torch.allclose(implied, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "kind"), PREDICTION_TYPES)
def test_a_model_that_takes_its_time_for_a_cleaner_one_is_exact_when_it_is_told_a_noisier_one(name, kind):
    """Data of a variance above that of any noise: the rule finds the end of the window, which is what this model's time is wrong by."""
    path, window, wide = PATHS[name], 0.04, Gaussian(mu=0.2, s=1.5)

    def late(x, level, rows):
        nominal = path.at((level.t.double() - window * path.t_max).clamp(0.0, path.t_max))
        output = output_of(wide.predict(x, nominal), nominal, kind)
        return prediction_from_output(output, x, level, kind)

    found = {
        "perfect": curve(wide.predict, path, kind, oracle=wide),
        "late": curve(late, path, kind, oracle=wide),
        "told": curve(late, path, kind, shifting(window), oracle=wide),
    }
    perfect, biased, told = (drifts(each) for each in found.values())
    assert told == pytest.approx(perfect, rel=0.02, abs=2e-5)
    assert all(far > 2 * near for far, near in zip(biased, told, strict=True))


# Both --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "correction"), [("vp", NEUTRAL[0]), ("vp", NEUTRAL[1]), ("flow", NEUTRAL[1]), ("flow", UNCORRECTED)]
)
def test_the_neutral_setting_is_the_identity_bit_for_bit(name, correction):
    path = PATHS[name]
    kind = path.prediction_types[0]
    assert corrected(ORACLE.predict, correction, path, kind) == ORACLE.predict
    assert curve(ORACLE.predict, path, kind, correction) == curve(ORACLE.predict, path, kind)


@pytest.mark.parametrize("correction", [scaling(1.03), shifting(0.03)], ids=lambda each: each.label)
def test_it_costs_no_forward_and_leaves_the_true_path_alone(correction):
    path = PATHS["vp"]
    plain, found = curve(ORACLE.predict, path, "epsilon"), curve(ORACLE.predict, path, "epsilon", correction)
    assert (found.network_rows, found.network_calls) == (plain.network_rows, plain.network_calls)
    assert found.clean_loss == plain.clean_loss and drifts(found) != drifts(plain)


def test_rows_below_the_cutoff_keep_their_bits():
    path = PATHS["flow"]
    x, low = states(path, 0.4)
    level = path.at(torch.tensor([0.4, 0.8, 0.4, 0.8], dtype=torch.float64))
    answer = corrected(ORACLE.predict, shifting(0.05, cutoff=0.5), path, "flow_matching")(x.float(), level, ROWS)
    plain: Prediction = ORACLE.predict(x.float(), level)
    same = [torch.equal(one, other) for one, other in zip(answer.x0_hat, plain.x0_hat, strict=True)]
    assert same == [True, False, True, False] and len(low) == 4


def test_a_report_names_the_correction_and_one_without_is_recorded_as_before():
    assert "correction" not in settings_record(SETTINGS) and repr(SETTINGS) == repr(
        dataclasses.replace(SETTINGS, correction=scaling(1.02))
    )
    record = settings_record(dataclasses.replace(SETTINGS, correction=scaling(1.02)))
    assert record["correction"] == {"correction": "epsilon_scaling", "epsilon_scale": 1.02}
    assert "divides the predicted noise by 1.02" in correction_of(record["correction"]).sentence


def test_a_request_shows_each_rollout_without_and_with_it():
    request = PreviewRequest.from_json({"image": showcase()[0], "correction": "shifted_time", "time_window": 0.1})
    assert [each.label for each in request.correction.ways] == ["", "shifted time ±0.1 above 0.5"]
    with pytest.raises(ConfigError, match="each without and with the correction: at most 6"):
        PreviewRequest.from_json(
            {"image": showcase()[0], "correction": "shifted_time", "samplers": ["euler", "dpm", "unipc", "rk4"]}
        )
    with pytest.raises(ConfigError, match="epsilon_scale = 0"):
        PreviewRequest.from_json({"image": showcase()[0], "epsilon_scale": 0})
