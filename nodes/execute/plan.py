"""What of a graph must run for the wanted nodes, and what is in the cache already."""

from ...core.runs.store import RunStore
from ..graph.declaration import NODES, Declaration
from ..graph.graph import Graph, GraphError, Problem
from ..graph.validate import TRAIN, ordered, read_widgets, train_configs
from . import cache, following
from .cache import Cache


class Plan:
    """The nodes of one execution. `keys` (addresses in the cache) and `outputs` fill up as nodes become known."""

    def __init__(self, graph: Graph, results: Cache) -> None:
        self.graph, self.cache = graph, results
        self.order = ordered(graph)[0]
        self.keys: dict[str, str] = {}
        self.outputs: dict[str, tuple] = {}

    def declared(self, id: str) -> Declaration:
        return NODES[self.graph.nodes[id].kind]

    def key(self, id: str) -> str | None:
        """A node's key; None while something before it has to run first."""
        if id in self.keys:
            return self.keys[id]
        ancestors = {}
        for name, link in self.graph.nodes[id].links().items():
            if link.node not in self.keys:
                return None
            ancestors[name] = (self.keys[link.node], link.slot)
        widgets = read_widgets(self.declared(id), self.graph.nodes[id])
        key = cache.key_of(self.declared(id), widgets, ancestors)
        if not self.declared(id).effect:
            self.keys[id] = key
        return key

    def needed(self, wanted: list[str]) -> list[str]:
        """What must run, or is read from the cache, for the wanted nodes: in order. Muted nodes and ancestors of cached ones are left out."""
        for id in self.order:
            self.key(id)
        muted = self.muted()
        need, waiting = set(), [id for id in wanted if id not in muted]
        while waiting:
            id = waiting.pop()
            if id in need:
                continue
            need.add(id)
            if not self.take_from_cache(id):
                waiting += [link.node for link in self.graph.nodes[id].links().values()]
        return [id for id in self.order if id in need]

    def muted(self) -> set[str]:
        """Muted nodes, and every node that cannot do without one."""
        muted: set[str] = set()
        for id in self.order:
            node = self.graph.nodes[id]
            if node.muted or any(link.node in muted for link in node.links().values()):
                muted.add(id)
        return muted

    def take_from_cache(self, id: str) -> bool:
        """Whether the node's result is there; it is taken then."""
        declared, key = self.declared(id), self.key(id)
        if declared.effect or declared.lane == "instant" or key is None:
            return False
        outputs = self.cache.get(key)
        if outputs is None:
            return False
        self.outputs[id] = outputs
        return True


def refuse_impossible(plan: Plan, need: list[str], store: RunStore) -> None:
    """Raise GraphError where a training that is about to start cannot: no pictures, no model, too little memory or disk. Nothing has run yet."""
    from ...core.before.preflight import preflight

    problems = []
    for id, config in train_configs(plan.graph).items():
        again = read_widgets(NODES[TRAIN], plan.graph.nodes[id])["again"]
        if (
            id not in need
            or id in plan.outputs
            or again is None
            or following.find(store, following.identity(config, again))
        ):
            continue
        problems += [
            Problem("custom_validation_failed", f"{finding.where}: {finding.message} {finding.remedy}".strip(), id)
            for finding in preflight(config, runs_dir=store.root) if finding.level == "error"
        ]  # fmt: skip
    if problems:
        raise GraphError(problems)
