"""Every optimizer's step against its paper's formula, what it keeps against the estimate, and what is said of its rate."""

import pytest
import torch
from rollout_studio.core.before.disk import moment_numbers
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.config.rules import idle_remarks
from rollout_studio.core.config.sections import TrainingConfig
from rollout_studio.core.train.optimizers import make_optimizer
from torch import nn

START = torch.tensor([[3.0, -2.0, 1.0, 0.5], [0.3, -0.7, 2.0, -1.5], [1.1, 0.9, -0.4, 0.2]])
GRADIENTS = [torch.tensor([[0.5, -1.0, 2.0, -0.1], [0.2, 0.4, -0.8, 1.6], [1.0, 3.0, -2.0, 0.7]]),
             torch.tensor([[-0.07, 0.1, -1.0, 0.2], [0.1, -0.05, 0.4, -2.0], [-0.2, 1.0, 0.1, -0.1]])]  # fmt: skip
RATE, DECAY = 0.01, 0.1
COLLECTED = ("lion", "came")
ALL = ["adamw", "prodigy", "adafactor", *COLLECTED]


def made(name, parameters, **changes):
    if name in COLLECTED:
        pytest.importorskip("pytorch_optimizer")
    return make_optimizer(TrainingConfig(optimizer=name, learning_rate=RATE, weight_decay=DECAY, **changes), parameters)


def stepped(name, **changes):
    """The weights after each of two steps with GRADIENTS."""
    weight, found = nn.Parameter(START.clone()), []
    optimizer = made(name, [weight], **changes)
    for gradient in GRADIENTS:
        weight.grad = gradient.clone()
        optimizer.step()
        found.append(weight.detach().clone())
    return found


def by_adamw():
    weight, first, second = START.double(), 0, 0
    for number, gradient in enumerate(GRADIENTS, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight = weight * (1 - RATE * DECAY)
        yield (weight := weight - RATE * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8))


def by_lion():
    """arXiv 2302.06675, algorithm 2."""
    weight, momentum = START.double(), torch.zeros(3, 4, dtype=torch.float64)
    for gradient in GRADIENTS:
        update = (0.9 * momentum + 0.1 * gradient).sign()
        weight = weight - RATE * (update + DECAY * weight)
        momentum = 0.99 * momentum + 0.01 * gradient
        yield weight


def by_adafactor():
    """arXiv 1804.04235, algorithm 4, with the decay of its section 7.2 and `lr` as the relative step; decoupled weight decay."""
    weight, rows, columns = START.double(), 0, 0
    for number, gradient in enumerate(GRADIENTS, 1):
        share = number**-0.8
        square = gradient.double() ** 2
        rows, columns = torch.lerp(torch.as_tensor(rows, dtype=torch.float64).expand(3), square.mean(1), share), torch.lerp(
            torch.as_tensor(columns, dtype=torch.float64).expand(4), square.mean(0), share)  # fmt: skip
        update = gradient / (rows[:, None] * columns / rows.mean()).sqrt()
        size = min(RATE, number**-0.5)
        step = size * max(1e-3, float(weight.square().mean().sqrt()))
        weight = weight * (1 - RATE * DECAY)
        yield (weight := weight - step * update / max(1.0, float(update.square().mean().sqrt())))


def by_came():
    """arXiv 2307.02047, algorithm 2; decoupled weight decay."""
    weight, moment = START.double(), torch.zeros(3, 4, dtype=torch.float64)
    rows, columns, odd_rows, odd_columns = (torch.zeros(size, dtype=torch.float64) for size in (3, 4, 3, 4))
    for gradient in GRADIENTS:
        square = gradient.double() ** 2
        rows, columns = 0.999 * rows + 0.001 * square.mean(1), 0.999 * columns + 0.001 * square.mean(0)
        update = gradient / (rows[:, None] * columns / rows.mean()).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()))
        moment = 0.9 * moment + 0.1 * update
        unsure = (update - moment) ** 2
        odd_rows, odd_columns = (
            0.9999 * odd_rows + 0.0001 * unsure.mean(1),
            0.9999 * odd_columns + 0.0001 * unsure.mean(0),
        )
        weight = weight * (1 - RATE * DECAY)
        yield (weight := weight - RATE * moment / (odd_rows[:, None] * odd_columns / odd_rows.mean()).sqrt())


@pytest.mark.parametrize(
    ("name", "formula"), [("adamw", by_adamw), ("lion", by_lion), ("adafactor", by_adafactor), ("came", by_came)]
)
def test_two_steps_are_those_of_the_paper(name, formula):
    for ours, expected in zip(stepped(name), formula(), strict=True):
        torch.testing.assert_close(ours.double(), expected, atol=2e-5, rtol=1e-4)


def test_prodigy_steps_as_its_library_does_with_its_advice_for_diffusion_models():
    from prodigyopt import Prodigy

    weight, found = nn.Parameter(START.clone()), []
    theirs = Prodigy(
        [weight],
        lr=RATE,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=DECAY,
        use_bias_correction=True,
        safeguard_warmup=True,
    )
    for gradient in GRADIENTS:
        weight.grad = gradient.clone()
        theirs.step()
        found.append(weight.detach().clone())
    ours = stepped("prodigy", lr_scheduler="constant_with_warmup", lr_warmup_steps=2)
    assert all(torch.equal(one, other) for one, other in zip(ours, found, strict=True)) and not torch.equal(
        ours[1], START
    )


@pytest.mark.parametrize("name", ALL)
def test_an_optimizer_keeps_as_many_numbers_as_the_estimate_counts(name):
    """Of a matrix, a convolution's kernel and a vector; counters aside."""
    shapes = [(6, 5), (4, 3, 2, 2), (7,)]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = made(name, parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(
        each.numel()
        for state in optimizer.state.values()
        for each in state.values()
        if torch.is_tensor(each) and each.ndim
    )
    assert kept == moment_numbers(name, shapes)


@pytest.mark.parametrize(
    ("name", "rate", "word"),
    [("lion", 1e-4, "a third to a tenth"), ("lion", 2e-5, None), ("adafactor", 1e-4, "about 1e-2"), ("adafactor", 1e-2, None),
     ("prodigy", 1e-4, "1 is usual"), ("came", 1e-4, None), ("adamw", 1e-4, None)],
)  # fmt: skip
def test_a_rate_of_another_optimizers_size_is_remarked(name, rate, word):
    remarks = [
        each
        for each in idle_remarks(config_from_flat({"optimizer": name, "learning_rate": rate}))
        if "learning_rate" in each
    ]
    assert [word in each for each in remarks] == ([] if word is None else [True])


@pytest.mark.parametrize("name", ["adafactor", *COLLECTED])
def test_settings_of_adam_are_said_to_do_nothing_elsewhere(name):
    remarks = idle_remarks(
        config_from_flat(
            {"optimizer": name, "adam_beta2": 0.99, "learning_rate": 1e-2 if name == "adafactor" else 1e-5}
        )
    )
    assert f'adam_beta2 is not used: optimizer is "{name}".' in remarks or any(
        "adam_beta2" in each and name in each for each in remarks
    )
    assert not any("adam_beta2" in each for each in idle_remarks(config_from_flat({"adam_beta2": 0.99})))


@pytest.mark.parametrize("name", COLLECTED)
def test_without_their_package_they_are_refused_with_the_command(name, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(
        ValueError, match=f"optimizer = {name} needs the package pytorch-optimizer.*pip install pytorch-optimizer"
    ):
        make_optimizer(TrainingConfig(optimizer=name), [nn.Parameter(torch.ones(2))])
