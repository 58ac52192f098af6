"""What a run will take, as people read it before it starts: a range, never a single promise."""

import pytest
from rollout_studio.app.train.estimate_card import takes_card, takes_line
from rollout_studio.core.before.estimate import Estimate, MemoryEstimate, Span, TimeEstimate
from rollout_studio.core.config import config_from_flat


def estimated(*span):
    time = TimeEstimate(Span(*span) if span else None, 0.2 if span else None, None, "measured here")
    return Estimate(time, MemoryEstimate(None, {}, "cpu", "not known"), None, "not known yet")


@pytest.mark.parametrize(("span", "words"), [
    ((38.0, 76.0, 304.0), "38 s to 5 min 4 s of training"),
    ((60.2, 60.3, 60.4), "about 1 min of training"),
    ((), "a time that its first steps will show"),
])  # fmt: skip
def test_the_line_beside_the_form_reports_the_time_as_a_range(span, words):
    assert words in takes_line(estimated(*span))


def test_the_card_reports_the_range_and_the_likeliest_time():
    drawn = takes_card(estimated(38.0, 76.0, 304.0), config_from_flat({}))
    assert "<b>38 s to 5 min 4 s</b>" in drawn and "Most likely 1 min 16 s" in drawn
