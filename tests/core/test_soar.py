"""SOAR against its formula (arXiv 2604.12617), its control, its cost and its optimum on Gaussian data."""

import pytest
import torch
from oracles import PATHS, Gaussian, grid_for, random_pair
from rollout_studio.core.before.controls import control, why_not
from rollout_studio.core.before.cost import remedy_cost
from rollout_studio.core.config import config_from_flat, idle_remarks
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.families.guidance import CLASSIFIER_FREE
from rollout_studio.core.remedies import Batch, Ground, Network, Plain, Soar, remedy_for, rows_of
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.losses import batch_loss
from tiny_run import events, losses
from torch import nn

FLOW = PATHS["flow"]
SHAPE = (4, 3, 4, 5)
T = torch.tensor([0.9, 0.5, 0.01, 0.3])
ON = {"soar_states": 3, "soar_guidance": 1.0}
CONTROL = {"soar_control": "plain_states"}


class Exact:
    """The best model of Gaussian data; keeps what its network was given. Guidance has no effect on it but its rows."""

    prediction_type, noise_path, guidance = "flow_matching", FLOW, CLASSIFIER_FREE
    data = Gaussian(mu=0.0, s=0.5)

    def __init__(self):
        self.denoiser, self.seen = nn.Identity(), []

    def denoise(self, x, t, cond):
        self.seen.append((x, t, cond))
        return self.data.predict(x, FLOW.at(t)).velocity

    def predict(self, cond, guidance=1.0):
        return lambda x, level, rows: self.data.predict(x, FLOW.at(level.t))


def remedy_of(**flat):
    return remedy_for(
        config_from_flat({"prediction_type": "flow_matching", "pretrained_model_name_or_path": "some/model", **flat}),
        Ground(FLOW, "flow_matching", grid_for(FLOW)),
    )


def led(model=None, shape=SHAPE, **flat):
    remedy, batch = (
        remedy_of(**(ON | flat)),
        Batch(*random_pair(shape), Conditioning({"words": torch.arange(shape[0])})),
    )
    network = Network(Exact() if model is None else model, batch.conditioning)
    plan = remedy.plan(T, step=7, seed=3)
    return remedy, batch, plan, remedy.state(batch, plan, network), network


def test_every_state_is_the_papers():
    """xh = one Euler step; x' = (1 - a) xh + a noise with a = (s' - s1) / (1 - s1); target (x' - x0) / s'."""
    remedy, batch, _, state, network = led()
    assert isinstance(remedy, Soar)
    plain = FLOW.noised(batch.x0, batch.noise, FLOW.at(T))
    assert torch.equal(state.x, plain) and torch.equal(remedy.target(batch, state), batch.noise - batch.x0)
    for row, s in enumerate(T.double()):
        s1 = max(float(s) - 0.025, 0.0)
        xh = plain[row] + (s1 - s) * Exact.data.predict(plain[row : row + 1], FLOW.at(s.reshape(1))).velocity[0]
        mine = (state.more.of == row).nonzero().flatten()
        assert len(mine) == 3
        for i in mine:
            there = float(state.more.level.sigma[i])
            assert max(s1, 0.025) <= there <= 1
            a = (there - s1) / (1 - s1)
            x = (1 - a) * xh + a * batch.noise[row]
            torch.testing.assert_close(state.more.x[i], x.float(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                state.more.target[i], ((x - batch.x0[row]) / there).float(), rtol=1e-4, atol=1e-4
            )
    assert (network.calls, network.rows) == (1, 4)


def test_guidance_is_that_of_the_one_step_alone():
    asked = []

    class Guided(Exact):
        def predict(self, cond, guidance=1.0):
            asked.append(guidance)
            return super().predict(cond)

    network = led(Guided(), soar_guidance=4.5)[-1]
    assert asked == [4.5] and (network.calls, network.rows) == (2, 8)


def test_a_rows_loss_is_the_weighted_mean_of_its_own_and_its_states():
    model, config = Exact(), config_from_flat(ON | {"soar_weight": 0.5})
    remedy, batch, plan, state, _ = led(soar_weight=0.5)
    found = batch_loss(model, config, remedy, batch, plan)
    own = model.denoise(state.x, state.level.t.float(), None) - remedy.target(batch, state)
    beside = model.denoise(state.more.x, state.more.level.t.float(), None) - state.more.target
    mean = [each.square().flatten(1).mean(1) for each in (own, beside)]
    want = (mean[0] + 0.5 * mean[1].reshape(4, 3).sum(1)) / (1 + 0.5 * 3)
    torch.testing.assert_close(found.parts.total, want)
    assert (found.network_calls, found.network_rows) == (2, 4 + 4 + 12)
    x, t, words = model.seen[0]
    assert len(x) == 16 and words["words"].tolist() == [0, 1, 2, 3, *[0] * 3, *[1] * 3, *[2] * 3, *[3] * 3]
    torch.testing.assert_close(t[:4], T)
    assert found.counts.rolled == 4 and found.parts.extra.abs().max() == 0


def test_masks_prior_weight_and_the_weight_by_noise_hold_for_the_states_too():
    model, flat = (
        Exact(),
        {**ON, "snr_gamma": 5.0, "prior_loss_weight": 0.25, "with_prior_preservation": True, "class_prompt": "a cup"},
    )
    config = config_from_flat(flat)
    remedy, batch, plan, state, _ = led()
    left = torch.zeros(4, 1, 4, 5)
    left[..., :2] = 1
    is_class = torch.tensor([False, True, False, True])
    batch = Batch(batch.x0, batch.noise, batch.conditioning, is_class=is_class, mask=left)
    found = batch_loss(model, config, remedy, batch, plan)

    def mean(x, level, target):
        error = (model.denoise(x, level.t.float(), None) - target).square()[..., :2].flatten(1).mean(1)
        ratio = ((1 - level.sigma) / level.sigma).square()
        return error * (ratio.clamp(max=5) * level.sigma.square()).float()

    own, beside = (
        mean(state.x, state.level, remedy.target(batch, state)),
        mean(state.more.x, state.more.level, state.more.target),
    )
    want = (own + beside.reshape(4, 3).sum(1)) / 4 * torch.tensor([1, 0.25, 1, 0.25])
    torch.testing.assert_close(found.parts.total, want)


def test_a_plan_of_some_rows_trains_the_same_states():
    remedy, batch, plan, whole, _ = led()
    rows = torch.tensor([2, 0])
    part = remedy.state(
        Batch(batch.x0[rows], batch.noise[rows], batch.conditioning.select(rows)),
        rows_of(plan, rows),
        Network(Exact(), None),
    )
    for place, row in enumerate(rows):
        torch.testing.assert_close(part.more.x[part.more.of == place], whole.more.x[whole.more.of == row])


def test_the_control_trains_the_same_noise_levels_on_the_true_path_and_asks_nothing():
    _, batch, _, mine, _ = led()
    remedy, _, plan, state, network = led(**CONTROL)
    assert torch.equal(state.more.level.sigma, mine.more.level.sigma) and network.calls == 0
    of = state.more.of
    torch.testing.assert_close(state.more.x, FLOW.noised(batch.x0[of], batch.noise[of], state.more.level))
    torch.testing.assert_close(state.more.target, batch.noise[of] - batch.x0[of])
    assert remedy.counts(plan).source_noise_rows == 4 and remedy.counts(plan).rolled == 0


def test_on_gaussian_data_a_states_best_answer_is_the_closed_form():
    """x' = p x0 + q noise with p = (1 - a) G alpha, q = (1 - a) G sigma + a, G of one Euler step; the best x0 of it is p s^2 / (p^2 s^2 + q^2) x'."""
    model = Exact()
    x0, noise = random_pair((4, 60, 50, 50), dtype=torch.float64)
    remedy = remedy_of(**ON, soar_step=0.3)
    batch = Batch(0.5 * x0, noise, Conditioning({"words": torch.arange(4)}))
    plan = remedy.plan(T, step=1, seed=2)
    more = remedy.state(batch, plan, Network(model, None)).more
    for i, row in enumerate(more.of):
        here, there, s = plan.target[row : row + 1], plan.landed[row : row + 1], float(more.level.sigma[i])
        gain = float(model.data.euler_gain(here, there))
        a = (s - float(there.sigma)) / (1 - float(there.sigma))
        p, q = (1 - a) * gain * (1 - float(T[row])), (1 - a) * gain * float(T[row]) + a
        x = more.x[i].flatten()
        picture = x - s * more.target[i].flatten()  # what the target says that the picture is
        torch.testing.assert_close(picture, batch.x0[row].flatten().to(picture), rtol=1e-3, atol=1e-3)
        slope = float((x * picture).sum() / x.square().sum())
        assert slope == pytest.approx(p * 0.25 / (p**2 * 0.25 + q**2), rel=0.02, abs=0.005)


def test_its_cost_is_the_step_and_the_gradient_of_its_states():
    cost = remedy_cost(config_from_flat(ON))
    assert (cost.mean_forwards, cost.mean_ratio) == (1 + 2 * 3, (2 + 7) / 2)
    assert remedy_cost(config_from_flat(ON | {"soar_guidance": 4.5})).mean_forwards == 2 + 2 * 3
    assert remedy_cost(config_from_flat(ON | CONTROL)).mean_forwards == 2 * 3


def test_its_controls_and_what_it_is_not_for():
    config = config_from_flat(ON)
    assert control("plain-steps", config).changes == {"soar_states": 0}
    assert control("source-noise", config).changes == CONTROL
    assert "ended first" in why_not("plain-time", config)
    with pytest.raises(ConfigError, match="SOAR is defined for flow models only") as caught:
        config_from_flat(ON | {"pretrained_model_name_or_path": "demo-epsilon"})
    assert caught.value.faults[0].options[0] == "soar_states"
    with pytest.raises(ConfigError, match="a run has one remedy"):
        config_from_flat(ON | {"input_perturbation_gamma": 0.1})
    assert any("soar_guidance" in each for each in idle_remarks(config_from_flat({"soar_guidance": 2.0})))
    assert type(remedy_of()) is Plain


def test_runs_with_it_differ_from_plain_ones_and_resume_as_they_were(tiny_run, without_drift):
    reported = {}
    for name, flat in {"plain": {}, "soar": ON, "control": ON | CONTROL}.items():
        run = tiny_run("lumina2", name, max_train_steps=2, **flat)
        assert train(run) == 0
        reported[name] = losses(run)
        rows = [event["network_rows"] / event["rows"] for event in events(run, "step")]
        assert set(rows) == {{"plain": 1, "soar": 5, "control": 4}[name]}
    assert len({tuple(each) for each in reported.values()}) == 3
