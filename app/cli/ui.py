"""`rollout-studio ui`: the page."""

import argparse
from collections.abc import Callable
from typing import Any

from ...core.config.options import ConfigError, Fault
from .flags import add_runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    ui = command("ui", _ui, "Start the page and open it in the browser.")
    ui.add_argument(
        "--port", type=int, default=None, help="port on this machine (default 7860); taken = the next free one"
    )
    ui.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_runs_dir(ui)


def _ui(given: argparse.Namespace) -> int:
    if given.port is not None and not 1 <= given.port <= 65535:
        raise ConfigError([Fault(f"--port {given.port}: must be 1 to 65535.")])
    from ..page import serve  # imports Gradio: seconds

    return serve(port=given.port, runs_dir=given.runs_dir, open_browser=not given.no_browser)
