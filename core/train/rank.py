"""One of several processes of a run: `python -m rollout_studio.core.train.rank RUN_DIR MEETING [--resume]`. `launch` starts them.

MEETING is a folder in which a rank says that it hears signals (`<rank>.pid`), and rank 0 with which exit code the run has ended (`code`).
An orderly end is exit code 0 here, so that the elastic agent starts ranks again only after a crash or a kill.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

ORDERLY = (0, 75, 78)


def main(arguments: list[str]) -> int:
    """Train as the rank that the environment names. See the module for the arguments and the exit code."""
    from ..platform_calls import use_all_cores
    from ..runs.folder import RunDir
    from ..runs.heartbeat import Heartbeat
    from .interrupt import Interrupt

    run, meeting = RunDir(Path(arguments[0])), Path(arguments[1])
    rank, is_again = os.environ["RANK"], int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    code_path = meeting / "code"
    if is_again and code_path.exists() and int(code_path.read_text(encoding="ascii")) in ORDERLY:
        return 0  # the run has ended; only another rank broke while it left

    def left_with(code: int) -> int:
        """The exit code of this process; rank 0 also leaves the run's."""
        if rank == "0":
            code_path.write_text(str(code), encoding="ascii")
        return 0 if code in ORDERLY else code

    beats = Heartbeat(run, on_request=True) if rank == "0" else nullcontext()
    with Interrupt(leave=lambda code: os._exit(left_with(code))) as interrupt, beats as heartbeat:
        (meeting / f"{rank}.pid").write_text(str(os.getpid()), encoding="ascii")
        from .loop import train

        use_all_cores()
        has_checkpoint = run.last_checkpoint() is not None
        if is_again and rank == "0":
            code_path.unlink(missing_ok=True)
            if not has_checkpoint:
                run.forget_after(0)  # it begins again
        resume = has_checkpoint if is_again else "--resume" in arguments
        code = train(run, resume=resume, interrupt=interrupt, is_locked=True, heartbeat=heartbeat)
    return left_with(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
