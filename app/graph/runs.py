"""Runs of node graphs: started as processes of their own, followed by reading their events.

    <runs>/.graphs/<time>/   graph.json   events.jsonl   log.txt   process.json   after.json   stop   results/

The page's process never runs a node: it starts `rollout-studio graph run`, which goes on when the page ends, and a reload or another
viewer finds it by these files. One graph runs at a time on a runs folder; stopping it leaves the file `stop`. A graph started while
another one is stopping waits for that one, whose process `after.json` names, and goes on from what it saved.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core import platform_calls
from ...core.errors import Trouble
from ...core.names import NAME
from ...core.runs.errors import RunError
from ...core.runs.folder import RunDir, check_name
from ...core.runs.run_log import AT_ONCE, RunLog, follow
from ...core.runs.store import RunStore
from ...nodes.graph import validate
from ...nodes.graph.graph import Graph, GraphError, to_json
from ...nodes.reading import read_file
from ..parts.charts import smoothed, thinned
from ..parts.previews import Previews

FOLDER = ".graphs"
COMMAND = (sys.executable, "-m", "rollout_studio.app", "graph", "run")
PICTURES_SHOWN = 12
LOSS_POINTS = 160
TEXT_SHOWN = 4000
LOG_SHOWN = 1500
_CHUNK = 1 << 20
_ENDED = ("done", "failed", "interrupted", "refused", "crashed")


class Busy(Trouble):
    """Another graph is running on this runs folder."""


@dataclass
class NodeStatus:
    """What is known of one node of a run so far."""

    id: str
    state: str = "waiting"
    message: str = ""
    remedy: str = ""
    seconds: float | None = None
    done: int = 0
    total: int = 0
    what: str = ""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    run: str | None = None
    """The run of the run store that it trains."""


@dataclass
class _Digest:
    """The digest of one run's events, and how far they have been read."""

    offset: int = 0
    nodes: dict[str, NodeStatus] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)
    end: Mapping[str, Any] | None = None
    last: float | None = None


class GraphRuns:
    """All runs of graphs on one runs folder. Thread-safe."""

    def __init__(self, store: RunStore, previews: Previews, command: Sequence[str] | None = None) -> None:
        self.root = store.root / FOLDER
        self._store, self._previews, self._command = store, previews, tuple(COMMAND if command is None else command)
        self._lock = threading.RLock()
        self._digests: dict[str, _Digest] = {}
        self._children: dict[str, subprocess.Popen] = {}
        self._drawn: tuple[Any, dict[str, Any] | None] = (None, None)

    # -- commands

    def start(self, graph: Graph, only: Iterable[str] | None = None) -> str:
        """Start a checked graph; returns the run's name.

        Raises: GraphError with everything that is wrong; Busy while another graph runs that was not stopped; OSError where no process can be started.
        """
        only = None if only is None else list(only)
        validate.check(graph, only, disk=True)
        with self._lock:
            self.root.mkdir(parents=True, exist_ok=True)
            with platform_calls.file_lock(self.root / "start.lock"):
                current = self.newest()
                busy = current is not None and self._alive(current)
                if busy and not (self.root / current / "stop").exists():
                    raise Busy("A graph is running.", "Stop it, or wait until it is done; one runs at a time.")
                name = self._fresh_name()
                folder = self.root / name
                folder.mkdir()
                if busy:
                    shutil.copyfile(self.root / current / "process.json", folder / "after.json")
                (folder / "graph.json").write_text(to_json(graph), encoding="utf-8")
                command = [
                    *self._command, str(folder / "graph.json"), "--out", str(folder / "results"), "--runs-dir", str(self._store.root),
                    "--events", str(folder / "events.jsonl"), "--stop-file", str(folder / "stop"),
                    *(("--after", str(folder / "after.json")) if busy else ()), *(part for node in only or () for part in ("--only", node)),
                ]  # fmt: skip
                try:
                    child = platform_calls.start_detached(
                        command, folder / "log.txt", cwd=Path.cwd(), extra_env=platform_calls.worker_environment()
                    )
                except OSError:
                    shutil.rmtree(folder)  # nothing ran: it must not look like a run that crashed
                    raise
                self._children[name] = child
                who = json.dumps(platform_calls.identity(child.pid))
                platform_calls.write_atomically(folder / "process.json", who.encode())
            return name

    def stop(self, name: str) -> None:
        """Ask a run to stop; a training that is on its way saves a checkpoint first."""
        folder = self._folder(name)
        if folder is not None:
            (folder / "stop").touch()

    def graph_of(self, name: str) -> Graph | None:
        """The graph that a run runs; None where there is no such run."""
        folder = self._folder(name)
        return None if folder is None else read_file(folder / "graph.json")[0]

    # -- what is there

    def newest(self) -> str | None:
        """The name of the last run that was started, or None."""
        if not self.root.is_dir():
            return None
        return max((path.name for path in self.root.iterdir() if (path / "graph.json").is_file()), default=None)

    def status(self) -> dict[str, Any] | None:
        """What an editor shows of the newest run, as JSON-able data; None where no graph has run. The same object while nothing changed."""
        with self._lock:
            name = self.newest()
            if name is None:
                return None
            folder, digest, alive = self.root / name, self._digests.setdefault(name, _Digest()), self._alive(name)
            self._read(folder, digest)  # after the check of the process: its last events count
            state = _state(
                digest, alive, (folder / "stop").exists(), platform_calls.is_alive(_process(folder / "after.json"))
            )
            logs = self._logs(digest)
            sign = (name, digest.offset, state, tuple((node, log.version) for node, log in logs.items()))
            if sign != self._drawn[0]:
                self._drawn = (sign, self._draw(name, folder, digest, state, logs))
            return self._drawn[1]

    def _logs(self, digest: _Digest) -> dict[str, RunLog]:
        """Node -> the digest of the run that it trains, read on."""
        found = {}
        for node in digest.nodes.values():
            with contextlib.suppress(RunError):  # no name of a run: nothing is shown of it
                if node.run is not None:
                    found[node.id] = follow(RunDir(self._store.path_of(node.run)), AT_ONCE)
        return found

    def _draw(self, name: str, folder: Path, digest: _Digest, state: str, logs: Mapping[str, RunLog]) -> dict[str, Any]:
        message = ""
        if state == "crashed":
            message = _tail(folder / "log.txt")
        nodes = [{**vars(node), "loss": None} for node in digest.nodes.values()]
        for node in nodes:
            if node["id"] in logs:
                node["loss"] = loss_points(logs[node["id"]])
                if node["state"] == "running":
                    node["pictures"] = self._newest(logs[node["id"]]) or node["pictures"]
        if state in _ENDED:  # what was on its way when the process ended has no result
            for node in nodes:
                if node["state"] in ("running", "waiting"):
                    node["state"] = "interrupted"
        return {
            "run": name, "state": state, "message": message, "problems": digest.problems, "nodes": nodes,
            "started": (folder / "graph.json").stat().st_mtime, "ended": digest.last if state in _ENDED else None, "results": str(folder / "results"),
        }  # fmt: skip

    def _folder(self, name: Any) -> Path | None:
        """A run's folder, by a name that may come from anywhere."""
        if not isinstance(name, str) or not NAME.fullmatch(
            name
        ):  # which also keeps it as short as a folder's name may be
            return None
        folder = self.root / name
        return folder if (folder / "graph.json").is_file() else None

    def _fresh_name(self) -> str:
        stem = time.strftime("%Y%m%d-%H%M%S")
        number = 0
        while (self.root / f"{stem}-{number:02d}").exists():
            number += 1
        return check_name(f"{stem}-{number:02d}")

    def _alive(self, name: str) -> bool:
        child = self._children.get(name)
        if child is not None and child.poll() is not None:
            return False
        who = _process(self.root / name / "process.json")
        return child is not None if who is None else platform_calls.is_alive(who)

    # -- its events

    def _read(self, folder: Path, digest: _Digest) -> None:
        """Fold what was appended since the last call; half a line waits for its rest."""
        try:
            with (folder / "events.jsonl").open("rb") as file:
                file.seek(digest.offset)
                while chunk := file.read(_CHUNK):
                    end = chunk.rfind(b"\n") + 1
                    if end == 0:
                        return
                    digest.offset += end
                    file.seek(digest.offset)
                    for line in chunk[:end].splitlines():
                        # A line that a full disk cut short, or that another program wrote, must not stop the page for all viewers.
                        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                            self._fold(digest, json.loads(line))
        except FileNotFoundError:
            return  # it has written nothing yet

    def _fold(self, digest: _Digest, event: Mapping[str, Any]) -> None:
        digest.last = event.get("time", digest.last)
        kind = event["event"]
        if kind == "end":
            digest.end = event
        elif kind == "refused":
            digest.problems = list(event["problems"])
        elif kind in ("node", "progress", "picture", "trains"):
            node = digest.nodes.setdefault(event["node"], NodeStatus(event["node"]))
            if kind == "trains":
                node.run = str(event["run"])
                return
            if kind == "progress":
                node.done, node.total, node.what = event["done"], event["total"], event["what"]
            elif kind == "picture":
                node.pictures = [*node.pictures, *self._pictures([(event["path"], "")])][-PICTURES_SHOWN:]
            else:
                node.state = event["state"]
                node.message, node.remedy = event.get("message", ""), event.get("remedy", "")
                node.seconds = event.get("seconds")
                if "outputs" in event:
                    files = list(_pictures_in(event["outputs"]))
                    node.pictures = self._pictures(files) if files else node.pictures
                    node.texts = [text[:TEXT_SHOWN] for text in event["outputs"] if isinstance(text, str) and text]

    def _newest(self, log: RunLog) -> list[dict[str, Any]]:
        """The run's newest samples, and the filmstrip of its newest drift report."""
        files: list[tuple[str, str]] = []
        if log.samples:
            step = max(log.samples)
            files = [(str(log.run.path / str(each.get("path", ""))), f"step {step}: {each.get('prompt', '')}") for each in log.samples[step]]  # fmt: skip
        if log.drifts:
            step = max(log.drifts)
            strip = (log.run.path / str(log.drifts[step].get("path", ""))).with_name("filmstrip.png")
            files = [*files[: PICTURES_SHOWN - 1], (str(strip), f"drift, step {step}")]
        return self._pictures(files)

    def _pictures(self, files: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """Addresses for the browser: a small one for the node, a whole one to look at closely. Only pictures inside the runs folder."""
        found = []
        for path, caption in list(files)[:PICTURES_SHOWN]:
            whole, size = self._previews.address(Path(path), self._store.root), _size(Path(path))
            if whole is not None and size is not None:
                small = self._previews.thumbnail(Path(path), side=640)
                found.append({"whole": whole, "small": whole if small is None else small, "caption": caption, **size})
        return found


def loss_points(log: RunLog) -> dict[str, Any] | None:
    """The smoothed loss of a run as at most about `LOSS_POINTS` points: {steps, values}; None before the second step."""
    series = log.series.frozen()
    if len(series) < 2:
        return None
    steps, values = thinned(
        series.steps, smoothed(series.column("loss"), 0.0 if len(series) < 20 else 0.9), LOSS_POINTS
    )
    return {"steps": steps, "values": [round(each, 5) for each in values]} if len(values) > 1 else None


def _process(file: Path) -> dict[str, Any] | None:
    """The process that a file names; None where there is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _state(digest: _Digest, alive: bool, stopping: bool, waiting: bool) -> str:
    if alive:
        return "stopping" if stopping else "waiting" if waiting else "running"
    if digest.problems:
        return "refused"
    if digest.end is None:
        return "crashed"
    if digest.end.get("ok"):
        return "done"
    return "failed" if "failed" in digest.end["states"].values() else "interrupted"


def _pictures_in(outputs: Any) -> Iterable[tuple[str, str]]:
    """(file, caption) of every picture in a node's outputs, as `values.to_json` wrote them."""
    for value in outputs:
        if isinstance(value, dict) and value.get("is") == "Images":
            files, captions = value["files"], value["captions"]
            for number, file in enumerate(files):
                yield file["path"], captions[number] if len(captions) == len(files) else ""


def _size(path: Path) -> dict[str, int] | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:  # reads the header only
            return {"width": picture.width, "height": picture.height}
    except (OSError, UnidentifiedImageError):
        return None  # removed meanwhile, or no picture: nothing is shown


def _tail(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""
    return text[-LOG_SHOWN:]


def problems_as_data(error: GraphError) -> list[dict[str, Any]]:
    """A graph's problems as an editor takes them."""
    return [
        {"node": each.node, "input": each.input, "type": each.type, "message": each.message}
        for each in error.problems[:500]
    ]
