"""The runs of a study: made, queued, resumed. Everything is derived from the folder of the runs, so a study that is broken off goes on. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..before.controls import control
from ..before.controls import measured as plain_step_of
from ..config import config_from_flat, config_to_flat
from ..runs.errors import RunError
from ..runs.folder import RunDir
from ..runs.store import RunStore
from .plan import Cell, Study, StudyError

ENDED = ("done", "stopped", "failed", "crashed", "missing")
_STEPS = "max_train_steps"
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass(frozen=True)
class CellState:
    """How far a run of the study is. `state`: the run's own, "to come" (nothing made yet), or "missing" (cannot be made, `message` says why)."""

    cell: Cell
    state: str
    step: int | None = None
    total_steps: int | None = None
    message: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


def advance(study: Study, store: RunStore, *, again: bool = False, before: Sequence[CellState] = ()) -> list[CellState]:
    """Make and queue what can be, and tell of every run how far it is. Called again and again; does nothing twice.

    Args:
        again: runs that stopped, failed or crashed go on from their checkpoints; one that has none goes to the trash and begins anew. For the
            first call of a command.
        before: what the call before this one found: the settings of its runs are not compared again, and what was done is not looked at again.

    Raises: StudyError where a run of one of the names exists that is no run of this study.
    """
    states: dict[tuple[str, int], CellState] = {}
    known = {state.cell.run: state for state in before}
    cells = study.cells()
    for cell in sorted(
        cells, key=lambda cell: cell.variant.control == "plain-time"
    ):  # which wait for what they control
        source = None if cell.variant.of is None else states[cell.variant.of, cell.seed]
        states[cell.variant.name, cell.seed] = _advance(study, store, cell, source, again, known.get(cell.run))
    return [states[cell.variant.name, cell.seed] for cell in cells]


def _advance(
    study: Study, store: RunStore, cell: Cell, source: CellState | None, again: bool, known: CellState | None = None
) -> CellState:
    """`source`: the run that it controls, where it is a control. `known`: what the last look found of it."""
    if known is not None and known.state == "done":
        return known
    if (store.root / cell.run / "config.json").is_file():
        run = store.get(cell.run)
        if known is None or known.state in ("to come", "missing"):
            _check_same(study, cell, run)
    else:
        changes: dict[str, Any] = {}
        if source is not None and cell.variant.control == "plain-time":
            if source.state != "done":
                return CellState(
                    cell, "missing" if source.has_ended else "to come", message=f"waits for {source.cell.run}"
                )
            try:
                changes = _equal_time(study, store, source.cell)
            except RunError as error:
                return CellState(cell, "missing", message=str(error))
        run = _made(study, store, cell, source, changes)
    row = store.summary(run)
    if again and row.state in ("stopped", "failed", "crashed") and not row.alive and not row.resumable:
        store.delete(cell.run)
        return _advance(study, store, cell, source, again=False)
    if row.state == "created" or (again and row.resumable):
        store.enqueue(cell.run, resume=row.resumable)
        row = store.summary(run)
    return CellState(cell, row.state, row.step, row.total_steps, row.message if row.message is not None else "")


def _equal_time(study: Study, store: RunStore, source: Cell) -> dict[str, Any]:
    """The number of plain steps that took as long as the steps of the run `source`. Raises RunError where its times say nothing."""
    plain = plain_step_of(store.summary(source.run))
    made = control("plain-time", study.config(source.variant, source.seed), plain)
    return {_STEPS: made.changes[_STEPS]}


def _made(study: Study, store: RunStore, cell: Cell, source: CellState | None, changes: dict[str, Any]) -> RunDir:
    flat = {**config_to_flat(study.config(cell.variant, cell.seed)), **changes}
    about: dict[str, Any] = {"study": study.name, "variant": cell.variant.name}
    if source is not None:
        about |= {"control": cell.variant.control, "control_of": source.cell.run}
    return store.create(flat, cell.run, study.preset, about)


def _check_same(study: Study, cell: Cell, run: RunDir) -> None:
    wanted, there = (
        config_to_flat(study.config(cell.variant, cell.seed)),
        config_to_flat(config_from_flat(run.read_config())),
    )
    free = {_STEPS} if cell.variant.control == "plain-time" else set()  # which its variant's run has told
    other = [key for key, value in wanted.items() if there[key] != value and key not in free]
    if other:
        differs = "; ".join(f"{key}: {there[key]!r} there, {wanted[key]!r} in the study" for key in other[:4])
        raise StudyError(
            f"The run {cell.run} exists with other settings ({differs}).",
            "Give the study another name, or delete that run first.",
        )


def measure_done(
    study: Study,
    states: Sequence[CellState],
    store: RunStore,
    progress: Progress,
    judging: Callable[[str], None] | None = None,
) -> None:
    """What a study asks of its finished runs beside their own files: the demo's judge, samples against training pictures. What was done is not done again.

    Args:
        judging: called with a run's name before the judge looks at it.
    Raises: CheckpointError, ModelError where weights cannot be opened; SimilarityError.
    """
    from .comparing import compare_runs
    from .judging import judge_runs

    done = [store.get(state.cell.run) for state in states if state.state == "done"]
    if study.judging is not None:
        judge_runs(study.judging, done, progress, judging)
    if study.similarity is not None:
        compare_runs(study.similarity, done, progress)


def run_study(
    study: Study, store: RunStore, *, wait: Callable[[], None], tell: Callable[[list[CellState]], None]
) -> list[CellState]:
    """Until every run has ended. `wait` is called between looks (a second or so), `tell` after each of them. The runs are processes of their own:
    where this is broken off, what has begun goes on, and the same call takes the study up again."""
    states = advance(study, store, again=True)
    while True:
        tell(states)
        if all(state.has_ended for state in states):
            return states
        store.reconcile()
        store.pump()
        wait()
        states = advance(study, store, before=states)
