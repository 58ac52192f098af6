"""`rollout-studio presets`: what one may start from."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from ...core.config import Tier, preset_names, read_preset
from ...core.config.options import shown
from ...core.config.own_presets import find_preset, own_presets
from .answers import DONE, print_message
from .flags import add_runs_dir, runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    presets = command("presets", _presets, "List the presets, your own among them, or print one.")
    presets.add_argument("name", nargs="?", metavar="NAME")
    add_runs_dir(presets)


def _with(tier: Tier) -> str:
    """What a tier changes of its preset."""
    return "".join(f", {key} {shown(value)}" for key, value in tier.changes.items())


def _presets(given: argparse.Namespace) -> int:
    folder = runs_dir(given)
    if given.name is None:
        own, broken = own_presets(folder)
        for preset in (*(read_preset(name) for name in preset_names()), *own):
            mark = "" if preset.file is None else " (yours)"
            print(f"{preset.name}: {preset.title}{mark}\n    {preset.description}\n    Needs: {preset.needs}")
            for about, words in (("Licence", preset.licence), ("Access", preset.gate), ("Settings", preset.source)):
                if words:
                    print(f"    {about}: {words}")
            for tier in preset.tiers:
                print(f"    --tier {tier.gb}: {tier.words}{_with(tier)}")
        for wrong in broken.values():
            print_message(f"Cannot be used: {wrong}")
        return DONE
    preset = find_preset(given.name, folder)
    print(json.dumps(dict(preset.changes), indent=2, ensure_ascii=False))
    return DONE
