"""Drift reports, against problems whose answer is known on paper, and on a tiny real model."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from oracles import PATHS, Gaussian, grid_for, random_pair, true_pair
from PIL import Image
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.look.drift import measure as drift
from rollout_studio.core.look.drift.comparison import Change, compare, relative_change
from rollout_studio.core.look.drift.curve import curve_of_tables
from rollout_studio.core.look.drift.files import read_report, report_from_json, report_to_csv, report_to_json, rows
from rollout_studio.core.look.drift.measure import steps_taken
from rollout_studio.core.look.drift.report import Curve, DriftReport, Measure, Point, ReportError
from rollout_studio.core.look.drift.rollouts import measure_samples, refined
from rollout_studio.core.look.drift.settings import ProbeSet, Settings, Stopped, settings_record
from rollout_studio.core.look.drift.states import Rings, effective_t, t_at_share
from rollout_studio.core.look.drift.words import summary, words
from rollout_studio.core.look.pictures.filmstrip import Frame, Strip, filmstrip, heat
from rollout_studio.core.look.pictures.strips import strips_with_base, write_strips
from rollout_studio.core.look.pictures.style import HEAT_FULL
from rollout_studio.core.maths.grid import Grid
from rollout_studio.core.maths.noise import Prediction
from rollout_studio.core.maths.rollout import plan_offsets

SETTINGS = Settings(
    levels=(0.3, 0.5), loss_levels=(0.5, 0.9), offsets=(1, 3), fine_samples=4, samples=4, trajectory_samples=3, shown=4
)
ORACLE = Gaussian(mu=0.2, s=0.5)


def gaussian_pictures(number: int, seed: int = 0, dtype=torch.float32, oracle: Gaussian = ORACLE):
    x0, noise = random_pair((number, 3, 6, 8), seed, dtype)
    return oracle.mu + oracle.s * x0, noise


def curve_of(predict, path, x0, noise, settings=SETTINGS, **more) -> Curve:
    options = {"prediction_type": path.prediction_types[0], "grid": grid_for(path), "settings": settings,
               "evaluations": 1, **more}  # fmt: skip
    table, network_rows, calls = measure_samples(predict, x0, noise, path=path, **options)
    return curve_of_tables(
        [table],
        path,
        label="tuned",
        weights="tuned",
        role="held-out",
        pictures=len(x0),
        network_rows=network_rows,
        network_calls=calls,
    )


def all_measures(curve: Curve):
    return [
        (point, name, measure)
        for point in (*curve.short, *curve.trajectory)
        for name, measure in point.measures.items()
    ]


# Numbers on oracles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_predictor_that_knows_the_pair_does_not_drift(path):
    x0, noise = gaussian_pictures(4)
    curve = curve_of(true_pair(x0, noise), path, x0, noise)
    still = {
        "distance": 0,
        "solver": 0,
        "floor_model": 0,
        "cos_clean": 1,
        "cos_truth": 1,
        "noise_shift": 0,
        "snr_shift_db": 0,
        "std_ratio": 1,
        "norm_ratio": 1,
        "low_db": 0,
        "mid_db": 0,
        "high_db": 0,
    }
    for point, name, measure in all_measures(curve):
        loose = 0.05 if name == "noise_shift" and path.t_max > 1 else 2e-3
        assert measure.value == pytest.approx(still[name], abs=loose), (name, point)
    assert all(point.measures["loss"].value == pytest.approx(0, abs=1e-9) for point in curve.clean_loss)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_perfect_gaussian_model_has_a_floor_but_no_model_part(path):
    x0, noise = gaussian_pictures(4)
    curve = curve_of(ORACLE.predict, path, x0, noise, exact_flow=ORACLE.flow)
    for point in curve.short:
        measures = point.measures
        assert measures["model"].value < 0.002 and measures["floor"].value > 0.02
        assert measures["floor_model"].value == pytest.approx(measures["floor"].value, abs=0.002)


def test_a_wrong_model_shows_in_the_model_part():
    def timid(x, level, rows):
        right = ORACLE.predict(x, level, rows)
        return Prediction(0.8 * right.x0_hat, right.noise_hat)

    x0, noise = gaussian_pictures(4)
    curve = curve_of(timid, PATHS["flow"], x0, noise, exact_flow=ORACLE.flow)
    assert all(point.measures["model"].value > 0.004 for point in curve.short)


@pytest.mark.parametrize("sampler, order", [("euler", 1), ("dpm", 2), ("unipc", 2), ("rk4", 4)])
def test_the_solver_part_falls_with_the_declared_order(sampler, order):
    """At a level where the error of none of them changes sign between the two grids."""
    x0, noise = gaussian_pictures(2, dtype=torch.float64)
    parts = []
    for steps in (20, 40):
        settings = Settings(
            sampler=sampler,
            levels=(0.4,),
            loss_levels=(),
            offsets=(2 * steps // 5,),
            fine_factor=8,
            fine_samples=2,
            trajectory_samples=0,
        )
        grid = Grid(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        (point,) = curve_of(ORACLE.predict, PATHS["flow"], x0, noise, settings, grid=grid).short
        parts.append(point.measures["solver"].value)
    assert math.log2(parts[0] / parts[1]) >= order - 0.25


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_an_exact_flow_keeps_spread_and_spectrum(path):
    """What is called free of a floor. Fine steps stand for the exact flow."""
    x0, noise = gaussian_pictures(64)
    settings = dataclasses.replace(
        SETTINGS, samples=64, fine_samples=0, trajectory_samples=64, start=0.9, grid_steps=60, offsets=(2, 6)
    )
    curve = curve_of(ORACLE.predict, path, x0, noise, settings, grid=grid_for(path, 60))
    for point in (
        *curve.short,
        *curve.trajectory[:-3],
    ):  # the last steps to almost no noise are too long for any solver
        for name, kept in (("std_ratio", 1), ("low_db", 0), ("mid_db", 0), ("high_db", 0)):
            measure = point.measures[name]
            assert abs(measure.value - kept) <= 3.5 * measure.error + (0.005 if name == "std_ratio" else 0.05), (
                name,
                point.t,
            )


def test_too_timid_a_model_narrows_the_spread():
    def timid(x, level, rows):
        right = ORACLE.predict(x, level, rows)
        return Prediction(0.5 * right.x0_hat, right.noise_hat)

    x0, noise = gaussian_pictures(16)
    curve = curve_of(timid, PATHS["flow"], x0, noise, dataclasses.replace(SETTINGS, samples=16))
    assert all(p.measures["std_ratio"].value + 2 * p.measures["std_ratio"].error < 1 for p in curve.short)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_effective_noise_level_of_a_state_of_the_pair_is_its_own(path):
    x0, noise = gaussian_pictures(5)
    t = torch.tensor([0.013, 0.2, 0.5, 0.777, 0.97], dtype=torch.float64) * path.t_max
    x = path.noised(x0, noise, path.at(t))
    assert torch.allclose(effective_t(x, x0, noise, path), t, atol=1e-4 * path.t_max)


def test_an_exact_flow_does_move_the_effective_noise_level():
    """Why it is not called free of a floor: on unit Gaussian data the exact flow from s to t lands at ((2s - 1) g + 1)
    / 2, g = sqrt(v_t / v_s)."""
    unit, path, s, t = Gaussian(0, 1), PATHS["flow"], 0.8, 0.6
    x0, noise = gaussian_pictures(400, oracle=unit)
    here, there = (path.at(torch.full((400,), value)) for value in (s, t))
    moved = effective_t(unit.flow(path.noised(x0, noise, here), here, there), x0, noise, path)
    gain = math.sqrt((t**2 + (1 - t) ** 2) / (s**2 + (1 - s) ** 2))
    assert float(moved.mean()) == pytest.approx(((2 * s - 1) * gain + 1) / 2, abs=0.005)
    assert float(moved.mean()) > t + 0.1


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_noise_share_is_found_on_every_path(path, share):
    level = path.at(torch.tensor([t_at_share(path, share)]))
    assert float(level.sigma / (level.alpha + level.sigma)) == pytest.approx(share, abs=1e-6)


def test_a_wave_has_its_power_in_its_own_ring_and_band():
    # a quarter of the sampling rate: half of Nyquist
    x = torch.cos(2 * math.pi * 3 * torch.arange(12) / 12).expand(1, 1, 8, 12)
    rings = Rings.of(8, 12, 4)
    power = rings.power(x)[0]
    assert int(power[:4].argmax()) == 1 and float(power[:4].sum() - power[1]) < 1e-9
    assert int(power[4:].argmax()) == 1  # the middle band


def test_white_noise_is_equally_strong_in_every_band_whatever_the_shape():
    for height, width in ((6, 8), (16, 24)):
        power = Rings.of(height, width, 3).power(torch.randn(400, 2, height, width))
        assert torch.allclose(power.mean(0), torch.ones(6, dtype=torch.float64), atol=0.15)


def test_the_measurement_costs_what_it_announces():
    x0, noise = gaussian_pictures(4)
    # offsets of 3 fit everywhere at these levels
    path, settings = (
        PATHS["flow"],
        dataclasses.replace(SETTINGS, start=None),
    )
    curve = curve_of(ORACLE.predict, path, x0, noise, settings)
    assert curve.network_rows == drift.expected_rows(settings, 4, 30, 1)


def test_offsets_that_do_not_fit_are_announced_as_they_are_taken():
    """So a progress bar is honest where few steps are left before a level."""
    x0, noise = gaussian_pictures(4)
    path = PATHS["flow"]
    grid = grid_for(path)
    settings = dataclasses.replace(SETTINGS, start=None, levels=(0.2, 0.9), offsets=(1, 60), loss_levels=(0.5,))
    came = []
    curve = curve_of(
        ORACLE.predict, path, x0, noise, settings, grid=grid, on_level=lambda table: came.append(list(table.short))
    )
    assert [len(keys) for keys in came] == [2, 4] and came[0][0] == (0.9, 1), "the noisiest, which is quick, first"
    assert [point.offset for point in curve.short] == [1, 60] * 2 and curve.short[0].share < curve.short[2].share
    taken = steps_taken(path, grid)
    assert taken(0.9, 1) == 1 < taken(0.9, 60) < taken(0.2, 60) < 60
    assert curve.network_rows == drift.expected_rows(settings, 4, 30, 1, taken)
    assert curve.network_rows < drift.expected_rows(settings, 4, 30, 1) / 2


def test_chunks_change_nothing():
    x0, noise = gaussian_pictures(4)
    whole, parts = (
        curve_of(ORACLE.predict, PATHS["flow"], x0, noise, dataclasses.replace(SETTINGS, rows_at_once=n))
        for n in (64, 3)
    )
    for (_, name, a), (_, _, b) in zip(all_measures(whole), all_measures(parts), strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-4), name
    assert whole.network_rows == parts.network_rows


def test_the_refined_grid_has_the_same_sources_and_targets():
    grid, path = grid_for(PATHS["flow"]), PATHS["flow"]
    t, k = torch.tensor([0.31, 0.5, 0.77]), torch.tensor([5, 1, 3])
    coarse, fine = plan_offsets(t, k, path, grid), plan_offsets(t, 4 * k, path, refined(grid, 4))
    assert torch.allclose(coarse.source.t, fine.source.t, atol=1e-9) and fine.k.tolist() == [20, 4, 12]


# The report ----------------------------------------------------------------------------------------------------------


def report_of(*curves: Curve, **fields) -> DriftReport:
    settings = json.loads(json.dumps(settings_record(SETTINGS)))
    known = {
        "model": "demo",
        "prediction_type": "flow_matching",
        "path": "rectified-flow",
        "probe": "p",
        "settings": settings,
        "step": 7,
    }
    return DriftReport(**{**known, **fields}, curves=curves)


def simple_curve(weights: str, distance, loss, role="held-out") -> Curve:
    def measure(values):
        return Measure(float(np.mean(values)), float(np.std(values)), tuple(values))

    short = (Point(0.5, 0.5, 0.5, 3, 3, {"distance": measure(distance)}),)
    losses = (Point(0.5, 0.5, 0.5, 0, 0, {"loss": measure(loss)}),)
    return Curve(weights, weights, role, len(loss), len(loss), 0, 0, short, (), losses, None, 10, 2)


@pytest.mark.parametrize(
    "drift_factor, loss_factor, kind",
    [
        (0.8, 1.1, "blur"),
        (0.8, 0.9, "less drift, better model"),
        (0.8, 1.0, "less drift"),
        (1.2, 0.9, "better model, more drift"),
        (1.2, 1.1, "more drift"),
        (1.0, 1.1, "worse model"),
        (1.0, 0.9, "better model"),
        (1.0, 1.0, "no difference"),
    ],
)
def test_drift_and_clean_loss_are_judged_together(drift_factor, loss_factor, kind):
    old, wobble = np.linspace(1, 2, 8), 1 + 0.02 * np.cos(np.arange(8))
    report = report_of(
        simple_curve("tuned", old * drift_factor * wobble, old * loss_factor * wobble), simple_curve("base", old, old)
    )
    assert summary(report)["verdict"] == kind
    said = words(report)[0]
    assert ("That is blur, not success" in said) == (kind == "blur")
    assert "%" in said and "±" in said and "held-out pictures" in said


def test_falling_drift_with_rising_clean_loss_is_reported_with_its_numbers():
    old = np.linspace(1, 2, 8)
    report = report_of(simple_curve("tuned", 0.88 * old, 1.03 * old), simple_curve("base", old, old))
    said = words(report)[0]
    assert "fell by 12.0 %" in said and "clean loss rose by 3.0 %" in said and "blur, not success" in said


def test_a_single_sample_is_reported_to_have_no_known_uncertainty():
    report = report_of(simple_curve("tuned", [0.9], [1.0]), simple_curve("base", [1.0], [1.0]))
    assert "no uncertainty known" in words(report)[0]
    assert summary(report)["verdict"] == "no difference"


def test_an_interval_holds_the_change_and_is_paired():
    """Samples differ tenfold, the change is the same in all: a paired comparison sees it exactly."""
    before = np.geomspace(1, 10, 8)
    change = relative_change(before * 0.9, before)
    assert change == Change(pytest.approx(-10), pytest.approx(-10), pytest.approx(-10))


def test_a_report_survives_json_and_holds_only_finite_numbers():
    x0, noise = gaussian_pictures(4)
    report = report_of(curve_of(ORACLE.predict, PATHS["flow"], x0, noise, exact_flow=ORACLE.flow), seconds=math.nan)
    text = report_to_json(report)
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the report"))
    assert (
        record["format"] == "rollout_studio.drift"
        and record["version"] == 1
        and record["seconds"] is None
        and record["words"]
    )
    again = report_from_json(text)
    assert json.loads(report_to_json(again))["curves"] == record["curves"] and again.settings == report.settings
    assert again.curves[0].short[0].measures["distance"].value == pytest.approx(
        report.curves[0].short[0].measures["distance"].value, rel=1e-5
    )


def test_a_model_that_answers_no_number_gets_a_report_that_says_so(tmp_path):
    def broken(x, level, rows):
        return Prediction(torch.full_like(x, math.nan), torch.full_like(x, math.nan))

    x0, noise = gaussian_pictures(4)
    whole, lost = (curve_of(predict, PATHS["flow"], x0, noise) for predict in (ORACLE.predict, broken))
    report = report_of(lost, dataclasses.replace(whole, weights="base", label="base"))
    assert any("diverged" in sentence for sentence in words(report)) and summary(report)["drift"] is None
    drift.save(report, tmp_path / "report")
    assert read_report(tmp_path / "report").curves[0].short[0].measures["distance"].value is None


def test_a_report_of_many_samples_stays_small():
    x0, noise = gaussian_pictures(100)
    settings = dataclasses.replace(
        SETTINGS, samples=100, fine_samples=100, levels=(0.2, 0.35, 0.5, 0.65, 0.8), offsets=(1, 3, 5), fine_factor=2
    )
    curve = curve_of(ORACLE.predict, PATHS["flow"], x0, noise, settings)
    report = report_of(
        curve, *(dataclasses.replace(curve, weights=w, role=r) for w, r in (("base", "held-out"), ("base", "training")))
    )
    assert len(curve.short[0].measures["distance"].values) == 64 and curve.samples == 100
    assert len(report_to_json(report).encode()) < 500_000


@pytest.mark.parametrize(
    "text, reported",
    [
        ("{", "Not JSON"),
        ('{"a": 1}', "not a drift report"),
        ('{"format": "rollout_studio.drift", "version": 99}', "format 99 of drift report"),
        ('{"format": "rollout_studio.drift", "version": 1}', "damaged"),
    ],
)
def test_what_is_no_report_is_refused_in_words(text, reported):
    with pytest.raises(ReportError, match=reported):
        report_from_json(text)


def test_the_csv_has_a_row_per_number_and_runs_no_formula():
    x0, noise = gaussian_pictures(4)
    curve = dataclasses.replace(curve_of(ORACLE.predict, PATHS["flow"], x0, noise), label="=1+1")
    report = report_of(curve)
    lines = report_to_csv(report).splitlines()
    assert len(lines) == 1 + len(list(rows(report)))
    assert lines[0].startswith("step,label,weights") and all(",'=1+1," in line for line in lines[1:])


def test_reports_of_two_solvers_stand_in_one():
    x0, noise = gaussian_pictures(4)
    made = {
        sampler: report_of(
            curve_of(ORACLE.predict, PATHS["flow"], x0, noise, dataclasses.replace(SETTINGS, sampler=sampler)),
            probe=sampler,
        )
        for sampler in ("euler", "unipc")
    }
    both = compare(list(made.items()))
    assert [curve.label for curve in both.curves] == ["euler", "unipc"]
    assert both.curves[0].at(0.5).measures["solver"].value > 5 * both.curves[1].at(0.5).measures["solver"].value
    with pytest.raises(ValueError, match="different label"):
        compare([("a", made["euler"]), ("a", made["unipc"])])


@pytest.mark.parametrize(
    "wrong", [{"levels": (1.0,)}, {"offsets": (0,)}, {"guidance": 0.5}, {"fine_offsets": (2,)}, {"shown": 1}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="must be|must lie"):
        Settings(**wrong)


# Pictures ------------------------------------------------------------------------------------------------------------


def strip_of(side: int, difference: int) -> Strip:
    grey = np.full((side, side * 3 // 4, 3), 100, np.uint8)
    frames = tuple(Frame(i, 1 - i / 4, 1 - i / 4, grey, grey + np.uint8(difference * i)) for i in range(4))
    return Strip("base", "a very long prompt " * 30, grey, frames, settings_record(SETTINGS))


@pytest.mark.parametrize("side", [64, 512])
def test_the_filmstrip_has_the_same_size_for_small_and_large_pictures(side):
    assert filmstrip(strip_of(side, 10)).size == filmstrip(strip_of(128, 10)).size


def test_equal_rows_have_a_black_difference_and_every_picture_the_same_colours():
    """The scale is fixed: a difference has one colour, whatever else a strip shows; it grows to half of full brightness, small ones visibly."""
    faint, strong = (strip_of(64, each).frames[1] for each in (2, 80))
    assert heat(strip_of(64, 0).frames[1].difference).max() < 10
    assert 60 < heat(faint.difference).astype(int).sum(-1).mean() < heat(strong.difference).astype(int).sum(-1).mean()
    light = heat(np.array([[HEAT_FULL / 4, HEAT_FULL, 1.0]])).astype(int)
    assert np.array_equal(light[0, 1], light[0, 2]) and np.abs(light[0, 1] - [252, 255, 164]).max() <= 2
    assert np.abs(light[0, 0] - [188, 55, 84]).max() <= 2  # the middle of the colours, by the square root


def test_stored_strips_come_back_with_their_pictures_and_only_from_their_own_folder(tmp_path):
    """Of a tuned model's report the base's strip is that of step 0, where both show the same."""
    base, tuned = (dataclasses.replace(strip_of(400, 20), weights=each) for each in ("base", "tuned"))
    for step, strip in ((0, base), (9, tuned)):
        (tmp_path / f"step-{step:06d}").mkdir()
        names = write_strips([strip], tmp_path / f"step-{step:06d}")
        assert len(names) == 2 + 3 * 4
    found = strips_with_base(tmp_path / "step-000009")
    assert [each["weights"] for each in found] == ["base", "tuned"] and found[0]["scale"] == HEAT_FULL
    with Image.open(found[1]["frames"][3]["rolled"]) as picture:
        assert picture.size == (288, 384)
    assert found[1]["frames"][3]["difference"] == pytest.approx(60 / 255)
    record = tmp_path / "step-000009" / "strips.json"
    record.write_text(record.read_text().replace("a very long prompt", "another"))
    assert [each["weights"] for each in strips_with_base(tmp_path / "step-000009")] == ["tuned"]
    record.write_text(record.read_text().replace("strips/0-truth.webp", "../step-000000/strips/0-truth.webp"))
    assert strips_with_base(tmp_path / "step-000009") == []


# On a model ----------------------------------------------------------------------------------------------------------

QUICK = {
    "levels": (0.5,),
    "loss_levels": (0.5,),
    "offsets": (1, 2),
    "fine_offsets": (2,),
    "fine_factor": 2,
    "samples": 3,
    "fine_samples": 1,
    "trajectory_samples": 2,
    "shown": 3,
    "start": None,
    "grid_steps": 5,
}


@pytest.fixture(scope="module")
def model(tiny_folder):
    from rollout_studio.core.adapters import attach_lora
    from rollout_studio.core.families import load_model

    config = config_from_flat({"pretrained_model_name_or_path": str(tiny_folder("lumina2")), "lora_rank": 2})
    model = load_model(config.model)
    attach_lora(model, config.lora, 0)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


def probe_set(model, role="held-out", shapes=((4, 8, 8), (4, 8, 8), (4, 8, 12))) -> ProbeSet:
    prompts = ("a red circle", "sks on blue, far left", "two")[: len(shapes)]
    draws = torch.Generator().manual_seed(3)
    return ProbeSet(
        tuple(torch.randn(shape, generator=draws) for shape in shapes),
        tuple(model.encode_prompts(prompts)),
        prompts,
        role,
    )


def test_measuring_leaves_modes_random_state_gradients_and_adapters_as_found(model):
    model.denoiser.train()
    next(iter(model.denoiser.children())).eval()  # a mixture, to be restored as it was
    modes = [part.training for part in model.denoiser.modules()]
    state, trained = torch.get_rng_state(), [p.requires_grad for p in model.denoiser.parameters()]
    drift.measure(model, [probe_set(model)], Settings(**QUICK), base=model.adapters_disabled)
    assert modes == [part.training for part in model.denoiser.modules()]
    assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()
    assert trained == [p.requires_grad for p in model.denoiser.parameters()] and any(trained)


def test_the_filmstrips_pictures_are_reported_as_they_are_computed_the_true_path_first(model):
    sights = []
    report = drift.measure(model, [probe_set(model)], Settings(**QUICK), on_sight=sights.append)
    (strip,) = report.strips
    assert [(each.row, each.column) for each in sights] == [(row, at) for row in ("clean", "rolled") for at in range(3)]
    for each in sights:
        frame = strip.frames[each.column]
        pixels = (model.decode(each.x0_hat[None])[0].permute(1, 2, 0) * 255).numpy()
        # one picture at a time may round otherwise than all at once
        assert np.abs(pixels - getattr(frame, each.row)).max() < 1 and (each.step, each.columns) == (frame.step, 3)


def test_base_and_tuned_are_measured_on_the_same_noise_and_differ(model):
    both = drift.measure(model, [probe_set(model)], Settings(**QUICK), base=model.adapters_disabled)
    tuned, base = both.find("tuned"), both.find("base")
    assert tuned.at(0.5).measures["distance"].value != base.at(0.5).measures["distance"].value
    with model.adapters_disabled():
        alone = drift.measure(model, [probe_set(model)], Settings(**QUICK), weights="base")
    assert alone.probe == both.probe and alone.curves[0].short == base.short
    assert tuned.samples == 3 and tuned.trajectory_samples == 2  # the third picture has another shape


def test_few_pictures_get_several_noises(model):
    one = drift.measure(model, [probe_set(model, shapes=((4, 8, 8),))], Settings(**{**QUICK, "samples": 4}))
    values = one.curves[0].at(0.5).measures["distance"].values
    assert one.curves[0].pictures == 1 and len(set(values)) == 4


def test_a_saved_report_has_its_pictures(model, tmp_path):
    report = drift.measure(model, [probe_set(model)], Settings(**QUICK), base=model.adapters_disabled, step=12)
    files = drift.save(report, tmp_path / "step-000012", frames=True)
    names = [file.relative_to(tmp_path / "step-000012").as_posix() for file in files]
    assert names[:5] == [
        "report.json",
        "curves.png",
        "spectrum.png",
        "filmstrip.png",
        *[n for n in names[4:] if n.startswith("frames/")][:1],
    ]
    assert "filmstrip-base.png" in names and sum(name.endswith("-difference.png") for name in names) == 2 * 3
    assert "strips.json" in names and sum(name.startswith("strips/") for name in names) == 2 * (1 + 3 * 3)
    for file in files[1:]:
        if file.suffix == ".json":
            continue
        with Image.open(file) as picture:
            picture.verify()
    assert read_report(tmp_path / "step-000012").step == 12
    drift.save(dataclasses.replace(report, strips=()), tmp_path / "step-000012")  # replaced as a whole
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "curves.png",
        "report.json",
        "spectrum.png",
        "step-000012",
    ]


def test_a_run_measures_its_base_once(model, tmp_path):
    config = config_from_flat(
        {"pretrained_model_name_or_path": "demo-flow", "scheduled_sampling_grid_steps": 5, "drift_offsets": (1, 2)}
    )
    sets = [probe_set(model), probe_set(model, "training", ((4, 8, 8),))]
    quick = {name: value for name, value in QUICK.items() if name not in ("grid_steps", "offsets")}
    first = drift.probe(model, sets, config, tmp_path / "drift", step=0, **quick)
    later = drift.probe(model, sets, config, tmp_path / "drift", step=5, **quick)
    assert (first["path"], later["path"]) == ("drift/step-000000/report.json", "drift/step-000005/report.json")
    # the tuned model's; the base's are known
    assert later["summary"]["network_rows"] == first["summary"]["network_rows"]
    assert (
        first["summary"]["drift"]
        == first["summary"]["drift_base"]
        == later["summary"]["drift_base"]
        != later["summary"]["drift"]
    )
    report = read_report(tmp_path / later["path"])
    assert [(c.weights, c.role) for c in report.curves] == [
        ("tuned", "held-out"),
        ("tuned", "training"),
        ("base", "held-out"),
        ("base", "training"),
    ]
    # another noise: the base again
    other = drift.probe(model, sets, config, tmp_path / "drift", step=6, **quick, seed=7)
    assert (
        other["summary"]["network_rows"] == 2 * first["summary"]["network_rows"]
        and other["summary"]["drift_base"] is not None
    )


def test_a_stopped_measurement_writes_nothing(model, tmp_path):
    config, asked = config_from_flat({}), []
    with pytest.raises(Stopped):
        drift.probe(
            model,
            [probe_set(model)],
            config,
            tmp_path / "drift",
            step=3,
            should_stop=lambda: asked.append(1) or len(asked) > 3,
            **{name: value for name, value in QUICK.items() if name != "offsets"} | {"fine_offsets": (5,)},
        )
    assert len(asked) == 4 and not list(tmp_path.rglob("*"))


def test_progress_goes_up_to_its_total(model):
    reported = []
    drift.measure(model, [probe_set(model)], Settings(**QUICK), progress=lambda *what: reported.append(what))
    done = [row[0] for row in reported]
    assert (
        done == sorted(done)
        and done[0] == 0
        and reported[-1][0] == reported[-1][1]
        and len({total for _, total, _ in reported}) == 1
    )


def test_guidance_costs_twice(model):
    plain, guided = (drift.measure(model, [probe_set(model)], Settings(**QUICK, guidance=g)) for g in (1.0, 3.0))
    assert guided.network_rows == 2 * plain.network_rows


def test_reading_reports_needs_no_torch():
    """The page's process reads and explains reports."""
    import subprocess
    import sys

    code = (
        "import sys; from rollout_studio.core.look.drift import files, over_training; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
