"""Several processes on one run: each knows its rows, one writes, all agree. One process is world size 1 of the same code."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from rollout_studio.core.config import config_from_flat, read_config
from rollout_studio.core.data import prepare, scan
from rollout_studio.core.families import load_model
from rollout_studio.core.maths.grid import build_grid
from rollout_studio.core.runs.folder import RunDir
from rollout_studio.core.runs.journal import Journal
from rollout_studio.core.train import processes
from rollout_studio.core.train.interrupt import Interrupt
from rollout_studio.core.train.keeping import Keeper
from rollout_studio.core.train.listening import Listener
from rollout_studio.core.train.looking import Viewer
from rollout_studio.core.train.loop import train
from rollout_studio.core.train.outcome import DONE, PREEMPTED, REFUSED, Leave, agreed_end
from rollout_studio.core.train.ranks import Ranks
from rollout_studio.core.train.status import SilentJournal, Status
from rollout_studio.core.train.window import draw_window
from tiny_run import ROLLOUT, as_ranks, events, losses

EVERYTHING_DRAWN = {
    **ROLLOUT, "train_batch_size": 3, "gradient_accumulation_steps": 2, "random_flip": True, "caption_dropout_probability": 0.4,
    "with_prior_preservation": True, "class_prompt": "a circle", "num_class_images": 4, "class_sample_steps": 1,
    "output_preservation_weight": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("variant", ["lumina2", "sd1"])
def test_two_ranks_have_between_them_exactly_the_rows_noises_times_and_plans_of_one_process(tiny_run, variant):
    run = tiny_run(variant, **EVERYTHING_DRAWN)
    config = read_config(run.config_path)
    model = load_model(config.model)
    data = prepare(model, config, scan(config.data), run.path.parent / ".cache")
    rolled = 0

    def rows_of(ranks, step):
        """Number in the global batch -> everything that decides what its row trains on."""
        batches = [data.batch(step, micro, ranks.share) for micro in range(2)]
        assert all(batch.class_conditioning.count == int((~batch.is_class).sum()) for batch in batches)
        shapes, numbers = [batch.latents.shape[1:] for batch in batches], [batch.numbers for batch in batches]

        def grid(shape):
            return build_grid(
                config.rollout, lambda steps: model.inference_times(steps, shape), lambda: model.training_times(shape)
            )

        draws = draw_window(model, config, shapes, numbers, data.rows_per_step, step, grid)
        return {
            int(number): (
                batch.ids[i], batch.captions[i], batch.flipped[i], bool(batch.is_class[i]), batch.latents[i].tolist(),
                draw.noise[i].tolist(), float(draw.plan.t[i]), int(draw.plan.k[i]), float(draw.plan.source.sigma[i]),
            )
            for batch, draw in zip(batches, draws, strict=True)
            for i, number in enumerate(batch.numbers)
        }  # fmt: skip

    for step in range(4):
        whole, first, second = (rows_of(ranks, step) for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)))
        assert (
            sorted(whole) == list(range(12)) and [whole[number][3] for number in range(12)] == [False] * 6 + [True] * 6
        )
        assert not first.keys() & second.keys() and (len(first), len(second)) == (8, 4)
        assert {**first, **second} == whole
        rolled += sum(row[7] > 0 for row in whole.values())
    assert rolled > 0


def test_every_row_belongs_to_one_rank_and_no_rank_has_two_more_than_another():
    for rows in (1, 5, 8):
        for world_size in (1, 2, 3):
            shares = [list(range(rows))[Ranks(rank, world_size).share] for rank in range(world_size)]
            assert sorted(row for share in shares for row in share) == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match="rank = 2, world_size = 2: ranks count from 0 to 1"):
        Ranks(2, 2)


def test_all_ranks_agree_when_one_of_them_wants_something(tmp_path):
    """Two real processes over torch's own process group."""
    code = textwrap.dedent("""
        import sys
        import torch.distributed as distributed
        import torch
        from rollout_studio.core.train import ranks as ranks_module
        from rollout_studio.core.train.ranks import Ranks
        from rollout_studio.core.train.outcome import Leave, agreed_end, main_first
        rank = int(sys.argv[1])
        distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
        ranks = Ranks(rank, 2)
        print(ranks.any(False), ranks.any(rank == 1), ranks.any(rank == 0), ranks.any(True))
        print(ranks.gather({"rank": rank}))
        ranks_module.BUCKET_NUMBERS = 5  # three buckets
        weights = [torch.full((2, 2), float(rank)), torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.zeros(2)]
        ranks.start_alike(weights)
        print([weight.sum().item() for weight in weights])
        weights[0].grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (rank + 1)
        if rank == 0:
            weights[1].grad = torch.tensor([5.0, 6.0, 7.0])
        weights[2].grad = torch.tensor([0.1, 0.2], dtype=torch.float64)
        ranks.add_gradients(weights)
        print([None if weight.grad is None else weight.grad.flatten().tolist() for weight in weights])
        try:
            with agreed_end(ranks):
                pass
            print("goes on")
            with agreed_end(ranks):
                if rank == 0:
                    raise Leave(0, "stopped")
            print("never")
        except Leave as leave:
            print("left:", leave.message)
        for failure in (ValueError, Leave):
            try:
                with agreed_end(ranks), main_first(ranks):
                    if rank == 0:
                        raise failure(0, "broken")
                    print("never")
            except Exception as error:
                print(type(error).__name__)
        distributed.destroy_process_group()
    """)
    store = tmp_path / "store"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(store)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0].splitlines() for process in started]
    talked = [
        "False True True True",
        "[{'rank': 0}, {'rank': 1}]",
        "[0.0, 0.0, 0.0, 0.0]",
        "[[3.0, 6.0, 9.0, 12.0], [5.0, 6.0, 7.0], [0.2, 0.4], None]",
        "goes on",
    ]
    assert said[0] == [*talked, "left: stopped", "ValueError", "Leave"]
    assert said[1] == [*talked, "left: another rank has ended the run.", "Leave", "Leave"]


def test_in_one_process_an_agreement_is_its_own_wish():
    assert [Ranks().any(flag) for flag in (True, False)] == [True, False]
    mine = Leave(PREEMPTED, "SIGTERM")
    with pytest.raises(Leave) as raised, agreed_end(Ranks()):
        raise mine
    assert raised.value is mine
    with agreed_end(Ranks()):
        pass


def test_rank_0_alone_writes_checkpoints_samples_and_journal_and_takes_commands(tmp_path):
    """Without a session: who does not write needs none."""
    (tmp_path / "run").mkdir()
    run = RunDir(tmp_path / "run")
    run.send("stop")
    before = sorted(tmp_path.rglob("*"))
    journal = SilentJournal(run)
    status = Status(run, journal, Ranks(1, 2))
    status.emit("step", loss=1.0)
    status.warn("a message", "a remedy")
    status.set_paused(True)
    journal.progress("samples", 0, 2)
    listener = Listener(status, Interrupt())
    listener.take_commands()
    assert not listener.poll() and not listener.inbox
    keeper = Keeper(status, None, None)
    keeper.save()
    keeper.export()
    viewer = Viewer(status, None, None, listener, None)
    viewer.take_samples()
    viewer.measure_drift()
    assert sorted(tmp_path.rglob("*")) == before

    Status(run, Journal(run), Ranks(0, 2)).emit("step", loss=1.0)
    assert [event["event"] for event in run.events()[0]] == ["step"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; the slow tests start processes everywhere")
def test_two_processes_give_the_losses_of_one_with_the_same_global_batch(tiny_run, without_drift, monkeypatch):
    """Over gloo. 3 + 3 rows a step, so that the ranks have 4 and 2 of them."""
    settings = {**ROLLOUT, "train_batch_size": 3, "gradient_accumulation_steps": 2, "max_train_steps": 3}
    one, two = tiny_run("lumina2", "one", **settings), tiny_run("lumina2", "two", **settings)
    assert train(one) == DONE
    assert as_ranks(monkeypatch, two) == [DONE, DONE]
    assert losses(two) == pytest.approx(losses(one), abs=1e-6) and len(losses(two)) == 3
    rolled = 0
    for alone, together in zip(events(one, "step"), events(two, "step"), strict=True):
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        for counted in ("rows", "rolled_rows", "network_rows", "mean_offset", "effective_probability"):
            assert together[counted] == alone[counted], counted
        assert together["loss_parts"] == pytest.approx(alone["loss_parts"], abs=1e-6)
        assert len(together["rank_calls"]) == 2 and together["network_calls"] == max(together["rank_calls"])
        rolled += alone["rolled_rows"]
    assert rolled > 0
    assert [event["event"] for event in events(two)].count("end") == 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_processes": 3, "train_batch_size": 3}, "num_processes = 3, but this run was started as 2 processes"),
        ({"train_batch_size": 1}, "the processes divide the 1 rows of train_batch_size"),
        ({"device": "cuda"}, "2 processes from cuda:0 on: CUDA shows 1 GPU here"),
        ({"device": "mps"}, "2 processes on mps"),
    ],
)
def test_what_several_processes_cannot_train_is_refused_before_they_meet_and_rank_0_alone_says_so(
    tiny_run, monkeypatch, rank, changes, said
):
    run = tiny_run("lumina2", **changes)
    before = sorted(run.path.rglob("*"))
    monkeypatch.setattr(processes, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    assert train(run) == REFUSED
    if rank == 0:
        error = events(run, "error")[-1]
        assert said in error["message"] and error["remedy"]
    else:
        assert sorted(run.path.rglob("*")) == before
    assert torch.distributed.is_initialized() is False


def test_each_process_has_a_gpu_of_its_own_counted_from_the_one_that_is_named(monkeypatch):
    monkeypatch.setattr(processes, "resolve_device", lambda name: torch.device("cuda:0" if name == "auto" else name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, devices in (("auto", ["cuda:0", "cuda:1"]), ("cuda:2", ["cuda:2", "cuda:3"]), ("cpu", ["cpu", "cpu"])):
        config = config_from_flat({"device": name, "train_batch_size": 2})
        assert [processes.of_this_rank(config, Ranks(rank, 2)).model.device for rank in range(2)] == devices
        assert processes.of_this_rank(config, Ranks()) is config
