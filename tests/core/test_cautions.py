"""What works as asked and yet costs more than it looks is said beforehand, with numbers of this config's own grid."""

import pytest
from rollout_studio.core.cautions import cautions
from rollout_studio.core.config import (
    ROLLOUT_LEVELS,
    RunConfig,
    config_from_flat,
    remarks,
    rollout_level,
    rollout_remarks,
)
from rollout_studio.core.cost import blur_factor
from rollout_studio.core.plain_grid import grid_of

P = "scheduled_sampling_"
SD3 = {"pretrained_model_name_or_path": "someone/sd3", "model_family": "sd3"}
SD1 = {"pretrained_model_name_or_path": "someone/sd1", "model_family": "sd1x"}
BASIC_SET_UP = {P + "max_step_offset": 10, P + "probability": 1.0}


def config(model=SD3, **rollout):
    return config_from_flat({**model, **BASIC_SET_UP, **{P + name: value for name, value in rollout.items()}})


def far(told):
    return [caution for caution in cautions(told) if caution.code == "walk-far"]


def slope(told, k):
    grid = grid_of(told)
    _, source = grid.source(grid.time_of_sigma(0.75), k)
    return blur_factor(source, grid.at(grid.time_of_sigma(0.75)))


def test_offset_10_at_probability_1_on_the_default_grid_is_warned_about_with_its_numbers_and_both_ways_out():
    told = config()
    [warning] = far(told)
    assert warning.level == "warning" and warning.where == P + "max_step_offset"
    for words in ("10 of the 30 steps", "a third of the whole way", "slope of 0.19 of the true one", "every row is chosen"):
        assert words in warning.message
    assert "at most 5 here (slope 0.51)" in warning.remedy and slope(told, 5) >= 0.5 > slope(told, 6)
    assert f'{P}grid to "training", where 10 steps are 1 % of the way (slope 0.96)' in warning.remedy


@pytest.mark.parametrize("changes", [{"grid_steps": 40}, {"grid_steps": 20}, {"max_step_offset": 8}])
def test_the_warnings_numbers_follow_the_config(changes):
    told = config(**changes)
    [warning] = far(told)
    assert f"slope of {slope(told, told.rollout.max_step_offset):.2f} of" in warning.message
    assert f"{told.rollout.max_step_offset} of the {told.rollout.grid_steps} steps" in warning.message


@pytest.mark.parametrize("model", [SD3, SD1, {}])
@pytest.mark.parametrize("changes", [{"grid": "training"}, {"max_step_offset": 3}, {"control": "source_noise"}, {"start_step": 1000}])
def test_a_short_walk_the_training_grid_and_runs_in_which_nobody_walks_are_not_warned_about(model, changes):
    assert far(config(model, **changes)) == []


@pytest.mark.parametrize("level", ROLLOUT_LEVELS)
@pytest.mark.parametrize("model", [SD3, SD1, {}])
def test_the_named_levels_do_not_walk_too_far(model, level):
    assert far(config_from_flat({**model, **rollout_level(level, 1000)})) == []


def test_where_the_contrast_is_not_known_the_share_of_the_way_is_judged():
    [warning] = far(config(SD1, target="original"))
    assert "a third of the whole way" in warning.message and "slope" not in warning.sentence
    assert far(config(SD1, target="original", max_step_offset=6)) == []


def test_cautions_are_among_the_remarks_and_of_the_rollout():
    told = config()
    [warning] = far(told)
    assert warning.sentence in remarks(told) and warning.sentence in rollout_remarks(told)
    assert cautions(RunConfig()) == []
