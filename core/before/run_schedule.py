"""The noise levels of a run before its model is opened: no torch, nothing read but small JSON files that are here already.

`schedule_of(config)` gives the path and the grid between whose nodes a rollout of this config steps. Where the checkpoint's own schedule
can be read it is that one (a test compares it with the models' own); where it cannot, the usual one of its kind, and `text` states it.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..demo import resolve
from ..families.facts import USUAL_FLOW, USUAL_VARIANCE_PRESERVING, Geometry
from ..families.index_files import cached_index, index_file
from ..families.registry import FAMILIES, family_of
from ..families.schedule import FlowSchedule, ReadSchedule, read_schedule
from ..maths import grid as numeric
from ..names import is_hub_id

if TYPE_CHECKING:
    from ..config import RolloutConfig, RunConfig

_USUAL_GEOMETRY = Geometry(channels=16, pixels_per_latent=8, cells_per_token=2, native_size=None)


@dataclass(frozen=True, eq=False)
class RunSchedule:
    """The path of a run's noise levels and the grid of its rollout.

    `text`: where the levels come from, in a sentence; `assumed`: the checkpoint itself could not be read.
    """

    path: numeric.Path
    grid: numeric.Grid
    text: str
    assumed: bool

    def source(self, t: float, k: int) -> tuple[int, numeric.Level]:
        """(the offset that is left of `k`, its level) of the row at time `t` (`grid.sources`)."""
        actual, level = numeric.sources(t, k, self.path, self.grid)
        return int(actual), level

    def time_of_sigma(self, sigma: float) -> float:
        """The time on the grid at which a row carries `sigma` of noise; the nearest end beyond them."""
        return min(self.path.time_of_sigma(sigma), self.grid.nodes[0])


def schedule_of(config: "RunConfig") -> RunSchedule:
    """The schedule of a run, as far as it can be known without opening the model. Equal settings give the same object."""
    read, assumed = _checkpoints_schedule(config)
    return _built(read, assumed, config.rollout, config.training.flow_schedule_shift)


@lru_cache(maxsize=64)
def _built(read: ReadSchedule, assumed: bool, rollout: "RolloutConfig", training_shift: float | None) -> RunSchedule:
    grid = numeric.build_grid(rollout, read.inference_times, lambda: read.training_times(training_shift))
    return RunSchedule(read.path(), grid, read.text, assumed)


def _checkpoints_schedule(config: "RunConfig") -> tuple[ReadSchedule, bool]:
    """(the schedule, whether it is assumed)."""
    model = config.model
    found = _files(model.pretrained_model_name_or_path, model.revision)
    if found is None:
        return _usual(config), True
    scheduler, index = (
        _read(file, _stamp(file)) for file in (found / "scheduler" / "scheduler_config.json", index_file(found))
    )
    files = {part: found / part / "config.json" for part in ("unet", "transformer", "vae")}
    configs = {part: _read(file, _stamp(file)) for part, file in files.items()}
    family = family_of(index, configs)
    if family is None:
        known = read_schedule(scheduler, USUAL_VARIANCE_PRESERVING, _USUAL_GEOMETRY, config.data.resolution, False)
    else:
        geometry = family.geometry(configs)
        known = read_schedule(scheduler, family.schedule, geometry, config.data.resolution, family.is_flow)
    wanted = model.is_flow()
    if known is None or (wanted is not None and wanted != isinstance(known, FlowSchedule)):
        return _usual(config), True
    return known, False


def _usual(config: "RunConfig") -> ReadSchedule:
    """What is drawn when the checkpoint's schedule cannot be read; its text states what is assumed."""
    family, flow = FAMILIES.get(config.model.model_family), config.model.is_flow()
    how = family.schedule if family is not None else USUAL_VARIANCE_PRESERVING if flow is False else USUAL_FLOW
    read = read_schedule(how.usual, how, _USUAL_GEOMETRY, config.data.resolution, flow is not False)
    assert read is not None, "a family's usual schedule is of a known kind"
    text = "The model's own schedule cannot be read here; drawn is "
    if isinstance(read, FlowSchedule):
        text += f"a flow model's with shift {read.shift:.3g}."
        return replace(
            read, text=text if flow else f"{text} Whether it is a flow model is not known either; one is assumed."
        )
    kind = "a model on a variance-preserving path" if family is None else family.label
    return replace(read, text=f"{text}the usual one of {kind} ({read.table} training timesteps).")


def _files(name: str, revision: str | None) -> Path | None:
    """The folder with a model's small files on this machine, or None. Never asks a network."""
    folder = Path(resolve(name)).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        return None
    cached = cached_index(name, revision)
    return None if cached is None else cached.parent


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)
def _read(path: Path, stamp: int) -> dict[str, Any]:
    """A small JSON file; empty when it is absent or damaged (what is then drawn is stated to be assumed)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
