"""Scheduled sampling, with ReflexFlow on top."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import Fault, option, shown
from .remedy import RemedyConfig

_SCHEDULED = "Scheduled sampling (Bengio et al., arXiv 1506.03099)"


_REFLEXFLOW = "ReflexFlow (arXiv 2512.04904)"


def _third_of_the_grid(config) -> int:
    """Grid steps; on the training grid, of whose 1000 steps each is small and costs an evaluation, 50."""
    return math.ceil(config.rollout.grid_steps / 3) if config.rollout.grid == "inference" else 50


def _length_of_the_run(config) -> int:
    return config.training.max_train_steps


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(RemedyConfig):
    """Scheduled sampling: how often, how far and with which solver a row is rolled out; ReflexFlow on top for flow models."""

    title: ClassVar[str] = "Scheduled sampling"
    prefix: ClassVar[str] = "scheduled_sampling_"
    name: ClassVar[str] = "scheduled sampling"
    off: ClassVar = {"scheduled_sampling_max_step_offset": 0}
    noise_control: ClassVar = {"scheduled_sampling_control": "source_noise"}

    max_step_offset: int = option(
        0,
        "Farthest start, in grid steps noisier than the target; each rolled row draws its own from 0 to this. 0 = off. "
        "Start with 1-3 on the inference grid, 5-10 on the training grid.",
        label="Farthest start",
        unit="grid steps",
        ge=0,
        le=1000,
        source=_SCHEDULED,
        soft=_third_of_the_grid,
    )
    probability: float = option(
        0.0, "Chance that a row is rolled out; used when ramp_steps is 0.", label="Chance of a rollout", ge=0, le=1, source=_SCHEDULED,
    )  # fmt: skip
    prob_start: float = option(
        0.0,
        "Chance at the start of the ramp; used when ramp_steps is above 0.",
        label="Chance at the start of the ramp", ge=0, le=1, source=_SCHEDULED,
    )  # fmt: skip
    prob_end: float = option(
        0.5,
        "Chance at the end of the ramp; used when ramp_steps is above 0.",
        label="Chance at the end of the ramp",
        ge=0,
        le=1,
        source=_SCHEDULED,
    )
    ramp_steps: int = option(
        0,
        "Over how many steps the chance goes from prob_start to prob_end; 0 = no ramp, probability holds.",
        label="Length of the ramp",
        unit="optimizer steps",
        ge=0,
        le=10_000_000,
        source=_SCHEDULED,
        soft=_length_of_the_run,
    )
    start_step: int = option(
        0, "First step at which the chance counts; before it: none, or prob_start with a ramp.", label="Starts at step", unit="optimizer steps", ge=0,
        le=10_000_000, level="advanced",
        soft=_length_of_the_run,
    )  # fmt: skip
    ramp_shape: Literal["linear", "cosine"] = option("linear", "How the chance goes along the ramp.", level="advanced")
    strategy: Literal["uniform", "biased_early", "biased_late"] = option(
        "uniform",
        "How offsets are drawn: evenly, mostly short (biased_early) or mostly long (biased_late).",
        label="How offsets are drawn",
        level="advanced",
    )
    exact_share: bool = option(
        False,
        "Choose as many rows in every step as the chance says, in place of drawing for each row: the same number on average, and no step "
        "that rolls out far more rows than another. Of 4 rows with a chance of .3 it is 1 or 2.",
        label="The same share of rows in every step", level="advanced", since="0.3",
    )  # fmt: skip
    shared_offsets: int = option(
        0,
        "Draw only so many offsets (and whether there is a rollout at all) for a step, the same for each of its batches: rows that are neighbours in a "
        "batch share one. Each row keeps its chances. Rollouts of several processes then end together, where this many divide the rows of each. 0 = every "
        "row draws its own. Its effect on the pictures was not measured.",
        label="Offsets that rows share", unit="offsets in a step", ge=0, le=1024, level="advanced", since="0.4", soft=16,
    )  # fmt: skip
    max_evaluations: int = option(
        0,
        "Most evaluations of the network that a rollout may take; a longer one goes the same way in fewer, larger steps. 0 = one solver step "
        "for every grid step. Cheaper and less exact; its effect on the pictures was not measured.",
        label="Most evaluations of a rollout", unit="evaluations", ge=0, le=1000, level="advanced", since="0.3", soft=10,
    )  # fmt: skip
    sampler: Literal["unipc", "euler", "dpm", "rk4"] = option(
        "unipc",
        "Solver of the rollout. From a single step away unipc, dpm and euler are the same; rk4 costs four evaluations a step.",
        label="Solver of the rollout",
        source="UniPC (arXiv 2302.04867), DDIM (arXiv 2010.02502), DPM-Solver++ (arXiv 2211.01095)",
        level="advanced",
    )
    order: int = option(
        2, "Order of unipc (1 to 3) or dpm (1 to 2); euler and rk4 have none.", label="Order of the solver", ge=1, le=3,
        source="UniPC (arXiv 2302.04867)", level="advanced",
    )  # fmt: skip
    grid: Literal["inference", "training"] = option(
        "inference",
        "What one step of offset is: a step of the schedule you sample with, or of the checkpoint's training table (1000 steps).",
        label="What one step of offset is",
        level="advanced",
    )
    grid_steps: int = option(
        30, "Steps of the inference grid.", unit="steps", ge=2, le=1000, level="advanced", soft=100
    )
    target: Literal["consistent", "original"] = option(
        "consistent",
        "What a rolled row learns: the output that leads from the rolled state to the true picture (consistent), "
        "or the one of the pair it started from (original).",
        label="What a rolled row learns",
        source="consistent: arXiv 2210.05147, DREAM (arXiv 2312.00210); original: SimpleTuner",
        level="advanced",
    )
    min_sigma: float = option(
        0.02,
        "Rows whose target carries less noise than this are not rolled out.",
        label="Least noise for a rollout",
        unit="sigma",
        ge=0,
        le=1,
        level="advanced",
    )
    snr_gamma: float = option(
        5.0,
        "Models on a variance-preserving path (Stable Diffusion) with the target consistent: an error in the picture of a rolled row "
        "counts at most as much as at this signal-to-noise ratio, so that the few cleanest rows do not carry the loss. Plain rows keep "
        "their weight. 0 = no bound.",
        label="Bound on the loss of rolled rows (SNR)",
        ge=0,
        le=1000,
        source="Min-SNR (arXiv 2303.09556), here for rolled rows alone: ours",
        level="advanced",
        since="0.2",
        soft=20,
    )
    guidance: float = option(
        1.0, "Guidance inside the rollout; above 1 each evaluation costs two forwards.", label="Guidance inside the rollout", ge=1, le=30,
        source="SOAR (arXiv 2604.12617)", level="advanced",
        soft=10,
    )  # fmt: skip
    control: Literal["none", "source_noise"] = option(
        "none",
        "For a fair comparison: source_noise rolls out no row, but trains the rows that would have been rolled out as plain rows at the "
        "noise level they would have started from. What it gains too did not come from the rollout.",
        label="Control for comparisons",
        level="advanced",
    )
    reflexflow: bool | None = option(
        None,
        "Flow models: correct the direction of the drift and weight the frequencies it damages. Unset = on for flow models when "
        "scheduled sampling is active; true on another model is refused.",
        label="ReflexFlow",
        source=_REFLEXFLOW,
    )
    reflexflow_alpha: float = option(
        1.0,
        "Strength of the frequency weight; 0 = weight 1 everywhere.",
        label="ReflexFlow: frequency weight (alpha)",
        ge=0,
        le=100,
        source=_REFLEXFLOW,
        level="advanced",
        soft=5,
    )
    reflexflow_beta1: float = option(
        10.0, "Weight of the anti-drift term; 10 as published, 1 looked safer in our own trial.", label="ReflexFlow: anti-drift weight (beta 1)", ge=0, le=1000, source=_REFLEXFLOW,
        level="advanced",
        soft=20,
    )  # fmt: skip
    reflexflow_beta2: float = option(
        1.0,
        "Weight of the ordinary loss beside the anti-drift term.",
        label="ReflexFlow: weight of the ordinary loss (beta 2)",
        ge=0,
        le=1000,
        source=_REFLEXFLOW,
        level="advanced",
        soft=5,
    )
    reflexflow_norm: Literal["max", "mean", "l2", "l1"] = option(
        "max",
        "What the frequency weight is divided by; l1 and l2 fade with the size of the picture until they do nothing.",
        label="ReflexFlow: normaliser",
        source="l1: SimpleTuner; max, mean: ours",
        level="advanced",
    )
    reflexflow_mode: Literal["single-pass", "paper"] = option(
        "single-pass",
        "single-pass: one gradient pass, at the end of the rollout. paper: the row learns at the noise level that it drew, takes one step of "
        "any length from there, and a second gradient pass corrects its direction; max_step_offset then only switches rollout on.",
        label="ReflexFlow: mode",
        source=_REFLEXFLOW,
        level="advanced",
    )
    reflexflow_step_gradient: bool = option(
        False,
        "Mode paper: let the second pass also teach the prediction that made the step to it. The paper can be read both ways.",
        label="ReflexFlow: teach the step of mode paper too",
        source=_REFLEXFLOW,
        level="advanced",
        since="0.2",
    )

    @property
    def rolls_out(self) -> bool:
        """Can any row of the run be rolled out? Not in a control: it plans the same rows, but trains them where they would start."""
        return self.acts

    @property
    def is_active(self) -> bool:
        """Is any row of the run chosen for a rollout, rolled out or (in a control) only trained at its start?"""
        if self.max_step_offset == 0:
            return False
        return self.probability > 0 if self.ramp_steps == 0 else max(self.prob_start, self.prob_end) > 0

    def bounds_loss(self, prediction_type: str | None) -> bool:
        """Does `snr_gamma` act on the rolled rows of a model that predicts this? Only there the target grows as 1 / sigma without a
        limit that `min_sigma` sets: a flow's path goes down to 0, and `sample` has the picture itself as its target."""
        return self.target == "consistent" and self.snr_gamma > 0 and prediction_type in ("epsilon", "v_prediction")

    def probability_at(self, step: int) -> float:
        """The chance that a row is rolled out at an optimizer step (from 0), by the ramp alone; see `probability_at`."""
        return probability_at(self, step)

    def rules(self) -> Iterator[Fault]:
        default = {each.name: each.default for each in dataclasses.fields(type(self))}
        if self.reflexflow_mode == "paper":
            for name in ("sampler", "order", "target", "guidance", "max_evaluations"):
                if getattr(self, name) != default[name]:
                    yield Fault(
                        f'{self.prefix}{name} = {shown(getattr(self, name))}: reflexflow_mode "paper" takes one Euler step on the answer of '
                        f'its training pass, and its own target; leave {self.prefix}{name} at its default, or take reflexflow_mode "single-pass".',
                        (self.prefix + name, self.prefix + "reflexflow_mode"),
                    )
        elif self.sampler in ("euler", "rk4") and self.order != default["order"]:
            yield Fault(
                f"{self.prefix}order = {self.order}: {self.sampler} has no order to choose; leave it out, or take unipc or dpm.",
                (self.prefix + "order", self.prefix + "sampler"),
            )
        elif self.sampler == "dpm" and self.order > 2:
            yield Fault(
                f"{self.prefix}order = {self.order}: dpm has order 1 or 2; take one of these, or unipc.",
                (self.prefix + "order", self.prefix + "sampler"),
            )
        if self.sampler == "rk4" and 0 < self.max_evaluations < 4:
            yield Fault(
                f"{self.prefix}max_evaluations = {self.max_evaluations}: a single step of rk4 takes 4 evaluations; allow at least 4, or take "
                "euler, dpm or unipc.",
                (self.prefix + "max_evaluations", self.prefix + "sampler"),
            )
        if self.target == "consistent" and self.min_sigma == 0:
            yield Fault(
                f"{self.prefix}min_sigma = 0: the consistent target grows as 1 / sigma, so the limit must be above 0 "
                '(the default is 0.02); or take target "original".',
                (self.prefix + "min_sigma", self.prefix + "target"),
            )


def probability_at(rollout: RolloutConfig, step: int) -> float:
    """The chance that a row is rolled out at an optimizer step.

    Without a ramp: `probability` from `start_step` on, 0 before. With one: `prob_start` until `start_step`, then linear or cosine to
    `prob_end` over `ramp_steps`. The ramp alone: a `max_step_offset` of 0 turns rollout off whatever this says (`rollout.is_active`).

    Args:
        step: optimizer step, counted from 0.

    Returns:
        0..1.
    """
    if rollout.ramp_steps == 0:
        return rollout.probability if step >= rollout.start_step else 0.0
    way = min(max((step - rollout.start_step) / rollout.ramp_steps, 0.0), 1.0)
    if way == 1.0:
        return rollout.prob_end  # exactly, without the rounding of the mix below
    if rollout.ramp_shape == "cosine":
        way = 0.5 - 0.5 * math.cos(math.pi * way)
    return rollout.prob_start + (rollout.prob_end - rollout.prob_start) * way
