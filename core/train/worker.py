"""The detached process that trains one run: `python -m rollout_studio.core.train.worker RUN_DIR [--resume]`.

The page, the queue and `rollout-studio train` start it; what it reports is in the run's events. Exit codes: see
`outcome`.
"""

import os
import sys
from functools import partial
from pathlib import Path

from ..runs.run_log import end_memory_words, prepared_words


def main(arguments: list[str]) -> int:
    """Train the run in `arguments[0]`; prints what must not get lost into log.txt."""
    from ..platform_calls import use_all_cores
    from ..runs.errors import RunError
    from ..runs.folder import RunDir
    from ..runs.heartbeat import Heartbeat
    from .interrupt import Interrupt

    flags = [argument for argument in arguments if argument.startswith("-")]
    paths = [argument for argument in arguments if not argument.startswith("-")]
    if len(paths) != 1 or set(flags) - {"--resume"}:
        print("usage: python -m rollout_studio.core.train.worker RUN_DIR [--resume]", file=sys.stderr)
        return 78
    run = RunDir(Path(paths[0]))
    try:
        run.read_config()
    except RunError as error:
        print(error, file=sys.stderr)
        return 78

    # before torch, whose import takes long enough for a signal to come
    with Interrupt(leave=os._exit) as interrupt, Heartbeat(run, on_request=True) as heartbeat:
        import torch

        from .launch import launch, needs_launch
        from .loop import train
        from .outcome import REFUSED

        start = partial(train, heartbeat=heartbeat)
        if needs_launch(run):
            heartbeat.stop()  # the first rank's is the run's
            start = launch
            print(f"training {run.name} in several processes, torch {torch.__version__}", flush=True)
        else:
            threads = use_all_cores()
            print(f"training {run.name} with {threads} threads, torch {torch.__version__}", flush=True)
        try:
            return start(run, resume="--resume" in flags, listen=_log, interrupt=interrupt)
        except RunError as error:  # another process trains this run
            print(error, file=sys.stderr)
            return REFUSED


def _log(event: dict) -> None:
    """One line per event that a person may look for in log.txt; steps and progress are in events.jsonl."""
    if event["event"] in ("step", "phase"):
        return
    if event["event"] == "error":
        print(event["traceback"], f"error: {event['message']}", f"  -> {event['remedy']}", sep="\n", flush=True)
    elif event["event"] == "warning":
        print(f"warning: {event['message']}", f"  -> {event['remedy']}", sep="\n", flush=True)
    elif event["event"] == "prepared":
        print(prepared_words(event), flush=True)
    else:
        print(
            event["event"],
            *(f"{key}={value}" for key, value in event.items() if key in ("step", "path", "state", "message", "name")),
            flush=True,
        )
    if event["event"] == "end" and (words := end_memory_words(event)):
        print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
