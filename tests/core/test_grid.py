"""One grid for trainer and page: the numbers themselves, and that a schedule read from a file is the model's own."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracles import flow_times, stable_diffusion_abar, vp_times
from rollout_studio.core.before.run_schedule import schedule_of
from rollout_studio.core.config import RolloutConfig, config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.families.facts import USUAL_FLOW, Geometry
from rollout_studio.core.families.schedule import read_schedule
from rollout_studio.core.families.times import Times
from rollout_studio.core.maths.grid import (
    ALPHA_MIN,
    FlowPath,
    Grid,
    VariancePreservingPath,
    build_grid,
    falling,
    shifted,
    sources,
)
from rollout_studio.core.maths.noise import RectifiedFlow, VariancePreserving
from rollout_studio.core.maths.rollout import plan_offsets
from tiny import BUILDERS

MODELS = ["demo-flow", "demo-epsilon", *BUILDERS]
PATHS = {"flow": FlowPath(), "vp": VariancePreservingPath(stable_diffusion_abar())}


# --- paths ---


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_sigma_and_time_are_each_others_inverse_between_the_ends_of_the_path(path):
    t = path.t_max * np.array([[0.0, 0.12, 0.5004], [0.73, 0.9, 1.0]])
    level = path.at(t)
    assert level.sigma.shape == t.shape
    assert path.time_of_sigma(level.sigma) == pytest.approx(t, rel=1e-6, abs=1e-9)
    assert path.time_of_sigma(-0.1) == 0 and path.time_of_sigma(2.0) == path.t_max


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_number_gives_numbers_and_they_are_those_of_an_array(path):
    alone, row = path.at(0.3 * path.t_max), path.at([0.3 * path.t_max])
    for name in ("t", "alpha", "sigma"):
        assert isinstance(getattr(alone, name), float) and getattr(alone, name) == getattr(row, name)[0]
    assert isinstance(path.time_of_sigma(0.4), float)
    assert 0 < path.share_of_noise(path.at(0)) + 1e-9 < path.share_of_noise(alone) < 1
    with pytest.raises(ValueError, match="must lie in 0"):
        path.at(-0.2 * path.t_max)


# --- grid ---


def test_repeats_are_removed_and_the_terminal_zero_is_there_once():
    for times in ([901.0, 601.0, 601.0, 301.0, 1.0], [901.0, 601.0, 301.0, 1.0, 0.0]):
        assert Grid(times).nodes.tolist() == [901.0, 601.0, 301.0, 1.0, 0.0]


def test_the_terminal_zero_places_times_below_the_last_node_but_is_never_a_source():
    grid = Grid([0.9, 0.5, 0.2])
    assert grid.index(0.1) == pytest.approx(2.5)
    actual, source = sources([0.1, 0.0], [1, 1], FlowPath(), grid)
    assert actual.tolist() == [1, 1] and source.t.tolist() == pytest.approx([0.35, 0.2])


def test_the_fractional_index_is_linear_between_nodes_and_inverted_by_time():
    grid = Grid([1.0, 0.8, 0.4, 0.0])
    t = np.array([1.0, 0.9, 0.8, 0.5, 0.1, 0.0])
    assert grid.index(t) == pytest.approx(np.array([0.0, 0.5, 1.0, 1.75, 2.75, 3.0]))
    assert grid.time(grid.index(t)) == pytest.approx(t)
    assert grid.index(1.5) == 0 and grid.time(-1) == 1 and grid.time(7) == 0


@pytest.mark.parametrize("times", [[0.2, 0.5, 0.9], [0.9, 0.2, 0.5], [0.5], [0.5, 0.5], [0.5, -0.1], []])
def test_times_that_do_not_fall_are_refused(times):
    with pytest.raises(ValueError, match="noisiest first"):
        Grid(times)


def test_of_a_samplers_times_those_are_kept_that_fall():
    visited = np.array([9, 6, 6, 7, 3], dtype=np.float32)
    assert falling(visited).tolist() == [9, 6, 3, 0] and falling(visited).dtype == np.float32
    assert falling(np.array([2.0, 0.0])).tolist() == [2, 0]


def test_the_grid_option_chooses_the_schedule_and_grid_steps_its_length():
    asked = []

    def inference_times(steps):
        asked.append(steps)
        return flow_times(steps)

    def build(**options):
        return build_grid(RolloutConfig(**options), inference_times, lambda: flow_times(1000))

    assert build().steps == 30 and build(grid_steps=12).steps == 12 and asked == [30, 12]
    assert build(grid="training", grid_steps=12).steps == 1000 and asked == [30, 12]


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_source_is_as_far_as_noise_and_signal_allow(path):
    """Every offset up to the one that is left has a source on the grid with enough signal; the next one has not."""
    grid = Grid(flow_times(40) if path.is_flow else vp_times(40))
    t = path.t_max * np.array([0.02, 0.31, 0.7, 0.98])
    far, source = sources(t, 60, path, grid)
    assert (far >= 1).any() and (far < 40).all()
    for row, most in enumerate(far.tolist()):
        for k in range(60):
            actual, level = sources(t[row], k, path, grid)
            assert actual == min(k, most)
            assert level.t == pytest.approx(grid.time(grid.index(t[row]) - actual)) and level.alpha >= ALPHA_MIN
        beyond = grid.index(t[row]) - most - 1
        assert beyond < 0 or path.at(grid.time(beyond)).alpha < ALPHA_MIN
    assert source.t == pytest.approx(grid.time(grid.index(t) - far))


@pytest.mark.parametrize("name", ["demo-flow", "demo-epsilon"])
@pytest.mark.parametrize("kind", ["inference", "training"])
def test_the_levels_and_sources_of_the_page_are_those_of_a_training_plan(opened, name, kind):
    """From the file on the one side, from the opened model on the other."""
    model, place = opened(name)
    schedule = schedule_of(config(place, grid=kind))
    path = RectifiedFlow() if model.is_flow else VariancePreserving(model.pipe.scheduler.alphas_cumprod)
    side = 64 // model.latent_scale
    shape = (model.latent_channels, side, side)
    grid = Grid(model.training_times(shape) if kind == "training" else model.inference_times(30, shape))
    for share in (0.01, 0.2, 0.55, 0.93, 0.999):
        t = share * schedule.grid.nodes[0]
        for k in (0, 1, 4, 40):
            plan = plan_offsets(torch.tensor([t], dtype=torch.float64), torch.tensor([k]), path, grid)
            actual, source = schedule.source(t, k)
            assert actual == int(plan.k)
            for ours, theirs in ((source, plan.source), (schedule.path.at(t), plan.target)):
                assert (ours.alpha, ours.sigma) == pytest.approx((theirs.alpha.item(), theirs.sigma.item()), abs=1e-6)


# --- schedules, read from a file and from the opened model ---


@pytest.fixture(scope="module")
def opened(tiny_folder):
    """Name -> (model, name as an option)."""
    known = {}

    def get(name):
        if name not in known:
            place = name if name.startswith("demo") else str(tiny_folder(name))
            known[name] = load_model(config_from_flat({"pretrained_model_name_or_path": place}).model), place
        return known[name]

    return get


def config(place, **rollout):
    flat = {f"scheduled_sampling_{name}": value for name, value in rollout.items()}
    return config_from_flat({"pretrained_model_name_or_path": place, "resolution": 64, **flat})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("steps", [2, 7, 30])
def test_the_inference_grid_is_the_models_own_schedule(opened, name, steps):
    model, place = opened(name)
    schedule = schedule_of(config(place, grid_steps=steps))
    side = 64 // model.latent_scale
    times = Grid(model.inference_times(steps, (model.latent_channels, side, side))).nodes
    assert schedule.grid.nodes == pytest.approx(times, abs=2e-6 if model.is_flow else 2e-4)
    assert not schedule.assumed and schedule.path.is_flow == model.is_flow


@pytest.mark.parametrize("name", MODELS)
def test_path_and_training_grid_are_the_checkpoints_own(opened, name):
    """The page's times are the trainer's bit for bit where the shift is a number of the file; its table is as near as float32 is."""
    model, place = opened(name)
    side = 64 // model.latent_scale
    times = Grid(model.training_times((model.latent_channels, side, side))).nodes
    schedule = schedule_of(config(place, grid="training"))
    assert np.array_equal(schedule.grid.nodes, times)
    assert schedule.path.t_max == model.noise_path.t_max
    t = np.linspace(0, schedule.path.t_max, 97)
    ours, theirs = schedule.path.at(t), model.noise_path.levels.at(t)
    assert ours.alpha == pytest.approx(theirs.alpha, abs=2e-6) and ours.sigma == pytest.approx(theirs.sigma, abs=2e-6)


def test_the_demo_samples_on_a_shifted_line():
    assert schedule_of(config("demo-flow", grid_steps=30)).grid.nodes == pytest.approx(flow_times(30, 2.0).numpy())


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan])
def test_a_shift_that_bends_nothing_is_refused(shift):
    with pytest.raises(ValueError, match="must be above 0"):
        shifted(0.5, shift)


def test_the_training_shift_moves_the_training_grid_and_not_the_users_schedule():
    flat = {"pretrained_model_name_or_path": "demo-flow", "flow_schedule_shift": 5.0}
    moved = schedule_of(config_from_flat({**flat, "scheduled_sampling_grid": "training"})).grid
    assert moved.nodes[500] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
    ours, own = schedule_of(config_from_flat(flat)).grid, schedule_of(config("demo-flow")).grid
    assert np.array_equal(ours.nodes, own.nodes)


@pytest.mark.parametrize("steps", [1, 7, 28, 50])
def test_whole_numbers_of_the_table_are_bent_as_by_the_scheduler_that_gets_them_as_its_times(steps):
    """As CogView 4's pipeline asks it: the shift is linear and grows with the side, and the times stay as they are."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    how = USUAL_FLOW.but(sigmas="whole", mu_by_length=lambda config, tokens: 0.25 + 0.75 * (tokens / 8) ** 0.5)
    geometry = Geometry(channels=4, pixels_per_latent=4, cells_per_token=2, native_size=32)
    whole = np.linspace(1000, 1, steps).astype(np.int64).astype(np.float32)
    scheduler.set_timesteps(sigmas=whole / 1000, timesteps=whole, mu=0.25 + 0.75 * (16 / 8) ** 0.5)
    config = {**scheduler.config, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    read = read_schedule(config, how, geometry, 32, is_flow=True)
    assert read.inference_times(steps) == pytest.approx(scheduler.sigmas.numpy(), abs=1e-6)
    pipe = SimpleNamespace(scheduler=scheduler)
    opened = Times(pipe, how, geometry, is_flow=True, flow_shift=None)
    assert torch.equal(opened.inference(steps, (4, 8, 8)), scheduler.sigmas)
    assert scheduler.timesteps.tolist() == whole.tolist()
    assert opened.shift((4, 8, 8)) == pytest.approx(0.25 + 0.75 * 2**0.5) and opened.shift((4, 16, 8)) == 1.75


def test_equal_settings_give_the_same_schedule():
    """The shares of the loss are remembered by it."""
    assert schedule_of(config("demo-epsilon")) is schedule_of(config("demo-epsilon"))


def folder_with(tmp_path, scheduler, pipeline="StableDiffusionPipeline"):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    text = scheduler if isinstance(scheduler, str) else json.dumps(scheduler)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("betas", ["scaled_linear", "linear"])
@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_every_spacing_and_table_of_the_usual_schedulers_is_drawn_as_they_step(tmp_path, name, betas, spacing):
    import diffusers

    extra = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name)(beta_schedule=betas, beta_start=0.00085, beta_end=0.012, timestep_spacing=spacing,
                                         steps_offset=1, **extra)  # fmt: skip
    scheduler.set_timesteps(13)
    visited = falling(scheduler.timesteps.double().numpy())
    scheduler.save_config(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    schedule = schedule_of(config(str(tmp_path), grid_steps=13))
    assert not schedule.assumed and schedule.grid.nodes == pytest.approx(visited, abs=1e-3)
    theirs = VariancePreservingPath(scheduler.alphas_cumprod)
    assert schedule.path.angles == pytest.approx(theirs.angles, abs=2e-6)


@pytest.mark.parametrize(
    "scheduler",
    ["{", "[1]", "", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "${alert(1)}"},
     {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_karras_sigmas": True}, {"_class_name": "<b>Own</b>"},
     {"_class_name": ["DDIMScheduler"]}, {"_class_name": "DDIMScheduler", "num_train_timesteps": -1},
     {"_class_name": "DDIMScheduler", "beta_start": 0},
     '{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": NaN}'],
)  # fmt: skip
def test_a_schedule_that_cannot_be_read_is_assumed_and_the_text_says_so(tmp_path, scheduler):
    schedule = schedule_of(config(folder_with(tmp_path, scheduler, "StableDiffusion3Pipeline")))
    assert schedule.assumed and "cannot be read" in schedule.text and "assumed" in schedule.text
    assert schedule.grid.steps > 10


def test_what_is_assumed_follows_what_the_config_states_of_the_model():
    def assumed(**model):
        return schedule_of(config_from_flat({"pretrained_model_name_or_path": "someone/not-here", **model}))

    sd, sd3, unknown = assumed(model_family="sd1x"), assumed(model_family="sd3"), assumed()
    assert not sd.path.is_flow and sd.assumed and math.isclose(sd.path.at(999).sigma, 0.9977, abs_tol=1e-3)
    assert sd3.path.is_flow and "shift 3" in sd3.text and "not known" not in sd3.text
    assert unknown.path.is_flow and "not known" in unknown.text
