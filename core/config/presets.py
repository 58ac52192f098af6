"""Presets: files of differences from the defaults, with a few words about themselves; and the named levels of rollout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .flat import OPTIONS, RunConfig, config_from_flat, config_to_flat, read_flat, refuse_newer
from .options import ConfigError, Fault, did_you_mean
from .sections import RolloutConfig

PRESETS = Path(__file__).resolve().parents[2] / "presets"


SOURCES = ("measured", "recipe", "estimate")
"""Where numbers of a preset come from: a run here; the model's or diffusers' own published settings; the program's estimate."""


@dataclass(frozen=True)
class Tier:
    """What a preset changes to fit a graphics card of `gb` GB.

    `changes`: flat keys beside the preset's own. `takes_gb`: GB (10^9 bytes) at the peak, of which `source` says where it comes from, one of
    `SOURCES`; written by tools/tiers.py.
    """

    gb: int
    changes: Mapping[str, Any]
    takes_gb: float
    source: str

    @property
    def words(self) -> str:
        """ "fits 12 GB (estimate: 9.4 GB)"."""
        return f"fits {self.gb} GB ({self.source}: {self.takes_gb:g} GB)"


@dataclass(frozen=True)
class Preset:
    """A preset as its file states it: `changes` are flat keys; `needs` says in words what a person must have or add.

    `file`: of a person's own preset (`own_presets.py`); None for those that come along. `key` is what names it to `read_preset`. `tiers`: for
    cards from the smallest up; none where no card is needed. `licence`, `gate`: of the model, and what must be done to get it. `source`:
    where the settings come from, in words that begin with one of `SOURCES`.
    """

    name: str
    title: str
    description: str
    needs: str
    changes: Mapping[str, Any]
    file: Path | None = None
    tiers: tuple[Tier, ...] = ()
    licence: str = ""
    gate: str = ""
    source: str = ""

    @property
    def key(self) -> str:
        return self.name if self.file is None else str(self.file)

    def config(self) -> RunConfig:
        """The defaults with the preset's changes. Raises ConfigError, naming the file, where they cannot be."""
        try:
            return config_from_flat(self.changes)
        except ConfigError as error:
            where = self.name if self.file is None else self.file
            raise ConfigError([Fault(f"{where}: {fault.message}", fault.options) for fault in error.faults]) from None


def preset_names() -> list[str]:
    """Names of the shipped presets, the demo first."""
    return sorted((path.stem for path in PRESETS.glob("*.json")), key=lambda name: (not name.startswith("demo"), name))


def read_preset(key: str) -> Preset:
    """A preset by its key: the name of a shipped one, or the path (ending in .json) of a person's own.

    Raises ConfigError for an unknown name (with the nearest one), and for a file that is gone or broken.
    """
    names = preset_names()
    if key in names:
        return _preset(key, PRESETS / f"{key}.json", None)
    if key.endswith(".json"):
        return _preset(preset_name(key), Path(key), Path(key))
    raise ConfigError([Fault(f"Unknown preset '{key}'.{did_you_mean(key, names)} There are: {', '.join(names)}.")])


def _preset(name: str, path: Path, file: Path | None) -> Preset:
    """The preset in a file; a title may be missing (a person may have written it by hand), and is then the name."""
    flat = read_flat(path)
    refuse_newer(flat, str(path))
    about = flat.get("_metadata", {})
    texts: dict[str, Any] = {key: about.get(key, "") if isinstance(about, dict) else None for key in _TEXTS}
    wrong = [key for key, value in texts.items() if not isinstance(value, str)]
    if wrong:
        raise ConfigError([Fault(f"{path}: _metadata must be an object whose {', '.join(wrong)} is text.")])
    changes = {key: value for key, value in flat.items() if not key.startswith("_")}
    title = texts["title"] if texts["title"].strip() else name
    tiers = _tiers(path, about.get("tiers", []))
    return Preset(changes=changes, name=name, file=file, tiers=tiers, **{**texts, "title": title})


_TEXTS = ("title", "description", "needs", "licence", "gate", "source")


def _tiers(path: Path, written: Any) -> tuple[Tier, ...]:
    """The tiers of a file, from the smallest card up."""
    try:
        tiers = tuple(Tier(int(each["gb"]), dict(each["changes"]), float(each["takes_gb"]), each["source"]) for each in written)  # fmt: skip
        if not all(tier.source in SOURCES for tier in tiers):
            raise ValueError(f"source must be one of {', '.join(SOURCES)}")
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            [Fault(f"{path}: _metadata.tiers cannot be read ({type(error).__name__}: {error}).")]
        ) from None
    return tuple(sorted(tiers, key=lambda tier: tier.gb))


def preset_name(key: str) -> str:
    """The name in a preset's key, also of one that is gone."""
    return Path(key).stem if key.endswith(".json") else key


def load_preset(key: str) -> RunConfig:
    """The config of a preset. Raises ConfigError for an unknown name, and for a file that is gone or broken."""
    return read_preset(key).config()


# ---- memory tiers


def tier_for(preset: Preset, gb: float) -> Tier:
    """The largest tier that fits a card of so many GB.

    Raises: ConfigError where the preset has none so small, or none at all.
    """
    fitting = [tier for tier in preset.tiers if tier.gb <= gb]
    if fitting:
        return fitting[-1]
    if not preset.tiers:
        raise ConfigError([Fault(f"The preset '{preset.name}' has no tiers: it needs no particular graphics card.")])
    smallest = preset.tiers[0]
    raise ConfigError([
        Fault(f"The preset '{preset.name}' has no tier for {gb:g} GB: its smallest is {smallest.gb} GB ({smallest.source}: it takes {smallest.takes_gb:g} GB).")
    ])  # fmt: skip


def tier_changes(preset: Preset, tier: Tier) -> dict[str, Any]:
    """The flat keys of a tier: the same keys for every tier of the preset, so that choosing one replaces another."""
    keys = dict.fromkeys(key for each in preset.tiers for key in each.changes)
    return {key: tier.changes.get(key, preset.changes.get(key, OPTIONS[key].default)) for key in keys}


def tier_of(preset: Preset, config: RunConfig) -> Tier | None:
    """The largest tier whose settings a config has; None where its numbers are its own."""
    flat = config_to_flat(config)
    fitting = [tier for tier in preset.tiers if all(flat[key] == value for key, value in tier_changes(preset, tier).items())]  # fmt: skip
    return fitting[-1] if fitting else None


# ---- the named levels of rollout


ROLLOUT_LEVELS = ("off", "gentle", "strong")
_LEVELS = {"gentle": (2, 0.25), "strong": (4, 0.5)}  # farthest offset, chance at the end of the ramp


def rollout_level(name: str, max_train_steps: int) -> dict[str, Any]:
    """The flat keys of a named level: the same keys for every level, so that choosing one replaces another.

    gentle: offset 2, chance 0 to 0.25 over the first fifth of the steps; strong: offset 4, chance 0 to 0.5. Both with unipc on the
    inference grid and `reflexflow_beta1` 1. off: the defaults, and what every preset has: no level beat plain training (docs/evidence.md).

    Raises:
        ConfigError: no such level, or no steps.
    """
    if name not in ROLLOUT_LEVELS:
        raise ConfigError([Fault(f"Rollout level '{name}': must be one of {', '.join(ROLLOUT_LEVELS)}.")])
    if max_train_steps < 1:
        raise ConfigError(
            [Fault(f"max_train_steps = {max_train_steps}: must be at least 1 step.", ("max_train_steps",))]
        )
    changes: dict[str, Any] = {}
    if name in _LEVELS:
        offset, chance = _LEVELS[name]
        changes = {
            "max_step_offset": offset,
            "prob_start": 0.0,
            "prob_end": chance,
            "ramp_steps": max(1, round(0.2 * max_train_steps)),
            "reflexflow_beta1": 1.0,
        }
    keys = ("max_step_offset", "probability", "prob_start", "prob_end", "ramp_steps", "start_step", "ramp_shape", "strategy",
            "sampler", "order", "grid", "grid_steps", "control", "reflexflow_beta1")  # fmt: skip
    prefix = RolloutConfig.prefix
    return {prefix + key: changes.get(key, OPTIONS[prefix + key].default) for key in keys}


def rollout_level_of(config: RunConfig) -> str | None:
    """The named level that a config has, or None when its numbers are its own."""
    flat = config_to_flat(config)
    ignored = RolloutConfig.prefix + "reflexflow" if config.model.is_flow() is False else "-"
    for name in ROLLOUT_LEVELS:
        level = rollout_level(name, config.training.max_train_steps)
        if all(flat[key] == value for key, value in level.items() if not key.startswith(ignored)):
            return name
    return None
