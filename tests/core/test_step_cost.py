"""What a step asks of the network and of the device: calls, rows, transfers and reads, counted. No seconds."""

import dataclasses

import pytest
import torch
from oracles import PATHS, grid_for, random_pair
from rollout_studio.core.before.cost import rollout_cost
from rollout_studio.core.before.effects import longest_rollout
from rollout_studio.core.config import RolloutConfig, config_from_flat
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.families.guidance import CLASSIFIER_FREE
from rollout_studio.core.maths.noise import Prediction, RectifiedFlow, prediction_from_output
from rollout_studio.core.maths.rollout import make_plan, plan_offsets, rollout, undisturbed
from rollout_studio.core.maths.solvers import SOLVERS, make_solver
from rollout_studio.core.memory import Portions
from rollout_studio.core.remedies import Batch, Ground, remedy_for
from rollout_studio.core.remedies import Network as AskedNetwork
from rollout_studio.core.remedies.base import Calls, joined
from rollout_studio.core.train import step as stepping
from rollout_studio.core.train import together
from rollout_studio.core.train.losses import batch_loss
from rollout_studio.core.train.reporting import StepTally, read_together
from rollout_studio.core.train.step import Stepper
from tiny_run import ROLLOUT, events, without_drift  # noqa: F401 - a fixture
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

ALL = [(name, order) for name, kind in SOLVERS.items() for order in (kind.orders or (2,))]
FLOW = RectifiedFlow()
ROLLS = {"scheduled_sampling_max_step_offset": 9, "scheduled_sampling_probability": 1.0}
READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")


class Traffic(TorchDispatchMode):
    """Counts operations: all, what goes to the device `to`, casts, and reads of values. `of`: reads of tensors on this device alone."""

    def __init__(self, to="meta", of=None):
        super().__init__()
        self.to, self.of, self.sent, self.casts, self.reads, self.all = torch.device(to).type, of, 0, 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, {} if kwargs is None else kwargs
        self.all += 1
        if name == "_to_copy":
            goes = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == self.to
            moves = goes and args[0].device.type != self.to
            self.sent, self.casts = self.sent + moves, self.casts + (not moves)
        if name in READS and (self.of is None or args[0].device.type == self.of):
            self.reads += 1
        return function(*args, **kwargs)


class Network(nn.Module):
    """A network of one weight that sees its time; keeps the number of rows of each call."""

    def __init__(self):
        super().__init__()
        self.weight, self.sizes = nn.Parameter(torch.tensor(0.7)), []

    def forward(self, x, t):
        self.sizes.append(len(x))
        return torch.tanh(self.weight * x) + 0.1 * t.reshape(-1, 1, 1, 1)


class Model:
    """As much of a model as the loss of a batch asks for."""

    guidance = CLASSIFIER_FREE

    def __init__(self, kind="flow_matching", device="cpu"):
        self.prediction_type, self.noise_path = kind, PATHS["flow" if kind == "flow_matching" else "vp"]
        self.denoiser = Network().train().to(device)

    def denoise(self, x, t, cond):
        return self.denoiser(x, t)

    def predict(self, cond, guidance=1.0):
        return lambda x, level, rows: prediction_from_output(
            self.denoise(x, level.t, cond), x, level, self.prediction_type
        )


def loss_of(model, k=(0, 1, 3, 2), device="cpu", joined=None, **flat):
    """The loss of four rows with these offsets; `joined`: whether the clean prediction shares a call, None = as it comes."""
    path, config = model.noise_path, config_from_flat(ROLLS | flat)
    plan = plan_offsets(torch.tensor([0.3, 0.4, 0.62, 0.5]) * path.t_max, torch.tensor(k), path, grid := grid_for(path))
    remedy = remedy_for(config, Ground(path, model.prediction_type, grid))
    if joined is not None:
        remedy.joins_clean = joined
    x0, noise = (each.to(device) for each in random_pair((4, 3, 4, 5)))
    words = torch.arange(4).to(device)
    return batch_loss(model, config, remedy, Batch(x0, noise, Conditioning({"words": words})), plan)


# --- the walk ---


@pytest.mark.parametrize(("name", "order"), ALL)
def test_a_solver_step_moves_nothing_to_the_device_casts_nothing_and_reads_nothing(name, order):
    """However long the walk: levels and factors go there once, the rows' places once, the two noise levels of the sources once."""
    grid, found = grid_for(FLOW), []
    x0, noise = (torch.empty(4, 3, 4, 5, device="meta") for _ in range(2))
    for k in ((1, 1, 1, 1), (9, 2, 5, 7)):
        plan = plan_offsets(torch.tensor([0.3, 0.4, 0.62, 0.5]), torch.tensor(k), FLOW, grid)
        with Traffic(of="meta") as traffic:
            rollout(lambda x, level, rows: Prediction(x, x), x0, noise, plan, grid, FLOW, make_solver(name, order))
        found.append((traffic.sent, traffic.reads, traffic.casts))
    assert found[0] == found[1] and found[0][:2] == (3, 0)


def test_the_host_does_little_beside_the_network():
    """Operations of torch, whose calls are most of the host's time: of a whole rollout, and of one more step of it."""
    grid, counts = grid_for(FLOW), {}
    x0, noise = random_pair((4, 3, 4, 5))
    for far in (8, 9):
        plan = plan_offsets(torch.tensor([0.3, 0.4, 0.62, 0.5]), torch.tensor([far, 2, 5, 7]), FLOW, grid)
        with Traffic() as traffic:
            rollout(lambda x, level, rows: Prediction(x, x), x0, noise, plan, grid, FLOW, make_solver("unipc"))
        counts[far] = traffic.all
    assert counts[9] - counts[8] <= 12 and counts[9] <= 150, counts


def test_modes_are_set_and_restored_in_one_walk_whatever_stands_twice_or_was_in_eval():
    inner = nn.Linear(2, 2)
    network = nn.Sequential(inner, nn.Dropout(), nn.Sequential(inner, nn.BatchNorm1d(2)))
    network[1].eval()
    before = [part.training for part in network.modules()]
    with undisturbed(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == before and False in before


# --- the loss ---


@pytest.mark.parametrize("kind", ["flow_matching", "epsilon", "v_prediction"])
@pytest.mark.parametrize("flat", [{}, {"snr_gamma": 5.0}, {"scheduled_sampling_reflexflow_mode": "paper"}], ids=str)
def test_nothing_from_the_plan_to_the_loss_of_a_row_reads_from_the_device(kind, flat):
    """On the meta device a read raises: of a number, of a bool, of a boolean mask."""
    model = Model(kind, "meta")
    found = loss_of(model, device="meta", **flat)
    found.parts.total.sum().backward()
    logged = found.parts.logged(torch.tensor([False, False, True, True]))
    assert {each.device.type for each in [*logged.values(), *found.parts.reported.values()]} == {"meta"}
    assert set(logged) == {"main", "adr", "prior"} and model.denoiser.weight.grad.device.type == "meta"


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("k", [(0, 1, 3, 2), (2, 2, 2, 2), (0, 0, 0, 5)])
def test_the_clean_prediction_of_reflexflow_costs_no_call_of_its_own(k, sampler):
    evaluations, model = SOLVERS[sampler].calls_per_step, Model()
    found = loss_of(model, k, scheduled_sampling_sampler=sampler)
    rolled, first = sum(offset > 0 for offset in k), sum(offset == max(k) for offset in k)
    assert model.denoiser.sizes[0] == first + rolled
    assert found.network_calls == len(model.denoiser.sizes) == evaluations * max(k) + 1
    assert found.network_rows == sum(model.denoiser.sizes) == evaluations * sum(k) + rolled + 4


@pytest.mark.parametrize("sampler", SOLVERS)
def test_asked_together_or_alone_the_clean_prediction_gives_the_same_loss(sampler):
    """Of a network that treats rows by themselves, to the bit."""
    together, alone = (loss_of(Model(), joined=each, scheduled_sampling_sampler=sampler) for each in (True, False))
    assert torch.equal(together.parts.total, alone.parts.total) and together.network_calls == alone.network_calls - 1
    assert together.network_rows == alone.network_rows


class Counted(Model):
    """Guided as the models are; keeps of each call whether a gradient was kept."""

    def __init__(self, kind, guidance=CLASSIFIER_FREE):
        super().__init__(kind)
        self.guidance, self.with_gradient = guidance, []

    def denoise(self, x, t, cond):
        self.with_gradient.append(torch.is_grad_enabled())
        return super().denoise(x, t, cond)

    def predict(self, cond, guidance=1.0):
        def ask(x, level, rows):
            given = cond.select(rows)
            output = self.denoise(x, level.t, given) if guidance == 1 else self.guidance(self.denoise, x, level.t, given, given, guidance)  # fmt: skip
            return prediction_from_output(output, x, level, self.prediction_type)

        return ask


TWO_CALLS = dataclasses.replace(CLASSIFIER_FREE, joint=False)
ANNOUNCED = [
    ("flow_matching", {**ROLLS, "scheduled_sampling_sampler": name, **more})
    for name in SOLVERS
    for more in ({}, {"scheduled_sampling_max_evaluations": 5}, {"scheduled_sampling_guidance": 2.0}, {"scheduled_sampling_reflexflow_alpha": 0.0})
] + [
    ("epsilon", ROLLS), ("flow_matching", {**ROLLS, "scheduled_sampling_reflexflow_mode": "paper"}),
    ("flow_matching", {**ROLLS, "scheduled_sampling_reflexflow_mode": "paper", "scheduled_sampling_reflexflow_alpha": 0.0}),
    ("flow_matching", {**ROLLS, "scheduled_sampling_control": "source_noise"}), ("epsilon", {"dream_training": True}),
    ("epsilon", {"input_perturbation_gamma": 0.1}), ("flow_matching", {"mixflow_gamma": 0.8}), ("flow_matching", {}),
    ("flow_matching", {"soar_states": 2}), ("flow_matching", {"soar_states": 2, "soar_guidance": 2.0}),
    ("flow_matching", {"soar_states": 2, "soar_control": "plain_states"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "flat"), ANNOUNCED, ids=str)
@pytest.mark.parametrize("guidance", [CLASSIFIER_FREE, TWO_CALLS], ids=["one call", "two calls"])
def test_a_plan_announces_exactly_the_calls_that_are_made(kind, flat, guidance):
    """By which processes that share weights agree on their calls. Seeds with and without rolled rows."""
    config, seen = config_from_flat({**flat, "pretrained_model_name_or_path": "demo-epsilon" if kind == "epsilon" else "demo-flow"}), set()  # fmt: skip
    for seed in range(6):
        model = Counted(kind, guidance)
        remedy = remedy_for(config, Ground(model.noise_path, kind, grid_for(model.noise_path)))
        plan = remedy.plan(torch.tensor([0.001, 0.62]) * model.noise_path.t_max, step=0, seed=seed)
        x0, noise = random_pair((2, 3, 4, 5))
        batch_loss(model, config, remedy, Batch(x0, noise, Conditioning({"words": torch.arange(2)})), plan)
        made = Calls(sum(model.with_gradient), len(model.with_gradient) - sum(model.with_gradient))
        assert remedy.calls(plan, guidance) == made
        seen.add(made)
    assert seen


@pytest.mark.parametrize("flat", [{"scheduled_sampling_guidance": 2.0}, {"scheduled_sampling_reflexflow_alpha": 0.0}], ids=str)  # fmt: skip
def test_where_the_calls_differ_or_no_clean_prediction_is_needed_nothing_is_joined(flat):
    model = Model()
    loss_of(model, (0, 1, 3, 2), **flat)
    alone = [3] if "scheduled_sampling_guidance" in flat else []
    assert model.denoiser.sizes == [1, 2, 3, 4, *alone]


# --- the step ---


def test_numbers_for_the_log_are_read_in_one_go():
    found = loss_of(Model())
    tally, is_class = StepTally(rows=8), torch.tensor([False, False, True, True])
    tally.add(found, is_class)
    tally.add(found, is_class)
    with Traffic() as traffic:
        values = read_together([torch.tensor(2.0), torch.tensor(float("nan"))], tally)
    assert values[0] == 2.0 and values[1] != values[1] and traffic.reads == 0 and not tally.unread()
    parts = found.parts
    assert tally.parts["main"] == pytest.approx(float(parts.main.detach()[:2].sum()) / 4)
    assert tally.parts["prior"] == pytest.approx(float(parts.total.detach()[2:].sum()) / 4)
    assert tally.spread == pytest.approx(float(parts.reported["frequency_weight_std"]))


def test_a_training_step_reads_no_more_numbers_the_farther_its_rows_roll(tiny_run, without_drift, monkeypatch):  # noqa: F811
    """Of the whole step, network and optimizer included."""
    from rollout_studio.core.train.loop import train

    take, counts = Stepper.take, {}
    for offset in (1, 5):
        run = tiny_run("sd3", f"far-{offset}", max_train_steps=1, train_batch_size=4, **ROLLOUT | {
            "scheduled_sampling_max_step_offset": offset, "scheduled_sampling_probability": 1.0,
            "scheduled_sampling_strategy": "biased_late"})  # fmt: skip

        def counted(self, step, offset=offset):
            with Traffic() as counts[offset]:
                return take(self, step)

        monkeypatch.setattr(Stepper, "take", counted)
        assert train(run) == 0
        [event] = events(run, "step")
        counts[offset].calls = event["network_calls"]
    assert counts[5].calls > counts[1].calls and counts[5].reads == counts[1].reads


ALONE = {"train_batch_size": 1, "gradient_accumulation_steps": 4, "max_train_steps": 2}
FAR = {**ROLLOUT, "scheduled_sampling_probability": 1.0, "scheduled_sampling_strategy": "biased_late", "scheduled_sampling_max_step_offset": 3}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "flat"),
    [("sd3", FAR), ("sd1", FAR | {"scheduled_sampling_guidance": 2.0, "scheduled_sampling_sampler": "dpm"}), ("lumina2", {"soar_states": 2, "soar_guidance": 1.0}), ("sd1", {"dream_training": True})],
    ids=["rollout", "guided", "soar", "dream"],
)  # fmt: skip
def test_all_accumulation_steps_ask_together_for_where_their_rows_train(
    tiny_run,
    without_drift,  # noqa: F811
    monkeypatch,
    family,
    flat,
):
    """In as many calls as the farthest row of the step takes; the losses are those of micro-batches that ask by themselves."""
    from rollout_studio.core.train.loop import train

    farthest = []
    monkeypatch.setattr(together, "joined", lambda plans: (farthest.append(plans), joined(plans))[1])
    one = tiny_run(family, "together", **ALONE, **flat)
    assert train(one) == 0
    monkeypatch.setattr(stepping, "states_of", lambda model, parts, *_, **__: [None] * len(parts))
    apart = tiny_run(family, "apart", **ALONE, **flat)
    assert train(apart) == 0
    each = 2 if "scheduled_sampling_guidance" in flat else 1
    for plans, mine, theirs in zip(farthest, events(one, "step"), events(apart, "step"), strict=True):
        k = [int(plan.k.max()) if hasattr(plan, "k") else 1 for plan in plans]
        assert (mine["network_calls"], theirs["network_calls"]) == (4 + each * max(k), 4 + each * sum(k))
        assert (
            mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5) and mine["network_rows"] == theirs["network_rows"]
        )
        assert mine["loss_parts"] == pytest.approx(theirs["loss_parts"], rel=1e-5, abs=1e-7)
    assert len(farthest) == 2 and sum(event["rolled_rows"] for event in events(one, "step")) >= 4


def test_more_rows_than_a_call_may_have_go_in_several():
    model, x = Model(), random_pair((5, 3, 4, 5))[0]
    level, rows = FLOW.at(torch.full((5,), 0.5)).to(x), torch.tensor([4, 3, 2, 1, 0])
    network = AskedNetwork(model, Conditioning({"words": torch.arange(5)}), Portions(), most=2)
    with torch.no_grad():
        whole = model.denoise(x, level.t, None)
        model.denoiser.sizes.clear()
        assert torch.equal(network.denoise(x, level, rows), whole) and torch.equal(network.denoise(x, level), whole)
        network.predict(guidance=1.0)(x, level, rows)
    assert model.denoiser.sizes == [2, 2, 1] * 3 and (network.calls, network.rows) == (9, 15)


# --- options that trade ---


def plan_of(step, rows=4, **options):
    options = RolloutConfig(**{"max_step_offset": 3, "probability": 0.3} | options)
    return make_plan(options, torch.full((rows,), 0.5), FLOW, grid_for(FLOW), step=step, seed=7)


@pytest.mark.parametrize(("chance", "rows"), [(0.3, 4), (0.25, 4), (0.5, 1), (0.9, 10)])
def test_the_exact_share_is_the_chance_in_every_step_but_for_rounding_and_on_average(chance, rows):
    """Which rows: each as often as the others, and with the offsets that it would have drawn."""
    plans = [plan_of(step, rows, probability=chance, exact_share=True, max_step_offset=1000) for step in range(3000)]
    chosen = torch.stack([plan.drawn_k > 0 for plan in plans]).double()  # an offset of 0 is drawn once in 1000
    assert set(chosen.sum(1).tolist()) <= {float(n) for n in range(int(chance * rows) - 1, int(chance * rows) + 2)}
    assert chosen.sum(1).std() <= 0.51
    assert chosen.mean(0).tolist() == pytest.approx([chance] * rows, abs=0.04)
    drawn = plan_of(0, rows, probability=1.0, max_step_offset=1000).drawn_k
    assert ((plans[0].drawn_k == drawn) | (plans[0].drawn_k == 0)).all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_exact_share_of_none_and_all_is_that_of_the_draw(probability):
    for step in range(50):
        one, other = (plan_of(step, probability=probability, exact_share=each) for each in (False, True))
        assert torch.equal(one.k, other.k)


@pytest.mark.parametrize(("name", "order"), ALL)
@pytest.mark.parametrize("most", [1, 3])
def test_a_rollout_of_few_steps_goes_the_same_way_in_equal_parts(name, order, most):
    """With the true pair it lands where the long one does; nearer rows keep their grid steps."""
    x0, noise = random_pair((4, 3, 4, 5), dtype=torch.float64)
    plan = plan_offsets(torch.tensor([0.3, 0.4, 0.62, 0.5]), torch.tensor([0, 1, 9, 4]), FLOW, grid := grid_for(FLOW))
    seen = []

    def predict(x, level, rows):
        seen.append(dict(zip(rows.tolist(), level.t.tolist(), strict=True)))
        return Prediction(x0[rows], noise[rows])

    rolled = rollout(predict, x0, noise, plan, grid, FLOW, make_solver(name, order), most_steps=most)
    evaluations = SOLVERS[name].calls_per_step
    assert rolled.calls == most * evaluations
    assert rolled.rows_evaluated == evaluations * sum(min(k, most) for k in (0, 1, 9, 4))
    torch.testing.assert_close(rolled.x, FLOW.noised(x0, noise, plan.target), atol=1e-9, rtol=0)
    first = next(i for i, rows in enumerate(seen) if 2 in rows)
    index = [float(grid.index(rows[2])) for rows in seen[first::evaluations]]
    ways = [float(plan.index[2]) - 9 * (most - i) / most for i in range(most)]
    assert index == pytest.approx(ways)


@pytest.mark.parametrize(("sampler", "allowed", "steps"), [("unipc", 0, 3), ("unipc", 1, 1), ("unipc", 2, 2), ("rk4", 4, 1), ("rk4", 11, 2), ("euler", 50, 3)])  # fmt: skip
def test_the_most_evaluations_bound_calls_rows_and_the_cost_that_is_told(sampler, allowed, steps):
    flat = {"scheduled_sampling_max_step_offset": 3, "scheduled_sampling_sampler": sampler, "scheduled_sampling_max_evaluations": allowed}  # fmt: skip
    model, each = Model(), SOLVERS[sampler].calls_per_step
    found = loss_of(model, (0, 1, 3, 2), **flat)
    assert found.network_calls == each * steps + 1
    assert found.network_rows == 4 + 3 + each * sum(min(k, steps) for k in (0, 1, 3, 2))
    config = config_from_flat(ROLLS | flat | {"model_family": "sd3"})
    assert longest_rollout(config).total == rollout_cost(config).most_forwards == each * steps + 1
    expected = sum(each * min(k, steps) + 1 for k in (1, 2, 3)) / 4
    assert rollout_cost(config).peak_forwards == pytest.approx(expected)
