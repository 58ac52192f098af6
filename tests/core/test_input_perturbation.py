"""Input perturbation against the paper's formula (Ning et al., arXiv 2301.11706), its control, its cost and its optimum."""

import math
from dataclasses import replace

import pytest
import torch
from oracles import PATHS, grid_for, random_pair, stable_diffusion_abar
from rollout_studio.core.before.controls import control, why_not
from rollout_studio.core.before.cost import perturbed_slope
from rollout_studio.core.config import config_from_flat, idle_remarks
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.foreign import simpletuner
from rollout_studio.core.foreign.contract import Near
from rollout_studio.core.maths.noise import VariancePreserving, prediction_from_output
from rollout_studio.core.randomness import row_noise
from rollout_studio.core.remedies import Batch, Ground, InputPerturbation, Network, Plain, remedy_for, rows_of
from rollout_studio.core.runs.store import RunError
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.losses import batch_loss
from rollout_studio.nodes.library.rollout import input_perturbation
from rollout_studio.nodes.library.training import config_from_parts
from tiny_run import events, losses
from torch import nn

FLOW, VP = PATHS["flow"], PATHS["vp"]
KINDS = ["epsilon", "v_prediction", "sample", "flow_matching"]
SHAPE = (4, 3, 4, 5)
ON, CONTROL = {"input_perturbation_gamma": 0.1}, {"input_perturbation_control": "input_noise"}
ROLLED = {"scheduled_sampling_max_step_offset": 2, "scheduled_sampling_probability": 0.5}
STEP, SEED = 7, 3


def path_of(kind):
    return FLOW if kind == "flow_matching" else VP


def remedy_of(kind, **flat):
    path = path_of(kind)
    return remedy_for(
        config_from_flat({"prediction_type": kind, "pretrained_model_name_or_path": "some/model", **flat}),
        Ground(path, kind, grid_for(path)),
    )


def times_of(kind):
    return torch.tensor([0.3, 0.9, 0.05, 0.5]) if kind == "flow_matching" else torch.tensor([300.0, 900.0, 2.0, 500.0])


def led(kind, shape=SHAPE, step=STEP, **flat):
    """(remedy, batch, state) of the four rows."""
    remedy, batch = remedy_of(kind, **flat), Batch(*random_pair(shape), {})
    return remedy, batch, remedy.state(batch, remedy.plan(times_of(kind), step=step, seed=SEED), None)


def xi(shape=SHAPE, step=STEP):
    return row_noise(shape, SEED, step, stream="perturbation")


# --- the formula ---


@pytest.mark.parametrize("gamma", [0.1, 0.35])
def test_on_the_variance_preserving_path_it_is_the_papers_formula(gamma):
    """Algorithm 2: y = sqrt(abar) x0 + sqrt(1 - abar) (eps + gamma xi); the network is given t and has to answer eps."""
    remedy, batch, state = led("epsilon", input_perturbation_gamma=gamma)
    abar = stable_diffusion_abar()[times_of("epsilon").long()].float().reshape(4, 1, 1, 1)
    theirs = abar.sqrt() * batch.x0 + (1 - abar).sqrt() * (batch.noise + gamma * xi())
    torch.testing.assert_close(state.x, theirs)
    assert torch.equal(remedy.target(batch, state), batch.noise)
    assert torch.equal(state.level.t.float(), times_of("epsilon"))


def test_on_a_flow_it_is_the_same_noise_on_the_flows_path_and_the_target_is_the_pairs_own():
    remedy, batch, state = led("flow_matching", **ON)
    sigma = times_of("flow_matching").reshape(4, 1, 1, 1)
    torch.testing.assert_close(state.x, (1 - sigma) * batch.x0 + sigma * (batch.noise + 0.1 * xi()))
    torch.testing.assert_close(remedy.target(batch, state), batch.noise - batch.x0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_bit_for_bit_that_of_plain_training(kind):
    (mine, batch, state), (plain, _, plain_state) = led(kind, **ON), led(kind)
    assert torch.equal(mine.target(batch, state), plain.target(batch, plain_state))
    assert not torch.equal(state.x, plain_state.x)


@pytest.mark.parametrize("kind", KINDS)
def test_with_gamma_0_every_row_is_a_plain_row(kind):
    remedy, _, state = led(kind, input_perturbation_gamma=0.0)
    assert type(remedy) is Plain and torch.equal(state.x, led(kind)[2].x)


# --- where its noise comes from ---


def test_a_rows_perturbation_depends_on_seed_step_and_its_number_alone():
    remedy, batch, whole = led("flow_matching", **ON)
    plan = remedy.plan(times_of("flow_matching"), step=STEP, seed=SEED)
    for rows in (torch.tensor([2]), torch.tensor([3, 0])):
        part = remedy.state(Batch(batch.x0[rows], batch.noise[rows], {}), rows_of(plan, rows), None)
        assert torch.equal(part.x, whole.x[rows])
    assert not torch.equal(led("flow_matching", step=STEP + 1, **ON)[2].x, whole.x)


def test_its_noise_is_a_stream_of_its_own_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    led("flow_matching", **ON)
    assert torch.equal(torch.get_rng_state(), before)
    mine, base = xi((200, 3, 4, 5)), row_noise((200, 3, 4, 5), SEED, STEP)
    assert abs(float((mine * base).mean())) < 0.03 and float(mine.std()) == pytest.approx(1, abs=0.03)


# --- its control and its cost ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_control_trains_plain_rows_at_the_noise_level_that_the_perturbed_input_has(kind):
    remedy, batch, state = led(kind, input_perturbation_gamma=0.5, **CONTROL)
    drawn, here = path_of(kind).at(times_of(kind)), state.level
    ratio = math.sqrt(1.25) * drawn.sigma / drawn.alpha
    torch.testing.assert_close(here.sigma / here.alpha, ratio, rtol=1e-6, atol=0)
    torch.testing.assert_close(state.x, path_of(kind).noised(batch.x0, batch.noise, here))
    plan = remedy.plan(times_of(kind), step=STEP, seed=SEED)
    assert torch.equal(plan.t, times_of(kind)) and remedy.counts(plan).source_noise_rows == 4


@pytest.mark.parametrize(
    "path", [FLOW, VP, VariancePreserving(torch.tensor([0.9, 0.4, 0.1, 0.0]))], ids=["flow", "vp", "zero terminal SNR"]
)
def test_a_ratio_of_noise_to_signal_names_one_level_and_the_end_of_the_path_where_it_goes_no_further(path):
    level = path.at(torch.linspace(0.01, 0.98, 20) * path.t_max)
    torch.testing.assert_close(path.at_ratio(level.sigma / level.alpha).t, level.t)
    ends = path.at_ratio(torch.tensor([0.0, torch.inf], dtype=torch.float64)).t
    assert ends.tolist() == [0.0, path.t_max]


@pytest.mark.parametrize("flat", [{}, ON, ON | CONTROL], ids=["plain", "perturbed", "control"])
def test_it_costs_no_forward(flat):
    class Model:
        prediction_type, noise_path, denoiser = "flow_matching", FLOW, nn.Identity()

        def denoise(self, x, t, cond):
            return torch.tanh(x)

    config, batch = config_from_flat(flat), Batch(*random_pair(SHAPE), {})
    remedy = remedy_for(config, Ground(FLOW, "flow_matching", grid_for(FLOW)))
    found = batch_loss(Model(), config, remedy, batch, remedy.plan(times_of("flow_matching"), step=STEP, seed=SEED))
    assert (found.network_calls, found.network_rows, found.counts.rolled) == (1, 4, 0)
    assert found.parts.extra.abs().max() == 0


def test_a_run_has_two_controls_and_equal_time_is_equal_steps():
    config = config_from_flat(ON)
    assert control("plain-steps", config).changes == {"input_perturbation_gamma": 0.0}
    changes = control("source-noise", config).changes
    assert not config_from_flat(ON | changes).input_perturbation.acts
    with pytest.raises(RunError, match="takes no time of its own"):
        control("plain-time", config)
    assert "needs no control" in why_not("plain-steps", config_from_flat(ON | changes))


# --- what it teaches ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_the_best_answer_on_gaussian_data_has_the_slope_of_the_closed_form(kind, spread):
    """Least squares over many pairs; for epsilon also the optimum as derived from the paper: sigma / (alpha^2 s^2 + sigma^2 (1 + g^2))."""
    rows, gamma, path = 4, 0.6, path_of(kind)
    remedy, batch = (
        remedy_of(kind, input_perturbation_gamma=gamma),
        Batch(*random_pair((rows, 50, 50, 60), dtype=torch.float64), {}),
    )
    batch = replace(batch, x0=spread * batch.x0)
    state = remedy.state(batch, remedy.plan(times_of(kind), step=STEP, seed=SEED), None)
    x, target = state.x.flatten(1), remedy.target(batch, state).flatten(1)
    slope = (x * target).sum(1) / x.square().sum(1)
    level = path.at(times_of(kind))
    if kind == "epsilon":
        torch.testing.assert_close(
            slope, level.sigma / (level.alpha**2 * spread**2 + level.sigma**2 * (1 + gamma**2)), rtol=0.02, atol=0.01
        )
    plain = path.noised(batch.x0, batch.noise, level)
    guess = prediction_from_output(slope.reshape(-1, 1, 1, 1) * plain, plain, level, kind).x0_hat.flatten(1)
    of_picture = (guess * plain.flatten(1)).sum(1) / plain.flatten(1).square().sum(1)
    true = level.alpha * spread**2 / (level.alpha**2 * spread**2 + level.sigma**2)
    for row in range(rows):
        reported = perturbed_slope(level[row : row + 1], gamma, kind, spread)
        assert reported * float(true[row]) == pytest.approx(float(of_picture[row]), rel=0.05, abs=0.06)
        assert perturbed_slope(level[row : row + 1], 0.0, kind, spread) == pytest.approx(1)


def test_it_blurs_where_the_picture_is_predicted_and_leaves_noise_where_the_noise_is():
    level = VP.at(torch.tensor([500.0]))
    slopes = {kind: perturbed_slope(level, 0.3, kind) for kind in ("epsilon", "v_prediction", "sample")}
    assert slopes["sample"] < 1 < slopes["epsilon"] and slopes["v_prediction"] == pytest.approx(1)
    assert perturbed_slope(FLOW.at(torch.tensor([0.8])), 0.3, "flow_matching") > 1


# --- how it is asked for ---


@pytest.mark.parametrize("flat", [ON, ON | CONTROL])
@pytest.mark.parametrize("more", [{}, {"scheduled_sampling_control": "source_noise"}])
def test_together_with_scheduled_sampling_it_is_refused(flat, more):
    with pytest.raises(ConfigError, match="a run has one remedy") as caught:
        config_from_flat(flat | ROLLED | more)
    [fault] = caught.value.faults
    assert fault.options == ("input_perturbation_gamma", "scheduled_sampling_max_step_offset")
    config_from_flat(flat | ROLLED | {"scheduled_sampling_probability": 0})  # nothing rolls


def test_a_control_of_nothing_is_reported():
    assert idle_remarks(config_from_flat(CONTROL)) == [
        "input_perturbation_control is not used: input_perturbation_gamma is 0."
    ]
    assert not idle_remarks(config_from_flat(ON | CONTROL))


def test_the_node_puts_it_on_the_wire_of_the_rollout():
    [alone] = input_perturbation(None, None, gamma=0.2, control="none")
    config = config_from_parts({"rollout": alone})
    assert config.input_perturbation.gamma == 0.2 and not config.rollout.is_active


def test_simpletuners_option_of_that_name_is_read():
    read = simpletuner.read({"input_perturbation": 0.1, "input_perturbation_steps": 100}, Near())
    assert read.flat["input_perturbation_gamma"] == 0.1
    assert [each.key for each in read.left] == ["input_perturbation_steps"]
    both = simpletuner.read({"input_perturbation": 0.1, "scheduled_sampling_max_step_offset": 5}, Near())
    assert "input_perturbation_gamma" not in both.flat
    assert "input_perturbation" in [each.key for each in both.left]


def test_a_run_trains_with_it_and_its_control_and_draws_what_the_plain_run_draws(tiny_run, without_drift):
    """At a tiny gamma the losses come near the plain ones: same pictures, times and noise."""
    reported = {}
    for name, flat in {
        "plain": {},
        "little": {"input_perturbation_gamma": 1e-6},
        "much": {"input_perturbation_gamma": 0.5},
        "control": {"input_perturbation_gamma": 0.5} | CONTROL,
    }.items():
        run = tiny_run("lumina2", name, max_train_steps=2, **flat)
        assert train(run) == 0
        reported[name] = losses(run)
        moved = [event["source_noise_rows"] for event in events(run, "step")]
        assert all(moved) if name == "control" else not any(moved)
    assert reported["little"] == pytest.approx(reported["plain"], rel=1e-4)
    for name in ("much", "control"):
        assert reported[name] != pytest.approx(reported["plain"], rel=1e-5), name


def test_it_is_a_remedy_of_the_contract():
    assert isinstance(remedy_of("epsilon", **ON), InputPerturbation)
    assert Network(None, {}).calls == 0
