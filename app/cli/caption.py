"""`rollout-studio caption`: captions for a folder of pictures by a model that looks at them. The work is in `core/captioning`."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from ...core.captioning.settings import OPTIONS, read_settings
from ...core.config.reference import default_of, values_of
from ...core.findings import printable
from ...core.texts import translated
from .answers import DONE, print_message
from .progress import Progress


def register(command: Callable[..., Any]) -> None:
    """Add the command to the command line; `command` makes a parser of `main`'s."""
    caption = command(
        "caption",
        _caption,
        "Write a caption beside every picture of a folder that has none, by a local model that looks at them.",
        usage="rollout-studio caption FOLDER [--model M] [--download] [settings]",
    )
    caption.add_argument("folder", metavar="FOLDER", help="the pictures; photo.txt is written beside photo.png")
    for field, option in OPTIONS.items():
        about = f"{translated(option.help)} ({values_of(option)}; default {default_of(option)})".replace("%", "%%")
        how: dict[str, Any] = {
            "metavar": "VALUE",
            "help": about,
            "dest": f"caption:{field}",
            "default": argparse.SUPPRESS,
        }
        if option.type == "bool":
            how |= {"nargs": "?", "const": "true"}
        caption.add_argument(f"--{field.replace('_', '-')}", **how)
    caption.add_argument(
        "--dry-run",
        action="store_true",
        help="say which pictures get a caption and what would be loaded or downloaded, and stop",
    )


def _caption(given: argparse.Namespace) -> int:
    settings = read_settings(
        {key.removeprefix("caption:"): value for key, value in vars(given).items() if key.startswith("caption:")}
    )

    from ...core.captioning.writing import model_words, outlook, write_captions  # with Pillow

    if given.dry_run:
        made, found = outlook(given.folder, settings)
        print(
            f"{_count(len(made.wanted), 'picture')} of {made.folder} to caption; {made.kept + made.done} have a caption."
        )
        for each in made.skipped:
            print(f"  left out: {printable(each.picture)}: {each.reason.rstrip('.')}. {each.remedy}".rstrip())
        print(f"{model_words(found)}.")
        return DONE
    progress = Progress(sys.stderr)

    def say(event: str, **values: Any) -> None:
        if event == "plan":
            print_message(
                f"{_count(values['total'], 'picture')} to caption; {values['kept'] + values['done']} have a caption."
            )
        elif event == "download":
            progress.phase("download (MiB)", values["done"] >> 20, values["total"] >> 20)
        elif event == "model":
            print_message(f"Opening {values['name']} ({values['kind']}).")
        elif event == "written":
            print(f"{printable(values['picture'])}: {printable(values['caption'])}", flush=True)
            progress.phase("captions written", values["done"], values["total"])
        elif event == "skipped":
            print_message(
                f"Left out: {printable(values['picture'])}: {values['reason'].rstrip('.')}. {values['remedy']}".rstrip()
            )

    try:
        result = write_captions(given.folder, settings, say, lambda: False)
    except KeyboardInterrupt:
        print_message("Stopped. What was written stays; the same command does the rest.")
        raise
    finally:
        progress.close()
    print_message(f"{_count(result.written, 'caption')} written, {_count(result.skipped, 'picture')} left out.")
    return DONE


def _count(count: int, thing: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
