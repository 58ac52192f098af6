"""Full training whose weights are divided among processes (FSDP2 over gloo): it learns what one process learns, and nobody waits for ever."""

import json
import os

import pytest
import torch
from rollout_studio.core.config import config_from_flat, idle_remarks
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.remedies import ScheduledSampling
from rollout_studio.core.remedies.base import Calls
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.train import ranks, step
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.outcome import CRASHED, DONE, PREEMPTED, REFUSED
from tiny import ONE_PER_FAMILY
from tiny_run import ROLLOUT, as_ranks, events, losses

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

FULL = {
    **ROLLOUT, "model_type": "full", "learning_rate": 1e-3, "train_batch_size": 3, "gradient_accumulation_steps": 2, "use_ema": True,
    "max_train_steps": 3, "max_grad_norm": 0.5, "checkpoint_step_interval": 1, "checkpoints_total_limit": 9,
}  # fmt: skip
SHARED = {**FULL, "shard_weights": True}
BY_LENGTH = ("cogview4", "qwen21")
PAPER = {"scheduled_sampling_reflexflow_mode": "paper"}


def whole(run):
    """Weights, moments and average of the newest checkpoint, joined."""
    found = checkpoint.load(checkpoint.checkpoints(run.checkpoints_path)[-1])
    return {f"{part}.{name}": value for part, named in found.tensors.items() for name, value in named.items()}


def assert_close(one, other):
    assert one.keys() == other.keys() and one
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4, msg=name)


def lengthened(run, steps, **changes):
    run.config_path.write_text(json.dumps({**run.read_config(), "max_train_steps": steps, **changes}), encoding="utf-8")
    return run


def test_two_processes_that_share_the_weights_give_the_losses_of_one(tiny_run, without_drift, monkeypatch):
    """3 + 3 rows a step, so that the ranks have 4 and 2 of them, and other offsets to roll."""
    one, two = tiny_run("lumina2", "one", **FULL), tiny_run("lumina2", "two", **SHARED)
    assert train(one) == DONE
    assert as_ranks(monkeypatch, two) == [DONE, DONE]
    assert losses(two) == pytest.approx(losses(one), abs=1e-6) and len(losses(two)) == 3
    for alone, together in zip(events(one, "step"), events(two, "step"), strict=True):
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4) and alone["grad_norm"] > 0.5
        assert together["rolled_rows"] == alone["rolled_rows"]
    assert any(len(set(event["rank_calls"])) > 1 for event in events(two, "step"))
    assert_close(whole(one), whole(two))
    files = {path.name for path in (two.checkpoints_path / "step-000003").iterdir()}
    assert {
        f"{part}-0000{n}-of-00002.safetensors" for part in ("trainable", "optimizer", "ema") for n in (1, 2)
    } < files
    # the export is an ordinary whole one, of the average
    assert events(two, "exported")[0]["check"]["passed"]
    there = (one.lora_path / "one" / "transformer", two.lora_path / "two" / "transformer")
    assert [path.name for path in sorted(there[0].iterdir())] == [path.name for path in sorted(there[1].iterdir())]


@pytest.mark.slow
def test_a_divided_checkpoint_is_resumed_bit_for_bit_and_by_any_number_of_processes(
    tiny_run, without_drift, monkeypatch
):
    undisturbed = tiny_run("lumina2", "undisturbed", **{**SHARED, "max_train_steps": 4})
    assert as_ranks(monkeypatch, undisturbed) == [DONE, DONE]
    wanted = losses(undisturbed)
    same = tiny_run("lumina2", "same", **{**SHARED, "max_train_steps": 2})
    assert as_ranks(monkeypatch, same) == [DONE, DONE]
    assert as_ranks(monkeypatch, lengthened(same, 4), resume=True) == [DONE, DONE]
    assert losses(same) == wanted
    there, again = whole(undisturbed), whole(same)
    assert there.keys() == again.keys() and all(value.equal(again[name]) for name, value in there.items())
    assert not any("not bit for bit" in event["message"] for event in events(same, "warning"))

    assert as_ranks(monkeypatch, lengthened(same, 5), 3, resume=True) == [DONE] * 3
    assert any("processes: 2 -> 3" in event["message"] for event in events(same, "warning"))
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert train(lengthened(same, 6, shard_weights=False), resume=True) == DONE
    one = tiny_run("lumina2", "one", **{**FULL, "max_train_steps": 5})
    assert train(one) == DONE
    assert as_ranks(monkeypatch, lengthened(one, 6, shard_weights=True), resume=True) == [DONE, DONE]
    assert losses(same) == pytest.approx(losses(one), abs=1e-6) and len(losses(same)) == 6
    assert_close(whole(one), whole(same))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("lumina2", PAPER),
        ("lumina2", {**PAPER, "gradient_checkpointing": True}),
        ("lumina2", {"gradient_checkpointing": True, "scheduled_sampling_guidance": 2.0}),
        ("lumina2", {"scheduled_sampling_sampler": "rk4", "scheduled_sampling_shared_offsets": 1}),
        ("lumina2", {"with_prior_preservation": True, "class_prompt": "a circle", "num_class_images": 4, "class_sample_steps": 1}),
        ("sd1", {}), ("sd1", {"gradient_checkpointing": True, "use_ema": False}),
        ("sd1", {"scheduled_sampling_probability": 0.0, "scheduled_sampling_max_step_offset": 0, "dream_training": True}),
        ("sd3", {"scheduled_sampling_probability": 0.0, "scheduled_sampling_max_step_offset": 0, "soar_states": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_asked_of_the_network_the_losses_are_those_of_one(
    tiny_run, without_drift, monkeypatch, variant, changes
):
    one, two = (tiny_run(variant, name, **{**settings, **changes}) for name, settings in (("one", FULL), ("two", SHARED)))  # fmt: skip
    assert train(one) == DONE
    assert as_ranks(monkeypatch, two) == [DONE, DONE]
    assert losses(two) == pytest.approx(losses(one), abs=2e-6, rel=1e-6) and len(losses(two)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in ONE_PER_FAMILY if name not in BY_LENGTH])
def test_every_family_is_divided(tiny_run, without_drift, monkeypatch, variant):
    settings = {"max_train_steps": 2, "checkpoint_step_interval": 0, "scheduled_sampling_probability": 0.7}
    one, two = (tiny_run(variant, name, **{**all_, **settings}) for name, all_ in (("one", FULL), ("two", SHARED)))
    assert train(one) == DONE
    assert as_ranks(monkeypatch, two) == [DONE, DONE]
    assert losses(two) == pytest.approx(losses(one), abs=1e-5, rel=1e-5) and len(losses(two)) == 2
    assert events(two, "exported")[0]["check"]["passed"]


@pytest.mark.slow
def test_in_16_bits_they_learn_what_one_learns_up_to_rounding(tiny_run, without_drift, monkeypatch):
    changes = {"mixed_precision": "bf16", "learning_rate": 1e-3, "max_train_steps": 8, "checkpoint_step_interval": 0}
    one, two = (tiny_run("lumina2", name, **{**settings, **changes}) for name, settings in (("one", FULL), ("two", SHARED)))  # fmt: skip
    assert train(one) == DONE
    assert as_ranks(monkeypatch, two) == [DONE, DONE]
    assert losses(two) == pytest.approx(losses(one), rel=0.05) and losses(one)[-1] != pytest.approx(losses(one)[0], rel=0.05)  # fmt: skip


@pytest.mark.parametrize("mode", [{}, PAPER], ids=["single-pass", "paper"])
def test_a_call_that_the_others_do_not_make_is_refused_before_it_is_waited_for(
    tiny_run, without_drift, monkeypatch, mode
):
    """A remedy that announces too few calls."""
    run = tiny_run("lumina2", **{**SHARED, **mode, "scheduled_sampling_probability": 1.0})
    monkeypatch.setattr(ScheduledSampling, "calls", lambda self, plan, guidance: Calls(1, 0))
    assert as_ranks(monkeypatch, run) == [CRASHED, CRASHED]
    assert "more than the 1 on which the processes had agreed" in events(run, "error")[-1]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("in_a_row", [1, 2])
def test_a_gradient_that_breaks_on_one_rank_skips_the_step_on_all_and_a_second_one_sends_all_back(
    tiny_run, without_drift, monkeypatch, in_a_row
):
    settings = {**SHARED, "skip_broken_steps": 1}
    run, sound = tiny_run("lumina2", **settings), tiny_run("lumina2", "sound", **settings)

    def prepare(rank):
        loss_of = step.batch_loss

        def broken(model, config, remedy, batch, plan):
            broken.calls += 1
            found = loss_of(model, config, remedy, batch, plan)
            if rank == 1 and broken.calls in (3, 5)[:in_a_row]:  # of steps 2 and 3, two each
                found.parts.main.register_hook(lambda gradient: gradient * float("nan"))
            return found

        broken.calls = 0
        step.batch_loss = broken

    assert as_ranks(monkeypatch, run, prepare=prepare) == [DONE, DONE]
    assert as_ranks(monkeypatch, sound) == [DONE, DONE]
    if in_a_row == 2:  # back to step 1, with half the rate, so that the second loss is the same and the third is not
        (back,) = events(run, "back")
        assert (back["step"], back["left"], back["what"]) == (1, 2, "gradient")
        assert losses(run)[:2] == losses(sound)[:2] and losses(run)[2] != losses(sound)[2]
        return
    skipped = events(run, "skipped")
    assert [(event["step"], event["what"]) for event in skipped] == [(2, "gradient")]
    assert losses(run)[0] == losses(sound)[0] and len(losses(run)) == 2
    assert losses(run)[1] != losses(sound)[2]  # one update less


def test_pictures_drift_saves_and_a_stop_on_command_are_made_with_the_weights_of_all(tiny_run, monkeypatch):
    """Rank 0 alone hears of commands, in the middle of whatever it does."""
    settings = {"max_train_steps": 50, "validation_prompts": ["a circle"], "checkpoint_step_interval": 0}
    run = tiny_run("lumina2", **{**SHARED, **settings})

    def prepare(rank):
        if rank == 0:
            for command in ("sample", "drift", "save"):
                run.send(command)
            after = ranks.Ranks.any

            def any_(self, flag):
                if events(run, "step") and not any_.sent:
                    any_.sent = True
                    run.send("stop-and-save")
                return after(self, flag)

            any_.sent = False
            ranks.Ranks.any = any_

    assert as_ranks(monkeypatch, run, prepare=prepare) == [DONE, DONE]
    kinds = [event["event"] for event in events(run)]
    assert kinds.count("sample") == 2 and kinds.count("drift") == 2  # of step 0, and as asked
    assert "saved" in kinds and events(run, "exported")[0]["check"]["passed"]
    assert "stopped at step" in events(run, "end")[0]["message"]
    assert not events(run, "warning") and not events(run, "error")
    step_ = events(run, "end")[0]["step"]
    assert 1 <= step_ < 50 and run.last_checkpoint() == step_


def test_a_full_disk_of_one_process_holds_all_until_there_is_room(tiny_run, without_drift, monkeypatch):
    from rollout_studio.core.train import disk_room

    run = tiny_run("lumina2", **{**SHARED, "max_train_steps": 2})
    monkeypatch.setattr(disk_room, "ROOM_POLL_S", 0.1)

    def prepare(rank):
        write = checkpoint.write_tensors

        def full_once(folder, tensors, share):
            if rank == 1 and not full_once.tried:
                full_once.tried = True
                raise OSError(28, "No space left on device")
            return write(folder, tensors, share)

        full_once.tried = False
        checkpoint.write_tensors = full_once

    assert as_ranks(monkeypatch, run, prepare=prepare) == [DONE, DONE]
    assert [event["reason"] for event in events(run, "paused")] == ["disk full"]
    assert "process 1" in events(run, "warning")[0]["message"]
    assert sorted(path.name for path in run.checkpoints_path.iterdir()) == ["step-000001", "step-000002"]
    for path in checkpoint.checkpoints(run.checkpoints_path):
        assert checkpoint.verify(path) == []


def test_a_signal_to_one_rank_saves_what_all_have(tiny_run, without_drift, monkeypatch):
    run = tiny_run("lumina2", **{**SHARED, "max_train_steps": 50, "checkpoint_step_interval": 0})

    def prepare(rank):
        if rank == 1:
            take = step.Stepper.take

            def then_signal(self, number):
                done = take(self, number)
                if number == 1:
                    os.kill(os.getpid(), 15)
                return done

            step.Stepper.take = then_signal

    assert as_ranks(monkeypatch, run, prepare=prepare) == [PREEMPTED, PREEMPTED]
    assert run.last_checkpoint() == 2 and checkpoint.load(run.checkpoints_path / "step-000002").step == 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_shares_are_the_chunks_of_torch(world_size):
    for rows in (1, 2, 3, 7, 10):
        chunks = torch.arange(rows).chunk(world_size)
        mine = [torch.arange(rows)[checkpoint.Share(rank, world_size).rows(rows)] for rank in range(world_size)]
        assert [each.tolist() for each in mine if len(each)] == [each.tolist() for each in chunks]


@pytest.mark.parametrize("writers", [1, 2, 3])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_rows_are_read_by_any_number_of_processes_as_they_were_written_by_another(tmp_path, writers, readers):
    tensors = {"trainable": {"w": torch.randn(7, 3), "b": torch.randn(2)}, "optimizer": {"step": torch.tensor(4.0)}}

    def part(share):
        return {
            group: {name: value if value.ndim == 0 else value[share.rows(len(value))] for name, value in named.items()}
            for group, named in tensors.items()
        }

    shares = [checkpoint.Share(rank, writers) for rank in range(writers)]

    def others(folder):
        files = {}
        for share in shares[1:]:
            files |= checkpoint.write_tensors(folder, part(share), share)
        return lambda: files

    checkpoint.save(tmp_path, 1, part(shares[0]), {}, share=shares[0], beside=others)
    for rank in range(readers):
        share = checkpoint.Share(rank, readers)
        found = checkpoint.load(tmp_path / "step-000001", share)
        for group, named in part(share).items():
            assert all(found.tensors[group][name].equal(value) for name, value in named.items())


def test_a_divided_checkpoint_that_lacks_a_file_is_passed_over(tmp_path):
    share = checkpoint.Share(0, 2)
    write = {"trainable": {"w": torch.ones(2, 3)}}

    def others(folder):
        return lambda: checkpoint.write_tensors(folder, write, checkpoint.Share(1, 2))

    checkpoint.save(tmp_path, 1, write, {}, share=share, beside=others)
    checkpoint.save(tmp_path, 2, write, {}, share=share, beside=lambda folder: dict)
    assert checkpoint.load(tmp_path / "step-000001").tensors["trainable"]["w"].shape == (4, 3)
    found, skipped = checkpoint.load_latest(tmp_path)
    assert found.step == 1 and "of the 2 files of trainable there are 1" in skipped[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "lora"}, "an adapter is small"), ({"optimizer": "prodigy", "learning_rate": 1.0}, "take adamw or lion"),
        ({"compile": True}, "compile = true"), ({"mixed_precision": "fp16"}, "take bf16 or no"),
        ({**PAPER, "scheduled_sampling_reflexflow_step_gradient": True}, "those without a rolled row have no such gradient"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_divided_weights_is_refused(changes, said):
    flat = {"model_type": "full", "shard_weights": True, "num_processes": 2, "train_batch_size": 2}
    assert config_from_flat(flat).training.shard_weights
    with pytest.raises(ConfigError, match=said):
        config_from_flat({**flat, **changes})


def test_one_process_has_nobody_to_share_with():
    alone = config_from_flat({"model_type": "full", "shard_weights": True})
    assert any("shard_weights is not used" in remark for remark in idle_remarks(alone))


@pytest.mark.slow
@pytest.mark.parametrize("variant", BY_LENGTH)
def test_a_network_that_is_called_once_for_each_length_of_caption_is_refused(
    tiny_run, without_drift, monkeypatch, variant
):
    run = tiny_run(variant, **{**SHARED, "train_batch_size": 2})
    assert as_ranks(monkeypatch, run) == [REFUSED, REFUSED]
    assert "once for each length of caption" in events(run, "error")[-1]["message"]
