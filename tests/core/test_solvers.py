"""Solvers: declared order, exact landing, agreement with diffusers' schedulers."""

import itertools
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from oracles import PATHS, SHAPE, Gaussian, flow_times, random_pair, true_pair
from rollout_studio.core.config import OPTIONS, config_from_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.maths.noise import Level, RectifiedFlow
from rollout_studio.core.maths.solvers import DEFAULT_ORDER, SOLVERS, make_solver
from rollout_studio.core.maths.solvers.base import Course

ALL = [(name, order) for name, kind in SOLVERS.items() for order in (kind.orders or (2,))]
RANGES = {"flow": (0.9, 0.15), "vp": (850.0, 150.0)}


def walk(solver, predict, path, x, times, keep=False):
    """Solve from times[0] to times[-1], all rows alike; with `keep` every state on the way."""
    states = along(solver, predict, path, x, [path.at(t.repeat(len(x))) for t in times])
    return states if keep else states[-1]


def along(solver, predict, path, x, levels):
    """Every state from levels[0] to levels[-1]."""
    past, states = None, [x]
    for step in solver.steps(path, Course.through(levels), x):
        x, past = step.take(predict, x, past)
        states.append(x)
    return states


def error(solver, path, steps):
    """The worst over data of several widths: for a single one the error may pass through zero at some number of steps."""
    times = torch.linspace(*RANGES[path], steps + 1, dtype=torch.float64)
    path = PATHS[path]
    start, end = path.at(times[:1].repeat(2)), path.at(times[-1:].repeat(2))
    x, worst = path.noised(*random_pair(dtype=torch.float64), start), 0.0
    for oracle in (Gaussian(0.7, s) for s in (0.3, 0.5, 0.8, 1.5)):
        solved = walk(solver, oracle.predict, path, x, times)
        worst = max(worst, float((solved - oracle.flow(x, start, end)).abs().max()))
    return worst


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ALL)
def test_the_error_shrinks_at_least_at_the_declared_order(name, order, path):
    """Gaussian data: the exact flow is known. From 32 to 64 steps."""
    solver = make_solver(name, order)
    coarse, fine = (error(solver, path, steps) for steps in (32, 64))
    assert math.log2(coarse / fine) >= solver.order - 0.25


@pytest.mark.parametrize("path", PATHS)
def test_higher_orders_of_unipc_are_more_accurate(path):
    errors = [error(make_solver("unipc", order), path, 32) for order in (1, 2, 3)]
    assert errors[0] > 3 * errors[1] > 3 * errors[2]


@pytest.mark.parametrize("path", PATHS)
def test_unipc_improves_on_dpm_by_its_corrector(path):
    assert error(make_solver("unipc"), path, 32) < error(make_solver("dpm"), path, 32)


@pytest.mark.parametrize("path", PATHS)
def test_one_euler_step_has_the_gain_of_the_closed_form(path):
    oracle, times = Gaussian(), torch.tensor(RANGES[path], dtype=torch.float64)
    here, there = (PATHS[path].at(t.repeat(2)) for t in times)
    x = PATHS[path].noised(*random_pair(dtype=torch.float64), here)
    _, stepped = along(make_solver("euler"), oracle.predict, PATHS[path], x, [here, there])
    away = oracle.euler_gain(here, there).reshape(2, 1, 1, 1) * (x - here.alpha[0] * oracle.mu)
    torch.testing.assert_close(stepped, there.alpha[0] * oracle.mu + away)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["dpm", "unipc"])
def test_from_a_single_step_the_multistep_solvers_are_euler(name, path):
    oracle, times = Gaussian(), torch.tensor(RANGES[path], dtype=torch.float64)
    x = PATHS[path].noised(*random_pair(dtype=torch.float64), PATHS[path].at(times[:1].repeat(2)))
    torch.testing.assert_close(
        walk(make_solver(name), oracle.predict, PATHS[path], x, times),
        walk(make_solver("euler"), oracle.predict, PATHS[path], x, times),
    )


def test_euler_on_the_flow_is_the_step_along_the_velocity():
    path, oracle = RectifiedFlow(), Gaussian()
    here, there = path.at(torch.tensor([0.8, 0.5])), path.at(torch.tensor([0.7, 0.3]))
    x = random_pair(dtype=torch.float64)[0]
    _, stepped = along(make_solver("euler"), oracle.predict, path, x, [here, there])
    way = (there.sigma - here.sigma).reshape(2, 1, 1, 1) * oracle.predict(x, here).velocity
    torch.testing.assert_close(stepped, x + way)


@pytest.mark.parametrize(("name", "order"), ALL)
def test_a_step_makes_the_declared_number_of_calls(name, order):
    calls = []

    def predict(x, level):
        calls.append(len(x))
        return Gaussian().predict(x, level)

    walk(make_solver(name, order), predict, RectifiedFlow(), random_pair()[0], flow_times(7)[1:-1])
    assert calls == [2] * 5 * SOLVERS[name].calls_per_step


@pytest.mark.parametrize(("name", "order"), ALL)
def test_the_whole_flow_from_pure_noise_to_clean_data_stays_finite_and_lands(name, order):
    """lam is infinite at both ends; multistep solvers must not let that into their polynomials."""
    x0, noise = random_pair(dtype=torch.float64)
    pair = true_pair(x0, noise)
    end = walk(
        make_solver(name, order), lambda x, level: pair(x, level, slice(None)), RectifiedFlow(), noise, flow_times(9)
    )
    torch.testing.assert_close(end, x0)
    oracle = Gaussian()
    end = walk(make_solver(name, order), oracle.predict, RectifiedFlow(), noise, flow_times(40, shift=1.0))
    torch.testing.assert_close(end, oracle.mu + oracle.s * noise, atol=0.06, rtol=0)


def test_rk4_from_zero_signal_on_a_variance_preserving_path_is_refused():
    here = Level(torch.tensor([999.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="rk4 from pure noise"):
        there = PATHS["vp"].at(torch.tensor([900.0]))
        along(make_solver("rk4"), Gaussian().predict, PATHS["vp"], random_pair()[0][:1], [here, there])


@pytest.mark.parametrize(
    ("name", "order"), [("unipc", 0), ("unipc", 4), ("dpm", 3), ("euler", 1), ("rk4", 4), ("heun", 2)]
)
def test_an_impossible_solver_is_refused(name, order):
    with pytest.raises(ValueError, match="must be one of|takes|fixed order"):
        make_solver(name, order)


# --- diffusers as the oracle; its settings: docs/mathematics.md, "Solvers" ---

VP = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
MULTISTEP = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, "num_train_timesteps": 1000}


def schedulers():
    """(solver, order, path, prediction type, scheduler)"""
    for order in (1, 2, 3):
        unipc = dict(solver_order=order, solver_type="bh2", disable_corrector=[], **MULTISTEP)
        yield "unipc", order, "flow", "flow_matching", UniPCMultistepScheduler(**unipc, **FLOW)
        for kind in ("epsilon", "v_prediction", "sample"):
            yield "unipc", order, "vp", kind, UniPCMultistepScheduler(**unipc, **VP, prediction_type=kind)
    for order in (1, 2):
        dpm = dict(solver_order=order, algorithm_type="dpmsolver++", solver_type="midpoint", **MULTISTEP)
        yield "dpm", order, "flow", "flow_matching", DPMSolverMultistepScheduler(**dpm, **FLOW)
        for kind in ("epsilon", "v_prediction", "sample"):
            yield "dpm", order, "vp", kind, DPMSolverMultistepScheduler(**dpm, **VP, prediction_type=kind)
    yield "euler", 2, "flow", "flow_matching", FlowMatchEulerDiscreteScheduler(shift=3.0)
    for kind in ("epsilon", "v_prediction"):
        yield "euler", 2, "vp", kind, EulerDiscreteScheduler(**VP, prediction_type=kind, timestep_spacing="trailing")
        yield (
            "euler",
            2,
            "vp",
            kind,
            DDIMScheduler(**VP, prediction_type=kind, timestep_spacing="trailing", clip_sample=False),
        )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize(
    ("name", "order", "path_name", "kind", "scheduler"),
    [pytest.param(*case, id="-".join([*map(str, case[:4]), type(case[4]).__name__])) for case in schedulers()],
)
def test_steps_agree_with_the_scheduler_of_diffusers(name, order, path_name, kind, scheduler):
    """Every state of a 10-step trajectory to 1e-5, states of size 1; the step to sigma 0 is left out (never made)."""
    path, oracle, steps = PATHS[path_name], Gaussian(), 10  # divides 1000: DDIM finds the step before by subtraction
    scheduler.set_timesteps(steps)
    levels = [
        path.at(torch.tensor([float(value)] * SHAPE[0]))
        for value in (scheduler.sigmas[:steps] if path_name == "flow" else scheduler.timesteps)
    ]
    x = path.noised(*random_pair(dtype=torch.float64), levels[0])
    # EulerDiscrete carries x / alpha; every other scheduler carries x.
    scaled = isinstance(scheduler, EulerDiscreteScheduler)
    theirs = x / levels[0].like(x).alpha if scaled else x
    ours = along(make_solver(name, order), oracle.predict, path, x, levels)
    for i, (here, there) in enumerate(itertools.pairwise(levels)):
        seen = (
            scheduler.scale_model_input(theirs, scheduler.timesteps[i])
            if hasattr(scheduler, "scale_model_input")
            else theirs
        )
        implied = oracle.predict(seen, here)
        level = here.like(seen)
        output = {
            "epsilon": implied.noise_hat,
            "sample": implied.x0_hat,
            "v_prediction": level.alpha * implied.noise_hat - level.sigma * implied.x0_hat,
            "flow_matching": implied.velocity,
        }[kind]
        theirs = scheduler.step(output, scheduler.timesteps[i], theirs, return_dict=False)[0]
        comparable = theirs * there.like(x).alpha if scaled else theirs
        torch.testing.assert_close(ours[i + 1], comparable.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_config_may_ask_for_the_declared_solvers_and_orders_and_no_others(name):
    """The config stands below the mathematics, so it cannot read `SOLVERS`."""
    assert set(OPTIONS["scheduled_sampling_sampler"].choices) == set(SOLVERS)
    for order in (1, 2, 3):
        flat = {
            "scheduled_sampling_max_step_offset": 3,
            "scheduled_sampling_sampler": name,
            "scheduled_sampling_order": order,
        }
        if order in (SOLVERS[name].orders or (DEFAULT_ORDER,)):
            assert (
                make_solver(name, config_from_flat(flat).rollout.order).calls_per_step == SOLVERS[name].calls_per_step
            )
        else:
            with pytest.raises(ConfigError, match="order"):
                config_from_flat(flat)
