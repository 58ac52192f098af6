"""docs/evidence.md says what the kept results say, and nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest
from rollout_studio.core.look.drift.evidence import known_results


def tool():
    spec = importlib.util.spec_from_file_location(
        "evidence", Path(__file__).resolve().parents[1] / "tools" / "evidence.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


evidence = tool()


def record(steps="better", **verdicts):
    """A study of one remedy, with its control at equal time. `steps`: its verdict at equal steps in every measure; `verdicts`: measure -> at equal time."""

    def difference(verdict):
        return {
            "mean": 1.0,
            "error": 0.1,
            "half_interval": 0.5,
            "by_seed": [1, 1, 1],
            "comparisons": 4,
            "verdict": verdict,
        }

    deciding = ["clean_loss", "likeness"]
    return {
        "study": {"study": "s", "deciding": deciding},
        "reference": "plain",
        "variants": [
            {"name": "plain", "control_of": None},
            {"name": "r", "control_of": None},
            {"name": "r: plain, equal time", "control_of": "r"},
        ],
        "comparisons": [
            {"variant": "r", "against": "plain", "differences": {name: difference(steps) for name in deciding}},
            {"variant": "r", "against": "r: plain, equal time",
             "differences": {name: difference(verdicts.get(name, "no difference beyond the interval")) for name in deciding}},
        ],
    }  # fmt: skip


OPEN = "no difference beyond the interval"


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({}, "open"),
        ({"likeness": "better"}, "better"),
        ({"likeness": "better", "steps": OPEN}, "open"),  # plain training that takes less time does as well
        ({"clean_loss": "worse"}, "worse"),
        ({"steps": "worse"}, "worse"),
        ({"clean_loss": "worse", "likeness": "better"}, "mixed"),
    ],
)
def test_a_remedy_wins_by_what_it_is_at_equal_steps_and_at_equal_time_and_is_nowhere_worse(verdicts, said):
    found = record(**verdicts)
    assert evidence.remedies(found) == ["r"] and evidence.verdict(found, "r") == said
    assert evidence.winners(found) == (["r"] if said == "better" else [])


def test_what_takes_no_time_is_compared_at_equal_steps():
    found = record()
    found["comparisons"].pop()
    assert evidence.verdict(found, "r") == "better"


def test_the_page_is_made_from_the_results_that_are_kept():
    assert evidence.PAGE.read_text("utf-8") == evidence.page(evidence.read_results())


def test_the_advice_reads_the_same_results():
    assert list(known_results()) == evidence.for_the_advice(evidence.read_results())


def test_kept_results_have_numbers_of_five_digits_and_no_name_of_a_run():
    found = evidence.kept({"values": {"plain": {"1": {"loss": 0.123456789}}}, "runs": {"plain": {"1": "x"}}})
    assert json.dumps(found) == '{"values": {"plain": {"1": {"loss": 0.12346}}}}'
