"""Whatever strangers write, there is an answer or a refusal that says why: no traceback, no hang. The inputs are drawn in `fuzzing.py`.

A few of each kind in the default suite, the same ones each time; many, new ones, among the slow tests, which print how many were tried:
`python -m pytest -m slow -s tests/test_fuzz.py`. `FUZZ_INPUTS` sets how many of each kind.
"""

import os
import time

import pytest

pytest.importorskip("hypothesis", reason="of the test extra")
import fuzzing
from hypothesis import HealthCheck, seed, settings
from hypothesis import given as drawing

FEW = 12
MANY = int(os.environ.get("FUZZ_INPUTS", "2000"))
LONGEST_S = 5.0
"""Of one input, on a busy machine: none may hang."""


def run(what, number, **how):
    strategy = fuzzing.WHAT[what][0]
    longest = [0.0]

    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck), **how)
    @drawing(strategy)
    def one(drawn):
        began = time.monotonic()
        fuzzing.holds(what, drawn)
        longest[0] = max(longest[0], time.monotonic() - began)

    (one if "derandomize" in how else seed(os.urandom(8))(one))()
    assert longest[0] < LONGEST_S
    return longest[0]


@pytest.mark.parametrize("what", fuzzing.WHAT)
def test_a_few_of_each_kind_are_answered_or_refused(what):
    run(what, FEW, derandomize=True)


@pytest.mark.slow  # minutes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", fuzzing.WHAT)
def test_many_of_each_kind_are_answered_or_refused(what):
    longest = run(what, MANY)
    print(
        f"\n{what}: {fuzzing.tried[what]} tried, {fuzzing.refused[what]} of them refused, the longest took {longest:.2f} s"
    )


_STUDY = {"study": "mine", "preset": "demo", "variants": {"a": {"lora_rank": 8}}}
FOUND = [
    ("safetensors headers", b'A\0\0\0\0\0\0\0 {"":{"dtype" : "23F","shape"  :[],"data_offsets" :[null ,null]}}'),
    ("studies", {**_STUDY, "controls": [[]]}),
    ("studies", {**_STUDY, "variants": {"a": {"level": []}}}),
    ("studies", {**_STUDY, "variants": None, "grid": {name: list(range(1, 60)) for name in ("lora_rank", "seed", "max_train_steps", "train_batch_size", "lr_warmup_steps")}}),
    ("studies", {"study": "mine", "config": "a\0.json", "variants": {"a": {}}}),
]  # fmt: skip
"""What broke something once, by fuzzing or by reading what it did not reach."""


@pytest.mark.parametrize(("what", "given"), FOUND)
def test_what_broke_something_once_is_refused(what, given):
    before = fuzzing.refused[what]
    began = time.monotonic()
    fuzzing.holds(what, given)
    assert fuzzing.refused[what] == before + 1 and time.monotonic() - began < LONGEST_S


def test_the_fuzzing_would_notice_a_fault(monkeypatch):
    """An error of another kind, raised anywhere below, is not taken for a refusal."""
    monkeypatch.setattr(fuzzing, "slug", lambda text: {}["not there"])
    with pytest.raises(KeyError):
        run("names and paths", 5, derandomize=True)
