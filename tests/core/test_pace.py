"""One speed and one remaining time: medians of each kind of step, what lies between the steps counted apart."""

import math

import pytest
from rollout_studio.core.runs.pace import LAST_STEPS, Pace, StepTime, still_due


def paced(*seconds, rolled=()):
    pace = Pace()
    for number, each in enumerate(seconds):
        pace.step(StepTime(each, number in rolled))
    return pace


def test_a_single_slow_step_changes_neither_speed_nor_time_left():
    quiet, disturbed = paced(*[1.0] * 60), paced(*[1.0] * 55, 300.0, *[1.0] * 4)
    assert disturbed.step_s == quiet.step_s == 1.0
    assert disturbed.left(10, {}).seconds == 10.0


def test_the_slow_first_steps_count_only_while_there_is_nothing_else():
    assert paced(9.0, 9.0).step_s == 9.0
    assert paced(9.0, 9.0, 9.0, 0.5).step_s == 0.5


def test_plain_and_rolled_steps_have_a_median_each_weighted_by_how_often_they_came():
    rolled = set(range(1, 60, 3))
    pace = paced(*[5.0 if number in rolled else 1.0 for number in range(60)], rolled=rolled)
    share = sum(number in rolled for number in range(60 - LAST_STEPS, 60)) / LAST_STEPS
    assert pace.step_s == pytest.approx(share * 5 + (1 - share) * 1)


def test_only_the_last_steps_count():
    assert paced(*[9.0] * 100, *[1.0] * LAST_STEPS).step_s == 1.0


def test_samples_and_drift_are_counted_apart():
    pace = paced(*[1.0] * 10)
    for seconds in (20.0, 30.0, 100.0):
        pace.took("samples", seconds)
    left = pace.left(100, {"samples": 2, "drift": 3})  # of drift none was timed yet
    assert (left.steps_s, left.beside_s, left.seconds) == (100.0, 60.0, 160.0) and pace.step_s == 1.0


def test_before_the_first_step_nothing_is_known():
    assert math.isnan(Pace().step_s) and math.isnan(Pace().left(5, {}).seconds)


@pytest.mark.parametrize(
    ("step", "every", "times"),
    [(0, 0, 1), (0, 50, 2), (49, 50, 2), (50, 50, 1), (99, 25, 1), (10, 25, 4), (100, 25, 1)],
)
def test_what_is_done_every_so_many_steps_and_after_the_last_is_still_due(step, every, times):
    """Of 100 steps: as the loop does it, after the steps at which it is due, and once at the end."""
    assert (
        still_due(step, 100, every)
        == times
        == 1 + sum(every > 0 and later % every == 0 for later in range(step + 1, 100))
    )
