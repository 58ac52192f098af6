"""Solvers of the probability-flow ODE, per row in time, for every model. Add one: a file here and a line in SOLVERS."""

from collections.abc import Callable

from .base import Evaluate, Past, Solver
from .dpm import Dpm
from .euler import Euler
from .rk4 import Rk4
from .unipc import UniPC

SOLVERS: dict[str, type[Solver]] = {"unipc": UniPC, "euler": Euler, "dpm": Dpm, "rk4": Rk4}
DEFAULT_ORDER = 2

__all__ = ["DEFAULT_ORDER", "SOLVERS", "Evaluate", "Past", "Solver", "make_solver"]


def make_solver(name: str, order: int = DEFAULT_ORDER) -> Solver:
    """A solver by name. `order`: for `unipc` (1..3) and `dpm` (1..2).

    Raises: ValueError for an unknown name, an order the solver cannot have, or an order given to one whose order is fixed
    (the default passes: it cannot be told from nothing said).
    """
    if name not in SOLVERS:
        raise ValueError(f"sampler = {name!r}: must be one of {', '.join(SOLVERS)}.")
    kind = SOLVERS[name]
    if kind.orders and order not in kind.orders:
        raise ValueError(f"order = {order}: {name} takes {kind.orders[0]}..{kind.orders[-1]}.")
    if not kind.orders and order != DEFAULT_ORDER:
        raise ValueError(f"order = {order}: {name} has a fixed order; leave the option at its default, or use unipc.")
    make: Callable[..., Solver] = kind
    return make(order) if kind.orders else make()
