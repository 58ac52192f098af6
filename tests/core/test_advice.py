"""The advice on models whose answer is known: a perfect one, one with a bias at one band of noise, and a solver that is too coarse."""

import dataclasses
import math

import pytest
import torch
from oracles import PATHS, Gaussian, grid_for, random_pair
from rollout_studio.core.look.drift.advice import Advice, Deviation, advice_in_words, advise
from rollout_studio.core.look.drift.curve import curve_of_tables
from rollout_studio.core.look.drift.evidence import FILE, EvidenceError, Result, known_results, write_results
from rollout_studio.core.look.drift.rollouts import measure_samples
from rollout_studio.core.look.drift.settings import Settings
from rollout_studio.core.maths.noise import Prediction

ORACLE = Gaussian(mu=0.0, s=0.5)
SAMPLES = 12
SETTINGS = Settings(
    levels=(0.2, 0.35, 0.5, 0.65, 0.8), loss_levels=(), offsets=(1, 3), fine_samples=4, samples=SAMPLES, trajectory_samples=0, shown=2,
)  # fmt: skip


def measured(path, predict=ORACLE.predict, steps=30, seed=0, **changes):
    settings = dataclasses.replace(SETTINGS, grid_steps=steps, **changes)
    x0, noise = random_pair((settings.samples, 3, 16, 16), seed)
    table, rows, calls = measure_samples(
        predict, ORACLE.mu + ORACLE.s * x0, noise, path=path, prediction_type=path.prediction_types[0], grid=grid_for(path, steps),
        settings=settings, evaluations=1,
    )  # fmt: skip
    return curve_of_tables(
        [table], path, label="base", weights="base", role="held-out", pictures=SAMPLES, network_rows=rows, network_calls=calls
    )  # fmt: skip


def timid_between(low, high, by=0.85):
    """The perfect model, whose picture has too little contrast where the noise share lies between two levels."""

    def predict(x, level, rows):
        right = ORACLE.predict(x, level, rows)
        share = (level.sigma / (level.alpha + level.sigma)).reshape(-1, 1, 1, 1).to(x)
        x0 = torch.where((share > low) & (share < high), by * right.x0_hat, right.x0_hat)
        level = level.like(x)
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    return predict


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_perfect_model_has_nothing_to_gain(path):
    kinds = [advise(measured(path, seed=seed)).kind for seed in range(6)]
    assert kinds.count("nothing to gain") >= 5, kinds
    assert "Plain training" in advice_in_words(advise(measured(path)))


def test_a_bias_at_one_band_of_noise_is_the_models_and_found_there():
    found = advise(measured(PATHS["flow"], timid_between(0.4, 0.8, by=0.6)))
    assert found.kind == "model" and found.solver_share < 0.1
    # A rollout to 0.35 starts within the band; those to 0.2 and to 0.8 lie outside of it.
    assert round(found.deviations[0].share, 2) == 0.35 and found.deviations[0].value < 0
    assert not {0.2, 0.8} & {round(share, 2) for share in found.where}
    assert "The model loses it" in advice_in_words(found)


def test_a_coarse_solver_is_called_the_reason():
    found = advise(measured(PATHS["flow"], steps=4, sampler="euler", offsets=(2,)))
    assert found.kind == "solver"
    assert "no training mends that" in advice_in_words(found)


def test_too_few_samples_say_nothing():
    found = advise(measured(PATHS["flow"], samples=2, fine_samples=1))
    assert found.kind == "unknown" and "Too few samples" in advice_in_words(found)


# -- evidence -------------------------------------------------------------------------------------------------------------

LOSES = Advice("model", 0.05, (Deviation(0.35, "std_ratio", -0.1),))
GAIN = Result(
    remedy="soar", variant="SOAR, 2 states", family="sd3", prediction_type="flow_matching", model="demo-flow", place="middle",
    measure="clean_loss_middle", gain=0.02, low=0.01, high=0.03, seeds=5, comparisons=12, study="demo-big", date="2026-12-01",
)  # fmt: skip


def test_without_evidence_the_advice_is_plain_training_or_a_study():
    assert advice_in_words(LOSES, "flow_matching", []).endswith(
        "That is where a remedy could help. None of this program's has yet shown a gain at equal time in a study: train plainly, or let a study of "
        "yours decide (Runs tab, Study)."
    )


def test_a_gain_is_named_for_its_kind_of_model_and_its_noise_alone():
    said = advice_in_words(LOSES, "flow_matching", [GAIN])
    assert (
        "SOAR on demo-flow, clean loss middle at middle noise: +0.02 (+0.01 to +0.03; study demo-big, 5 seeds)" in said
    )
    for kind, result in (
        ("epsilon", GAIN),
        ("flow_matching", dataclasses.replace(GAIN, place="high")),
    ):
        assert "has yet shown a gain at equal time in a study: train" in advice_in_words(LOSES, kind, [result])
    everywhere = dataclasses.replace(GAIN, place="all")
    assert "+0.02" in advice_in_words(LOSES, "flow_matching", [everywhere])


def test_what_was_tried_without_a_gain_is_named_as_that():
    tried = dataclasses.replace(GAIN, gain=0.005, low=-0.005, high=0.015)
    said = advice_in_words(LOSES, "flow_matching", [tried])
    assert "None of this program's has yet shown a gain" in said and "tried on models of this kind: SOAR" in said


def test_the_shipped_file_can_be_read_and_results_come_back_from_it(tmp_path):
    assert isinstance(known_results(), tuple)
    file = tmp_path / "evidence.json"
    write_results([GAIN, dataclasses.replace(GAIN, remedy="mixflow")], file)
    assert known_results(file) == (GAIN, dataclasses.replace(GAIN, remedy="mixflow"))
    write_results(known_results(FILE), file)
    assert file.read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"low": 0.05}, "in this order"), ({"seeds": 2}, "below three"), ({"remedy": "sore"}, "sore"), ({"place": "top"}, "top"), ({"gain": math.nan}, "finite")],
)  # fmt: skip
def test_a_result_that_shows_nothing_is_refused(wrong, said):
    with pytest.raises(EvidenceError, match=said):
        dataclasses.replace(GAIN, **wrong)


def test_a_damaged_file_is_reported(tmp_path):
    for text in ("{", "{}", '{"format": "rollout_studio.evidence", "version": 1, "results": [{"remedy": "soar"}]}'):
        file = tmp_path / f"{len(text)}.json"
        file.write_text(text)
        with pytest.raises(EvidenceError):
            known_results(file)
