"""What works as asked and yet costs more than expected is reported beforehand, with numbers of this config's own grid."""

import pytest
from rollout_studio.core.before.cautions import cautions
from rollout_studio.core.before.cost import blur_factor
from rollout_studio.core.before.effects import idle_settings
from rollout_studio.core.before.loss_share import bands
from rollout_studio.core.before.remarks import remarks, rollout_remarks
from rollout_studio.core.before.run_schedule import schedule_of
from rollout_studio.core.config import (
    ROLLOUT_LEVELS,
    RunConfig,
    config_from_flat,
    rollout_level,
)

P = "scheduled_sampling_"
SD3 = {"pretrained_model_name_or_path": "someone/sd3", "model_family": "sd3"}
SD1 = {"pretrained_model_name_or_path": "someone/sd1", "model_family": "sd1x"}
BASIC_SET_UP = {P + "max_step_offset": 10, P + "probability": 1.0}


def config(model=SD3, **rollout):
    return config_from_flat({**model, **BASIC_SET_UP, **{P + name: value for name, value in rollout.items()}})


def far(chosen):
    return [caution for caution in cautions(chosen) if caution.code == "rollout-far"]


def slope(chosen, k):
    schedule = schedule_of(chosen)
    _, source = schedule.source(schedule.time_of_sigma(0.75), k)
    return blur_factor(source, schedule.path.at(schedule.time_of_sigma(0.75)))


def test_offset_10_at_probability_1_on_the_default_grid_is_warned_about_with_its_numbers_and_both_ways_out():
    chosen = config()
    [warning] = far(chosen)
    assert warning.level == "warning" and warning.where == P + "max_step_offset"
    for words in (
        "10 of the 30 steps",
        "a third of the whole way",
        "slope of 0.19 of the true one",
        "every row is chosen",
    ):
        assert words in warning.message
    assert "at most 5 here (slope 0.51)" in warning.remedy and slope(chosen, 5) >= 0.5 > slope(chosen, 6)
    assert f'{P}grid to "training", where 10 steps are 1 % of the way (slope 0.96)' in warning.remedy


@pytest.mark.parametrize("changes", [{"grid_steps": 40}, {"grid_steps": 20}, {"max_step_offset": 8}])
def test_the_warnings_numbers_follow_the_config(changes):
    chosen = config(**changes)
    [warning] = far(chosen)
    assert f"slope of {slope(chosen, chosen.rollout.max_step_offset):.2f} of" in warning.message
    assert f"{chosen.rollout.max_step_offset} of the {chosen.rollout.grid_steps} steps" in warning.message


@pytest.mark.parametrize("model", [SD3, SD1, {}])
@pytest.mark.parametrize(
    "changes", [{"grid": "training"}, {"max_step_offset": 3}, {"control": "source_noise"}, {"start_step": 1000}]
)
def test_a_short_rollout_the_training_grid_and_runs_without_rollouts_are_not_warned_about(model, changes):
    assert far(config(model, **changes)) == []


@pytest.mark.parametrize("level", ROLLOUT_LEVELS)
@pytest.mark.parametrize("model", [SD3, SD1, {}])
def test_the_named_levels_do_not_start_too_far(model, level):
    assert far(config_from_flat({**model, **rollout_level(level, 1000)})) == []


def test_where_the_contrast_is_not_known_the_share_of_the_way_is_judged():
    [warning] = far(config(SD1, target="original"))
    assert "a third of the whole way" in warning.message and "slope" not in warning.sentence
    assert far(config(SD1, target="original", max_step_offset=6)) == []


def test_cautions_are_among_the_remarks_and_of_the_rollout():
    chosen = config()
    [warning] = far(chosen)
    assert warning.sentence in remarks(chosen) and warning.sentence in rollout_remarks(chosen)
    assert cautions(RunConfig()) == []


# -- the cleanest rows of a variance-preserving path --------------------------------------------------------------------------


def about(chosen, code):
    return [caution for caution in cautions(chosen) if caution.code == code]


def strong(model=SD1, **rollout):
    return config_from_flat(
        {**model, **rollout_level("strong", 1000), **{P + name: value for name, value in rollout.items()}}
    )


def test_a_min_sigma_below_the_smallest_sigma_of_the_path_says_that_it_does_nothing():
    [note] = about(strong(), "min-sigma-idle")
    assert (
        "min_sigma = 0.02 keeps no row" in note.message
        and "smallest sigma of this model's noise path is 0.029" in note.message
    )
    assert P + "min_sigma" in idle_settings(strong())
    assert note.sentence in rollout_remarks(strong())


@pytest.mark.parametrize(
    "chosen", [strong(min_sigma=0.03), strong(SD3), strong({}), strong(target="original", min_sigma=0)]
)
def test_a_min_sigma_that_acts_or_is_switched_off_is_not_remarked_upon(chosen):
    assert about(chosen, "min-sigma-idle") == []
    assert P + "min_sigma" not in idle_settings(chosen)


def test_the_remarks_report_what_the_bound_on_rolled_rows_does():
    [note] = about(strong(), "loss-bounded")
    clean = bands(strong())[0]
    assert note.level == "note" and "cleanest 3.5 % of the rows" in note.message
    assert (
        f"carry {100 * clean.bounded:.2g} % of it" in note.message
        and f"would carry {100 * clean.unbounded:.2g} %" in note.message
    )


def test_without_the_bound_the_remarks_warn_with_the_share_of_the_loss_and_the_remedy():
    [warning] = about(strong(snr_gamma=0), "loss-unbounded")
    free, held = bands(strong(snr_gamma=0))[0], bands(strong())[0]
    assert warning.level == "warning" and f"carry {100 * free.unbounded:.2g} % of the loss" in warning.message
    assert "snr_gamma to 5" in warning.remedy and f"then {100 * held.bounded:.2g} %" in warning.remedy


@pytest.mark.parametrize("chosen", [strong(SD3), strong({}), strong(target="original"), strong(max_step_offset=0)])
def test_where_the_loss_needs_no_bound_nothing_is_reported_of_one(chosen):
    assert about(chosen, "loss-bounded") == about(chosen, "loss-unbounded") == []


def test_a_min_sigma_that_keeps_the_cleanest_rows_plain_needs_no_warning_either():
    assert about(strong(snr_gamma=0, min_sigma=0.3), "loss-unbounded") == []
