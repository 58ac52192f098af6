"""Run a graph: what the wanted nodes need, and no more; from the cache where it is there; the rest where an error leaves it whole.

A node runs when everything that it is linked to has run. Settings are computed at once. Nodes that draw run side by side; nodes that
use a model or wait for a training take turns on their device. An error stays at its node: what needs it is skipped, everything else
goes on. An interrupt lets trainings save a checkpoint first.
"""

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...core import platform_calls
from ...core.config.options import ConfigError
from ...core.memory import is_out_of_memory, memory_message
from ...core.runs.errors import RunError
from ...core.runs.store import RunStore
from ..graph.bypass import passed_through
from ..graph.declaration import Declaration
from ..graph.graph import Graph, to_api, to_json
from ..graph.validate import check, read_widgets, roots
from ..graph.values import Images, Interrupted, NodeError, Run, Settings
from ..graph.values import to_json as value_to_json
from . import cache, following
from .cache import Cache
from .context import Context
from .plan import Plan, refuse_impossible

State = Literal["waiting", "running", "cached", "done", "failed", "skipped", "interrupted", "muted"]
Event = dict[str, Any]
WORKERS = 8
POLL_S = 0.2


@dataclass(frozen=True)
class Failure:
    """Why a node failed: a sentence, what to do, and for our own faults the traceback."""

    message: str
    remedy: str = ""
    traceback: str = ""


@dataclass
class Outcome:
    """The result of an execution: the state of every node that was wanted or needed, outputs of those that have some, failures."""

    states: dict[str, State] = field(default_factory=dict)
    outputs: dict[str, tuple] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return not self.failures and not self.interrupted

    def pictures(self, id: str) -> list[tuple[str, str]]:
        """(file, caption) of every picture that a node gave."""
        return [
            (file.path, value.captions[number] if len(value.captions) == len(value.files) else "")
            for value in self.outputs.get(id, ()) if isinstance(value, Images)
            for number, file in enumerate(value.files)
        ]  # fmt: skip


def execute(
    graph: Graph,
    store: RunStore,
    out: Path,
    *,
    wanted: Iterable[str] | None = None,
    listen: Callable[[Event], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    preflight: bool = True,
) -> Outcome:
    """Run a graph for the wanted nodes (None: all that have something to look at).

    Args:
        store: the run store that Train nodes train in; the cache lies beside its runs.
        out: where Save Image and Export LoRA write. Made when something is written.
        listen: called with every event, from any thread, one at a time: `node` {node, state, cached, message, remedy, seconds},
            `progress` {node, done, total, what}, `picture` {node, path}, `trains` {node, run}, `end` {states}.
        stop: called several times a second; True = end everything.
        preflight: check pictures, model and disk of every training that is about to start.

    Raises: GraphError with everything that is wrong; then nothing has run.
    """
    wanted = None if wanted is None else list(wanted)
    check(graph, wanted, disk=True)
    return _Execution(graph, store, out, listen, stop).run(roots(graph) if wanted is None else wanted, preflight)


class _Execution:
    """One execution: runs the nodes of its plan and reports what becomes of them."""

    def __init__(
        self, graph: Graph, store: RunStore, out: Path, listen: Callable[[Event], None] | None, stop: Callable[[], bool]
    ) -> None:
        self.provenance = provenance_of(graph)  # a picture gives back the graph with all its nodes
        self.graph = graph = passed_through(graph)
        self.store, self.out = store, out.absolute()
        self.cache = Cache(store.root / cache.FOLDER)
        self.plan = Plan(graph, self.cache)
        self.outcome = Outcome(outputs=self.plan.outputs)
        self._listen, self._should_stop = listen, stop
        self._emitting = threading.Lock()
        self._devices: dict[str, threading.Lock] = {}

    def run(self, wanted: list[str], preflight: bool) -> Outcome:
        need = self.plan.needed(wanted)
        if preflight:
            refuse_impossible(self.plan, need, self.store)
        states, muted = self.outcome.states, self.plan.muted()
        states.update({id: "muted" for id in wanted if id in muted})
        for id in need:
            states[id] = "waiting"
        for id in list(self.outcome.outputs):
            self.mark(id, "cached")
        waiting = [id for id in need if states[id] == "waiting"]
        running: dict[Future, str] = {}
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="node") as pool:
            while waiting or running:
                for id in [id for id in waiting if self.ready(id)]:
                    waiting.remove(id)
                    if self.outcome.interrupted or self.stop():
                        self.mark(id, "interrupted")
                    elif broken := self.broken_before(id):
                        self.mark(id, "skipped", message=f"waits for node {broken}, which has no result.")
                    else:
                        running[pool.submit(self.run_node, id)] = id
                if running:
                    done, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
                    for future in done:
                        del running[future]
                        future.result()  # `run_node` catches what a node raises: anything here is our own fault
        self.emit({"event": "end", "states": dict(states), "ok": self.outcome.ok})
        return self.outcome

    def ready(self, id: str) -> bool:
        states = self.outcome.states
        return all(
            states.get(link.node) not in ("waiting", "running") for link in self.graph.nodes[id].links().values()
        )

    def broken_before(self, id: str) -> str | None:
        return next(
            (link.node for link in self.graph.nodes[id].links().values() if link.node not in self.outcome.outputs), None
        )

    def stop(self) -> bool:
        if self._should_stop():
            self.outcome.interrupted = True
        return self.outcome.interrupted

    def run_node(self, id: str) -> None:
        """Run one node, whatever comes of it."""
        declared, started = self.plan.declared(id), time.monotonic()
        key = self.plan.key(id)
        if declared.lane != "instant" and self.plan.take_from_cache(
            id
        ):  # known only now: something before it had an effect
            self.mark(id, "cached")
            return
        try:
            inputs = self.inputs_of(id)
            with self.device_of(declared, inputs):
                self.mark(id, "running")
                outputs = self.call(declared, id, key, inputs)
        except Interrupted:
            self.outcome.interrupted = True
            self.mark(id, "interrupted")
            return
        except (NodeError, ConfigError, RunError) as error:
            own = isinstance(error, NodeError)
            self.fail(id, Failure(error.message if own else str(error), error.remedy if own else ""))
            return
        except Exception as error:  # noqa: BLE001 - reported at the node, with its traceback; other branches go on
            if is_out_of_memory(error):
                message, remedy = (
                    memory_message(error),
                    "Close other programs that hold memory, or choose fewer or smaller pictures, or device cpu at the Model node.",
                )
            else:
                message, remedy = f"{type(error).__name__}: {error}", "See the traceback."
            self.fail(id, Failure(message, remedy, traceback.format_exc()))
            return
        self.outcome.outputs[id] = outputs
        self.mark(id, "done", seconds=round(time.monotonic() - started, 2))

    def call(self, declared: Declaration, id: str, key: str, inputs: dict[str, Any]) -> tuple:
        if declared.lane == "instant":
            return declared.function(None, **inputs)
        if self.stop():
            raise Interrupted
        folder = self.cache.folder(key)
        context = Context(
            self.store, folder, self.out, self.provenance,
            report=lambda done, total, what: self.emit({"event": "progress", "node": id, "done": done, "total": total, "what": what}),
            show=lambda path: self.emit({"event": "picture", "node": id, "path": str(path)}),
            trains=lambda run: self.emit({"event": "trains", "node": id, "run": run}),
            stop=self.stop,
        )  # fmt: skip
        outputs = declared.function(context, **inputs)
        if declared.effect:
            self.plan.keys[id] = cache.after(key, outputs)
        else:
            self.cache.put(key, outputs, folder)
        return outputs

    def inputs_of(self, id: str) -> dict[str, Any]:
        """Every input of a node with its value; links resolved, absent sockets None."""
        declared, node = self.plan.declared(id), self.graph.nodes[id]
        inputs = read_widgets(declared, node) | {socket.name: None for socket in declared.sockets}
        for name, link in node.links().items():
            value = self.outcome.outputs[link.node][link.slot]
            given = declared.input(name)
            if value is None and not getattr(given, "optional", False):
                output = self.plan.declared(link.node).outputs[link.slot].name
                raise NodeError(
                    f"{name}: {self.plan.declared(link.node).title} gave no {output}.",
                    "Link something else, or change its settings.",
                )
            inputs[name] = value if given in declared.sockets else given.read(value)
        return inputs

    @contextmanager
    def device_of(self, declared: Declaration, inputs: Mapping[str, Any]) -> Iterator[None]:
        """The turn on the device that a node's training or model will use; drawing and settings need none."""
        if declared.lane not in ("run", "device"):
            yield
            return
        lock = self._devices.setdefault(_device(inputs), threading.Lock())
        while not lock.acquire(timeout=POLL_S):
            if self.stop():
                raise Interrupted
        try:
            yield
        finally:
            lock.release()

    # -- events

    def mark(self, id: str, state: State, **more: Any) -> None:
        self.outcome.states[id] = state
        event = {
            "event": "node",
            "node": id,
            "state": state,
            "title": self.title(id),
            "lane": self.plan.declared(id).lane,
            **more,
        }
        if state in ("done", "cached"):
            event["outputs"] = value_to_json(self.outcome.outputs[id])
        self.emit(event)

    def title(self, id: str) -> str:
        node = self.graph.nodes[id]
        return self.plan.declared(id).title if node.title is None else node.title

    def fail(self, id: str, failure: Failure) -> None:
        self.outcome.failures[id] = failure
        self.mark(id, "failed", message=failure.message, remedy=failure.remedy, traceback=failure.traceback)

    def emit(self, event: Event) -> None:
        if self._listen is not None:
            with self._emitting:
                self._listen({**event, "time": round(time.time(), 3)})


def _device(inputs: Mapping[str, Any]) -> str:
    """Which device a node's inputs point to."""
    device = "auto"
    for value in inputs.values():
        if isinstance(value, Settings) and "device" in value.flat:
            device = value.flat["device"]
        elif isinstance(value, Run) or hasattr(value, "run"):
            device = following.config_of(value.path if isinstance(value, Run) else value.run).model.device
    return platform_calls.device_name(device)


def provenance_of(graph: Graph) -> dict[str, str]:
    """The text chunks with which a picture or a LoRA restores its graph."""
    return {"prompt": json.dumps(to_api(graph), ensure_ascii=True, allow_nan=False), "workflow": to_json(graph)}
