"""`rollout-studio ui`: the page."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...core.config.options import ConfigError, Fault
from ..parts.listening import LOGIN_VARIABLE, Listening, read_listening
from .flags import add_runs_dir


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    ui = command("ui", _ui, "Start the page and open it in the browser.")
    ui.add_argument(
        "--port", type=int, default=None, help="port on this machine (default 7860); taken = the next free one"
    )
    ui.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_runs_dir(ui)
    ui.add_argument(
        "--let-everyone-on-this-machine-in",
        action="store_true",
        help="ask for no link: every program and account of this machine may use the page; never with --listen",
    )
    far = ui.add_argument_group("other machines (docs/security.md)")
    far.add_argument(
        "--listen", metavar="ADDRESS", help="serve other machines, with a login; 0.0.0.0 = on every address"
    )
    far.add_argument("--login-file", type=Path, metavar="FILE", help=f"file with NAME:PASSWORD (or ${LOGIN_VARIABLE})")
    far.add_argument(
        "--listen-name", action="append", default=[], metavar="NAME", help="a name of this page in browsers; repeatable"
    )
    far.add_argument("--tls-certificate", type=Path, metavar="FILE", help="serve HTTPS: certificate chain, PEM")
    far.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM, without a password")


def _ui(given: argparse.Namespace) -> int:
    if given.port is not None and not 1 <= given.port <= 65535:
        raise ConfigError([Fault(f"--port {given.port}: must be 1 to 65535.")])
    listening = _listening(given)
    from ..page import serve  # imports Gradio: seconds

    return serve(
        port=given.port,
        runs_dir=given.runs_dir,
        open_browser=not given.no_browser,
        listening=listening,
        everyone=given.let_everyone_on_this_machine_in,
    )


def _listening(given: argparse.Namespace) -> Listening | None:
    """How other machines are served, or None. Raises ConfigError."""
    others = {"--login-file": given.login_file, "--listen-name": given.listen_name or None,
              "--tls-certificate": given.tls_certificate, "--tls-key": given.tls_key}  # fmt: skip
    if given.listen is None:
        alone = [
            Fault(f"{name}: does something only with --listen ADDRESS.") for name, value in others.items() if value
        ]
        if alone:
            raise ConfigError(alone)
        return None
    if given.let_everyone_on_this_machine_in:
        raise ConfigError([Fault("--let-everyone-on-this-machine-in: not with --listen, which needs a login. Leave one out.")])  # fmt: skip
    return read_listening(
        given.listen, given.login_file, tuple(given.listen_name), given.tls_certificate, given.tls_key
    )
