"""The digest of a run's events: bounded in memory, right after a resume, shared by all readers."""

import math

import pytest
from rollout_studio.core.runs.run_log import Series, follow
from rollout_studio.core.runs.store import RunStore


@pytest.fixture
def run(tmp_path):
    return RunStore(tmp_path).create({}, "one")


def steps(run, first, last, **more):
    for step in range(first, last + 1):
        run.emit("step", step=step, loss=1 / step, loss_parts={"main": 0.5, "adr": "nan"}, **more)


def test_only_new_events_are_folded(run):
    steps(run, 1, 3)
    log = follow(run)
    before = log.version
    assert follow(run) is log and log.version == before
    steps(run, 4, 4)
    assert follow(run).series.steps == [1, 2, 3, 4] and log.version == before + 1


def test_parts_become_columns_and_what_is_no_number_leaves_a_gap(run):
    steps(run, 1, 2)
    series = follow(run).series
    assert series.column("main") == [0.5, 0.5]
    assert all(math.isnan(value) for value in series.column("adr"))
    assert series.column("loss") == [1.0, 0.5]


def test_a_long_series_keeps_its_mean_and_its_ends_within_its_limit(monkeypatch):
    monkeypatch.setattr(Series, "LIMIT", 64)
    series = Series()
    for step in range(1, 5001):
        series.add(step, {"loss": float(step)})
    assert len(series) <= 64
    assert series.steps[-1] == 5000
    assert series.column("loss")[0] < series.stride
    values, strides = series.column("loss"), series.stride
    assert sum(values) / len(values) == pytest.approx(2500, abs=strides)


def test_what_a_resumed_run_trains_again_is_not_shown_twice(run):
    run.emit("start", total_steps=10, resumed_from=None)
    steps(run, 1, 8)
    run.emit("sample", step=7, images=[])
    run.emit("end", state="crashed")
    run.emit("start", total_steps=10, resumed_from=5)
    steps(run, 6, 7)
    log = follow(run)
    assert log.series.steps == [1, 2, 3, 4, 5, 6, 7]
    assert log.samples == {} and log.end is None


def test_a_new_run_under_the_name_of_a_deleted_one_starts_empty(tmp_path):
    store = RunStore(tmp_path)
    run = store.create({}, "same")
    steps(run, 1, 3)
    run.emit("error", message="old")
    assert follow(run).error is not None
    store.delete("same")
    run = store.create({}, "same")
    steps(run, 1, 1)
    log = follow(run)
    assert log.series.steps == [1] and log.error is None


def test_pause_phase_warnings_and_the_last_error_are_kept(run):
    run.emit("phase", name="model", done=0, total=1)
    assert follow(run).phase["name"] == "model"
    run.emit("paused")
    assert follow(run).paused
    run.emit("resumed")
    run.emit("warning", message="careful", remedy="look")
    run.emit("error", message="boom")
    run.emit("end", state="failed")
    log = follow(run)
    assert not log.paused and log.phase is None
    assert (log.warnings[0]["message"], log.error["message"], log.end["state"]) == ("careful", "boom", "failed")
