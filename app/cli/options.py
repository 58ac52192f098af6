"""`rollout-studio options`: the reference of all options."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from ...core.config.reference import as_data, as_markdown, as_text
from .answers import DONE


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    options = command("options", _options, "Print the reference of all options.")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--markdown", action="store_true", help="as Markdown: the text of docs/options.md")


def _options(given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(as_data(), indent=2, ensure_ascii=False))
    else:
        print(as_markdown() if given.markdown else as_text(), end="")
    return DONE
