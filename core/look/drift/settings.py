"""The settings of a drift measurement, and the pictures that it measures on."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from .correction import UNCORRECTED, SamplingCorrection
from .report import Role

if TYPE_CHECKING:
    from ...config import RunConfig
    from ...data.batches import Probe
    from ...families.base import Model
    from ...families.conditioning import Prompt


class Stopped(Exception):
    """`should_stop` returned true; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, and how.

    Levels are noise shares `sigma / (alpha + sigma)`: the flow's sigma, and the level of the same signal-to-noise ratio
    elsewhere.

    Attributes:
        sampler, order, grid, grid_steps, guidance: the rollout under test. The trajectory follows the inference grid,
            except where `steps_back` is set.
        levels, offsets: targets and distances of the short rollouts. loss_levels: where else the clean loss is taken.
        fine_factor: the reference rollout takes this many times finer steps.
        samples: pictures x noise draws; with fewer pictures each gets several noises. seed: of the noise.
        fine_samples, trajectory_samples: how many of them get the fine rollout and the trajectory. fine_offsets: which
            offsets get the fine rollout; None = all.
        start: level at which the trajectory starts; None = pure noise.
        end: level at which it ends; None = the schedule's last step.
        steps_back: the trajectory starts so many steps of `grid` before its end, in place of at `start` (previews of one
            short rollout). Its key in JSON is `walk`, as in the reports of version 0.1.
        shown: columns of the filmstrip. strips: so many pictures get one.
        rows_at_once: rows of a network call; None = by the size of the latents.
        correction: of the model's answers along its own path; the true path is never corrected.
    """

    sampler: str = "unipc"
    order: int = 2
    grid: Literal["inference", "training"] = "inference"
    grid_steps: int = 30
    guidance: float = 1.0
    seed: int = 42
    levels: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)
    offsets: tuple[int, ...] = (1, 3, 5)
    loss_levels: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    fine_factor: int = 4
    samples: int = 8
    fine_samples: int = 2
    fine_offsets: tuple[int, ...] | None = None
    trajectory_samples: int = 8
    start: float | None = 0.8
    end: float | None = None
    steps_back: int | None = None
    shown: int = 9
    strips: int = 1
    rows_at_once: int | None = None
    # not in the text by which a probe is known: that of measurements without one stays what it was
    correction: SamplingCorrection = dataclasses.field(default=UNCORRECTED, repr=False)

    def __post_init__(self):
        shares = [*self.levels, *self.loss_levels, *(each for each in (self.start, self.end) if each is not None)]
        faults = [f"level {share}: must lie between 0 and 1." for share in shares if not 0 < share < 1]
        faults += [f"offset {k}: must be at least 1 grid step." for k in self.offsets if k < 1]
        least = {
            "fine_factor": 2,
            "samples": 1,
            "fine_samples": 0,
            "trajectory_samples": 0,
            "shown": 2,
            "strips": 0,
            "grid_steps": 2,
        }
        faults += [
            f"{name} = {getattr(self, name)}: must be at least {low}."
            for name, low in least.items()
            if getattr(self, name) < low
        ]
        unknown = sorted(set(self.fine_offsets or ()) - set(self.offsets))
        if unknown:
            faults.append(f"fine_offsets {unknown}: must be among the offsets {list(self.offsets)}.")
        if self.steps_back is not None and self.steps_back < 1:
            faults.append(f"steps_back = {self.steps_back}: must be at least 1 grid step.")
        if self.guidance < 1:
            faults.append(f"guidance = {self.guidance}: must be at least 1.0 (none).")
        if faults:
            raise ValueError("\n".join(faults))

    @classmethod
    def from_config(cls, config: "RunConfig", **changes: Any) -> "Settings":
        """The run's own solver and grid, and its drift section. `changes` win."""
        rollout, drift = config.rollout, config.drift
        chosen = {
            "sampler": rollout.sampler,
            "order": rollout.order,
            "grid": rollout.grid,
            "grid_steps": rollout.grid_steps,
            "guidance": drift.guidance,
            "seed": drift.seed,
            "offsets": drift.offsets,
            "fine_factor": drift.fine_factor,
            "samples": drift.num_images,
        }
        return cls(**{**chosen, **changes})

    @classmethod
    def between_steps(cls, config: "RunConfig", **changes: Any) -> "Settings":
        """What a training run can afford between two steps: about half the forwards of `from_config`, most of them
        saved on levels.

        With the default offsets and 8 samples on a 30-step grid that is 564 rows, and about 90 for the training
        pictures.
        """
        light = {
            "levels": (0.25, 0.5, 0.75),
            "loss_levels": (0.05, 0.25, 0.5, 0.75, 0.95),
            "fine_offsets": (max(config.drift.offsets),),
            "trajectory_samples": 4,
        }
        return cls.from_config(config, **{**light, **changes})

    def for_training_pictures(self) -> "Settings":
        """What the second curve gets: for comparison, not explanation."""
        return dataclasses.replace(
            self,
            samples=max(1, self.samples // 2),
            offsets=(max(self.offsets),),
            fine_samples=0,
            fine_offsets=None,
            trajectory_samples=0,
            strips=0,
        )


@dataclass(frozen=True)
class ProbeSet:
    """The pictures to measure on.

    `latents`: one (C, H, W) each, clean and scaled; sizes may differ. `conditioning`: the prompts', as the family
    encodes them.
    """

    latents: tuple[Tensor, ...]
    conditioning: tuple["Prompt", ...]
    captions: tuple[str, ...]
    role: Role = "held-out"

    @classmethod
    def of(cls, probe: "Probe", model: "Model | None" = None) -> "ProbeSet":
        """The pictures of a training set. `model`: one whose text encoders change; the prompts are then encoded with those of the time."""
        prompts = probe.conditioning if model is None else model.by_words(probe.captions)
        role: Role = "held-out" if probe.held_out else "training"
        return cls(tuple(probe.latents), tuple(prompts), tuple(probe.captions), role)

    def __post_init__(self):
        if not self.latents or not len(self.latents) == len(self.conditioning) == len(self.captions):
            raise ValueError(
                f"{len(self.latents)} latents, {len(self.conditioning)} prompts, {len(self.captions)} captions: "
                "a drift probe needs one of "
                "each per picture, and at least one picture."
            )


def settings_record(settings: Settings) -> dict[str, Any]:
    """The settings as JSON will give them back; `correction` only where there is one."""
    plain = {name: value for name, value in vars(settings).items() if name != "correction"}
    record = {
        "walk" if name == "steps_back" else name: list(value) if isinstance(value, tuple) else value
        for name, value in plain.items()
    }
    own = settings.correction.record
    return {**record, "correction": own} if own else record
