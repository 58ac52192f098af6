"""The contract of a remedy: the loss of a batch is the same for all, and what a remedy adds arrives as its terms."""

import inspect
from dataclasses import dataclass

import pytest
import torch
from oracles import PATHS, grid_for, random_pair
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.families.guidance import CLASSIFIER_FREE, Embedded
from rollout_studio.core.maths.noise import Level
from rollout_studio.core.maths.row_loss import Terms, row_losses
from rollout_studio.core.remedies import REMEDIES, Batch, Ground, Network, Plain, remedy_for, rows_of
from rollout_studio.core.train import losses
from rollout_studio.core.train.losses import batch_loss
from torch import Tensor, nn

ROLLED = {
    "scheduled_sampling_max_step_offset": 3,
    "scheduled_sampling_probability": 1.0,
    "scheduled_sampling_grid_steps": 30,
}
T = torch.tensor([0.2, 0.4, 0.6, 0.9])


class Model:
    """As much of a model as the loss of a batch asks for; keeps what its network was given."""

    def __init__(self, kind="flow_matching"):
        self.prediction_type, self.noise_path = kind, PATHS["flow" if kind == "flow_matching" else "vp"]
        self.denoiser, self.seen = nn.Identity(), []

    def denoise(self, x, t, cond):
        self.seen.append((x, t, cond))
        return torch.tanh(x)


def ground_of(model):
    path = model.noise_path
    return Ground(path, model.prediction_type, grid_for(path))


def a_batch(shape=(4, 3, 4, 5), **more):
    return Batch(*random_pair(shape), Conditioning({"words": torch.arange(shape[0])}), **more)


@dataclass(frozen=True)
class Halved:
    """The plan of `TwiceAsClean`: the level that each row trains at."""

    t: Tensor
    target: Level
    name: str = "kept"


class TwiceAsClean(Plain):
    """A remedy that exists only here: trains at half the drawn time, and adds one of everything a remedy may add."""

    def plan(self, t, *, step, seed):
        return Halved(t, self.ground.path.at(t / 2))

    def terms(self, batch, state, output, network):
        again = network.denoise(state.x[1:], state.level[1:], torch.arange(1, len(output)))
        extra = torch.cat([output.new_zeros(1), again.flatten(1).mean(1).abs()])
        return Terms(weight=torch.full_like(output, 3.0), main=torch.tensor([1.0, 2, 2, 2]), extra=extra)


def test_a_remedy_of_ones_own_needs_nothing_but_the_four_steps():
    model, batch = Model(), a_batch()
    remedy = TwiceAsClean(config_from_flat({}), ground_of(model))
    found = batch_loss(model, config_from_flat({}), remedy, batch, remedy.plan(T, step=0, seed=0))
    sigma = (T / 2).reshape(4, 1, 1, 1)
    x = (1 - sigma) * batch.x0 + sigma * batch.noise
    main = 3 * (torch.tanh(x) - (batch.noise - batch.x0)).square().flatten(1).mean(1) * torch.tensor([1.0, 2, 2, 2])
    extra = torch.tanh(x).flatten(1).mean(1).abs() * torch.tensor([0.0, 1, 1, 1])
    torch.testing.assert_close(found.parts.total, main + extra)
    assert (found.network_calls, found.network_rows) == (2, 4 + 3)
    (_, reported, _), (_, _, words) = model.seen
    torch.testing.assert_close(reported, T / 2)
    assert words["words"].tolist() == [1, 2, 3]


def test_the_loss_of_a_batch_is_one_screen_and_names_no_remedy():
    source = inspect.getsource(batch_loss)
    assert len(source.splitlines()) <= 60
    whole = inspect.getsource(losses).lower()
    assert not [
        word
        for word in ("rollout", "reflex", "perturb", "scheduled", "soar", "mixflow", "dream")
        if word in whole.replace("dreambooth", "")
    ]


def test_a_bound_holds_the_weight_by_noise_level_and_no_bound_is_bit_for_bit_none():
    output, target = random_pair((4, 3, 4, 5))
    by_level = torch.tensor([0.5, 2.0, 2.0, 2.0])
    bound = torch.tensor([torch.inf, torch.inf, 0.25, 3.0])
    free, held = (
        row_losses(output, target, timestep_weight=by_level, terms=Terms(at_most=each)).total for each in (None, bound)
    )
    assert torch.equal(held[[0, 1, 3]], free[[0, 1, 3]])
    torch.testing.assert_close(held[2], free[2] / 8)
    alone = row_losses(output, target, terms=Terms(at_most=bound)).total
    plain = row_losses(output, target).total
    assert torch.equal(alone[[0, 1, 3]], plain[[0, 1, 3]])
    torch.testing.assert_close(alone[2], plain[2] / 4)


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda each: each.__name__)
def test_a_config_that_asks_for_no_remedy_trains_plainly(remedy):
    assert not remedy.is_active(config_from_flat({}))
    model = Model()
    assert type(remedy_for(config_from_flat({}), ground_of(model))) is Plain


@pytest.mark.parametrize("kind", ["flow_matching", "epsilon", "v_prediction"])
def test_plain_training_and_a_remedy_that_chose_no_row_have_the_same_bits(kind):
    model, batch, rolled = Model(kind), a_batch(), config_from_flat(ROLLED | {"scheduled_sampling_start_step": 9})
    totals = []
    for config in (config_from_flat({}), rolled):
        remedy = remedy_for(config, ground_of(model))
        plan = remedy.plan(T * model.noise_path.t_max, step=3, seed=1)
        found = batch_loss(model, config, remedy, batch, plan)
        assert (found.network_calls, found.network_rows, found.counts.rolled) == (1, 4, 0)
        totals.append(found.parts.total)
    assert type(remedy) is not Plain and torch.equal(*totals)


@pytest.mark.parametrize("flat", [{}, ROLLED], ids=["plain", "rolled"])
def test_a_plan_of_some_rows_holds_exactly_those(flat):
    model, rows = Model(), torch.tensor([3, 1])
    remedy = remedy_for(config_from_flat(flat), ground_of(model))
    whole = remedy.plan(T, step=0, seed=0)
    some = rows_of(whole, rows)
    assert torch.equal(some.t, whole.t[rows]) and torch.equal(some.target.sigma, whole.target.sigma[rows])
    assert remedy.counts(some).rolled == (0 if not flat else int(whole.rolled[rows].sum()))
    assert rows_of(Halved(T, model.noise_path.at(T)), rows).name == "kept"


@pytest.mark.parametrize(("guidance", "evaluations"), [(CLASSIFIER_FREE, 2), (Embedded(), 1)])
def test_a_network_counts_rows_and_calls_and_the_second_row_where_guidance_takes_one(guidance, evaluations):
    class Guided(Model):
        def predict(self, cond, guidance=1.0):
            return lambda x, level, rows: x

    Guided.guidance = guidance
    network, x = Network(Guided(), {}), torch.zeros(3, 1, 2, 2)
    level = PATHS["flow"].at(torch.full((3,), 0.5))
    network.denoise(x, level)
    network.predict(guidance=2.0)(x[:2], level[:2], torch.arange(2))
    assert (network.rows, network.calls) == (3 + 2 * evaluations, 1 + evaluations)
