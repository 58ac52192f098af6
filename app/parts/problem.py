"""A report of a problem: what somebody who can mend it needs, in one zip file that a person can read first. Nothing is sent anywhere.

Versions, the machine, the run's settings, its last events and the end of its log. Not in it: pictures, captions, weights, notes, the
environment; and in all texts secrets, folders, prompts and names of picture files are replaced by labels (`core/private_text.py`).
"""

import io
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ... import __version__
from ...core import machine, platform_calls
from ...core.adapters.header import PATHS, TEXTS
from ...core.data.scanning import located
from ...core.demo import BUILT_IN
from ...core.names import is_elsewhere, is_hub_id, not_a_path
from ...core.private_text import Private
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir
from .access import kept_tokens

EVENTS, LOG_LINES, MOST_NAMES = 400, 500, 5000
_KEPT_EVENTS = ("start", "prepared", "warning", "error", "end", "paused", "damaged")
"""Of these the newest are in it even where many steps came after them."""
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE",
              "ROLLOUT_STUDIO_LANGUAGE", "TORCHINDUCTOR_COMPILE_THREADS")  # fmt: skip
"""Of the environment these alone: none of them is a secret."""
_READ_ME = """A report of a problem with Rollout Studio {version}, made on {date} for the run {name}.

NOTHING WAS SENT. This file lies on your computer until you hand it on yourself. Please look through it first: it is text.

In it: the versions of programs, what this computer is, the settings of the run, its last events, the end of its log, and the names and
sizes of its files. Not in it: pictures, captions, weights, your notes, your environment.

Replaced by labels such as <home>, <instance_data_dir>, <secret>: passwords and tokens, folders, prompts and other words that you wrote,
names of picture files, the names of your account and of your computer. A program cannot recognise everything; the name of the run is kept.

Where to: the issues of the project on GitHub; or, where the problem is a weakness that others could use, see SECURITY.md.
"""


def write_problem(run: RunDir, target: Path, secrets: Iterable[str] = ()) -> Path:
    """Write the report of a run, damaged or not, to `target`; returns it.

    Args:
        secrets: words that must not be in it, beside those that this program knows of.

    Raises: OSError where it cannot be written.
    """
    config, config_problem = _config(run)
    private = Private(
        [*secrets, *kept_tokens(), *_hub_tokens()], _folders(run, config), _texts(config), _picture_names(config)
    )
    parts = {
        "READ-ME-FIRST.txt": _READ_ME.format(version=__version__, date=time.strftime("%Y-%m-%d"), name=run.name),
        "versions.json": versions(),
        "machine.json": private.value(_machine(run)),
        "config.json": private.value(_published(config))
        if config_problem is None
        else {"damaged": private.text(config_problem)},
        "state.json": private.value(_state(run)),
        "files.json": private.value(list(_files(run))),
        "events.jsonl": "".join(json.dumps(private.value(event), ensure_ascii=False) + "\n" for event in _events(run)),
        "log.txt": private.text(run.log_tail(LOG_LINES)),
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            text = (
                content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False, default=str)
            )
            archive.writestr(f"{run.name}-problem/{name}", text.encode("utf-8", "replace"))
    target.parent.mkdir(parents=True, exist_ok=True)
    platform_calls.write_atomically(target, data.getvalue())
    return target


def versions() -> dict[str, str]:
    """Of this program, Python and every package that is installed."""
    found = {each.name.lower(): each.version for each in metadata.distributions() if each.name}
    return {"rollout-studio": __version__, "python": sys.version.split()[0], **dict(sorted(found.items()))}


def _machine(run: RunDir) -> dict[str, Any]:
    parts = [{"name": each.name, **{meter.name: f"{meter.used:.1f} of {meter.total:.1f} {meter.unit}" for meter in each.meters}} for each in machine.reading()]  # fmt: skip
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "parts": parts,
        "free_bytes": platform_calls.free_bytes(run.path),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _config(run: RunDir) -> tuple[Mapping[str, Any], str | None]:
    try:
        return run.read_config(), None
    except RunError as error:
        return {}, str(error)


def _published(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with labels for what names a folder or holds what a person wrote; a hub id and a built-in model stay."""
    hidden = {key for key in (*TEXTS, "concepts") if config.get(key) not in (None, [])}
    hidden |= {key for key in PATHS if isinstance(config.get(key), str) and not _is_public(config[key])}
    return {key: f"<{key}>" if key in hidden else value for key, value in config.items()}


def _is_public(path: str) -> bool:
    return path in BUILT_IN or (is_hub_id(path) and not Path(path).exists())


def _folders(run: RunDir, config: Mapping[str, Any]) -> dict[str, str]:
    """Private folder -> its label, as it is written and in full."""
    found = {str(run.path.parent): "runs", str(run.path): "run"}
    for key in PATHS:
        path = config.get(key)
        if isinstance(path, str) and not _is_public(path):
            found[path] = key
            if not_a_path(path) is None and not is_elsewhere(path):
                found[str(Path(path).expanduser().absolute())] = key
    return found


def _texts(config: Mapping[str, Any]) -> dict[str, str]:
    """What a person wrote -> its label."""
    found: dict[str, str] = {}
    for key in (*TEXTS, "concepts"):
        values = config[key] if isinstance(config.get(key), list) else [config.get(key)]
        found |= {value: key for value in values if isinstance(value, str)}
    return found


def _picture_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the files in the folders of pictures, as far as they can be listed: a log may speak of one."""
    names: list[str] = []
    for key in ("instance_data_dir", "class_data_dir", "drift_data_dir"):
        folder = config.get(key)
        if (
            isinstance(folder, str)
            and folder not in BUILT_IN
            and not is_elsewhere(folder)
            and not_a_path(folder) is None
        ):
            try:
                with os.scandir(located(folder)) as entries:
                    names += [entry.name for _, entry in zip(range(MOST_NAMES), entries, strict=False)]
            except OSError:
                continue  # it is not there, which the log says
    return names


def _state(run: RunDir) -> dict[str, Any]:
    try:
        return run.read_state()
    except RunError as error:
        return {"damaged": str(error)}


def _events(run: RunDir) -> list[dict[str, Any]]:
    """The last ones, and before them the newest of those that say how it went."""
    try:
        events = run.events()[0]
    except OSError as error:
        return [{"event": "unreadable", "message": str(error)}]
    earlier, last = events[:-EVENTS], events[-EVENTS:]
    kept = [event for event in earlier if event["event"] in _KEPT_EVENTS and event["event"] != "damaged"]
    return [*kept[:1], *kept[1:][-100:], *last]


def _files(run: RunDir) -> Iterator[dict[str, Any]]:
    for path in sorted(run.path.rglob("*"))[:2000]:
        if path.is_file() and not path.is_symlink():
            yield {"file": path.relative_to(run.path).as_posix(), "bytes": path.stat().st_size}


def _hub_tokens() -> list[str]:
    """This account's log-in at the hub, which lies in a file."""
    from huggingface_hub import get_token

    token = get_token()
    return [] if token is None else [token]
