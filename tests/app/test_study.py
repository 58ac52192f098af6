"""Studies: what a file asks for, how its runs are made and taken up again, and what may be said of their differences."""

import json
import random
import subprocess
import sys
import time

import pytest
from rollout_studio.core.config import config_from_flat
from rollout_studio.core.config.options import ConfigError
from rollout_studio.core.look.drift.evidence import known_results, write_results
from rollout_studio.core.look.drift.files import report_to_json
from rollout_studio.core.look.drift.report import Curve, DriftReport, Measure, Point
from rollout_studio.core.maths.student import t_quantile
from rollout_studio.core.runs.store import RunStore
from rollout_studio.core.study import work
from rollout_studio.core.study.evidence import results_of
from rollout_studio.core.study.measures import JUDGED, KINDS, measured
from rollout_studio.core.study.paired import difference, spread
from rollout_studio.core.study.plan import Judging, StudyError, read_study, study_of
from rollout_studio.core.study.table import as_text, results, saved

# -- differences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "degrees", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 9, 2.26216), (0.975, 30, 2.04227), (0.995, 2, 9.92484), (0.9995, 4, 8.61030), (0.5, 5, 0.0)],
)  # fmt: skip
def test_students_quantiles_are_those_of_the_tables(p, degrees, value):
    assert t_quantile(p, degrees) == pytest.approx(value, rel=1e-5, abs=1e-9)


def test_a_difference_is_that_of_the_pairs():
    found = difference([3.0, 5.0, 10.0], [1.0, 2.0, 6.0])  # 2, 3, 4: standard deviation 1
    assert (found.mean, found.error, found.values) == (3.0, pytest.approx(3**-0.5), (2.0, 3.0, 4.0))
    assert found.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert (found.sign, found.verdict("lower"), found.verdict("higher"), found.verdict(None)) == (
        1,
        "worse",
        "better",
        "higher",
    )
    assert difference([3.0, 5.0, 10.0], [1.0, 2.0, 6.0], comparisons=20).sign == 0, (
        "of twenty differences one is that large by chance"
    )


def test_a_difference_that_was_not_to_decide_has_no_interval_and_no_verdict():
    found = difference([1.0, 2.0, 3.0], [2.0, 3.1, 4.2], comparisons=0)
    assert found.half is None and found.verdict("lower") == "not tested" and found.error > 0


def test_below_three_seeds_there_is_no_interval_and_no_verdict():
    for seeds in (1, 2):
        found = difference([1000.0, 1001.0][:seeds], [0.0, 0.0][:seeds])
        assert found.half is None and found.sign == 0 and found.verdict("higher") == "no verdict below 3 seeds"


def test_the_pooled_spread_of_two_variants_is_that_of_their_pairs_and_of_many_that_of_a_randomised_block_design():
    one, other = [3.0, 5.0, 10.0], [1.0, 2.0, 6.0]
    found = spread([one, other])
    alone, pooled = difference(one, other), difference(one, other, pooled=found)
    assert (
        found.degrees == 2 and pooled.error == pytest.approx(alone.error) and pooled.half == pytest.approx(alone.half)
    )
    # Montgomery, Design and Analysis of Experiments, table 4.2 (vascular grafts): 4 pressures x 6 batches, error 7.33 with 15 degrees
    grafts = [[90.3, 89.2, 98.2, 93.9, 87.4, 97.9], [92.5, 89.5, 90.6, 94.7, 87.0, 95.8], [85.5, 90.8, 89.6, 86.2, 88.0, 93.4],
              [82.5, 89.5, 85.6, 87.4, 78.9, 90.7]]  # fmt: skip
    assert spread(grafts).degrees == 15 and spread(grafts).deviation ** 2 == pytest.approx(7.33, abs=0.005)
    wild = [0.0, 30.0, -30.0]  # differs more than the others: its own error counts
    assert difference(wild, one, pooled=found).error == difference(wild, one).error
    assert spread([one]) is None and spread([[1.0], [2.0]]) is None


@pytest.mark.parametrize("pool", [False, True])
def test_of_variants_that_do_nothing_at_most_one_study_in_twenty_finds_a_difference(pool):
    """Ten comparisons of three seeds each, all of them noise: the chance of any verdict is below 5 %, a seed's own luck included."""
    rng, wrong, studies = random.Random(1), 0, 1000
    for _ in range(studies):
        luck = [rng.gauss(0, 3) for _ in range(3)]
        plain, *others = [[each + rng.gauss(0, 1) for each in luck] for _ in range(11)]
        pooled = spread([plain, *others]) if pool else None
        wrong += any(difference(each, plain, 10, pooled).sign for each in others)
    assert wrong / studies < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5


# -- what a file asks for -------------------------------------------------------------------------------------------------

SMALL = {
    "study": "s",
    "preset": "demo",
    "set": {"max_train_steps": 20},
    "variants": {"gentle": {"level": "gentle"}},
    "seeds": [1, 2],
}


def made(tmp_path, **changes):
    return study_of({**SMALL, **changes}, "s.yaml", tmp_path, tmp_path)


def test_plain_and_the_controls_come_by_themselves(tmp_path):
    study = made(tmp_path)
    assert study.reference == "plain"
    assert [(each.name, each.control, each.of) for each in study.variants] == [
        ("plain", None, None),
        ("gentle", None, None),
        ("gentle: plain, equal time", "plain-time", "gentle"),
        ("gentle: plain, noise of the source", "source-noise", "gentle"),
    ], "the control at equal steps is plain itself"
    configs = {each.name: study.config(each, 2) for each in study.variants}
    assert not configs["plain"].rollout.rolls_out and configs["gentle"].rollout.max_step_offset == 2
    assert configs["gentle"].rollout.ramp_steps == 4, "a level's numbers depend on the steps of the study"
    assert {config.training.seed for config in configs.values()} == {2}
    assert [each.name for each in study.compared_with(study.variant("gentle"))] == [
        "plain",
        "gentle: plain, equal time",
        "gentle: plain, noise of the source",
    ]
    assert len({cell.run for cell in study.cells()}) == len(study.cells()) == 8


def test_a_variant_that_changes_more_than_its_rollout_has_its_own_control_at_equal_steps(tmp_path):
    study = made(tmp_path, variants={"gentle, fast": {"level": "gentle", "learning_rate": 2e-3}})
    control = study.variant("gentle, fast: plain, equal steps")
    assert study.config(control, 1).training.learning_rate == 2e-3 and not study.config(control, 1).rollout.rolls_out


def test_a_grid_is_every_combination_and_its_first_one_the_reference(tmp_path):
    study = made(
        tmp_path,
        variants=None,
        grid={"learning_rate": [1e-3, 2e-3], "lora_rank": [4, 8]},
        set={"scheduled_sampling_max_step_offset": 0},
    )
    assert [each.name for each in study.variants] == [
        "learning_rate 0.001, lora_rank 4", "learning_rate 0.001, lora_rank 8", "learning_rate 0.002, lora_rank 4", "learning_rate 0.002, lora_rank 8",
    ]  # fmt: skip
    assert [cell.run for cell in study.cells()][1] == "s-learning_rate-0.001-2-s1", (
        "names that are cut alike get a number"
    )
    assert study.reference == study.variants[0].name and all(each.control is None for each in study.variants)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stydy": 1}, "'stydy' is not known. Did you mean 'study'"),
        ({"study": "a b"}, "study = 'a b': must be a name"),
        ({"study": "x" * 21}, "at most 20"),
        ({"preset": None}, "needs either preset or config"),
        ({"preset": "dmo"}, "Did you mean 'demo'"),
        ({"seeds": [1, 1]}, "must be different whole numbers"),
        ({"seeds": [1.5]}, "must be different whole numbers"),
        ({"seeds": [100_000]}, "from 0 to 99999"),
        ({"seeds": "123"}, "must be different whole numbers"),
        ({"variants": {"a": {"learning_rat": 1}}}, "a: 'learning_rat' is not an option. Did you mean 'learning_rate'"),
        ({"variants": {"a": {"seed": 1}}}, "seed is not a variant's"),
        ({"variants": {"a": {"level": "mild"}}}, "level = 'mild': is none. Levels of rollout: off, gentle, strong"),
        ({"variants": {"a": {"lora_rank": -1}}}, "lora_rank"),
        ({"variants": {"a": {"lora_rank": 2}, "b": {"lora_rank": 2}}, "controls": False}, "are the same settings"),
        ({"variants": {}}, "must be names with their changes"),
        ({"grid": {"lora_rank": [1]}}, "needs either variants or grid"),
        ({"variants": None, "grid": {"lora_rank": 4}}, "must give each option a list"),
        ({"reference": "plan"}, "is no variant. Did you mean 'plain'"),
        ({"controls": ["plain-stops"]}, "controls = ['plain-stops']"),
        (
            {"judge": {"pictures": 0}},
            "judge = {'pictures': 0}: cannot be read. It holds whole numbers: pictures (1 to 64)",
        ),
        ({"judge": {"few_steps": -1}}, "few_steps (0 to 200); and unguided (true or false)"),
        ({"judge": {"unguided": 1}}, "judge = {'unguided': 1}: cannot be read"),
        ({"deciding": ["clean_los"]}, "deciding = ['clean_los']: must list measures. Measures: clean_loss,"),
        (
            {"judge": True, "set": {"pretrained_model_name_or_path": "someone/model"}},
            "reads pictures of the demo's models alone",
        ),
        ({"seeds": list(range(200))}, "has 800 runs, and a study at most 500"),
    ],
)
def test_what_a_study_cannot_be_is_refused_with_the_rule(tmp_path, changes, says):
    with pytest.raises((StudyError, ConfigError)) as refused:
        made(tmp_path, **changes)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["demo", "demo-epsilon", "small"])
def test_the_studies_that_come_along_can_be_begun(tmp_path, root, name):
    study = read_study(root / "studies" / f"{name}.yaml", tmp_path)
    assert len(study.variants) >= 4 and study.reference == "plain"


# -- the runs ---------------------------------------------------------------------------------------------------------------


def point(sigma, offset=0, **measures):
    return Point(
        sigma,
        1 - sigma,
        sigma,
        offset,
        float(offset),
        {name: Measure(value, 0.0, (value,)) for name, value in measures.items()},
    )


def trained(run, loss, plain_s=0.1, rolled_s=0.2, probe="p", steps=20):
    """What a run of `steps` steps leaves: every second step rolled, a drift report at its end."""
    run.emit("start", pid=1, device="cpu", config_hash="0", total_steps=steps, resumed_from=None)
    for step in range(1, steps + 1):
        rolled = step % 2
        run.emit(
            "step",
            step=step,
            loss=1.0,
            lr=1e-3,
            rows=4,
            rolled_rows=rolled,
            network_rows=4 + rolled,
            network_calls=1 + rolled,
            seconds=rolled_s if rolled else plain_s,
        )
    losses = tuple(point(sigma, loss=loss * sigma) for sigma in (0.2, 0.5, 0.8, 1.0))
    short = tuple(point(sigma, offset, distance=sigma * offset) for sigma in (0.4, 0.6) for offset in (1, 4))
    curve = Curve("tuned", "tuned", "held-out", 1, 1, 1, 1, short, (point(0.1, 3, std_ratio=1.25),), losses, None, 1, 1)
    folder = run.drift_path / f"step-{steps:06d}"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(
        report_to_json(DriftReport("m", "flow_matching", "p", probe, {}, (curve,), steps)), "utf-8"
    )
    run.emit("drift", step=0, path="drift/step-000000/report.json", summary={})
    run.emit("drift", step=steps, path=f"drift/step-{steps:06d}/report.json", summary={})
    run.write_state(state="done", step=steps)


def test_the_judge_samples_every_picture_in_each_way_that_the_study_names():
    assert Judging(steps=30).samplings(4.0) == {"": (30, 4.0)}
    every = Judging(steps=30, few_steps=8, unguided=True).samplings(4.0)
    assert every == {"": (30, 4.0), "_few": (8, 4.0), "_unguided": (30, 1.0), "_few_unguided": (8, 1.0)}
    assert {f"{name}{end}" for name in ("likeness", "thing", "old_all") for end in every} <= KINDS.keys()


def test_what_is_measured_is_what_the_files_say(tmp_path):
    run = RunStore(tmp_path).create({}, "one")
    trained(run, loss=2.0)
    (run.path / JUDGED).write_text(json.dumps({"how": {}, "seen": {"thing": 0.5, "likeness": -0.25}}))
    assert measured(run).values == pytest.approx({
        "clean_loss": 2.0 * (0.2 + 0.5 + 0.8 + 1.0) / 4, "clean_loss_low": 0.4, "clean_loss_middle": 1.0, "clean_loss_high": 1.8,
        "drift_short": 0.4, "drift_long": 1.6, "spread": 1.25, "thing": 50.0, "likeness": -0.25, "train_seconds": 3.0, "network_rows": 90.0,
    })  # fmt: skip


def test_a_study_makes_its_runs_once_waits_for_the_time_of_a_variant_and_is_taken_up_again(tmp_path):
    study, store = made(tmp_path, seeds=[1]), RunStore(tmp_path / "runs")
    states = {state.cell.variant.name: state for state in work.advance(study, store)}
    assert {name: state.state for name, state in states.items()} == {
        "plain": "queued", "gentle": "queued", "gentle: plain, equal time": "to come", "gentle: plain, noise of the source": "queued",
    }  # fmt: skip
    assert [job.run for job in store.queue()] == ["s-plain-s1", "s-gentle-s1", "s-gentle-source-noise-s1"]
    work.advance(study, store)
    assert len(store.list()) == len(store.queue()) == 3, "twice is once"
    for name in ("s-plain-s1", "s-gentle-s1"):
        store.dequeue(name)
        trained(store.get(name), loss=1.0)
    states = {state.cell.variant.name: state for state in work.advance(study, store)}
    assert states["plain"].state == "done" and states["gentle: plain, equal time"].state == "queued"
    equal = store.get("s-gentle-plain-time-s1")
    assert config_from_flat(equal.read_config()).training.max_train_steps == 30, (
        "ten steps of .2 s and ten of .1 s are thirty of .1 s"
    )
    assert equal.read_state()["control_of"] == "s-gentle-s1"


def test_a_run_that_broke_off_goes_on_where_it_can_and_begins_anew_where_it_cannot(tmp_path):
    study, store = made(tmp_path, seeds=[1], controls=False), RunStore(tmp_path / "runs")
    work.advance(study, store)
    for name in ("s-plain-s1", "s-gentle-s1"):
        store.dequeue(name)
        store.get(name).emit("start", pid=1, device="cpu", config_hash="0", total_steps=20, resumed_from=None)
        store.get(name).write_state(state="failed", step=7)
    saved_at = store.get("s-gentle-s1").checkpoints_path / "step-000005"
    saved_at.mkdir(parents=True)
    (saved_at / "manifest.json").write_text("{}")
    assert [state.state for state in work.advance(study, store)] == ["failed", "failed"]
    assert [state.state for state in work.advance(study, store, again=True)] == ["queued", "queued"]
    assert {job.run: job.resume for job in store.queue()} == {"s-plain-s1": False, "s-gentle-s1": True}
    assert [thrown.name for thrown in store.trash()] == ["s-plain-s1"]


def test_a_run_of_the_same_name_with_other_settings_is_not_taken_for_the_studys(tmp_path):
    study, store = made(tmp_path), RunStore(tmp_path / "runs")
    store.create({"learning_rate": 0.5}, "s-plain-s1")
    with pytest.raises(StudyError, match=r"s-plain-s1 exists with other settings.*Give the study another name"):
        work.advance(study, store)


def finished(tmp_path, losses, probe=lambda variant: "p", **changes):
    """A study of three seeds whose runs have ended; `losses`: variant -> seed -> clean loss of the run."""
    study, store = made(tmp_path, seeds=[1, 2, 3], controls=False, **changes), RunStore(tmp_path / "runs")
    for state in work.advance(study, store):
        cell = state.cell
        store.dequeue(cell.run)
        trained(store.get(cell.run), losses[cell.variant.name][cell.seed], probe=probe(cell.variant.name))
    return study, results(study, work.advance(study, store), store), store


LOSSES = {"plain": {1: 1.0, 2: 2.0, 3: 4.0}, "gentle": {1: 0.5, 2: 1.51, 3: 3.49}}


def test_the_table_has_paired_differences_and_what_they_do_not_show(tmp_path):
    study, found, store = finished(tmp_path, LOSSES)
    [one] = found.comparisons
    loss = one.differences["clean_loss"]
    assert loss.mean == pytest.approx(0.625 * -0.5, rel=1e-5) and loss.comparisons == len(one.differences) == 9
    assert loss.verdict("lower") == "better" and "gentle less plain: -0.3125" in as_text(found)
    assert any("9 differences are tested at once" in each for each in found.caveats())
    record = json.loads(saved(found, study, tmp_path / "out").read_text("utf-8"))
    assert record["comparisons"][0]["differences"]["clean_loss"]["verdict"] == "better"
    assert record["runs"]["gentle"]["3"] == "s-gentle-s3" and record["values"]["plain"]["2"][
        "clean_loss"
    ] == pytest.approx(1.25)

    from rollout_studio.app.runs.study_report import write_study_report

    page = write_study_report(found, store, tmp_path / "out").read_text("utf-8")
    assert (
        "<b>better</b>" in page
        and "9 differences are tested at once" in page
        and "http://" not in page
        and "<script" not in page
    )


def test_only_what_was_to_decide_is_tested(tmp_path):
    _, found, _ = finished(tmp_path, LOSSES, deciding=["clean_loss"])
    differences = found.comparisons[0].differences
    assert differences["clean_loss"].comparisons == 1 and differences["clean_loss"].half is not None
    assert {each.verdict(None) for name, each in differences.items() if name != "clean_loss"} == {"not tested"}
    assert any(each.startswith("What is not tested") for each in found.caveats())


def test_what_a_remedy_has_shown_at_equal_time_becomes_evidence(tmp_path):
    """A remedy that takes no time has that with plain; of one that does, without its control, nothing is said."""
    about = {"family": "demo", "prediction_type": "flow_matching", "date": "2026-12-01", "folder": tmp_path}
    losses = {"plain": LOSSES["plain"], "noisier": LOSSES["gentle"], "gentle": LOSSES["gentle"]}
    variants = {"noisier": {"input_perturbation_gamma": 0.1}, "gentle": {"level": "gentle"}}
    study, found, _ = finished(tmp_path, losses, variants=variants, set={"max_train_steps": 20, "level": "off"})
    record = json.loads(saved(found, study, tmp_path / "out").read_text("utf-8"))
    shown = {each.measure: each for each in results_of(record, **about)}
    assert {each.remedy for each in shown.values()} == {"input_perturbation"} and "train_seconds" not in shown
    loss = next(one for one in found.comparisons if one.variant == "noisier").differences["clean_loss"]
    assert (shown["clean_loss"].gain, shown["clean_loss"].seeds) == (pytest.approx(-loss.mean), 3)
    assert shown["clean_loss"].low == pytest.approx(-loss.mean - loss.half) and shown["clean_loss"].is_gain
    assert [shown[name].place for name in ("clean_loss", "clean_loss_low", "clean_loss_high")] == ["all", "low", "high"]
    write_results(shown.values(), tmp_path / "evidence.json")
    assert known_results(tmp_path / "evidence.json") == tuple(shown.values())


def test_what_was_measured_on_other_pictures_is_not_compared(tmp_path):
    _, found, _ = finished(tmp_path, LOSSES, probe=lambda variant: variant)
    [one] = found.comparisons
    assert "different pictures" in one.problem and set(one.differences) == {"train_seconds", "network_rows"}


def test_a_run_that_is_not_done_is_named_and_left_out(tmp_path):
    study, _, store = finished(tmp_path, LOSSES)
    store.get("s-gentle-s2").write_state(state="failed", message="out of memory")
    found = results(study, work.advance(study, store), store)
    assert found.missing == ("s-gentle-s2 is not in the table: failed: out of memory.",)
    assert found.comparisons[0].differences["clean_loss"].half is None, "two seeds are left"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_study_runs_from_nothing_to_its_report_and_is_killed_once_in_between(tmp_path, root):
    command = [
        sys.executable,
        "-m",
        "rollout_studio.app",
        "study",
        str(root / "studies" / "small.yaml"),
        "--runs-dir",
        str(tmp_path),
    ]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = RunStore(tmp_path)
    end = time.monotonic() + 300
    while not any(run.state == "done" for run in store.list()) and time.monotonic() < end:
        time.sleep(0.2)
    first.kill()
    first.wait()
    done = {run.name: run.updated for run in store.list() if run.state == "done"}
    assert done
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert all(store.summary(name).updated == when for name, when in done.items()), "what was done is not done again"
    record = json.loads((tmp_path / ".studies" / "small" / "study.json").read_text("utf-8"))
    assert all(len(seeds) == 2 for seeds in record["values"].values()) and len(record["values"]) == 4
    assert {"clean_loss", "thing", "old_all", "train_seconds"} <= set(record["values"]["gentle"]["1"])
    assert "no verdict below 3 seeds" in ended.stdout
    assert (tmp_path / ".studies" / "small" / "report.html").stat().st_size < 5_000_000
