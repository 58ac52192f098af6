"""Graphs and a run store whose trainings take milliseconds."""

import sys
from pathlib import Path

import pytest
from rollout_studio.core.runs.store import RunStore
from rollout_studio.nodes.execute.execute import execute
from rollout_studio.nodes.graph.graph import Graph
from rollout_studio.nodes.reading import read_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "runs", worker=(sys.executable, str(Path(__file__).with_name("quick_worker.py"))))
    yield store
    for summary in store.list():
        store.kill(summary.name)


@pytest.fixture(scope="session")
def workflow():
    """A shipped workflow by its name."""

    def load(name: str) -> Graph:
        graph, problems = read_file(ROOT / "presets" / "workflows" / f"{name}.json")
        assert not problems
        return graph

    return load


class Events(list):
    """Listens; afterwards says what became of each node."""

    def __call__(self, event):
        self.append(event)

    def states(self, id):
        return [event["state"] for event in self if event["event"] == "node" and event["node"] == id]

    def ran(self):
        """Nodes that really worked: not cached, not merely setting options."""
        return {
            event["node"]
            for event in self
            if event["event"] == "node" and event["state"] == "done" and event["lane"] != "instant"
        }


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def run(store, tmp_path, events):
    def go(graph, **more):
        events.clear()
        return execute(graph, store, tmp_path / "out", listen=events, preflight=False, **more)

    return go
