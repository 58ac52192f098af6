"""Flags that several commands share, and the config that they result in.

Every option of a run is a flag here because it is declared in `core/config/sections/`; nothing is declared twice.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.config import (
    OPTIONS,
    ROLLOUT_LEVELS,
    RunConfig,
    config_from_flat,
    read_flat,
    rollout_level,
    tier_changes,
    tier_for,
)
from ...core.config.options import ConfigError, Fault
from ...core.config.own_presets import find_preset
from ...core.config.reference import default_of, values_of
from ...core.texts import translated


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """--runs-dir: where runs are kept."""
    parser.add_argument(
        "--runs-dir", type=Path, metavar="DIR", help="folder of the runs (default: runs, or $ROLLOUT_STUDIO_RUNS)"
    )


def add_config_source(parser: argparse.ArgumentParser) -> None:
    """--preset, --config, --tier, --level and --set: where a config comes from."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--preset", metavar="NAME", help="start from a preset, also one of your own; see: rollout-studio presets"
    )
    source.add_argument(
        "--config", type=Path, metavar="FILE", help="start from a config.json; absent keys have their defaults"
    )
    parser.add_argument(
        "--tier",
        type=float,
        metavar="GB",
        help="of the preset, the settings for a graphics card of so many GB; `rollout-studio presets` lists them",
    )
    parser.add_argument(
        "--level", choices=ROLLOUT_LEVELS, help="how much rollout: a named level; its numbers depend on max_train_steps"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one option; may be given again"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option as a flag. Values stay text here: reading and refusing is the config's, and collects all faults."""
    groups: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if option.section not in groups:
            groups[option.section] = parser.add_argument_group(f"{option.section.replace('_', ' ')} options")
        about = f"{translated(option.help)} ({values_of(option)}; default {default_of(option)})".replace("%", "%%")
        how: dict[str, Any] = {
            "metavar": "VALUE",
            "help": about,
            "dest": f"option:{name}",
            "default": argparse.SUPPRESS,
        }
        if option.type == "bool":
            how |= {"nargs": "?", "const": "true"}
        elif option.type.startswith("list"):
            how |= {"nargs": "*"}
        groups[option.section].add_argument(f"--{name}", **how)


def changes_of(given: argparse.Namespace) -> dict[str, Any]:
    """What the flags and `--set` change, flags last; every value still text."""
    changes: dict[str, Any] = {}
    faults = []
    for each in given.set:
        key, equals, value = each.partition("=")
        if not equals:
            faults.append(Fault(f"--set {each}: must be KEY=VALUE, for example --set learning_rate=1e-4."))
        changes[key.strip().removeprefix("--")] = value
    if faults:
        raise ConfigError(faults)
    for key, value in vars(given).items():
        if key.startswith("option:"):
            changes[key.removeprefix("option:")] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return changes


def resolve(given: argparse.Namespace, base: Mapping[str, Any] | None = None) -> tuple[RunConfig, str | None]:
    """(the config that the command line results in, the preset's name). Faults of file, --set and flags come together.

    Later ones win: preset or file, tier, level, --set, flags.
    """
    if given.tier is not None and given.preset is None:
        raise ConfigError([Fault("--tier: needs --preset, whose settings for a graphics card it chooses.")])
    if base is None:
        base = {}
        if given.preset is not None:
            preset = find_preset(given.preset, runs_dir(given))
            tier = {} if given.tier is None else tier_changes(preset, tier_for(preset, given.tier))
            base = {**preset.changes, **tier}
        elif given.config is not None:
            # Bare keys, so that a flag replaces the key of the file however it is written there.
            written = read_flat(given.config)
            base = {str(key).removeprefix("--"): value for key, value in written.items()}
            if len(base) < len(written):
                config_from_flat(written)  # the same key bare and with dashes: refused there, with its name
    changes = changes_of(given)
    if given.level is not None:
        steps = config_from_flat({**base, **changes}).training.max_train_steps
        base = {**base, **rollout_level(given.level, steps)}
    return config_from_flat({**base, **changes}), given.preset


def runs_dir(given: argparse.Namespace) -> Path:
    """The folder of the runs that a command was given, or the usual one."""
    return default_runs_dir() if given.runs_dir is None else given.runs_dir


def default_runs_dir() -> Path:
    """Where runs are kept unless --runs-dir is given."""
    from ...core.runs.root import DEFAULT_ROOT, ROOT_VARIABLE

    return Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT))
