"""The loss of a batch on a small network of our own: which state trains, towards what, and which passes carry gradient."""

from dataclasses import dataclass

import pytest
import torch
from oracles import PATHS, grid_for, random_pair
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.losses import batch_loss
from rollout_studio.core.noise import prediction_from_output
from rollout_studio.core.rollout import plan_offsets
from torch import Tensor, nn

FLOW = PATHS["flow"]
P = "scheduled_sampling_"
ON = {f"{P}max_step_offset": 3, f"{P}probability": 1.0, f"{P}grid_steps": 30}


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
        self.weight, self.bias, self.drop = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.1)), nn.Dropout(0.5)
        self.calls: list[Call] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append(Call(x.detach(), t, self.training, torch.is_grad_enabled()))
        return self.drop(torch.tanh(self.weight * x) + self.bias * t.reshape(-1, 1, 1, 1))


class Model:
    """As much of a model as the loss of a batch asks for."""

    prediction_type = "flow_matching"
    noise_path = FLOW

    def __init__(self, dropout: bool = False):
        self.denoiser = Network().train()
        self.denoiser.drop.p = 0.5 if dropout else 0.0

    def denoise(self, x, t, cond):
        return self.denoiser(x, t)

    def predict(self, cond, guidance=1.0):
        return lambda x, level, rows: prediction_from_output(self.denoiser(x, level.t), x, level, self.prediction_type)


def loss_of(model, k=(0, 1, 3, 2), **options):
    """(the loss, x0, noise, plan) of four rows with these offsets, one of them plain."""
    x0, noise = random_pair((4, 3, 4, 5))
    plan = plan_offsets(torch.tensor([0.3, 0.4, 0.62, 0.5]), torch.tensor(k), FLOW, grid := grid_for(FLOW))
    config = config_from_flat(ON | {P + name: value for name, value in options.items()})
    return batch_loss(model, config, x0, noise, {}, plan, grid), x0, noise, plan


def gradient(model, loss):
    return torch.autograd.grad(loss.sum(), model.denoiser.weight)[0]


# --- which passes learn ---


@pytest.mark.parametrize("options", [{}, {"reflexflow_mode": "paper"}, {"guidance": 2.0}, {"sampler": "rk4"}], ids=str)
def test_dropout_is_off_wherever_the_network_does_not_learn_and_on_where_it_does(options):
    """The clean prediction beside a rolled one too: else its dropout would be taken for exposure bias."""
    model = Model(dropout=True)
    loss_of(model, **options)
    calls = model.denoiser.calls
    assert [call.training for call in calls] == [call.with_gradient for call in calls]
    assert {call.training for call in calls} == {True, False} and model.denoiser.training


def test_in_paper_mode_the_pass_at_the_rolled_state_carries_gradient():
    """Anti-drift alone: all its gradient comes through the second pass."""
    model = Model()
    found, *_ = loss_of(model, reflexflow_mode="paper", reflexflow_alpha=0.0, reflexflow_beta2=0.0)
    assert gradient(model, found.parts.adr).abs() > 1e-3
    assert found.parts.main[1:].abs().max() == 0


def test_in_paper_mode_the_main_loss_is_towards_the_pairs_own_velocity_not_the_rolled_states():
    model = Model()
    found, x0, noise, _ = loss_of(model, reflexflow_mode="paper", reflexflow_alpha=0.0, reflexflow_beta1=0.0)
    at = next(call for call in model.denoiser.calls if call.with_gradient)
    output = Model().denoise(at.x, at.t, {})
    torch.testing.assert_close(found.parts.total, (output - (noise - x0)).square().flatten(1).mean(1))
