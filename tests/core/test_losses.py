"""The loss of a batch on a small network of our own: which state trains, towards what, and which passes carry gradient."""

import runpy
from dataclasses import dataclass, replace

import pytest
import torch
from oracles import PATHS, Gaussian, grid_for, random_pair
from rollout_studio.core.before import cost
from rollout_studio.core.before.loss_share import bands, representative_offsets, training_time, whole_step
from rollout_studio.core.before.run_schedule import schedule_of
from rollout_studio.core.config import OPTIONS, RolloutConfig, config_from_flat, rollout_level
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.families.guidance import CLASSIFIER_FREE
from rollout_studio.core.maths import grid as numeric
from rollout_studio.core.maths.noise import Level, consistent_target, prediction_from_output
from rollout_studio.core.maths.reflexflow import anti_drift, frequency_weight
from rollout_studio.core.maths.rollout import (
    make_plan,
    plan_from_drawn_time,
    plan_offsets,
    rollout,
    training_target,
)
from rollout_studio.core.maths.solvers import make_solver
from rollout_studio.core.maths.timesteps import sample_times
from rollout_studio.core.randomness import generator
from rollout_studio.core.remedies import Batch, Ground, State, remedy_for
from rollout_studio.core.remedies.rollout import rolled_bound
from rollout_studio.core.train import losses
from rollout_studio.core.train.losses import batch_loss
from torch import Tensor, nn

FLOW = PATHS["flow"]
P = "scheduled_sampling_"
ON = {f"{P}max_step_offset": 3, f"{P}probability": 1.0, f"{P}grid_steps": 30}


def in_numpy(level):
    return numeric.Level(level.t.numpy(), level.alpha.numpy(), level.sigma.numpy())


@dataclass(frozen=True)
class Call:
    """One call of the network: what it saw, and how it was called."""

    x: Tensor
    t: Tensor
    training: bool
    with_gradient: bool


class Network(nn.Module):
    """Two weights, the time and dropout: an answer that depends on all that it is given."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias, self.drop = (
            nn.Parameter(torch.tensor(0.7)),
            nn.Parameter(torch.tensor(0.1)),
            nn.Dropout(0.5),
        )
        self.calls: list[Call] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append(Call(x.detach(), t, self.training, torch.is_grad_enabled()))
        return self.drop(torch.tanh(self.weight * x) + self.bias * t.reshape(-1, 1, 1, 1))


class Model:
    """As much of a model as the loss of a batch asks for."""

    guidance = CLASSIFIER_FREE

    def __init__(self, dropout: bool = False, prediction_type: str = "flow_matching"):
        self.prediction_type = prediction_type
        self.noise_path = FLOW if prediction_type == "flow_matching" else PATHS["vp"]
        self.denoiser = Network().train()
        self.denoiser.drop.p = 0.5 if dropout else 0.0

    def denoise(self, x, t, cond):
        return self.denoiser(x, t)

    def predict(self, cond, guidance=1.0):
        return lambda x, level, rows: prediction_from_output(self.denoiser(x, level.t), x, level, self.prediction_type)


def conditioning_of(x0):
    """As much of a conditioning as a model needs that looks at none of it."""
    return Conditioning({"words": torch.arange(len(x0))})


def loss_at(model, config, x0, noise, plan, grid):
    """The loss of a batch under the config's own remedy, with a given plan."""
    remedy = remedy_for(config, Ground(model.noise_path, model.prediction_type, grid))
    return batch_loss(model, config, remedy, Batch(x0, noise, conditioning_of(x0)), plan)


def loss_of(model, k=(0, 1, 3, 2), t=(0.3, 0.4, 0.62, 0.5), training=None, **options):
    """(the loss, x0, noise, plan) of four rows with these offsets, one of them plain, at these parts of the way to noise."""
    path, (x0, noise) = model.noise_path, random_pair((4, 3, 4, 5))
    plan = plan_offsets(torch.tensor(t) * path.t_max, torch.tensor(k), path, grid := grid_for(path))
    training = {} if training is None else training
    config = config_from_flat(ON | training | {P + name: value for name, value in options.items()})
    return loss_at(model, config, x0, noise, plan, grid), x0, noise, plan


def gradient(model, loss):
    return torch.autograd.grad(loss.sum(), model.denoiser.weight)[0]


# --- which passes learn ---


@pytest.mark.parametrize("options", [{}, {"reflexflow_mode": "paper"}, {"guidance": 2.0}, {"sampler": "rk4"}], ids=str)
def test_dropout_is_off_wherever_the_network_does_not_learn_and_on_where_it_does(options):
    """The clean prediction beside a rolled one too: else its dropout would be taken for exposure bias."""
    model = Model(dropout=True)
    if "reflexflow_mode" in options:
        paper(model)
    else:
        loss_of(model, **options)
    calls = model.denoiser.calls
    assert [call.training for call in calls] == [call.with_gradient for call in calls]
    assert {call.training for call in calls} == {True, False} and model.denoiser.training


# --- ReflexFlow's paper mode ---

PAPER = {f"{P}max_step_offset": 1, f"{P}probability": 1.0, f"{P}reflexflow_mode": "paper"}
DRAWN, WAYS, CHOSEN = (
    torch.tensor([0.3, 0.9, 0.62, 0.5]),
    torch.tensor([0.1, 0.5, 0.9, 0.3]),
    torch.tensor([False, True, True, True]),
)


def paper(model, **options):
    """(the loss, x0, noise, plan) of four rows, the first of them plain; the others take steps of different lengths."""
    x0, noise = random_pair((4, 3, 4, 5))
    plan = plan_from_drawn_time(DRAWN, CHOSEN, WAYS, FLOW, grid := grid_for(FLOW))
    config = config_from_flat(PAPER | {P + name: value for name, value in options.items()})
    return loss_at(model, config, x0, noise, plan, grid), x0, noise, plan


def at_level(x0, noise, sigma):
    sigma = sigma.reshape(-1, 1, 1, 1)
    return (1 - sigma) * x0 + sigma * noise


def test_in_paper_mode_the_source_trains_and_its_answer_makes_the_step_to_the_state_of_the_second_pass():
    """The three calls, in order: all rows at the time they drew, with gradient; the step of the chosen ones, with gradient; their clean
    state at the same level, without."""
    model = Model()
    found, x0, noise, _ = paper(model)
    main, second, clean = model.denoiser.calls
    assert [call.with_gradient for call in (main, second, clean)] == [True, True, False]
    torch.testing.assert_close(main.x, at_level(x0, noise, DRAWN))
    torch.testing.assert_close(main.t, DRAWN)
    there = (DRAWN * (1 - WAYS))[1:]
    u = Model().denoise(main.x, main.t, {})[1:].detach()
    torch.testing.assert_close(second.x, main.x[1:] + (there - DRAWN[1:]).reshape(-1, 1, 1, 1) * u)
    torch.testing.assert_close(clean.x, at_level(x0[1:], noise[1:], there))
    torch.testing.assert_close(second.t, there)
    torch.testing.assert_close(clean.t, there)
    assert (found.network_calls, found.network_rows) == (3, 4 + 3 + 3)


def test_in_paper_mode_the_main_loss_is_the_pairs_own_velocity_at_the_source_weighted_by_the_bias_at_the_target():
    model = Model()
    found, x0, noise, _ = paper(model, reflexflow_beta1=0.0, reflexflow_beta2=0.5, reflexflow_alpha=0.7)
    main, second, clean = model.denoiser.calls
    again = Model()
    error = (again.denoise(main.x, main.t, {}) - (noise - x0)).square()
    weight = frequency_weight(again.denoise(second.x, second.t, {}), again.denoise(clean.x, clean.t, {}), 0.7, "max")
    torch.testing.assert_close(found.parts.total[0], error[0].mean())
    torch.testing.assert_close(found.parts.total[1:], 0.5 * (weight * error[1:]).flatten(1).mean(1))


def test_in_paper_mode_the_pass_at_the_rolled_state_carries_gradient():
    """Anti-drift alone: all its gradient comes through the second pass."""
    model = Model()
    found, x0, *_ = paper(model, reflexflow_alpha=0.0, reflexflow_beta1=3.0, reflexflow_beta2=0.0)
    assert found.parts.main[1:].abs().max() == 0 and found.network_calls == 2
    second = model.denoiser.calls[1]
    again = Model()
    torch.testing.assert_close(
        found.parts.extra[1:], 3.0 * anti_drift(again.denoise(second.x, second.t, {}), second.x, x0[1:])
    )
    here, alone = (
        gradient(model, found.parts.extra),
        gradient(again, 3.0 * anti_drift(again.denoise(second.x, second.t, {}), second.x, x0[1:])),
    )
    assert here.abs() > 1e-3
    torch.testing.assert_close(here, alone)


def test_the_step_passes_no_gradient_back_unless_that_is_asked_for():
    """The first pass gets a gradient from the main loss alone; with the option from the second pass too. The loss itself is the same."""
    losses_, gradients = [], []
    for back in (False, True):
        model = Model()
        found, *_ = paper(model, reflexflow_step_gradient=back, reflexflow_beta2=0.0, reflexflow_alpha=0.0)
        losses_.append(found.parts.total.detach())
        gradients.append(gradient(model, found.parts.extra))
    assert torch.equal(*losses_) and (gradients[0] - gradients[1]).abs() > 1e-4


def test_in_paper_mode_weights_by_noise_level_are_those_of_the_source():
    x0, noise = random_pair((4, 3, 4, 5))
    plan = plan_from_drawn_time(DRAWN, CHOSEN, WAYS, FLOW, grid := grid_for(FLOW))
    asked = {f"{P}reflexflow_alpha": 0.0, f"{P}reflexflow_beta1": 0.0}
    weighed, plain = (loss_at(Model(), config_from_flat(PAPER | asked | more), x0, noise, plan, grid).parts.total
                      for more in ({"precondition_outputs": True}, {}))  # fmt: skip
    torch.testing.assert_close(weighed, plain * DRAWN.square())


def test_a_paper_plan_starts_every_chosen_row_at_its_drawn_time_and_ends_anywhere_below():
    rows, grid = 8000, grid_for(FLOW)
    t = torch.full((rows,), 0.8)
    config = RolloutConfig(max_step_offset=1, probability=0.4, reflexflow_mode="paper", min_sigma=0.5)
    plan = make_plan(config, t, FLOW, grid, step=3, seed=5)
    assert torch.equal(plan.rolled, torch.rand(rows, generator=generator(5, 3, "mask"), dtype=torch.float64) < 0.4)
    torch.testing.assert_close(plan.source.t.float(), t)
    assert torch.equal(plan.target.t[~plan.rolled], plan.source.t[~plan.rolled])
    ways = 1 - plan.target.t[plan.rolled] / 0.8
    assert 0 <= ways.min() < 0.01 and 0.99 < ways.max() < 1 and float(ways.mean()) == pytest.approx(0.5, abs=0.02)
    drawn = torch.rand(rows, generator=generator(5, 3, "step_length"), dtype=torch.float64)[plan.rolled]
    torch.testing.assert_close(ways, drawn, atol=1e-6, rtol=0)
    assert plan.mean_offset == 1 and not plan.at_source_noise.any()
    # it only switches the mode on
    longer = make_plan(replace(config, max_step_offset=9), t, FLOW, grid, step=3, seed=5)
    assert torch.equal(longer.target.t, plan.target.t) and torch.equal(longer.k, plan.k)


def test_the_source_noise_control_of_a_paper_run_is_plain_training():
    """The source is the drawn time itself."""
    config = RolloutConfig(max_step_offset=1, probability=1.0, reflexflow_mode="paper", control="source_noise")
    plan = make_plan(config, torch.full((50,), 0.8), FLOW, grid_for(FLOW), step=0, seed=0)
    assert not plan.rolled.any() and not plan.at_source_noise.any()
    torch.testing.assert_close(plan.target.t.float(), torch.full((50,), 0.8))


def test_off_the_flow_the_papers_mode_changes_no_plan():
    path = PATHS["vp"]
    single, both = (make_plan(RolloutConfig(max_step_offset=3, probability=1.0, reflexflow_mode=mode), torch.full((50,), 500.0), path, grid_for(path),
                              step=0, seed=0) for mode in ("single-pass", "paper"))  # fmt: skip
    assert torch.equal(single.k, both.k) and torch.equal(single.target.t, both.target.t)


# --- the weightings of SD 3 ---


@pytest.mark.parametrize("precondition", [False, True])
@pytest.mark.parametrize("scheme", ["none", "sigma_sqrt", "cosmap"])
def test_a_flow_models_weighting_gives_the_loss_of_diffusers_dreambooth_script(scheme, precondition):
    """Their loss written out as there, on the output that the network really gave."""
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    model = Model()
    asked = {"loss_weighting": scheme, "precondition_outputs": precondition}
    found, x0, noise, plan = loss_of(model, k=(0, 0, 0, 0), training=asked)
    [call] = model.denoiser.calls
    sigmas, output = plan.target.like(x0).sigma, Model().denoise(call.x, call.t, {})
    target = x0 if precondition else noise - x0
    output = output * -sigmas + call.x if precondition else output
    theirs = (compute_loss_weighting_for_sd3(scheme, sigmas).float() * (output - target) ** 2).reshape(4, -1).mean(1)
    torch.testing.assert_close(found.parts.total, theirs)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_weights_by_noise_are_those_of_diffusers_snr_for_every_output(kind):
    """`compute_snr` on a real schedule, and the weights that diffusers' scripts and the papers write with it."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr
    from rollout_studio.core.maths.noise import Level

    schedule, times = (
        DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        torch.tensor([0, 3, 250, 700, 999]),
    )
    snr, product = compute_snr(schedule, times), schedule.alphas_cumprod[times]
    level = Level(times.float(), product.sqrt(), (1 - product).sqrt())
    on_output = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[
        kind
    ]  # an error of the image of 1, in the output
    for weight, on_image in (
        (losses.min_snr_weight(level, 5.0, kind), snr.clamp(max=5)),
        (losses.picture_weight(level, "debiased", kind), snr.sqrt()),
        (losses.picture_weight(level, "noise_error", kind), snr),
    ):
        torch.testing.assert_close(weight * on_output, on_image, rtol=1e-4, atol=0)
    if kind == "epsilon":
        torch.testing.assert_close(losses.picture_weight(level, "debiased", kind), 1 / snr.sqrt(), rtol=1e-4, atol=0)
    if kind == "v_prediction":  # sd-scripts' scale_v_pred_loss_like_noise_pred
        torch.testing.assert_close(
            losses.picture_weight(level, "noise_error", kind), snr / (snr + 1), rtol=1e-4, atol=0
        )


def test_the_weight_of_a_row_without_any_picture_is_finite():
    from rollout_studio.core.maths.noise import Level

    level = Level(torch.tensor([999.0]), torch.tensor([0.0]), torch.tensor([1.0]))
    assert float(losses.picture_weight(level, "debiased", "epsilon")) == 100.0


@pytest.mark.parametrize("weighting", ["debiased", "noise_error"])
def test_a_weighting_of_other_models_weighs_their_rows_and_is_refused_on_a_flow_model(weighting):
    asked = {"training": {"loss_weighting": weighting, "pretrained_model_name_or_path": "someone/unknown"}}
    (weighed, plan), (plain, _) = main_of("v_prediction", snr_gamma=0, **asked), main_of("v_prediction", snr_gamma=0)
    torch.testing.assert_close(weighed, plain * losses.picture_weight(plan.target, weighting, "v_prediction").float())
    with pytest.raises(ConfigError, match="not defined for flow models, and demo-flow is one"):
        config_from_flat({"pretrained_model_name_or_path": "demo-flow", "loss_weighting": weighting})
    with pytest.raises(ValueError, match="not defined for flow models"):
        loss_of(Model(), training=asked["training"])
    with pytest.raises(ConfigError, match="keep one of the two"):
        config_from_flat(
            {"loss_weighting": weighting, "snr_gamma": 5, "pretrained_model_name_or_path": "someone/unknown"}
        )


@pytest.mark.parametrize("asked", [{"loss_weighting": "cosmap"}, {"precondition_outputs": True}], ids=str)
def test_a_weighting_of_flow_models_is_refused_on_another_model(asked):
    with pytest.raises(ConfigError, match="defined for flow models only, and demo-epsilon is not one"):
        config_from_flat({"pretrained_model_name_or_path": "demo-epsilon", **asked})
    with pytest.raises(ValueError, match="flow models only"):  # where only the checkpoint knew
        loss_of(
            Model(prediction_type="epsilon"),
            t=CLEAN,
            training={"pretrained_model_name_or_path": "someone/unknown", **asked},
            reflexflow=False,
        )


@pytest.mark.parametrize(("scale", "is_flow"), [(1.29, True), (-0.7, True), (0.0, True), (1.29, False)])
def test_mode_draws_the_times_that_diffusers_draws(scale, is_flow):
    from diffusers.training_utils import compute_density_for_timestep_sampling

    config = config_from_flat({"timestep_sampling": "mode", "mode_scale": scale}).training
    theirs = compute_density_for_timestep_sampling("mode", 500, mode_scale=scale, generator=generator(0, 0, "t"))
    ours = sample_times(config, 500, generator(0, 0, "t"), is_flow=is_flow, training_times=1000)
    torch.testing.assert_close(ours / (1 if is_flow else 999), theirs.clamp(1e-4, 1 - 1e-4) if is_flow else theirs)
    middle = float(((theirs - 0.5).abs() < 0.25).double().mean())
    assert (middle > 0.55) == (scale > 0.5) and (middle < 0.45) == (scale < -0.5)


def test_a_logit_mean_above_0_is_noisier_here_and_cleaner_in_diffusers_scripts():
    """Their draw is a place in a table from noise to clean; with the sign turned both train the same levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.training_utils import compute_density_for_timestep_sampling

    table = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def theirs(mean):
        torch.manual_seed(0)
        u = compute_density_for_timestep_sampling("logit_normal", 20_000, logit_mean=mean, logit_std=0.8)
        return table.sigmas[(u * 1000).long()]

    def ours(mean):
        config = config_from_flat({"logit_mean": mean, "logit_std": 0.8}).training
        return sample_times(config, 20_000, generator(0, 0, "t"), is_flow=True, shift=3.0)

    assert ours(0.9).mean() > ours(0.0).mean() + 0.1 and theirs(0.9).mean() < theirs(0.0).mean() - 0.1
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    torch.testing.assert_close(ours(-0.9).quantile(quantiles), theirs(0.9).quantile(quantiles), atol=0.02, rtol=0)
    assert "opposite of diffusers" in OPTIONS["logit_mean"].help


# --- the bound on rolled rows of a variance-preserving path ---

CLEAN = (0.01, 0.02, 0.4, 0.05)
"""Parts of the way to noise: a plain row, two nearly clean rolled rows, and a noisy rolled one in third place."""


def main_of(kind, **options):
    found, _, _, plan = loss_of(Model(prediction_type=kind), t=CLEAN, reflexflow=False, **options)
    return found.parts.main.detach(), plan


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_rolled_rows_are_bounded_by_default_and_plain_rows_keep_their_weight_bit_for_bit(kind):
    (bounded, plan), (free, _) = main_of(kind), main_of(kind, snr_gamma=0)
    assert torch.equal(bounded[0], free[0])
    bound = rolled_bound(plan.target, 5.0, kind).float()
    torch.testing.assert_close(bounded[1:], free[1:] * bound[1:])
    assert bound[1] < 0.12 and bound[3] < 0.5 and bound[2] == 1  # a noisy row needs no bound


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_bound_counts_an_error_of_the_picture_as_at_the_snr_that_it_names(kind):
    """weight * (how much a picture's error counts there) = what it counts where the SNR is gamma."""
    level = PATHS["vp"].at(torch.tensor([0.0, 30.0, 200.0, 700.0]))
    snr = (level.alpha / level.sigma).square()
    more = 0 if kind == "epsilon" else 1
    for gamma in (0.5, 5.0, 50.0):
        counted = rolled_bound(level, gamma, kind) * (snr + more)
        torch.testing.assert_close(counted, (snr + more).clamp(max=gamma + more))
        assert rolled_bound(level, gamma, kind).numpy() == pytest.approx(
            cost.rolled_bound(in_numpy(level), gamma, kind)
        )
    end = Level(torch.ones(1), torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert rolled_bound(end, 5.0, kind) == cost.rolled_bound(in_numpy(end), 5.0, kind) == 1  # zero terminal SNR


def test_beside_min_snr_of_all_rows_the_smaller_of_the_two_weights_holds():
    gamma = {"training": {"snr_gamma": 2.0}}
    (both, _), (alone, _) = main_of("epsilon", **gamma), main_of("epsilon", **gamma, snr_gamma=0)
    assert torch.equal(both, alone)
    looser = {"training": {"snr_gamma": 50.0}}
    (both, plan), (free, _) = main_of("epsilon", **looser), main_of("epsilon", snr_gamma=0)
    torch.testing.assert_close(both[1:], free[1:] * rolled_bound(plan.target, 5.0, "epsilon").float()[1:])
    torch.testing.assert_close(both[0], free[0] * losses.min_snr_weight(plan.target, 50.0, "epsilon").float()[0])


@pytest.mark.parametrize(
    ("kind", "options"), [("flow_matching", {}), ("sample", {}), ("epsilon", {"target": "original"})]
)
def test_where_the_target_does_not_grow_nothing_is_bounded(kind, options):
    assert torch.equal(main_of(kind, **options)[0], main_of(kind, snr_gamma=0, **options)[0])


# --- the loss by noise level ---

SD1 = {"pretrained_model_name_or_path": "someone/sd1", "model_family": "sd1x"}


def strong(**more):
    return config_from_flat({**SD1, **rollout_level("strong", 1000), **more})


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_on_stable_diffusions_schedule_the_cleanest_rows_of_level_strong_carry_half_of_the_loss_unbounded_and_under_a_tenth_bounded(
    spread,
):
    """The rolled rows of one pass over all 1000 timesteps through the trainer's own rollout, target and weights; a perfect Gaussian model."""
    config, path = strong(), PATHS["vp"]
    grid, oracle = schedule_of(config).grid, Gaussian(0.0, spread)
    t = torch.arange(1000.0).repeat_interleave(20)
    x0, noise = random_pair((len(t), 1, 4, 5), dtype=torch.float64)
    plan = make_plan(replace(config.rollout, ramp_steps=0, probability=1.0), t, path, grid, step=0, seed=1)
    x = rollout(oracle.predict, spread * x0, noise, plan, grid, path, make_solver("unipc")).x
    error = oracle.predict(x, plan.target).noise_hat - training_target(
        config.rollout, x, spread * x0, noise, plan, "epsilon"
    )
    free = error.square().flatten(1).mean(1)[plan.rolled]
    remedy = remedy_for(config, Ground(path, "epsilon", grid))
    bounded = free * remedy.terms(Batch(x0, noise, {}), State(x, plan.target, plan), x, None).at_most[plan.rolled]
    clean = (t < 35)[plan.rolled]
    shares = [float(loss[clean].sum() / loss.sum()) for loss in (free, bounded)]
    assert shares[0] > 0.4 and shares[1] < 0.1
    [band_found, *_] = bands(config, spread)
    assert [band_found.unbounded, band_found.bounded] == pytest.approx(shares, abs=0.03)


def test_with_the_bound_the_cleanest_rows_of_a_whole_step_carry_less_than_in_plain_training():
    """All rows at the highest chance of level strong, plain ones among them and untouched."""
    shares = {name: row[0] for name, row in whole_step(strong(), 1.0).items()}
    assert shares["bounded"] < 0.1 < shares["unbounded"] and shares["bounded"] < shares["plain training"]


def test_the_table_of_the_tool_has_the_shares_of_the_page(root, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["loss_share.py", "--spread", "1"])
    runpy.run_path(str(root / "tools" / "loss_share.py"), run_name="__main__")
    [clean] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sigma 0.17")]
    band_found = bands(strong())[0]
    assert f"{100 * band_found.unbounded:.1f} % | {100 * band_found.bounded:.1f} %" in clean


def test_the_loss_in_closed_form_is_the_one_that_a_rollout_finds():
    path, oracle = PATHS["vp"], Gaussian(0.0, 0.6)
    x0, noise = random_pair((100_000, 1), dtype=torch.float64)
    for kind in ("epsilon", "v_prediction"):
        for source, target in ((400.0, 250.0), (120.0, 60.0)):
            here, there = path.at(torch.tensor([source])), path.at(torch.tensor([target]))
            xr = oracle.flow(path.noised(0.6 * x0, noise, here), here, there)
            guess = oracle.predict(xr, there)
            output = (
                guess.noise_hat if kind == "epsilon" else there.alpha * guess.noise_hat - there.sigma * guess.x0_hat
            )
            found = (output - consistent_target(xr, 0.6 * x0, there, kind)).square().mean()
            assert cost.rolled_loss(here, there, kind, 0.6) == pytest.approx(float(found), rel=0.02)


@pytest.mark.parametrize("flat", [{"timestep_sampling": "logit_normal", "logit_mean": -0.7, "logit_std": 1.4}, {"timestep_sampling": "mode", "mode_scale": 1.0}, {}],
                         ids=["logit_normal", "mode", "uniform"])  # fmt: skip
def test_the_times_of_the_shares_are_those_that_training_draws(flat):
    config = strong(**flat)
    drawn = sample_times(config.training, 20_000, generator(0, 0, "t"), is_flow=False, training_times=1000)
    for share in (0.05, 0.3, 0.5, 0.9):
        assert training_time(config.training, share, 1000) == pytest.approx(
            float(drawn.double().quantile(share)), abs=12
        )


@pytest.mark.parametrize("strategy", ["uniform", "biased_early", "biased_late"])
@pytest.mark.parametrize("most", [1, 4, 12, 13, 40, 1000])
def test_a_dozen_offsets_stand_for_all_of_them(strategy, most):
    rollout_config = RolloutConfig(max_step_offset=most, probability=1.0, strategy=strategy)
    chances = cost.offset_distribution(strategy, most)
    found = representative_offsets(rollout_config)
    assert len(found) <= 12 and sum(chance for _, chance in found) == pytest.approx(1 - chances[0])
    mean = sum(k * chance for k, chance in enumerate(chances))
    assert sum(k * chance for k, chance in found) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("flat", [{"pretrained_model_name_or_path": "demo-flow"}, {P + "target": "original"}, {P + "max_step_offset": 0},
                                  {P + "min_sigma": 1.0}, {"prediction_type": "sample"}], ids=str)  # fmt: skip
def test_where_nothing_has_to_be_bounded_no_shares_are_reported(flat):
    band_found = strong(**({"model_family": "auto"} if "pretrained_model_name_or_path" in flat else {}), **flat)
    assert bands(band_found) is None
