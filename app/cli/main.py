"""The command line: `rollout-studio ui | train | study | drift | sample | caption | lora | runs | report | report-problem | cloud | cache | options |
presets | import | export | graph`, one file a command.

Torch, diffusers and Gradio are imported only by the command that needs them, so that help and the reference answer at once. Exit codes:
`answers`.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from ... import __version__
from ...core import platform_calls
from ...core.config import OPTIONS
from ...core.config.options import ConfigError, Fault, did_you_mean
from ...core.errors import Trouble
from ...core.memory import is_out_of_memory, memory_message
from ...core.texts import translated
from . import (
    cache,
    caption,
    cloud,
    drift,
    foreign,
    graph,
    lora,
    options,
    presets,
    problem,
    report,
    runs,
    sample,
    study,
    train,
    ui,
)
from .answers import BAD_CONFIG, CRASH, DONE, print_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A person's mistake is reported in one message, without a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower() not in ("utf-8", "utf8") and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # a Windows pipe: config files and reports are UTF-8
    try:
        translated("Rollout Studio")
    except Trouble as error:  # the catalogue itself cannot be read, so this is said in English
        print(error, file=sys.stderr)
        return BAD_CONFIG
    parser = _parser()
    try:
        given, unknown = parser.parse_known_args(arguments)
    except SystemExit as leave:  # argparse has printed the help or what it did not understand
        return int(leave.code or 0)
    try:
        if unknown:
            raise ConfigError(_unknown_faults(unknown))
        platform_calls.sleep_while_waiting()  # before any command imports torch: train, sample, drift and graph compute here
        code = given.run(given)
        sys.stdout.flush()  # here, where a reader that has left is dealt with
        return code
    except (ConfigError, Trouble) as error:
        print_message(str(error))
        return BAD_CONFIG
    except KeyboardInterrupt:
        print_message("Interrupted.")
        return 130
    except BrokenPipeError:
        # the reader of our output left (`| head`): nothing to print, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:  # noqa: BLE001 - the last line of defence: reported with its traceback, and an exit code of its own
        traceback.print_exc()
        if is_out_of_memory(error):
            print_message(f"{memory_message(error)} Close other programs that hold memory, or request fewer or smaller pictures (--width, --height), "
                "base_model_precision bfloat16, or device cpu.")  # fmt: skip
        else:
            print_message(f"Crashed: {type(error).__name__}: {error}")
        return CRASH


def _unknown_faults(unknown: Sequence[str]) -> list[Fault]:
    faults = []
    for word in unknown:
        if not word.startswith("--"):
            continue  # the value of an unknown flag: reported with the flag
        name = word[2:].partition("=")[0]
        near = did_you_mean(name.replace("-", "_"), OPTIONS)
        faults.append(
            Fault(f"Unknown option '{name}'.{near if near else ' All names: rollout-studio options.'}", (name,))
        )
    return faults if faults else [Fault(f"Not understood: {' '.join(unknown)}. See: rollout-studio --help.")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "rollout-studio",
        description="See how a diffusion model drifts on its own output, and train with rollout and ReflexFlow.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rollout-studio {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str, usage: str | None = None) -> Any:
        # argparse's own usage would list every option before each message
        made = commands.add_parser(name, help=help, description=help, usage=usage, allow_abbrev=False)
        made.set_defaults(run=run)
        return made

    for each in (
        ui,
        train,
        study,
        drift,
        sample,
        caption,
        runs,
        lora,
        report,
        problem,
        cloud,
        cache,
        options,
        presets,
        foreign,
        graph,
    ):
        each.register(command)
    return parser
