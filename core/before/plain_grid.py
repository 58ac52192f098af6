"""The rollout's grid in plain numbers, for who draws it: no torch, nothing opened but small JSON files that are here already.

`grid_of(config)` gives the noise levels between which a rollout of this config steps. Where the checkpoint's own schedule can be
read it is that one (a test holds it to the models' own); where it cannot, the usual one of its kind, and `said` says so.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..demo import resolve
from ..families.facts import FLOW_SCHEDULER, USUAL_FLOW, USUAL_VARIANCE_PRESERVING, Geometry, Schedule
from ..families.registry import FAMILIES, family_of
from ..names import is_hub_id
from .cost import shifted

if TYPE_CHECKING:
    from ..config import RunConfig

ALPHA_MIN = 0.02
"""`rollout.ALPHA_MIN`, which needs torch to read (a test compares): a source with less signal carries nothing of the picture."""
_ROUNDING = 1e-3
_BENT = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas",
         "invert_sigmas", "shift_terminal", "stochastic_sampling", "rescale_betas_zero_snr", "trained_betas")  # fmt: skip
"""Settings that bend a schedule away from the formulas here."""
_ONE_MORE = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")  # these divide the table by one step more
_LEADING = ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler")
_LINSPACE = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_USUAL_GEOMETRY = Geometry(channels=16, pixels_per_latent=8, cells_per_token=2, native_size=None)


@dataclass(frozen=True)
class PlainLevel:
    """A noise level of one row: `x_t = alpha * x0 + sigma * noise` at the path's coordinate `t`."""

    t: float
    alpha: float
    sigma: float


@dataclass(frozen=True)
class PlainGrid:
    """`rollout.Grid` in plain numbers, with the path it lies on.

    `nodes`: times from noisiest to 0. `angles`: of the variance-preserving table, empty for a flow model, whose time is sigma.
    `said`: where the levels come from, in a sentence; `assumed`: the checkpoint itself could not be asked.
    """

    nodes: tuple[float, ...]
    angles: tuple[float, ...]
    said: str
    assumed: bool

    @property
    def flow(self) -> bool:
        return not self.angles

    @property
    def steps(self) -> int:
        """Whole steps from the noisiest node to clean."""
        return len(self.nodes) - 1

    def at(self, t: float) -> PlainLevel:
        """The level at a time."""
        if self.flow:
            return PlainLevel(t, 1 - t, t)
        left = min(math.floor(t), len(self.angles) - 2)
        angle = self.angles[left] + (self.angles[left + 1] - self.angles[left]) * (t - left)
        return PlainLevel(t, max(math.cos(angle), 0.0), math.sin(angle))

    def time_of_sigma(self, sigma: float) -> float:
        """The time at which a row carries `sigma` of noise; the nearest end of the path beyond them."""
        if self.flow:
            return min(max(sigma, 0.0), 1.0)
        angle = math.asin(min(max(sigma, 0.0), 1.0))
        right = min(max(bisect_left(self.angles, angle), 1), len(self.angles) - 1)
        low, high = self.angles[right - 1], self.angles[right]
        return min(max(right - 1 + (angle - low) / (high - low), 0.0), len(self.angles) - 1.0)

    def index(self, t: float) -> float:
        """The fractional index of a time: 0 at the noisiest node, growing as noise falls."""
        t = min(max(t, 0.0), self.nodes[0])
        right = min(max(bisect_left(self.nodes, -t, key=lambda node: -node), 1), self.steps)
        return right - (t - self.nodes[right]) / (self.nodes[right - 1] - self.nodes[right])

    def time(self, index: float) -> float:
        """The time at a fractional index; the inverse of `index`."""
        index = min(max(index, 0.0), float(self.steps))
        left = min(math.floor(index), self.steps - 1)
        return self.nodes[left] + (self.nodes[left + 1] - self.nodes[left]) * (index - left)

    def source(self, t: float, k: int) -> tuple[int, PlainLevel]:
        """(the offset that is left of `k`, its level): reduced at the noisy end and where hardly any picture is left."""
        here = self.index(t)
        # Alpha falls along the way, so the last place with enough of it bounds every walk.
        noisiest = max(
            -_ROUNDING, self.index(self.time_of_sigma(math.sqrt(1 - ALPHA_MIN**2) if self.angles else 1 - ALPHA_MIN))
        )
        noisiest = noisiest if noisiest > 0 else -_ROUNDING
        actual = min(k, max(math.floor(here - noisiest + 1e-9), 0))
        return actual, self.at(self.time(here - actual)) if actual else self.at(t)

    def place(self, level: PlainLevel) -> float:
        """Where to draw a level between picture (0) and noise (1): sigma on a flow path, else the angle between the two."""
        return level.sigma if self.flow else math.atan2(level.sigma, level.alpha) / (math.pi / 2)


def grid_of(config: "RunConfig") -> PlainGrid:
    """The grid of the rollout that a config asks for, as far as it can be known without opening the model."""
    return _grid(_schedule(config), config.rollout.grid, config.rollout.grid_steps, config.training.flow_schedule_shift)


@dataclass(frozen=True)
class _Schedule:
    flow: bool
    shift: float  # flow only
    smallest: float | None  # flow: the sigma before the shift that the last step walks from; None = 1 / steps
    table: int
    settings: tuple[tuple[str, Any], ...]
    said: str
    assumed: bool


@lru_cache(maxsize=64)
def _grid(schedule: _Schedule, kind: str, steps: int, training_shift: float | None) -> PlainGrid:
    table = schedule.table
    if schedule.flow:
        if kind == "training":
            shift = schedule.shift if training_shift is None else training_shift
            times = [shifted(i / table, shift) for i in range(table, 0, -1)]
        else:
            last = 1 / steps if schedule.smallest is None else schedule.smallest
            times = [shifted(1 + (last - 1) * i / max(steps - 1, 1), schedule.shift) for i in range(steps)]
        angles: tuple[float, ...] = ()
    else:
        settings = dict(schedule.settings)
        times = [
            float(t) for t in (range(table - 1, -1, -1) if kind == "training" else _timesteps(settings, table, steps))
        ]
        angles = _angles(settings["beta_schedule"], settings["beta_start"], settings["beta_end"], table)
    return PlainGrid(_falling(times), angles, schedule.said, schedule.assumed)


def _falling(times: Sequence[float]) -> tuple[float, ...]:
    """Strictly falling, repeats left out, with a 0 at the end."""
    nodes = [times[0]]
    nodes += [time for before, time in pairwise(times) if time < before]
    return tuple(nodes if nodes[-1] == 0 else [*nodes, 0.0])


def _timesteps(settings: Mapping[str, Any], table: int, steps: int) -> list[float]:
    """The training timesteps that a variance-preserving sampler visits, as diffusers' schedulers space them."""
    name, spacing = settings["_class_name"], settings["timestep_spacing"]
    more = 1 if name in _ONE_MORE else 0
    if spacing == "linspace":
        found = [(table - 1) * i / max(steps + more - 1, 1) for i in range(more, steps + more)]
        return [float(each if name in _LINSPACE else round(each)) for each in reversed(found)]
    if spacing == "leading":
        ratio = table // (steps + more)
        return [float(i * ratio + settings["steps_offset"]) for i in range(steps + more - 1, more - 1, -1)]
    return [float(round(table - i * table / steps) - 1) for i in range(steps)]


def _angles(schedule: str, start: float, end: float, table: int) -> tuple[float, ...]:
    """atan2(sigma, alpha) of every training timestep."""
    kept, angles = 1.0, []
    for i in range(table):
        way = i / (table - 1)
        beta = (
            start + (end - start) * way if schedule == "linear" else (start**0.5 + (end**0.5 - start**0.5) * way) ** 2
        )
        kept *= 1 - beta
        angles.append(math.atan2(math.sqrt(1 - kept), math.sqrt(kept)))
    return tuple(angles)


# What is known of a checkpoint's schedule --------------------------------------------------------------------------------


def _schedule(config: "RunConfig") -> _Schedule:
    model = config.model
    found = _files(model.pretrained_model_name_or_path, model.revision)
    usual = _usual(config)
    if found is None:
        return usual
    scheduler, index = (
        _read(found / part, _stamp(found / part)) for part in ("scheduler/scheduler_config.json", "model_index.json")
    )
    files = {part: found / part / "config.json" for part in ("unet", "transformer", "vae")}
    configs = {part: _read(file, _stamp(file)) for part, file in files.items()}
    family = family_of(index, configs)
    known = None
    if family is not None and family.is_flow:
        known = _flow_schedule(scheduler, family.schedule, family.geometry(configs), config.data.resolution)
    known = known if known is not None else _vp_schedule(scheduler)
    wanted = model.is_flow()
    if known is None or (wanted is not None and wanted != known.flow):
        return usual
    return known


def _usual(config: "RunConfig") -> _Schedule:
    """What is drawn when the checkpoint's schedule cannot be read, with what is assumed."""
    family, flow = FAMILIES.get(config.model.model_family), config.model.is_flow()
    said = "The model's own schedule cannot be read here; drawn is "
    if flow is False:
        how = USUAL_VARIANCE_PRESERVING if family is None else family.schedule
        kind = "a model on a variance-preserving path" if family is None else family.label
        return replace(
            _vp_schedule(how.usual),
            said=f"{said}the usual one of {kind} ({how.usual['num_train_timesteps']} training timesteps).",
            assumed=True,
        )
    how = USUAL_FLOW if family is None else family.schedule
    found = _flow_schedule(how.usual, how, _USUAL_GEOMETRY, config.data.resolution)
    kind = "" if flow else " Whether it is a flow model is not known either; one is assumed."
    return replace(found, said=f"{said}a flow model's with shift {found.shift:.3g}.{kind}", assumed=True)


def _files(name: str, revision: str | None) -> Path | None:
    """The folder with a model's small files on this machine, or None. Never asks a network."""
    folder = Path(resolve(name)).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache  # only for hub ids

    cached = try_to_load_from_cache(name, "model_index.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    """A small JSON file; empty when it is absent or damaged (what is then drawn is said to be assumed)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _flow_schedule(
    scheduler: Mapping[str, Any], how: Schedule, geometry: Geometry, resolution: int
) -> _Schedule | None:
    if scheduler.get("_class_name") != FLOW_SCHEDULER or any(scheduler.get(name) for name in _BENT):
        return None
    table, shift = scheduler.get("num_train_timesteps", 1000), scheduler.get("shift", 1.0)
    if not _whole(table, 2, 100_000) or not _number(shift) or not shift > 0:
        return None
    # A pipeline that walks down to the smallest sigma of the table finds it bent once already by a fixed shift.
    smallest, said = shifted(1 / table, shift), f"shift {shift:g}"
    if scheduler.get("use_dynamic_shifting"):
        if geometry.pixels_per_latent is None or geometry.channels is None:
            return None
        side = math.ceil(resolution / geometry.pixels_per_latent)
        mu = how.mu(scheduler, tokens=geometry.tokens(side, side), channels=geometry.channels)
        shift = math.exp(mu) if scheduler.get("time_shift_type", "exponential") == "exponential" else mu
        if not shift > 0:
            return None
        smallest, said = 1 / table, f"shift {shift:.3g} at {resolution} px"
    said = f"The model's own schedule: a flow model with {said}."
    return _Schedule(True, float(shift), None if how.walk == "steps" else smallest, table, (), said, False)


def _vp_schedule(scheduler: Mapping[str, Any]) -> _Schedule | None:
    name = scheduler.get("_class_name")
    spacing = scheduler.get("timestep_spacing", "leading" if name in _LEADING else "linspace")
    settings = {
        "_class_name": name, "timestep_spacing": spacing, "steps_offset": scheduler.get("steps_offset", 0),
        "beta_schedule": scheduler.get("beta_schedule", "linear"), "beta_start": scheduler.get("beta_start", 1e-4),
        "beta_end": scheduler.get("beta_end", 0.02),
    }  # fmt: skip
    table = scheduler.get("num_train_timesteps", 1000)
    known = (
        name in (*_LEADING, *_LINSPACE, *_ONE_MORE)
        and spacing in ("leading", "linspace", "trailing")
        and settings["beta_schedule"] in ("linear", "scaled_linear")
        and all(_number(settings[each]) and 0 < settings[each] < 1 for each in ("beta_start", "beta_end"))
        and _whole(settings["steps_offset"], 0, 100)
        and _whole(table, 2, 100_000)
        and (name != "PNDMScheduler" or scheduler.get("skip_prk_steps") is True)
        and not any(scheduler.get(each) for each in _BENT)
        and scheduler.get("lambda_min_clipped", -math.inf) == -math.inf
    )
    if not known:
        return None
    said = f"The model's own schedule: {table} training timesteps, sampled with {spacing} spacing."
    return _Schedule(False, 1.0, None, table, tuple(settings.items()), said, False)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
