"""A checkpoint is whole or invisible, whatever happens while it is written."""

import errno
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from rollout_studio.core import platform_calls
from rollout_studio.core.runs import checkpoint
from rollout_studio.core.runs.checkpoint import CheckpointError, DiskFull
from safetensors import SafetensorError

RECORD = {"config": {"seed": 42, "learning_rate": 1e-4}, "optimizer": None}


def tensors(step: int, side: int = 3) -> dict:
    weights = torch.arange(side * 4, dtype=torch.float32).reshape(side, 4) + step
    return {
        "trainable": {"a.weight": weights, "b.weight": weights.T.to(torch.bfloat16)},  # T: not contiguous
        "optimizer": {
            "state.0.step": torch.tensor(float(step)),
            "state.0.codes": torch.tensor([1, 2], dtype=torch.uint8),
        },
    }


def save(folder: Path, step: int, **options) -> Path:
    return checkpoint.save(folder, step, tensors(step), RECORD, **options).path


def steps(folder: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(folder)]


def test_what_was_saved_is_what_is_loaded(tmp_path):
    loaded = checkpoint.load(save(tmp_path, 250))
    assert loaded.path.name == "step-000250" and loaded.step == 250
    assert {key: loaded.record[key] for key in RECORD} == RECORD
    for stem, group in tensors(250).items():
        assert loaded.tensors[stem].keys() == group.keys()
        for name, tensor in group.items():
            assert loaded.tensors[stem][name].dtype == tensor.dtype and torch.equal(loaded.tensors[stem][name], tensor)


def test_saving_reports_the_bytes_it_took(tmp_path):
    saved = checkpoint.save(tmp_path, 1, tensors(1), RECORD)
    assert saved.bytes == sum(file.stat().st_size for file in saved.path.iterdir() if file.name != checkpoint.MANIFEST)


def test_every_file_is_flushed_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    fsync, sync_folder, replace = os.fsync, platform_calls.sync_folder, platform_calls.replace
    inside = []  # a folder's own flush also calls fsync

    def recorded_fsync(handle):
        if not inside:
            calls.append("file")
        fsync(handle)

    def recorded_sync(folder):
        calls.append(f"folder {folder.name.split('-')[0]}")
        inside.append(folder)
        sync_folder(folder)
        inside.pop()

    def recorded_replace(source, target):
        calls.append(f"rename to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(platform_calls, "sync_folder", recorded_sync)
    monkeypatch.setattr(platform_calls, "replace", recorded_replace)
    folder = tmp_path / "checkpoints"
    save(folder, 7)
    # trainable, optimizer, resume.json, manifest.json; then the folder with their names; then its name; then the parent.
    assert calls == ["file"] * 4 + ["folder .partial", "rename to step-000007", "folder checkpoints"]


@pytest.mark.parametrize("damage", ["cut", "flip in the data", "flip in the header", "missing", "no manifest"])
def test_damage_is_found_and_the_next_older_checkpoint_serves(tmp_path, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    file = newest / "trainable.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        (newest / checkpoint.MANIFEST).unlink()
    else:
        content[-3 if "data" in damage else 12] ^= 1
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match="manifest.json" if damage == "no manifest" else "trainable.safetensors"):
        checkpoint.load(newest)
    loaded, skipped = checkpoint.load_latest(tmp_path)
    assert loaded.step == 1 and len(skipped) == 1 and "step-000002" in skipped[0]


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    saved = checkpoint.save(tmp_path, 1, {"trainable": {"w": torch.tensor([1.0, float("nan")])}}, RECORD)
    with pytest.raises(CheckpointError, match="not finite: w"):
        checkpoint.load(saved.path)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 3):  # saved out of order: what counts is the step
        save(tmp_path, step, keep=2)
    assert steps(tmp_path) == [3, 10]


def test_nothing_older_goes_before_the_new_one_verifies(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "verify", lambda path: ["a bit has turned"])
    with pytest.raises(CheckpointError, match="a bit has turned"):
        save(tmp_path, 3, keep=2)
    assert {1, 2} <= set(steps(tmp_path))


@pytest.mark.parametrize("place", ["_flush_file", "_put_in_place", "_write_json"])
def test_an_error_inside_a_save_costs_no_older_checkpoint(tmp_path, monkeypatch, place):
    save(tmp_path, 1, keep=2)
    save(tmp_path, 2, keep=2)

    def fail(*arguments):
        raise RuntimeError("the machine stumbles")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stumbles"):
        patch.setattr(checkpoint, place, fail)
        save(tmp_path, 3, keep=2)
    assert steps(tmp_path) == [1, 2] and all(checkpoint.verify(path) == [] for path in checkpoint.checkpoints(tmp_path))
    assert not list(tmp_path.glob(".*"))


FACES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded") if hasattr(errno, "EDQUOT") else OSError(122, "quota"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 8388544 vs 8388432"),
]


@pytest.mark.parametrize("face", FACES, ids=lambda face: type(face).__name__)
def test_a_full_disk_is_recognised_by_every_face_and_leaves_the_older_checkpoint(tmp_path, monkeypatch, face):
    save(tmp_path, 1, keep=1)

    def full(*arguments):
        raise face

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="older checkpoints are intact"):
        patch.setattr(checkpoint, "save_file", full)
        save(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [1] and checkpoint.load(tmp_path / "step-000001").step == 1
    assert not list(tmp_path.glob(".*"))


def test_a_database_on_a_full_disk_and_a_wrapped_error_are_recognised_others_are_not():
    import sqlite3

    assert checkpoint.is_disk_full(sqlite3.OperationalError("database or disk is full"))
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert checkpoint.is_disk_full(wrapped)
    assert not checkpoint.is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not checkpoint.is_disk_full(RuntimeError("expected scalar type Float"))


def test_too_little_room_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(platform_calls, "free_bytes", lambda path: 1000)
    with pytest.raises(DiskFull, match=r"0 bytes are free at .* needs 1.0 MiB. Free some space"):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5)
    again = checkpoint.save(tmp_path, 5, tensors(6), RECORD).path
    assert torch.equal(checkpoint.load(again).tensors["trainable"]["a.weight"], tensors(6)["trainable"]["a.weight"])
    assert steps(tmp_path) == [5] and not list(tmp_path.glob(".*"))


def test_leftovers_of_the_dead_go_those_of_the_living_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.psutil, "pid_exists", lambda pid: pid == 77)
    for name in (".partial-99-3", ".pruned-99-1", ".partial-77-4"):
        (tmp_path / name).mkdir()
    save(tmp_path, 2)
    os.rename(save(tmp_path, 5), tmp_path / ".replaced-99-5")  # killed between the two renames of a replacement
    checkpoint.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-77-4", "step-000002", "step-000005"]
    assert checkpoint.load(tmp_path / "step-000005").step == 5


def test_an_optimizer_state_survives_as_tensors_and_json():
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.full((2, 3), 0.5)
    optimizer.step()
    state = {**optimizer.state_dict(), "growth_rate": float("inf"), "empty": {}}
    tree, flat = checkpoint.flatten(state)
    back = checkpoint.unflatten(tree, flat)
    assert back["growth_rate"] == float("inf") and back["empty"] == {}
    assert back["state"].keys() == {0} and torch.equal(back["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    assert back["param_groups"][0]["lr"] == 0.1 and tuple(back["param_groups"][0]["betas"]) == (0.9, 0.999)


def test_what_is_neither_tensor_nor_plain_value_is_refused():
    with pytest.raises(TypeError, match=r"state\.a\.0: a Path|state\.a\.0: a .*Path"):
        checkpoint.flatten({"a": [Path("x")]})


# -------------------------------------------------------------------------------------------------------------- kill -9


def _save_for_ever(folder: str, started) -> None:
    step = 0
    while True:
        step += 1
        checkpoint.save(Path(folder), step, tensors(step, side=50_000), RECORD, keep=2)
        started.set()


def kill_while_saving(folder: Path, times: int) -> None:
    """Kill a saving process at random moments; after each, every visible checkpoint must be whole."""
    fork = "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if fork else "spawn")
    moments = random.Random(1)
    for _ in range(times):
        started = context.Event()
        process = context.Process(target=_save_for_ever, args=(str(folder), started))
        process.start()
        assert started.wait(60)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        visible = checkpoint.checkpoints(folder)
        assert visible and [checkpoint.verify(path) for path in visible] == [[]] * len(visible)
        assert checkpoint.load_latest(folder)[1] == []
        checkpoint.remove_leftovers(folder)
        assert not list(folder.glob(".*"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killing_a_save_leaves_no_visible_broken_checkpoint(tmp_path):
    kill_while_saving(tmp_path, times=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killing_fifty_saves_leaves_no_visible_broken_checkpoint(tmp_path):
    kill_while_saving(tmp_path, times=50)
