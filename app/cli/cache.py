"""`rollout-studio cache`: what the cache of latents and encoded captions holds, and how it is emptied or made smaller."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError, Fault
from ...core.sizes import size
from .answers import DONE, print_message
from .flags import add_runs_dir, runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    cache = command("cache", _cache, "Show what the cache of prepared pictures and captions holds, or empty it.")
    cache.add_argument("--dir", metavar="DIR", help="a data_cache_dir (default: the cache in the runs folder)")
    how = cache.add_mutually_exclusive_group()
    how.add_argument(
        "--empty", nargs="?", const="all", metavar="KIND", help="remove all entries, or one kind: latents, text"
    )
    how.add_argument("--limit", type=float, metavar="GB", help="remove what was unused for longest, down to this size")
    add_runs_dir(cache)


def _cache(given: argparse.Namespace) -> int:
    from ...core.data.scanning import located  # with Pillow: other commands answer without it
    from ...core.data.tidying import KINDS, amounts, empty, tidy

    if given.empty not in (None, "all", *KINDS):
        raise ConfigError([Fault(f"--empty {given.empty}: there is no such kind. The kinds: all, {', '.join(KINDS)}.")])
    folder = located(given.dir) if given.dir is not None else Path(runs_dir(given)) / ".cache"
    if not folder.is_dir():
        print_message(f"There is no cache in {folder}.")
        return DONE
    if given.limit is not None and not given.limit >= 0:
        raise ConfigError([Fault(f"--limit {given.limit:g}: must be 0 or more GB.")])
    if given.empty is not None:
        removed = empty(folder, KINDS if given.empty == "all" else (given.empty,))
        print_message(f"Removed {removed.files} files, {size(removed.bytes_)}.")
    if given.limit is not None:
        removed = tidy(folder, given.limit * 1e9, in_use_s=0)
        print_message(f"Removed {removed.files} files, {size(removed.bytes_)}.")
    print(f"Cache in {folder}:")
    for kind, amount in amounts(folder).items():
        what = KINDS.get(kind, "generated class pictures; delete their folder by hand")
        print(f"  {kind:8} {size(amount.bytes_):>10} in {amount.files} files  ({what})")
    return DONE
