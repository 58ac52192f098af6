"""`rollout-studio graph run | check | nodes`: the arguments. `graph_actions` runs it, and imports all nodes: not for other commands."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT_OUT = "graph-output"


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    graph = command("graph", _graph, "Run, check or list node graphs.")
    actions = graph.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help, description=help, allow_abbrev=False)
        made.set_defaults(action=name)
        return made

    run = action("run", "Run a graph: trainings become runs, pictures are written to the output folder.")
    _add_file(run)
    run.add_argument(
        "--out",
        type=Path,
        default=Path(DEFAULT_OUT),
        metavar="DIR",
        help=f"folder for the results (default: {DEFAULT_OUT})",
    )
    run.add_argument(
        "--only",
        action="append",
        metavar="NODE",
        help="run for this node alone, with what it needs; may be given again",
    )
    run.add_argument(
        "--runs-dir", type=Path, metavar="DIR", help="folder of the runs (default: runs, or $ROLLOUT_STUDIO_RUNS)"
    )
    run.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="append every event as a line of JSON, for another program to follow",
    )
    run.add_argument("--stop-file", type=Path, metavar="FILE", help="stop, saving first, as soon as this file exists")
    run.add_argument(
        "--after",
        type=Path,
        metavar="FILE",
        help="wait for the process that this file names, as another graph's process.json does",
    )
    check = action("check", "List everything that is wrong with a graph; runs nothing.")
    _add_file(check)
    nodes = action("nodes", "List the nodes, with their inputs and outputs.")
    nodes.add_argument("--json", action="store_true", help="as JSON: everything that an editor needs")


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="a workflow (JSON), or a PNG or LoRA that carries one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change a field; may be given again"
    )


def _graph(given: argparse.Namespace) -> int:
    from . import graph_actions

    actions = {"run": graph_actions.run, "check": graph_actions.check, "nodes": graph_actions.nodes}
    return actions[given.action](given)
