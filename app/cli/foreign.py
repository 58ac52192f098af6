"""`rollout-studio import` and `export`: settings of other tools brought in, and ours written for SimpleTuner."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.config.options import ConfigError, Fault
from .answers import DONE, print_message
from .flags import add_config_source, add_runs_dir, resolve

if TYPE_CHECKING:
    from ...core.foreign.importing import Imported


def register(command: Callable[..., Any]) -> None:
    """Add the commands to the command line; `command` makes a parser of `main`'s."""
    importing = command(
        "import",
        _import,
        "Read the settings of another tool's training (SimpleTuner, kohya_ss, ai-toolkit, OneTrainer, diffusers' scripts), and say what became of each key.",
    )
    importing.add_argument("files", nargs="+", type=Path, metavar="FILE",
                           help="its config (.json, .toml, .yaml, or a shell script with the command line), and the files that it names, if they lie elsewhere")  # fmt: skip
    importing.add_argument(
        "--out", type=Path, metavar="FILE", help="write the settings as a config.json; without it they are printed"
    )
    importing.add_argument(
        "--all",
        action="store_true",
        help="also list the keys that were off there, or change nothing of what is learned",
    )
    exporting = command(
        "export",
        _export,
        "Write settings as the files of another tool.",
        usage="rollout-studio export [--preset NAME | --config FILE] [--set KEY=VALUE ...] --out FOLDER",
    )
    add_config_source(exporting)
    add_runs_dir(exporting)
    exporting.add_argument(
        "--to", choices=["simpletuner"], default="simpletuner", help="the tool (default: simpletuner)"
    )
    exporting.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="where its files are written; existing ones are never replaced",
    )


def _import(given: argparse.Namespace) -> int:
    from ...core.foreign.importing import import_file, import_files

    missing = [Fault(f"{path}: there is no such file; check the path.") for path in given.files if not path.is_file()]
    if missing:
        raise ConfigError(missing)
    if len(given.files) == 1:
        found = import_file(given.files[0])
    else:
        found = import_files({path.name: path for path in given.files}, beside=True)
    for line in _lines(found, given.all):
        print_message(line)
    if given.out is not None and given.out.exists():
        raise ConfigError([Fault(f"{given.out} exists already; name another file with --out.")])
    if given.out is None:
        print(found.config.to_json())
    else:
        _write(given.out, found.config.to_json() + "\n")
        print_message(f"Written: {given.out}. Train with it: rollout-studio train --config {given.out}")
    return DONE


def _lines(found: "Imported", everything: bool) -> list[str]:
    """The lists, one line a key."""
    from ...core.foreign.importing import short_key, shown_value, summary

    lines = [summary(found)]
    if found.fill_in:
        lines.append(f"Fill in: {', '.join(found.fill_in)}")
    if found.carried:
        lines.append(f"Carried over ({len(found.carried)}):")
        lines += [f"  {short_key(each.key)} -> {each.option} = {shown_value(each.value)}" for each in found.carried]
    if found.changed:
        lines.append(f"Changed in meaning ({len(found.changed)}):")
        lines += [f"  {short_key(each.key)} = {shown_value(each.given)}: {each.how}" for each in found.changed]
    lines += [f"  {note}" for note in found.notes]
    if found.left_out:
        lines.append(f"Left out ({len(found.left_out)}):")
        lines += [f"  {short_key(key)} = {shown_value(value)}: {why}" for key, value, why in found.left_out]
    quiet = found.quiet
    if quiet and everything:
        lines.append(f"Off there, or without effect on what is learned ({len(quiet)}):")
        lines += [f"  {short_key(each.key)} = {shown_value(each.given)}: {each.why}" for each in quiet]
    elif quiet:
        lines.append(f"{len(quiet)} more were off there, or change nothing of what is learned; --all lists them.")
    return lines


def _export(given: argparse.Namespace) -> int:
    from ...core.foreign.importing import shown_value
    from ...core.foreign.simpletuner_export import export

    config, _ = resolve(given)
    exported = export(config)
    files = exported.texts()
    there = [
        Fault(f"{given.out / name}: exists already; choose another folder.")
        for name in files
        if (given.out / name).exists()
    ]
    if there:
        raise ConfigError(there)
    for name, content in files.items():
        _write(given.out / name, content + "\n")
    for each in exported.changed:
        print_message(f"Changed in meaning: {each.key} = {shown_value(each.given)}: {each.how}")
    for one in exported.left:
        print_message(f"Left out: {one.key} = {shown_value(one.given)}: {one.why}")
    print_message(f"Written to {given.out}: {', '.join(files)}")
    return DONE


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([Fault(f"{path}: cannot be written ({error.strerror}).")]) from None
