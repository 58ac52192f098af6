"""The process that writes captions for the page: `python -m rollout_studio.core.captioning.worker REQUEST`.

REQUEST is a JSON file: `{"folder", "settings"}`. Each line of its output is an event of `writing` as JSON, at the end `finished` or
`refused` (message, remedy). It stops after the current batch when its input ends, which is also when the page is gone.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from ..config.options import ConfigError
from ..errors import Trouble
from .settings import read_settings
from .writing import write_captions


def main(arguments: list[str]) -> int:
    """See the module. The exit code is 0 with an answer, whatever it is."""
    # The protocol gets a channel of its own; what libraries print goes to the log.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    over = threading.Event()

    def listen() -> None:
        sys.stdin.buffer.read()
        over.set()

    def say(event: str, **values: Any) -> None:
        try:
            out.write(json.dumps({"event": event, **values}).encode() + b"\n")
            out.flush()
        except OSError:  # the page is gone; what is written stays
            os._exit(0)

    threading.Thread(target=listen, daemon=True, name="input").start()
    try:
        request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        settings = read_settings(request["settings"])
        if not settings.download:
            os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's library is imported: nothing may ask it
        write_captions(request["folder"], settings, say, over.is_set)
    except ConfigError as error:
        say("refused", message=" ".join(fault.message for fault in error.faults), remedy="")
    except Trouble as error:
        say("refused", message=error.message, remedy=error.remedy)
    except Exception as error:  # noqa: BLE001 - the answer says what it was; the log has its traceback
        traceback.print_exc()
        say(
            "refused",
            message=f"{type(error).__name__}: {error}",
            remedy="See the log; captions that were written stay.",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
