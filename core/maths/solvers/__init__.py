"""Solvers of the probability-flow ODE, per row in time, for every model: what is known of them (no torch), and how one is made.

Add one: a file here with its class, and a line in SOLVERS. The config, the estimates and the classes themselves read that line.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Solver

DEFAULT_ORDER = 2


@dataclass(frozen=True, kw_only=True)
class SolverFacts:
    """What a solver declares; a test holds its class to it.

    `kind`: the class in the file of the solver's name. `order`: of its global error; of one with `orders`, the default. `orders`: what
    may be chosen; empty where the order is fixed. `calls_per_step`: evaluations of the network in one step.
    """

    kind: str
    order: int
    orders: tuple[int, ...] = ()
    calls_per_step: int = 1


SOLVERS = {
    "unipc": SolverFacts(kind="UniPC", order=DEFAULT_ORDER, orders=(1, 2, 3)),
    "euler": SolverFacts(kind="Euler", order=1),
    "dpm": SolverFacts(kind="Dpm", order=DEFAULT_ORDER, orders=(1, 2)),
    "rk4": SolverFacts(kind="Rk4", order=4, calls_per_step=4),
}


def most_steps(name: str, max_evaluations: int) -> int | None:
    """How many steps of this solver `max_evaluations` allow, at least 1; None where they are not limited (0)."""
    return max(1, max_evaluations // SOLVERS[name].calls_per_step) if max_evaluations else None


def make_solver(name: str, order: int = DEFAULT_ORDER) -> "Solver":
    """A solver by name. `order`: for `unipc` (1..3) and `dpm` (1..2). Imports torch.

    Raises: ValueError for an unknown name, an order the solver cannot have, or an order given to one whose order is fixed
    (the default passes: it cannot be told apart from one that was left out).
    """
    if name not in SOLVERS:
        raise ValueError(f"sampler = {name!r}: must be one of {', '.join(SOLVERS)}.")
    facts = SOLVERS[name]
    if facts.orders and order not in facts.orders:
        raise ValueError(f"order = {order}: {name} takes {facts.orders[0]}..{facts.orders[-1]}.")
    if not facts.orders and order != DEFAULT_ORDER:
        raise ValueError(f"order = {order}: {name} has a fixed order; leave the option at its default, or use unipc.")
    kind = getattr(import_module(f".{name}", __package__), facts.kind)
    return kind(order if facts.orders else facts.order, facts.calls_per_step)
