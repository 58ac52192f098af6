"""Output preservation: what it asks of the network, what it adds to the loss, and that it changes nothing else."""

from contextlib import contextmanager

import pytest
import torch
from oracles import PATHS, random_pair
from rollout_studio.core.before.cost import PRESERVATION_CALLS, preservation_in_forwards, preserved_share, rollout_cost
from rollout_studio.core.before.estimate import time_estimate
from rollout_studio.core.config import ConfigError, config_from_flat, read_config, with_changes
from rollout_studio.core.data import prepare, scan
from rollout_studio.core.data.captions import untriggered
from rollout_studio.core.families import load_model
from rollout_studio.core.families.conditioning import Conditioning
from rollout_studio.core.remedies import Batch, State
from rollout_studio.core.runs.run_log import follow
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.losses import elementwise_loss, timestep_weight
from rollout_studio.core.train.preservation import untrained_answers
from tiny import ONE_PER_FAMILY
from tiny_run import ROLLOUT, draw_pictures, events, losses
from torch import nn

KEPT = {"class_prompt": "a circle", "output_preservation_weight": 0.7}
FAMILIES = [name if name == "lumina2" else pytest.param(name, marks=pytest.mark.slow) for name in ONE_PER_FAMILY]
"""Nothing in it is a family's own, so all but one take their time among the slow tests."""


class Switched:
    """As much of a model as output preservation asks for: `tanh(gain * x) + words`, the gain 1 without its adapter."""

    prediction_type, noise_path = "flow_matching", PATHS["flow"]

    def __init__(self):
        self.denoiser, self.gain, self.on, self.asked = nn.Dropout(0.5), nn.Parameter(torch.tensor(1.5)), True, []

    @contextmanager
    def adapters_disabled(self):
        self.on = False
        yield
        self.on = True

    def denoise(self, x, t, cond):
        self.asked.append((self.on, torch.is_grad_enabled(), self.denoiser.training, len(x)))
        return torch.tanh((self.gain if self.on else 1) * x) + cond["words"].reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("changes", [{}, {"loss_type": "huber", "huber_delta": 0.05, "snr_gamma": 1.0}])
def test_the_loss_is_the_distance_to_the_untrained_answer_at_the_state_of_the_row(changes):
    model, training = Switched(), config_from_flat({**KEPT, **changes}).training
    x0, noise = random_pair((4, 3, 4, 5))
    is_class, t = torch.tensor([False, True, False, True]), torch.tensor([0.2, 0.4, 0.6, 0.9])
    level, words = model.noise_path.at(t), torch.tensor([3.0, 7.0])
    batch = Batch(x0, noise, Conditioning({"words": torch.zeros(4)}), is_class, Conditioning({"words": words}))
    x = x0 + 2 * noise  # anywhere: not the x_t of the row
    kept = untrained_answers(model, batch, State(x, level, None))
    by_level = timestep_weight(training, kept.level, "flow_matching")
    found = kept.loss(4, weight=0.7, elementwise=elementwise_loss(training), timestep_weight=by_level)
    for row, word in ((0, 3.0), (2, 7.0)):
        tuned, untrained = torch.tanh(1.5 * x[row]) + word, torch.tanh(x[row]) + word
        expected = 0.7 * elementwise_loss(training)(tuned, untrained).mean()
        if changes:
            snr = ((1 - t[row]) / t[row]) ** 2
            expected = expected * snr.clamp(max=1) * t[row] ** 2
        torch.testing.assert_close(found[row], expected)
    assert found[1] == found[3] == 0, "class rows have their own pictures"
    assert model.asked == [(False, False, False, 2), (True, True, True, 2)], "one call without its adapter, one with it"
    assert (kept.network.calls, kept.network.rows) == (PRESERVATION_CALLS, 2 * PRESERVATION_CALLS)
    found.sum().backward()
    assert model.gain.grad > 0 and not kept.answers.requires_grad


def test_a_batch_without_the_class_prompt_is_refused():
    x0, noise = random_pair((2, 3, 4, 5))
    model = Switched()
    state = State(x0, model.noise_path.at(torch.tensor([0.2, 0.4])), None)
    for given, why in ((None, "no conditioning"), (Conditioning({"words": torch.ones(3)}), "3 rows .* for 2 instance")):
        with pytest.raises(ValueError, match=why):
            untrained_answers(model, Batch(x0, noise, Conditioning({"words": torch.ones(2)}), None, given), state)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_untrained_answers_at_the_cost_that_the_plan_says(name, tiny_run, without_drift):
    """A LoRA begins as the untrained model, so the first step has nothing to keep; its own loss is that of a run without."""
    plain, kept = tiny_run(name, "plain", **ROLLOUT), tiny_run(name, "kept", **ROLLOUT, **KEPT)
    assert train(plain) == train(kept) == 0
    for before, now in zip(events(plain, "step"), events(kept, "step"), strict=True):
        assert now["network_rows"] == before["network_rows"] + 2 * PRESERVATION_CALLS
        assert now["network_calls"] == before["network_calls"] + PRESERVATION_CALLS
        assert "preservation" not in before["loss_parts"]
        assert now["loss"] == pytest.approx(sum(now["loss_parts"].values()))
    first, *later = (event["loss_parts"] for event in events(kept, "step"))
    assert first["main"] == events(plain, "step")[0]["loss_parts"]["main"]
    assert first["preservation"] < 1e-9 < min(parts["preservation"] for parts in later)
    assert follow(kept).series.column("preservation")[1:] == [parts["preservation"] for parts in later]


def test_the_prompt_that_is_kept_is_the_rows_caption_without_the_trigger_word_or_the_class_prompt(tiny_run):
    run = tiny_run(
        "sdxl",
        **KEPT,
        trigger_word="zwx",
        resolution=32,
        caption_strategy="instanceprompt",
        instance_prompt="a large zwx circle, red",
    )
    config = read_config(run.config_path)

    def kept(**changes):
        changed = with_changes(config, changes)
        return set(
            prepare(load_model(config.model), changed, scan(changed.data), run.path.parent / ".cache").kept_prompts
        )

    assert kept() == {"a large circle, red"}
    assert kept(output_preservation_prompt="class") == {"a circle"}
    assert kept(trigger_word=None) == {"a circle"}  # else the caption that is learned would be held
    assert kept(instance_prompt="zwx") == {"a circle"}
    assert kept(output_preservation_weight=0.0) == set()
    for caption, left in (
        ("a ZWX, b", "a, b"),
        ("zwx, a dog", "a dog"),
        ("zwxy a", "zwxy a"),
        ("a, zwx", "a"),
        ("zwx", ""),
    ):
        assert untriggered(caption, "zwx") == left


def test_the_class_prompt_goes_with_the_frame_of_each_instance_row(tiny_run):
    """Stable Diffusion XL is told size and crop of a row's picture, whatever the prompt; class rows are not among them."""
    prior = {"with_prior_preservation": True, "num_class_images": 2, "class_sample_steps": 1}
    run = tiny_run("sdxl", **KEPT, **prior, resolution=32, random_flip=True)
    config = read_config(run.config_path)
    model = load_model(config.model)
    data = prepare(model, config, scan(config.data), run.path.parent / ".cache")
    model.free_text_encoders()
    for step in range(3):
        batch = data.batch(step)
        assert batch.class_conditioning.count == 2 and batch.conditioning.count == 4
        assert torch.equal(batch.class_conditioning["time_ids"], batch.conditioning["time_ids"][:2])
        words = model.encode_prompts(["a circle"])[0]["prompt_embeds"]
        assert all(torch.equal(row, words) for row in batch.class_conditioning["prompt_embeds"])


def far_from_untrained(run) -> float:
    """How far the trained weights' answers to the class prompt are from the untrained ones, at fresh states."""
    from rollout_studio.core.adapters.trainable import attach, load_adapter_state
    from rollout_studio.core.runs import checkpoint

    config = read_config(run.config_path)
    model = load_model(config.model)
    words = model.encode_prompts(["a circle"])[0]
    attach(model, config)
    load_adapter_state(model, checkpoint.load_latest(run.checkpoints_path)[0].tensors["trainable"])
    x = torch.randn(8, model.latent_channels, 8, 8, generator=torch.Generator().manual_seed(3))
    t, prompts = torch.linspace(0.1, 0.9, 8) * model.noise_path.t_max, model.collate([words] * 8)
    with torch.no_grad():
        tuned = model.denoise(x, t, prompts)
        with model.adapters_disabled():
            return float((tuned - model.denoise(x, t, prompts)).square().mean())


def test_the_trained_weights_answer_the_class_prompt_more_like_the_untrained_ones(tiny_run, without_drift):
    setting = {"max_train_steps": 10}
    plain, kept = tiny_run("lumina2", "plain", **setting), tiny_run("lumina2", "kept", **setting, **KEPT)
    assert train(plain) == train(kept) == 0
    assert far_from_untrained(kept) < far_from_untrained(plain) / 2


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"base_model_precision": "bfloat16"}, {"mixed_precision": "bf16"}],
                         ids=lambda change: next(iter(change)))  # fmt: skip
@pytest.mark.slow
def test_switching_the_adapter_off_and_on_disturbs_no_training(tiny_run, without_drift, change):
    """Checkpointing computes the forward again in the backward, when the adapter must be on; with a weight of next to nothing a run is
    the run without."""
    plain = tiny_run("lumina2", "plain", **ROLLOUT, **change)
    kept = tiny_run("lumina2", "kept", **ROLLOUT, **change, **KEPT | {"output_preservation_weight": 1e-30})
    assert train(plain) == train(kept) == 0
    assert losses(kept) == losses(plain)


def test_micro_steps_add_up_to_the_whole_batch(tiny_run, without_drift, tmp_path):
    """One picture, so that the rows are the same however they are split."""
    setting = {**ROLLOUT, **KEPT, "instance_data_dir": str(draw_pictures(tmp_path / "one", 1)), "max_train_steps": 2}
    whole = tiny_run("lumina2", "whole", **setting, train_batch_size=2)
    split = tiny_run("lumina2", "split", **setting, train_batch_size=1, gradient_accumulation_steps=2)
    assert train(whole) == train(split) == 0
    for a, b in zip(events(whole, "step"), events(split, "step"), strict=True):
        assert a["network_rows"] == b["network_rows"] and a["network_calls"] < b["network_calls"]
        for name, value in a["loss_parts"].items():
            assert b["loss_parts"][name] == pytest.approx(value, rel=1e-4, abs=1e-8)
    assert events(split, "step")[-1]["loss_parts"]["preservation"] > 1e-6


@pytest.mark.parametrize(("flat", "where", "why"), [
    ({"output_preservation_weight": 1.0}, "class_prompt", "output_preservation_weight = 1: needs class_prompt"),
    ({"output_preservation_weight": 1.0, "class_prompt": " "}, "class_prompt", "not guessed"),
    ({**KEPT, "model_type": "full"}, "output_preservation_weight", "with_prior_preservation to true"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused_at_its_field(flat, where, why):
    with pytest.raises(ConfigError, match=why) as refused:
        config_from_flat(flat)
    [fault] = refused.value.faults
    assert fault.options[0] == where


def test_the_estimate_knows_what_a_step_costs_with_it(tmp_path):
    """c forwards of a plain step, and of each instance row one without gradient and c with it."""
    plain = config_from_flat({"pretrained_model_name_or_path": "demo-flow", "resolution": 64, **ROLLOUT})
    kept = with_changes(plain, KEPT)
    both = with_changes(kept, {"with_prior_preservation": True})
    full = config_from_flat({"model_type": "full", "class_prompt": "a dog"})
    assert [preservation_in_forwards(each) for each in (plain, kept, both, full)] == [0, 3, 1.5, 0]
    assert preservation_in_forwards(with_changes(kept, {"gradient_checkpointing": True})) == 4
    assert [preserved_share(*each) for each in ((0.0, True), (0.1, True), (0.1, False))] == [0, 0.5, 1]
    more = rollout_cost(plain).mean_forwards
    assert rollout_cost(plain).mean_ratio == pytest.approx((2 + more) / 2)
    assert rollout_cost(kept).mean_ratio == pytest.approx((5 + more) / 5)
    one, other = (time_estimate(each, tmp_path).plain_step_s for each in (plain, kept))
    assert other == pytest.approx(2.5 * one)
