"""Settings that work and yet cost more than expected: warned of with numbers and remedies, before anything starts.

Computed from the config's own grid (`run_schedule`), so no number here is a constant of some model. No torch.
"""

from dataclasses import replace

from ..config import OPTIONS, RunConfig
from ..config.options import shown
from ..config.rules import PREFIX, highest_chance, in_paper_mode
from ..findings import Finding
from . import loss_share
from .cost import blur_factor
from .effects import EXAMPLE_SIGMA, least_noise_is_below_the_path
from .run_schedule import RunSchedule, schedule_of

LEAST_CONTRAST = 0.5
"""A farthest rollout that leaves less of the picture's contrast than this is warned about."""
_LONG_SHARE = 0.2  # of the trajectory, where the contrast is not known
_SHARES = {
    1 / 5: "a fifth",
    1 / 4: "a quarter",
    1 / 3: "a third",
    1 / 2: "half",
    2 / 3: "two thirds",
    3 / 4: "three quarters",
}


def cautions(config: RunConfig) -> list[Finding]:
    """Warnings and notes about the rollout of a config; none where nothing is rolled out."""
    rollout = config.rollout
    if not rollout.rolls_out or highest_chance(config) == 0:
        return []
    return [*_far_start(config), *_clean_rows(config)]


def contrast_left(config: RunConfig, schedule: RunSchedule, k: int, sigma: float = EXAMPLE_SIGMA) -> float | None:
    """`blur_factor` of a rollout of `k` steps to a noise level; None where it is not known (`original` outside flow models)."""
    if config.rollout.target == "original" and not schedule.path.is_flow:
        return None
    t = schedule.time_of_sigma(sigma)
    actual, source = schedule.source(t, k)
    return blur_factor(source, schedule.path.at(t), config.rollout.target) if actual else 1.0


def _far_start(config: RunConfig) -> list[Finding]:
    """The farthest start lies so far out that even a perfect model could only learn a washed-out picture from there."""
    rollout, schedule = config.rollout, schedule_of(config)
    if in_paper_mode(config):
        return []  # in the paper's mode the offset only switches it on
    steps = schedule.grid.steps
    far = min(rollout.max_step_offset, steps)
    left = contrast_left(config, schedule, far)
    if (far / steps <= _LONG_SHARE) if left is None else (left >= LEAST_CONTRAST):
        return []
    message = (
        f"{PREFIX}max_step_offset = {rollout.max_step_offset}: {far} of the {steps} steps of this grid are {_share(far / steps)} of the "
        "whole way from noise to picture."
    )
    if left is not None:
        message += (
            f" At the end of such a rollout, at noise level {EXAMPLE_SIGMA:g}, even a perfect model predicts the picture with a slope of "
            f"{_two_digits(left)} of the true one: it learns a washed-out picture."
        )
    if highest_chance(config) == 1:
        message += " With a chance of 1 every row is chosen."
    ways = []
    fewer = next((k for k in range(far - 1, 0, -1) if _is_near(config, schedule, k)), None)
    if fewer is not None:
        kept = contrast_left(config, schedule, fewer)
        slope = "" if kept is None else f" (slope {_two_digits(kept)})"
        ways.append(f"take fewer steps, at most {fewer} here{slope}")
    if rollout.grid == "inference":
        training = replace(config, rollout=replace(rollout, grid="training"))
        other = schedule_of(training)
        kept = contrast_left(training, other, far)
        slope = "" if kept is None else f" (slope {_two_digits(kept)})"
        ways.append(
            f'set {PREFIX}grid to "training", where {far} steps are {_percent(far / other.grid.steps)} of the way{slope}'
        )
    remedy = f"{' or '.join(ways)}."
    return [Finding("warning", PREFIX + "max_step_offset", message, remedy[0].upper() + remedy[1:], "rollout-far")]


def _clean_rows(config: RunConfig) -> list[Finding]:
    """On a variance-preserving path: whether `min_sigma` acts at all, and what the cleanest rolled rows carry of the loss."""
    rollout, path = config.rollout, schedule_of(config).path
    if path.is_flow:
        return []
    found, least = [], path.at(0).sigma
    if least_noise_is_below_the_path(config):
        found.append(
            Finding(
                "note",
                PREFIX + "min_sigma",
                f"{PREFIX}min_sigma = {shown(rollout.min_sigma)} keeps no row from rolling out: the smallest sigma of this model's noise path "
                f"is {_two_figures(least)}.",
                f"Take a value above {_two_figures(least)} where the cleanest rows should stay plain.",
                "min-sigma-idle",
            )
        )
    bands = loss_share.bands(config)
    if bands is None:
        return found
    free, held = _percent(bands[0].unbounded), _percent(bands[0].bounded)
    option, rows = PREFIX + "snr_gamma", f"the cleanest {_percent(bands[0].rows)} of the rows"
    if rollout.snr_gamma > 0:
        message = (
            f"{option} = {shown(rollout.snr_gamma)} bounds the loss of rolled rows: {rows} carry {held} of it, where without the bound they "
            f"would carry {free}."
        )
        found.append(Finding("note", option, message, "", "loss-bounded"))
    elif bands[0].unbounded > 2 * bands[0].rows:
        message = f'{option} = 0: {rows} carry {free} of the loss of all rolled rows, because the target "consistent" grows as 1 / sigma there.'
        other = loss_share.bands(replace(config, rollout=replace(rollout, snr_gamma=OPTIONS[option].default)))
        remedy = f"Set {option} to {shown(OPTIONS[option].default)} (then {_percent(other[0].bounded)}), or raise {PREFIX}min_sigma."
        found.append(Finding("warning", option, message, remedy, "loss-unbounded"))
    return found


def _is_near(config: RunConfig, schedule: RunSchedule, k: int) -> bool:
    left = contrast_left(config, schedule, k)
    return k / schedule.grid.steps <= _LONG_SHARE if left is None else left >= LEAST_CONTRAST


def _share(share: float) -> str:
    """A share in words where it is a simple one."""
    near = min(_SHARES, key=lambda simple: abs(simple - share))
    return _SHARES[near] if abs(near - share) < 0.005 else "all" if share == 1 else _percent(share)


def _percent(share: float) -> str:
    return f"{shown(float(f'{100 * share:.2g}'))} %"


def _two_figures(value: float) -> str:
    return f"{value:.2g}"


def _two_digits(value: float) -> str:
    return f"{value:.2f}"
