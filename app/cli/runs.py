"""`rollout-studio runs`: the runs of a folder, and commands for one of them."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config import config_from_flat, differences
from ...core.config.options import shown
from ...core.runs.archive import pack
from ...core.runs.commands import COMMANDS
from ...core.runs.errors import RunError, StorageError
from ...core.runs.store import RunStore
from ...core.sizes import size
from .answers import DONE, print_message
from .flags import add_runs_dir

_TRASH = ("trash", "restore", "empty-trash")
"""List the deleted runs; bring one back; remove one, or all, for good."""


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    runs = command("runs", _runs, "List runs, show or export one, delete one or bring it back, or send one a command.")
    runs.add_argument("action", nargs="?", default="list", choices=("list", "show", "log", "export", "delete", *_TRASH, *COMMANDS), metavar="ACTION",
                      help=f"list (default), show, log, export, delete, {', '.join(_TRASH)}, or a command: {', '.join(COMMANDS)}")  # fmt: skip
    runs.add_argument("name", nargs="?", metavar="RUN")
    runs.add_argument("--yes", action="store_true", help="delete and empty without asking")
    runs.add_argument("--for-good", action="store_true", help="delete without the trash; frees the room at once")
    runs.add_argument("--out", type=Path, metavar="FILE", help="export: where to; RUN.zip here")
    runs.add_argument("--checkpoints", action="store_true", help="export with the checkpoints, to resume elsewhere")
    runs.add_argument("--json", action="store_true", help="list or show as JSON")
    add_runs_dir(runs)


def _runs(given: argparse.Namespace) -> int:
    store = RunStore(given.runs_dir)
    try:
        store.reconcile()
        if given.action == "list":
            store.pump()  # a queue moves whenever it is listed
    except StorageError as error:  # a full or read-only disk: what is there can still be listed
        print_message(f"{error} Until then no waiting run starts.")
    if given.action == "list":
        return _list_runs(store, as_json=given.json)
    if given.action == "trash":
        for thrown in store.trash():
            print(f"{thrown.name:<32}  {size(thrown.size_bytes()):>10}  deleted {time.strftime('%Y-%m-%d %H:%M', time.localtime(thrown.when))}")  # fmt: skip
        return DONE
    if given.action == "empty-trash":
        return _empty_trash(store, given)
    if given.name is None:
        raise RunError(f"rollout-studio runs {given.action} needs the name of a run; `rollout-studio runs` lists them.")
    if given.action == "show":
        return _show_run(store, given.name, as_json=given.json)
    if given.action == "log":
        print(store.get(given.name).log_tail(), end="")
    elif given.action == "delete":
        run = store.get(given.name)
        what = f"Remove run {given.name} with everything in {run.path} for good?"
        if not given.for_good:
            what = f"Move run {given.name} with everything in {run.path} to the trash?"
        if not given.yes and not _agreed(what):
            print_message("Kept.")
            return DONE
        store.delete(given.name, for_good=given.for_good)
        how = f"in the trash: `rollout-studio runs restore {given.name}` brings it back, `runs empty-trash` frees the room"
        print_message(f"{given.name} is {'removed' if given.for_good else how}.")
    elif given.action == "export":
        path = pack(
            store.get(given.name),
            Path(f"{given.name}.zip") if given.out is None else given.out,
            checkpoints=given.checkpoints,
        )
        print_message(f"{path}, {size(path.stat().st_size)}.")
    elif given.action == "restore":
        print_message(f"{store.restore(given.name).name} is back.")
    else:
        store.send(given.name, given.action)
        print_message(
            f"Sent {given.action} to {given.name}; it takes effect at once, sample and drift when the current step is over."
        )
    return DONE


def _empty_trash(store: RunStore, given: argparse.Namespace) -> int:
    there = [thrown for thrown in store.trash() if given.name in (None, thrown.name)]
    if given.name is None and not there:
        print_message("The trash is empty.")
        return DONE
    room = size(sum(thrown.size_bytes() for thrown in there))
    names = ", ".join(thrown.name for thrown in there) if there else given.name
    if not given.yes and not _agreed(f"Remove {names} ({room}) for good?"):
        print_message("Kept.")
        return DONE
    store.empty_trash(*([] if given.name is None else [given.name]))
    print_message(f"Removed {names}; {room} are free.")
    return DONE


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise RunError(f"{question} There is no terminal to ask in; give --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _row(summary: Any) -> dict[str, Any]:
    return {
        "name": summary.name,
        "state": summary.state,
        "step": summary.step,
        "total_steps": summary.total_steps,
        "last_checkpoint": summary.last_checkpoint,
        "preset": summary.preset,
        "message": summary.message if summary.stalled is None else summary.stalled,
        "path": str(summary.path),
    }


def _list_runs(store: RunStore, *, as_json: bool) -> int:
    summaries = store.list()
    if as_json:
        print(json.dumps([_row(summary) for summary in summaries], indent=2, ensure_ascii=False))
        return DONE
    if not summaries:
        print(f"No runs in {store.root} yet. Start one: rollout-studio train --preset demo")
    for summary in summaries:
        at = (
            ""
            if summary.step is None
            else f"step {summary.step}" + ("" if summary.total_steps is None else f" of {summary.total_steps}")
        )
        print(f"{summary.name:<32}  {summary.state:<9} {at:<20} {_row(summary)['message'] or ''}".rstrip())
    return DONE


def _show_run(store: RunStore, name: str, *, as_json: bool) -> int:
    run = store.get(name)
    row = _row(store.summary(run))
    changed = differences(config_from_flat(run.read_config()))
    if as_json:
        print(json.dumps({**row, "differences": changed}, indent=2, ensure_ascii=False))
        return DONE
    for key, value in row.items():
        if value is not None:
            print(f"{key}: {value}")
    print("differences from the defaults:")
    for key, value in changed.items():
        print(f"  {key} = {shown(value)}")
    failure = store.failure(name)
    if failure is not None:
        print(f"last error: {failure['message']} {failure.get('remedy') or ''}".rstrip())
    return DONE
