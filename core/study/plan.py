"""A study as its file states it: which runs it consists of. No torch.

    study: demo-levels              # begins the names of its runs
    preset: demo                    # or `config: FILE`, a config.json beside the study's file, or the options themselves
    set: {max_train_steps: 150}     # on top, for every run
    variants:                       # name -> changes; `level` names a level of rollout
      gentle: {level: gentle}
      strong: {level: strong}
    grid: {learning_rate: [0.0005, 0.001], lora_rank: [8, 16]}    # or instead: every combination is a variant
    seeds: [1, 2, 3]
    reference: plain                # every variant is compared with this one, seed by seed
    controls: true                  # or a list of them; false = none
    judge: {pictures: 32, old_pictures: 40, steps: 20}            # the demo's models alone; null = not judged
    deciding: [clean_loss, likeness]                              # what gets an interval and a verdict; default: every measure
    similarity: true                                              # samples against training pictures; null = not compared

`plain`, the base without any remedy, is added by itself where a variant has one of them, and so are the controls of each such
variant (`core/before/controls.py`): what a method gains may come from its extra time, or from training on noisier pictures.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import names
from ..before.controls import KINDS, TITLES, Kind, control, why_not
from ..before.effects import idle_settings
from ..config import (
    DEMO_PREDICTION_TYPES,
    OPTIONS,
    ROLLOUT_LEVELS,
    SECTIONS,
    RemedyConfig,
    RunConfig,
    config_from_flat,
    config_to_flat,
    rollout_level,
)
from ..config.options import ConfigError, Fault, did_you_mean
from ..config.own_presets import find_preset
from ..errors import Trouble
from ..foreign.reading import read_file
from ..formats import refusal
from .measures import KINDS as MEASURES
from .similarity import Similarity, SimilarityError, similarity_of

PLAIN = "plain"
KEYS = (
    "format", "study", "preset", "config", "set", "variants", "grid", "seeds", "reference", "controls", "judge", "deciding", "similarity",
)  # fmt: skip
MOST_RUNS = 500
_LONGEST_NAME = 20
_LARGEST_SEED = 99_999  # so that every run of it has a name that a folder may have
_OFF = {
    name: value
    for section in SECTIONS.values()
    if issubclass(section, RemedyConfig)
    for name, value in section.off.items()
}


class StudyError(Trouble, ValueError):
    """A study cannot be made as its file says: what is the case, the rule, and the remedy."""


@dataclass(frozen=True)
class Judging:
    """How the demo's judge looks at a run: prompts that name the new thing, prompts that the base knows, and sampling steps of each picture.

    `few_steps`: the same pictures once more with so few steps (0: not). `unguided`: everything once more without guidance.
    """

    pictures: int = 32
    old_pictures: int = 40
    steps: int = 20
    few_steps: int = 0
    unguided: bool = False

    def samplings(self, guidance: float) -> dict[str, tuple[int, float]]:
        """What its measures' names end in -> (steps, guidance)."""
        found = {"": (self.steps, guidance)}
        if self.few_steps:
            found["_few"] = (self.few_steps, guidance)
        if self.unguided:
            found |= {f"{end}_unguided": (steps, 1.0) for end, (steps, _) in list(found.items())}
        return found


@dataclass(frozen=True)
class Variant:
    """One row of the study: `changes` (flat keys) on top of its base. A control has `control`, its kind, and `of`, the variant that it controls."""

    name: str
    changes: Mapping[str, Any]
    control: Kind | None = None
    of: str | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a study: `variant` with `seed`; `run` is its name in the folder of the runs."""

    variant: Variant
    seed: int
    run: str


@dataclass(frozen=True)
class Study:
    """A study that can be begun: every variant has been checked as a config."""

    name: str
    base: Mapping[str, Any]
    preset: str | None
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    reference: str
    judging: Judging | None
    deciding: tuple[str, ...]
    source: Mapping[str, Any] = field(default_factory=dict)
    similarity: Similarity | None = None

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that what is there early can be compared."""
        stems = self._stems()
        return [
            Cell(variant, seed, f"{self.name}-{stems[variant.name]}-s{seed}")
            for seed in self.seeds
            for variant in self.variants
        ]

    def _stems(self) -> dict[str, str]:
        """Variant -> its part of its runs' names; those that would be alike get a number, in the order of the file."""
        stems: dict[str, str] = {}
        for variant in self.variants:
            stem = names.slug(variant.name, "variant")[:20].rstrip("-._")
            if variant.of is not None:
                stem = f"{stems[variant.of]}-{variant.control}"
            number = 2
            unique = stem
            while unique in stems.values():
                unique, number = f"{stem}-{number}", number + 1
            stems[variant.name] = unique
        return stems

    def variant(self, name: str) -> Variant:
        return next(each for each in self.variants if each.name == name)

    def config(self, variant: Variant, seed: int) -> RunConfig:
        """What a run of it trains with; of a control at equal time without its number of steps, which its variant's run will tell."""
        return config_from_flat({**self.base, **variant.changes, "seed": seed})

    def compared_with(self, variant: Variant) -> list[Variant]:
        """Whom a variant is compared with: the reference, then its own controls. Controls and the reference stand for themselves."""
        if variant.control is not None or variant.name == self.reference:
            return []
        return [self.variant(self.reference), *(each for each in self.variants if each.of == variant.name)]


def control_name(variant: str, kind: Kind) -> str:
    """What a variant's control is called in a study's tables."""
    return f"{variant}: {TITLES[kind].lower()}"


def read_study(path: Path, runs_dir: Path) -> Study:
    """The study in a YAML, JSON or TOML file. Raises StudyError or ConfigError with what is wrong, the rule and the remedy."""
    written = read_file(path, path.name)
    if not isinstance(written, Mapping):
        raise StudyError(
            f"{path.name}: is a {type(written).__name__}, not a study.",
            f"It is a mapping with the keys {', '.join(KEYS)}.",
        )
    return study_of(written, path.name, path.parent, runs_dir)


def study_of(written: Mapping[str, Any], where: str, folder: Path, runs_dir: Path) -> Study:
    """The study that a mapping describes. `where`: what messages call it; `folder`: where `config` is looked for."""
    newer = refusal("study", written.get("format"))
    if newer is not None:
        raise StudyError(f"{where} {newer.what}", newer.remedy)
    for key in written:
        if key not in KEYS:
            raise StudyError(
                f"{where}: '{key}' is not known.{did_you_mean(str(key), KEYS)}", f"A study has: {', '.join(KEYS)}."
            )
    name = written.get("study")
    if not isinstance(name, str) or names.slug(name, "") != name or len(name) > _LONGEST_NAME:
        raise StudyError(
            f"{where}: study = {name!r}: must be a name of at most {_LONGEST_NAME} letters, digits, dots, hyphens or underscores.",
            "It begins the names of the study's runs.",
        )
    base, preset = _base(written, where, folder, runs_dir)
    seeds = _seeds(written.get("seeds", [1, 2, 3]), where)
    listed = _listed(written, base, where)
    variants, reference = _with_reference(listed, written.get("reference"), base, where)
    kinds = _kinds(written.get("controls", True), where)
    variants = _with_controls(variants, reference, kinds, base)
    try:
        similarity = similarity_of(written.get("similarity"), where)
    except SimilarityError as error:
        raise StudyError(error.message, error.remedy) from error
    study = Study(
        name,
        base,
        preset,
        variants,
        seeds,
        reference,
        _judging(written.get("judge"), where),
        _deciding(written.get("deciding"), where),
        dict(written),
        similarity,
    )
    _check(study, where)
    return study


def _base(written: Mapping[str, Any], where: str, folder: Path, runs_dir: Path) -> tuple[dict[str, Any], str | None]:
    preset, file, changes = (written.get(key) for key in ("preset", "config", "set"))
    if (preset is None) == (file is None):
        raise StudyError(f"{where}: needs either preset or config.", "preset: NAME, or config: FILE (a config.json).")
    if changes is not None and not isinstance(changes, Mapping):
        raise StudyError(
            f"{where}: set = {changes!r:.80}: must be options with their values.",
            "For example set: {max_train_steps: 150}.",
        )
    if preset is not None:
        base = dict(find_preset(str(preset), runs_dir).changes)
    else:
        read = file if isinstance(file, Mapping) else read_file(folder / str(file), str(file))
        if not isinstance(read, Mapping):
            raise StudyError(
                f"{where}: config = {str(file)[:80]!r}: holds a {type(read).__name__}, not settings.",
                "Name a config.json of this program.",
            )
        base = {str(key).removeprefix("--"): value for key, value in read.items()}
    if changes is None:
        changes = {}
    # in this order: a level named in the study replaces the numbers of the base's own level
    base = {**_expanded(base, base, where), **_expanded(changes, base, where)}
    return base, str(preset) if preset is not None else None


def _expanded(changes: Mapping[str, Any], base: Mapping[str, Any], where: str) -> dict[str, Any]:
    """With `level` replaced by the numbers that it stands for."""
    result = {key: value for key, value in changes.items() if key != "level"}
    if "level" not in changes:
        return result
    level = changes["level"]
    level = "off" if level is False else level  # YAML's word for false
    if not isinstance(level, str) or level not in ROLLOUT_LEVELS:
        raise StudyError(f"{where}: level = {level!r}: is none.", f"Levels of rollout: {', '.join(ROLLOUT_LEVELS)}.")
    given = {key: value for key, value in result.items() if key == "max_train_steps"}
    steps = config_from_flat({**base, **given}).training.max_train_steps
    return {**rollout_level(level, steps), **result}


def _seeds(seeds: Any, where: str) -> tuple[int, ...]:
    good = isinstance(seeds, Sequence) and not isinstance(seeds, str) and len(seeds) > 0
    if (
        not good
        or not all(type(seed) is int and 0 <= seed <= _LARGEST_SEED for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise StudyError(
            f"{where}: seeds = {seeds!r:.80}: must be different whole numbers from 0 to {_LARGEST_SEED}.",
            "For example seeds: [1, 2, 3]; below three nothing is said of significance.",
        )
    return tuple(seeds)


def _listed(written: Mapping[str, Any], base: Mapping[str, Any], where: str) -> list[Variant]:
    variants, grid = written.get("variants"), written.get("grid")
    if (variants is None) == (grid is None):
        raise StudyError(
            f"{where}: needs either variants or grid.",
            "variants: {name: {option: value}}, or grid: {option: [values]}.",
        )
    if grid is not None:
        if (
            not isinstance(grid, Mapping)
            or not grid
            or not all(isinstance(each, Sequence) and not isinstance(each, str) and each for each in grid.values())
        ):
            raise StudyError(
                f"{where}: grid = {grid!r:.80}: must give each option a list of values.",
                "For example grid: {lora_rank: [8, 16]}.",
            )
        count = math.prod(len(values) for values in grid.values())
        if count > MOST_RUNS:  # before they are made: a few lists of ten values are millions
            raise StudyError(
                f"{where}: grid has {count} variants, and a study at most {MOST_RUNS} runs.",
                "Take fewer options or values.",
            )
        combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        named = [(", ".join(f"{key} {value}" for key, value in each.items()), each) for each in combinations]
    else:
        if (
            not isinstance(variants, Mapping)
            or not variants
            or not all(isinstance(each or {}, Mapping) for each in variants.values())
        ):
            raise StudyError(
                f"{where}: variants = {variants!r:.80}: must be names with their changes.",
                "For example variants: {gentle: {level: gentle}}.",
            )
        named = [(str(name), changes or {}) for name, changes in variants.items()]
    for name, changes in named:
        for key in changes:
            bare = str(key).removeprefix("--")
            if bare == "seed":
                raise StudyError(
                    f"{where}: {name}: seed is not a variant's.",
                    "The study's seeds say which seeds every variant gets.",
                )
            if bare != "level" and bare not in OPTIONS:
                raise StudyError(
                    f"{where}: {name}: '{key}' is not an option.{did_you_mean(bare, OPTIONS)}",
                    "All names: rollout-studio options.",
                )
    bare_keys = [
        (name, {str(key).removeprefix("--"): value for key, value in changes.items()}) for name, changes in named
    ]
    return [Variant(name, _expanded(changes, base, f"{where}: {name}")) for name, changes in bare_keys]


def _configs(variants: Sequence[Variant], base: Mapping[str, Any], where: str) -> dict[str, RunConfig]:
    """Variant -> its config. Raises ConfigError with what is wrong in any of them."""
    configs: dict[str, RunConfig] = {}
    faults = []
    for variant in variants:
        try:
            configs[variant.name] = config_from_flat({**base, **variant.changes})
        except ConfigError as error:
            faults += [Fault(f"{where}: {variant.name}: {fault.message}", fault.options) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return configs


def _acts(config: RunConfig) -> bool:
    """Whether anything of it is a method against exposure bias."""
    return config.remedy is not None and config.remedy.acts


def _with_reference(
    listed: list[Variant], given: Any, base: Mapping[str, Any], where: str
) -> tuple[list[Variant], str]:
    plain = config_from_flat({**base, **_OFF})
    configs = _configs(listed, base, where)
    added = list(listed)
    if any(_acts(config) for config in configs.values()) and PLAIN not in configs and plain not in configs.values():
        added.insert(0, Variant(PLAIN, dict(_OFF)))
    known = [each.name for each in added]
    if given is None:
        same = [name for name, config in configs.items() if config == plain]
        given = PLAIN if PLAIN in known else same[0] if same else known[0]
    if given not in known:
        raise StudyError(
            f"{where}: reference = {given!r}: is no variant.{did_you_mean(str(given), known)}",
            f"Variants: {', '.join(known)}.",
        )
    return added, str(given)


def _kinds(given: Any, where: str) -> tuple[Kind, ...]:
    if given is True or given is False:
        return KINDS if given else ()
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or not all(isinstance(each, str) and each in KINDS for each in given)
    ):
        raise StudyError(
            f"{where}: controls = {given!r:.80}: must be true, false or a list.", f"Controls: {', '.join(KINDS)}."
        )
    return tuple(kind for kind in KINDS if kind in given)


def _with_controls(
    variants: list[Variant], reference: str, kinds: Sequence[Kind], base: Mapping[str, Any]
) -> tuple[Variant, ...]:
    """The variants, each followed by the controls that it needs and does not have in the reference."""
    result, compared = (
        [],
        next(config_from_flat({**base, **each.changes}) for each in variants if each.name == reference),
    )
    for variant in variants:
        result.append(variant)
        config = config_from_flat({**base, **variant.changes})
        if variant.name == reference or not _acts(config):
            continue
        for kind in kinds:
            name = control_name(variant.name, kind)
            if kind == "plain-time":
                if config.remedy is not None and config.remedy.takes_time:
                    result.append(Variant(name, {**variant.changes, **_OFF}, kind, variant.name))
            elif why_not(kind, config) is None:
                changes = {**variant.changes, **control(kind, config).changes}
                if not _train_alike(config_from_flat({**base, **changes}), compared):
                    result.append(Variant(name, changes, kind, variant.name))
    return tuple(result)


def _train_alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether two configs differ in nothing but settings that have no effect in either."""
    mine, yours = config_to_flat(one), config_to_flat(other)
    idle = idle_settings(one).keys() & idle_settings(other).keys()
    return all(key in idle or yours[key] == value for key, value in mine.items())


def _judging(given: Any, where: str) -> Judging | None:
    if given is None or given is False:
        return None
    given = {} if given is True else given
    limits = {"pictures": (1, 64), "old_pictures": (1, 200), "steps": (1, 200), "few_steps": (0, 200)}
    good = isinstance(given, Mapping) and set(given) <= {*limits, "unguided"}
    if not good or not all(
        type(value) is bool if key == "unguided" else type(value) is int and limits[key][0] <= value <= limits[key][1]
        for key, value in given.items()
    ):
        said = ", ".join(f"{key} ({low} to {high})" for key, (low, high) in limits.items())
        raise StudyError(
            f"{where}: judge = {given!r:.80}: cannot be read.",
            f"It holds whole numbers: {said}; and unguided (true or false).",
        )
    return Judging(**given)


def _deciding(given: Any, where: str) -> tuple[str, ...]:
    """The measures that get an interval and a verdict; all where the file names none."""
    if given is None:
        return tuple(MEASURES)
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or not given
        or not set(map(str, given)) <= set(MEASURES)
    ):
        raise StudyError(f"{where}: deciding = {given!r:.80}: must list measures.", f"Measures: {', '.join(MEASURES)}.")
    return tuple(given)


def _check(study: Study, where: str) -> None:
    cells = study.cells()
    if len(cells) > MOST_RUNS:
        raise StudyError(
            f"{where}: has {len(cells)} runs, and a study at most {MOST_RUNS}.", "Take fewer variants or seeds."
        )
    settings: dict[str, str] = {}
    configs = _configs(study.variants, {**study.base, "seed": study.seeds[0]}, where)
    for variant in study.variants:
        config = configs[variant.name]
        flat = repr(config_to_flat(config)) + (variant.control or "")
        if flat in settings:
            raise StudyError(
                f"{where}: the variants '{settings[flat]}' and '{variant.name}' are the same settings.",
                "Leave one out.",
            )
        settings[flat] = variant.name
        if study.judging is not None and config.model.pretrained_model_name_or_path not in DEMO_PREDICTION_TYPES:
            raise StudyError(
                f"{where}: judge: reads pictures of the demo's models alone, and {variant.name} trains another one.",
                "Leave judge out.",
            )
        if study.similarity is not None and not config.validation.prompts:
            raise StudyError(
                f"{where}: similarity: compares the samples that a run draws at its end, and {variant.name} draws none.",
                "Set validation_prompts, or leave similarity out.",
            )
