"""One device among several: how it is named, what of it is refused, and that the queue knows each by itself."""

import sys

import pytest
from rollout_studio.core import platform_calls
from rollout_studio.core.before.checks.computing import missing_gpu, too_few_gpus
from rollout_studio.core.before.installation import device_of
from rollout_studio.core.config import ConfigError, config_from_flat
from rollout_studio.core.families.devices import choose_device
from rollout_studio.core.families.source import ModelError
from rollout_studio.core.platform_calls import device_name, visible_gpus
from rollout_studio.core.runs.store import RunStore

TWO_GPUS = ("cuda:0", "cuda:1", "cpu")


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:1", "cuda:15"])
def test_a_device_may_have_a_number_where_there_can_be_several(name):
    config = config_from_flat({"device": name})
    assert config.model.device == name and device_of(config.model) in ("cpu", "mps", "cuda")


@pytest.mark.parametrize("name", ["cuda:", "cuda:-1", "cuda:01", "cuda:1 ", "cuda:x", "mps:0", "cpu:0", "gpu", "cuda1"])
def test_other_names_are_refused_with_the_rule(name):
    with pytest.raises(
        ConfigError, match="device = .*: must be one of auto, cpu, cuda, mps, or cuda:N with a number from 0"
    ):
        config_from_flat({"device": name})


def test_a_name_means_one_of_the_devices_that_are_there():
    chosen = {name: choose_device(name, TWO_GPUS) for name in ("auto", "cuda", "cuda:0", "cuda:1", "cpu")}
    assert chosen == {"auto": "cuda:0", "cuda": "cuda:0", "cuda:0": "cuda:0", "cuda:1": "cuda:1", "cpu": "cpu"}
    assert choose_device("auto", ("mps", "cpu")) == "mps"
    for name, available in (("cuda:2", TWO_GPUS), ("mps", TWO_GPUS), ("cuda", ("cpu",))):
        with pytest.raises(ModelError) as raised:
            choose_device(name, available)
        assert f"device = {name}, but torch sees no {name} device here" in raised.value.message
        assert " or ".join(available) in raised.value.remedy


def test_cuda_shows_the_gpus_up_to_the_first_name_that_is_none():
    assert [visible_gpus(4, visible) for visible in (None, "", "-1", "0", "2,3", "3,-1,0", "0,7,1", "GPU-8932f937,1")] == [
        4, 0, 0, 1, 2, 1, 1, 2
    ]  # fmt: skip


def test_a_gpu_that_the_machine_lacks_is_refused_before_the_start_with_value_rule_and_remedy():
    assert [missing_gpu(name, 2) for name in ("cuda", "cuda:0", "cuda:1", "auto", "cpu", "mps")] == [None] * 6
    wrong = missing_gpu("cuda:2", 2)
    assert (wrong.level, wrong.where) == ("error", "device")
    assert wrong.message == "device is cuda:2, but CUDA shows 2 GPUs, cuda:0 to cuda:1."
    assert "Set device = cuda:1, or cuda for the first" in wrong.remedy
    assert "one GPU, cuda:0" in missing_gpu("cuda:1", 1).message and "no GPU" in missing_gpu("cuda:0", 0).message


def test_one_device_has_one_name_so_that_runs_which_share_it_are_known(monkeypatch):
    monkeypatch.setattr(platform_calls, "likely_device", lambda: "cuda")
    assert [device_name(name) for name in ("auto", "cuda", "cuda:0", "cuda:1", "mps", "cpu")] == [
        "cuda:0", "cuda:0", "cuda:0", "cuda:1", "mps", "cpu"
    ]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs", worker=(sys.executable, "-c", "raise SystemExit"))


def test_the_queue_starts_one_run_on_each_gpu_and_takes_cuda_for_the_first(store):
    for name, device in (
        ("first", "cuda"),
        ("second", "cuda:0"),
        ("third", "cuda:1"),
        ("fourth", "cuda:1"),
        ("fifth", "cpu"),
    ):
        store.create({"device": device}, name)
        store.enqueue(name)
    assert [job.device for job in store.queue()] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cpu"]
    assert store.pump() == ["first", "third", "fifth"]


def test_a_job_that_an_older_version_left_waits_for_the_first_gpu(store):
    import sqlite3

    for name, device in (("old", "cuda"), ("new", "cuda:0")):
        store.create({"device": device}, name)
        store.enqueue(name)
    with sqlite3.connect(store.root / ".queue.sqlite3") as database:
        database.execute("UPDATE jobs SET device = 'cuda' WHERE run = 'old'")
    assert [job.device for job in store.queue()] == ["cuda:0", "cuda:0"]
    assert store.pump() == ["old"]


def test_more_processes_than_gpus_are_refused_with_the_number_that_fits():
    assert too_few_gpus("auto", 2, 2) is None and too_few_gpus("cuda:2", 2, 4) is None
    wrong = too_few_gpus("cuda:1", 3, 3)
    assert wrong.level == "error" and wrong.where == "num_processes"
    assert "from cuda:1 on, and CUDA shows 3 GPUs" in wrong.message and "num_processes = 2" in wrong.remedy
    assert "num_processes = 1" in too_few_gpus("cuda", 2, 0).remedy
