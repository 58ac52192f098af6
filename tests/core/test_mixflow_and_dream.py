"""MixFlow (arXiv 2512.19311) and DREAM (2312.00210) against their formulas, their controls and their costs."""

import pytest
import torch
from oracles import PATHS, grid_for, random_pair
from rollout_studio.core.before.controls import control, why_not
from rollout_studio.core.before.cost import remedy_cost, remedy_sentence
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.maths.noise import prediction_from_output
from rollout_studio.core.remedies import Batch, Dream, Ground, MixFlow, Network, remedy_for, rows_of
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.losses import batch_loss
from tiny_run import losses
from torch import nn

FLOW, VP = PATHS["flow"], PATHS["vp"]
SHAPE = (4, 3, 4, 5)
T = torch.tensor([0.9, 0.5, 0.05, 0.3])
MIX, DREAM = {"mixflow_gamma": 0.8}, {"dream_training": True}


class Model:
    def __init__(self, kind):
        self.prediction_type, self.noise_path = kind, FLOW if kind == "flow_matching" else VP
        self.denoiser = nn.Identity()

    def denoise(self, x, t, cond):
        return torch.tanh(x)


def remedy_of(kind, **flat):
    model = Model(kind)
    config = config_from_flat({"prediction_type": kind, "pretrained_model_name_or_path": "some/model", **flat})
    return remedy_for(config, Ground(model.noise_path, kind, grid_for(model.noise_path)))


# --- MixFlow ---


@pytest.mark.parametrize("times", ["training", "paper"])
def test_the_input_is_the_exact_state_at_a_noisier_level_than_the_network_is_told(times):
    remedy, batch = remedy_of("flow_matching", **MIX, mixflow_times=times), Batch(*random_pair(SHAPE), {})
    assert isinstance(remedy, MixFlow)
    plan = remedy.plan(T, step=1, seed=2)
    state = remedy.state(batch, plan, None)
    told, there = plan.target.sigma, plan.input.sigma
    if times == "training":
        torch.testing.assert_close(told.float(), T)
    share = (there - told) / (1 - told)
    assert (share >= 0).all() and (share <= 0.8).all() and len(set(share.tolist())) == 4
    s = there.float().reshape(4, 1, 1, 1)
    torch.testing.assert_close(state.x, (1 - s) * batch.x0 + s * batch.noise)
    assert torch.equal(state.level.sigma, told)
    torch.testing.assert_close(remedy.target(batch, state), batch.noise - batch.x0)


def test_the_papers_times_have_density_two_times_one_minus_s_and_the_slowing_is_uniform():
    remedy = remedy_of("flow_matching", **MIX)
    plan = remedy.plan(torch.full((4000,), 0.5), step=1, seed=2)
    told = plan.target.sigma
    for edge in (0.1, 0.3, 0.5, 0.8):
        assert float((told < edge).double().mean()) == pytest.approx(1 - (1 - edge) ** 2, abs=0.03)
    share = (plan.input.sigma - told) / (1 - told) / 0.8
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02) and float(share.std()) == pytest.approx(
        12**-0.5, abs=0.02
    )


def test_the_control_tells_the_network_the_inputs_own_level_and_both_cost_nothing():
    batch = Batch(*random_pair(SHAPE), {})
    mine, control_run = (
        remedy_of("flow_matching", **MIX),
        remedy_of("flow_matching", **MIX, mixflow_control="input_noise"),
    )
    plans = [each.plan(T, step=1, seed=2) for each in (mine, control_run)]
    states = [each.state(batch, plan, None) for each, plan in zip((mine, control_run), plans, strict=True)]
    assert torch.equal(states[0].x, states[1].x)
    assert torch.equal(states[1].level.sigma, plans[0].input.sigma)
    assert control_run.counts(plans[1]).source_noise_rows == 4
    config = config_from_flat(MIX)
    assert remedy_cost(config).mean_ratio == 1 and "no extra forward" in remedy_sentence(config)
    assert control("plain-steps", config).changes == {"mixflow_gamma": 0.0}
    assert "takes no time of its own" in why_not("plain-time", config)
    rows = torch.tensor([3, 1])
    assert torch.equal(rows_of(plans[0], rows).input.sigma, plans[0].input.sigma[rows])


# --- DREAM ---


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_input_and_target_carry_the_models_own_error(power):
    """algorithm 2: x_t + sigma lambda d and noise + lambda d with d = noise - eps(x_t), lambda = sigma^p."""
    remedy, batch = remedy_of("epsilon", **DREAM, dream_detail_preservation=power), Batch(*random_pair(SHAPE), {})
    assert isinstance(remedy, Dream)
    network = Network(Model("epsilon"), {})
    state = remedy.state(batch, remedy.plan(T * 999, step=0, seed=0), network)
    level = VP.at(T * 999)
    alpha, sigma = (values.float().reshape(4, 1, 1, 1) for values in (level.alpha, level.sigma))
    x = alpha * batch.x0 + sigma * batch.noise
    added = sigma**power * (batch.noise - torch.tanh(x))
    torch.testing.assert_close(state.x, x + sigma * added)
    target = remedy.target(batch, state)
    torch.testing.assert_close(target, batch.noise + added)
    # The pair is consistent: the target's picture at the input is the true one.
    torch.testing.assert_close(
        prediction_from_output(target, state.x, state.level, "epsilon").x0_hat, batch.x0, rtol=1e-3, atol=1e-3
    )
    assert (network.calls, network.rows) == (1, 4)


def test_a_perfect_answer_leaves_a_row_plain():
    class Knowing(Model):
        def denoise(self, x, t, cond):
            return batch.noise

    batch = Batch(*random_pair(SHAPE), {})
    remedy = remedy_of("epsilon", **DREAM)
    plan = remedy.plan(T * 999, step=0, seed=0)
    state = remedy.state(batch, plan, Network(Knowing("epsilon"), {}))
    assert torch.equal(state.x, VP.noised(batch.x0, batch.noise, VP.at(T * 999)))
    found = batch_loss(Knowing("epsilon"), config_from_flat({}), remedy, batch, plan)
    assert found.parts.total.abs().max() == 0 and (found.network_calls, found.network_rows) == (2, 8)


def test_its_cost_is_one_forward_and_it_has_no_control_at_another_noise():
    config = config_from_flat(DREAM | {"pretrained_model_name_or_path": "demo-epsilon"})
    assert remedy_cost(config).mean_ratio == 1.5
    assert "noise levels that were drawn" in why_not("source-noise", config)
    assert control("plain-steps", config).changes == {"dream_training": False}


@pytest.mark.parametrize(
    ("flat", "words"),
    [
        (MIX | {"pretrained_model_name_or_path": "demo-epsilon"}, "MixFlow is defined for flow models only"),
        (DREAM | {"pretrained_model_name_or_path": "demo-flow"}, "DREAM is defined for models that predict the noise"),
        (MIX | {"model_family": "sd1x"}, "MixFlow is defined for flow models only"),
        (MIX | {"soar_states": 2}, "a run has one remedy"),
    ],
)
def test_they_are_refused_where_they_are_not_defined(flat, words):
    with pytest.raises(ConfigError, match=words):
        config_from_flat(flat)


def test_a_run_trains_with_each_and_the_losses_are_not_those_of_plain_training(tiny_run, without_drift):
    for family, flat in (("lumina2", MIX), ("sd1", DREAM)):
        reported = []
        for name, more in (("plain", {}), ("remedy", flat)):
            run = tiny_run(family, f"{family}-{name}", max_train_steps=2, **more)
            assert train(run) == 0
            reported.append(losses(run))
        assert reported[0] != pytest.approx(reported[1], rel=1e-5)


def test_a_checkpoint_that_turns_out_to_be_of_another_kind_is_refused_before_anything_trains(tiny_run, without_drift):
    run = tiny_run("sd1", "wrong", max_train_steps=2, **MIX)
    assert train(run) == 78
