"""The cache's size: what was unused for longest goes first, what may be in use stays."""

import os
import time

import pytest
import torch
from rollout_studio.app.cli import main as cli
from rollout_studio.core.data.cache import TensorCache
from rollout_studio.core.data.tidying import IN_USE_S, Amount, amounts, empty, tidy
from rollout_studio.core.train.loop import train
from tiny_run import events


@pytest.fixture
def cache(tmp_path):
    """A folder with three latents and two texts of 40 kB; the age in days is in the name of each."""
    for kind, ages in (("latents", (9, 5, 1)), ("text", (7, 0))):
        for age in ages:
            put(tmp_path, kind, age)
    return tmp_path


def put(folder, kind, age):
    entries, key = TensorCache(folder, kind), f"{age:064d}"
    entries.write(key, {"latents": torch.full((10, 1000), float(age))})
    then = time.time() - age * 24 * 3600 - 60
    os.utime(entries.path(key), (then, then))


def ages(folder):
    return {
        kind: sorted(int(path.stem, 16) for path in (folder / kind).glob("*/*.safetensors"))
        for kind in ("latents", "text")
    }


def test_the_longest_unused_entries_go_first_whatever_their_kind(cache):
    each = amounts(cache)["text"].bytes_ / 2
    assert tidy(cache, 3.5 * each) == Amount(2, round(2 * each))
    assert ages(cache) == {"latents": [1, 5], "text": [0]}
    assert tidy(cache, 3.5 * each) == Amount()


def test_what_may_be_in_use_stays_whatever_the_limit(cache):
    assert IN_USE_S == 3 * 24 * 3600
    assert tidy(cache, 0).files == 3 and ages(cache) == {"latents": [1], "text": [0]}
    assert tidy(cache, 0, in_use_s=0).files == 2


def test_a_use_makes_an_entry_young(cache):
    TensorCache(cache, "latents").read(f"{9:064d}")
    tidy(cache, 0)
    assert ages(cache) == {"latents": [1, 9], "text": [0]}


def test_emptying_one_kind_leaves_the_others_and_class_pictures(cache):
    (cache / "class/key").mkdir(parents=True)
    (cache / "class/key/class-000000.png").write_bytes(b"picture")
    assert empty(cache, ("latents",)).files == 3
    assert ages(cache) == {"latents": [], "text": [0, 7]} and amounts(cache)["class"] == Amount(1, 7)
    assert empty(cache).files == 2 and (cache / "class/key/class-000000.png").exists()


def test_the_command_shows_bounds_and_empties_the_cache(cache, capsys):
    def call(*arguments):
        code = cli.main(["cache", *arguments])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    code, shown = call("--dir", str(cache))
    assert code == 0 and "in 3 files  (latents of pictures)" in shown and "in 2 files" in shown
    assert "Removed 2 files" in call("--dir", str(cache), "--limit", "0.00013")[1]
    assert call("--dir", str(cache), "--limit", "nan")[0] == 78
    assert "Removed 1 files" in call("--dir", str(cache), "--empty", "text")[1]
    assert ages(cache) == {"latents": [1, 5], "text": []}
    assert "Removed 2 files" in call("--dir", str(cache), "--empty")[1] and ages(cache)["latents"] == []
    assert "no cache" in call("--runs-dir", str(cache / "nowhere"))[1]


def test_a_run_bounds_its_cache_and_keeps_what_it_trains_on(tiny_run, without_drift, tmp_path, monkeypatch):
    put(tmp_path / "cache", "latents", 9)
    run = tiny_run("sd1", data_cache_dir=str(tmp_path / "cache"), data_cache_limit_gb=1)
    monkeypatch.setattr("rollout_studio.core.train.session.tidy", lambda folder, limit: tidy(folder, limit / 1e9))
    assert train(run) == 0
    assert 9 not in ages(tmp_path / "cache")["latents"] and len(ages(tmp_path / "cache")["latents"]) == 4
    assert events(run, "prepared")[0]["removed_bytes"] > 40_000
