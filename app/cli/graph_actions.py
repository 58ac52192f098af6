"""What `rollout-studio graph run | check | nodes` do: node graphs without a page.

Exit codes as everywhere (`answers`): 0 done; 70 a node failed; 75 interrupted, run it again to go on; 78 the graph cannot run as it is.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from ...core import platform_calls
from ...core.config.options import ConfigError, Fault
from ...core.findings import printable
from ...core.names import slug
from ...nodes.execute.context import open_store
from ...nodes.graph import validate
from ...nodes.graph.compile import with_values
from ...nodes.graph.declaration import NODES, described
from ...nodes.graph.graph import Graph, GraphError
from ...nodes.reading import read_file

DONE, FAILED, INTERRUPTED, REFUSED = 0, 70, 75, 78
RESULT_FILE = "result.json"
POLL_S = 0.1


def _print_message(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _loaded(given: argparse.Namespace) -> Graph:
    """The graph of the command line, changed and checked. Raises GraphError with everything wrong with it."""
    changes, faults = {}, []
    for each in given.set:
        target, equals, value = each.partition("=")
        if not equals or "." not in target:
            faults.append(
                Fault(f"--set {each}: must be NODE.INPUT=VALUE, for example --set rollout.max_step_offset=2.")
            )
        changes[target.strip()] = value
    if faults:
        raise ConfigError(faults)
    graph, problems = read_file(given.file)
    try:
        graph = with_values(graph, changes)
    except GraphError as error:
        problems = [*problems, *error.problems]
    problems = [*problems, *validate.faults(graph, getattr(given, "only", None), disk=True)]
    if problems:
        raise GraphError(dict.fromkeys(problems))
    return graph


def _refused(error: GraphError) -> int:
    _print_message(str(error))
    _print_message(f"{len(error.problems)} problem{'' if len(error.problems) == 1 else 's'}; nothing was run.")
    return REFUSED


def check(given: argparse.Namespace) -> int:
    try:
        graph = _loaded(given)
    except GraphError as error:
        return _refused(error)
    print(f"{given.file}: {len(graph.nodes)} nodes, {len(validate.roots(graph))} with a result to look at. In order.")
    return DONE


def nodes(given: argparse.Namespace) -> int:
    if given.json:
        print(json.dumps(described(), indent=1, ensure_ascii=False))
        return DONE
    category = None
    for each in NODES.values():
        if each.category != category:
            category = each.category
            print(f"\n{category}")
        takes = ", ".join(f"{socket.name}{'?' if socket.optional else ''}: {socket.type}" for socket in each.sockets)
        gives = ", ".join(f"{output.name}: {output.type}" for output in each.outputs)
        print(f"  {each.key:<34} ({takes}) -> ({gives})\n      {each.help}")
        if each.widgets:
            print(f"      fields: {', '.join(widget.name for widget in each.widgets)}")
    return DONE


def run(given: argparse.Namespace) -> int:
    from ...nodes.execute.execute import execute

    stopped = threading.Event()
    show = Follower(sys.stderr, given.events)

    def stop() -> bool:
        if given.stop_file is not None and given.stop_file.exists():
            stopped.set()
        return stopped.is_set()

    try:
        graph = _loaded(given)
        with _signals(stopped), show:
            if given.after is not None:
                _wait_for(given.after, stop)
            outcome = execute(graph, open_store(given.runs_dir), given.out, wanted=given.only, listen=show, stop=stop)
    except GraphError as error:
        show.refused(error)
        return _refused(error)
    _write_results(graph, outcome, given.out)
    print(given.out / RESULT_FILE)
    if outcome.failures:
        return FAILED
    return INTERRUPTED if outcome.interrupted else DONE


def _wait_for(file: Path, stop: Callable[[], bool]) -> None:
    """Wait until the process that a file names has ended, or the waiting is stopped."""
    who = json.loads(file.read_text(encoding="utf-8"))
    if platform_calls.is_alive(who):
        _print_message("Waiting for the graph that is stopping.")
    while platform_calls.is_alive(who) and not stop():
        time.sleep(POLL_S)


@contextmanager
def _signals(stopped: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets trainings save; a second Ctrl-C ends at once."""

    def on_signal(number: int, frame: Any) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()
        _print_message("Stopping: a training saves a checkpoint first. Once more to end at once.")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Follower:
    """Shows events as they come: a line per node, a line every few seconds of progress; and into a file where one is named."""

    EVERY_S = 5.0

    def __init__(self, stream: TextIO, events: Path | None) -> None:
        self._stream, self._path, self._file = stream, events, None
        self._last: dict[str, float] = {}
        self._titles: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def refused(self, error: GraphError) -> None:
        """Write into the events file what is wrong with the graph; nothing has run."""
        with self:
            self._write(
                {
                    "event": "refused",
                    "problems": [vars(problem) for problem in error.problems],
                    "time": round(time.time(), 3),
                }
            )

    def _write(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._file.flush()

    def __call__(self, event: dict[str, Any]) -> None:
        self._write(event)
        if event["event"] == "node":
            self._titles[event["node"]] = event["title"]
            if event["lane"] == "instant" and event["state"] in ("running", "done"):
                return
            message = " ".join(filter(None, (event.get("message"), event.get("remedy"))))
            seconds = f" in {event['seconds']} s" if event.get("seconds", 0) >= 0.1 else ""
            self._line(f"{event['title']}: {event['state']}{seconds}{f': {message}' if message else ''}")
            if event.get("traceback"):
                print(event["traceback"], file=self._stream, flush=True)
        elif event["event"] == "progress":
            last = self._last.get(event["node"], float("-inf"))
            if event["time"] - last >= self.EVERY_S:
                self._last[event["node"]] = event["time"]
                self._line(
                    f"{self._titles.get(event['node'], event['node'])}: {event['what']} {event['done']}/{event['total']}"
                )

    def _line(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)


def _write_results(graph: Graph, outcome: Any, out: Path) -> None:
    """Pictures of every node that shows some, under its title, each with the workflow inside; and result.json."""
    from ...nodes.execute import pictures
    from ...nodes.execute.execute import provenance_of
    from ...nodes.graph.values import to_json

    provenance, taken, report = provenance_of(graph), set(), {}
    for id, state in outcome.states.items():
        declared, node = NODES[graph.nodes[id].kind], graph.nodes[id]
        title = declared.title if node.title is None else node.title
        entry: dict[str, Any] = {"title": title, "kind": node.kind, "state": state}
        failure = outcome.failures.get(id)
        if failure is not None:
            entry |= {"message": failure.message, "remedy": failure.remedy}
        if declared.shows and id in outcome.outputs:
            entry["outputs"] = to_json(outcome.outputs[id])
            files = []
            for file, _ in outcome.pictures(id):
                name = next(free for free in _names(slug(title)) if free not in taken)
                taken.add(name)
                pictures.saved(pictures.opened(Path(file)), out / f"{name}.png", provenance)
                files.append(f"{name}.png")
            entry["pictures"] = files
        report[id] = entry
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"nodes": report}, indent=1, ensure_ascii=False) + "\n"
    platform_calls.write_atomically(out / RESULT_FILE, text.encode())


def _names(stem: str) -> Iterator[str]:
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1
