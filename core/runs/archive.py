"""A run as one zip file, to keep or to hand on."""

import shutil
import zipfile
from pathlib import Path

from .. import platform_calls
from ..inside import open_inside
from .errors import RunError
from .folder import RunDir
from .notes import FILE as NOTES

_OWN = {"run.lock", "process.json", "commands", NOTES}
"""Of a process on this machine, or a person's own notes."""


def pack(run: RunDir, target: Path, *, checkpoints: bool = False) -> Path:
    """Write everything of a run but its checkpoints to `target`; returns it. An older file there is replaced when the new one is whole.

    Args:
        target: outside the run. checkpoints: with them: resuming elsewhere needs the newest one, and each may be as large as the model.

    The LoRA's file carries its config as it does by itself; `config.json` and the log name folders of this computer.
    Cost: reads and writes all of it once; weights and pictures are stored as they are, because they hardly compress.
    """
    if target.absolute().is_relative_to(run.path):
        raise RunError(f"{target} lies in the run itself. Name a place outside {run.path}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with zipfile.ZipFile(unfinished, "w", strict_timestamps=False) as archive:
            for path in sorted(run.path.rglob("*")):
                parts = path.relative_to(run.path).parts
                left_out = parts[0] in _OWN or (parts[0] == run.checkpoints_path.name and not checkpoints)
                if not left_out and path.is_file() and not path.is_symlink():
                    text = path.suffix in (".json", ".jsonl", ".txt", ".html")
                    how = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
                    entry = zipfile.ZipInfo.from_file(path, "/".join((run.name, *parts)), strict_timestamps=False)
                    entry.compress_type = how
                    with open_inside(path, run.path) as file, archive.open(entry, "w") as packed:
                        shutil.copyfileobj(file, packed, 1 << 20)
        platform_calls.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
