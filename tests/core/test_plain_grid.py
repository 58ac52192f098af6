"""The grid that the page draws is the grid that a rollout walks: held to the families' own schedules, the real schedulers and `Grid`."""

import json
import math

import pytest
import torch
from rollout_studio.core.before.cost import flow_grid
from rollout_studio.core.before.plain_grid import ALPHA_MIN, grid_of
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families import load_model
from rollout_studio.core.maths import rollout as real
from rollout_studio.core.maths.noise import RectifiedFlow, VariancePreserving

MODELS = [
    "demo-flow",
    "demo-epsilon",
    "sd1",
    "sd1_euler",
    "sd1_sample",
    "sd2_v",
    "sd3",
    "sd3_dynamic",
    "lumina2",
    "sdxl",
    "sdxl_v",
    "flux",
    "flux_without_guidance",
]


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
    grid = grid_of(config(place, grid_steps=steps))
    side = 64 // model.latent_scale
    times = real.Grid(model.inference_times(steps, (model.latent_channels, side, side))).nodes
    assert grid.nodes == pytest.approx(times.tolist(), abs=2e-4 if not grid.flow else 2e-6)
    assert not grid.assumed and grid.flow == model.is_flow


@pytest.mark.parametrize("name", MODELS)
def test_the_training_grid_is_the_checkpoints_table(opened, name):
    model, place = opened(name)
    side = 64 // model.latent_scale
    times = real.Grid(model.training_times((model.latent_channels, side, side))).nodes
    assert grid_of(config(place, grid="training")).nodes == pytest.approx(times.tolist(), abs=2e-6)


@pytest.mark.parametrize("name", ["demo-flow", "demo-epsilon"])
@pytest.mark.parametrize("kind", ["inference", "training"])
def test_places_levels_and_sources_are_those_of_the_rollout_itself(opened, name, kind):
    """The same index, time, level and reduced offset as `Grid`, `NoisePath` and `plan_offsets`, between the nodes too."""
    model, place = opened(name)
    plain = grid_of(config(place, grid=kind))
    grid = real.Grid(torch.tensor(plain.nodes, dtype=torch.float64))
    path = RectifiedFlow() if model.is_flow else VariancePreserving(model.pipe.scheduler.alphas_cumprod)
    for share in (0.01, 0.2, 0.55, 0.93, 0.999):
        t = share * plain.nodes[0]
        level = path.at(torch.tensor([t], dtype=torch.float64))
        assert plain.index(t) == pytest.approx(float(grid.index(torch.tensor([t], dtype=torch.float64))))
        assert plain.time(plain.index(t)) == pytest.approx(t)
        assert (plain.at(t).alpha, plain.at(t).sigma) == pytest.approx(
            (float(level.alpha), float(level.sigma)), abs=1e-6
        )
        assert plain.time_of_sigma(plain.at(t).sigma) == pytest.approx(t, rel=1e-6, abs=1e-9)
        for k in (0, 1, 4, 40):
            plan = real.plan_offsets(torch.tensor([t], dtype=torch.float64), torch.tensor([k]), path, grid)
            actual, source = plain.source(t, k)
            assert actual == int(plan.k) and source.sigma == pytest.approx(float(plan.source.sigma), abs=1e-6)


def test_the_demo_samples_on_a_shifted_line_and_the_smallest_signal_is_the_rollouts():
    assert grid_of(config("demo-flow", grid_steps=30)).nodes == pytest.approx(flow_grid(30, 2.0))
    assert ALPHA_MIN == real.ALPHA_MIN


def test_the_training_shift_moves_the_training_grid_and_not_the_users_schedule():
    flat = {"pretrained_model_name_or_path": "demo-flow", "flow_schedule_shift": 5.0}
    moved = grid_of(config_from_flat({**flat, "scheduled_sampling_grid": "training"}))
    assert moved.nodes[500] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
    assert grid_of(config_from_flat(flat)).nodes == grid_of(config("demo-flow")).nodes


def folder_with(tmp_path, scheduler, pipeline="StableDiffusionPipeline"):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    text = scheduler if isinstance(scheduler, str) else json.dumps(scheduler)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_every_spacing_of_the_usual_schedulers_is_drawn_as_they_step(tmp_path, name, spacing):
    import diffusers

    extra = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing=spacing,
                                         steps_offset=1, **extra)  # fmt: skip
    scheduler.set_timesteps(13)
    visited = torch.unique_consecutive(scheduler.timesteps.double())
    visited = [*visited.tolist(), *([0.0] if visited[-1] > 0 else [])]
    scheduler.save_config(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    grid = grid_of(config(str(tmp_path), grid_steps=13))
    assert not grid.assumed and grid.nodes == pytest.approx(visited, abs=1e-3)


@pytest.mark.parametrize(
    "scheduler",
    ["{", "[1]", "", {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": "${alert(1)}"},
     {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_karras_sigmas": True}, {"_class_name": "<b>Own</b>"},
     {"_class_name": "DDIMScheduler", "num_train_timesteps": -1}, {"_class_name": "DDIMScheduler", "beta_start": 0},
     '{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": NaN}'],
)  # fmt: skip
def test_a_schedule_that_cannot_be_read_is_assumed_and_said_so(tmp_path, scheduler):
    grid = grid_of(config(folder_with(tmp_path, scheduler, "StableDiffusion3Pipeline")))
    assert grid.assumed and "cannot be read" in grid.said and "assumed" in grid.said and len(grid.nodes) > 10


def test_what_is_assumed_follows_what_the_config_says_of_the_model():
    def told(**model):
        return grid_of(config_from_flat({"pretrained_model_name_or_path": "someone/not-here", **model}))

    sd, sd3, unknown = told(model_family="sd1x"), told(model_family="sd3"), told()
    assert not sd.flow and sd.assumed and math.isclose(sd.at(999).sigma, 0.9977, abs_tol=1e-3)
    assert sd3.flow and "shift 3" in sd3.said and "not known" not in sd3.said
    assert unknown.flow and "not known" in unknown.said
