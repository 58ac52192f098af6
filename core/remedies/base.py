"""The contract of a remedy against exposure bias: where each row of a batch trains, and toward what.

The loss of a batch is the same for all of them (`train.losses.batch_loss`): plan -> state -> forward -> target -> loss + terms. A remedy
fills in these steps in its own file. It draws only in `plan`, or from an address that the plan holds, so a step is a function of (seed,
step, row) whatever the remedy.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from torch import LongTensor, Tensor

from ..families.guidance import Guidance
from ..maths.grid import Grid
from ..maths.noise import Level, NoisePath, Prediction, PredictionType, target_output
from ..maths.rollout import Predict, undisturbed
from ..maths.row_loss import Terms
from ..memory import Portions

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Conditioning, Model


@dataclass(frozen=True)
class Ground:
    """What a remedy knows of the model and of latents of one shape."""

    path: NoisePath
    prediction_type: PredictionType
    grid: Grid  # the schedule whose nodes a rollout steps on


@dataclass(frozen=True)
class Batch:
    """Rows that go through the network together."""

    x0: Tensor  # (B, C, h, w) scaled latents, float32, on the model's device
    noise: Tensor  # N(0, I), like x0
    conditioning: "Conditioning"  # collated, of B rows
    is_class: Tensor | None = None  # (B,) bool: the rows of prior preservation
    class_conditioning: "Conditioning | None" = (
        None  # of output preservation: the class prompt, a row for each instance row, in order
    )
    mask: Tensor | None = None  # (B, 1, h, w) in 0..1: what each cell counts in the loss; None = every one fully
    portions: Portions | None = None  # how many rows are asked for at once without a gradient; None = all
    state: "State | None" = None  # where the rows train, where that is known already (`train.together`)


class Plan(Protocol):
    """What a remedy has decided about rows, (B,), on the CPU: a frozen dataclass whose tensors and levels are per row, so that
    `rows_of` can split it. What else it holds is its remedy's affair."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    t: Tensor  # as the training sampler drew them


AnyPlan = TypeVar("AnyPlan", bound=Plan)


def rows_of(plan: AnyPlan, rows: LongTensor) -> AnyPlan:
    """The plan of some rows."""
    return replace(plan, **{
        each.name: value[rows]
        for each in fields(plan)
        if isinstance(value := getattr(plan, each.name), Tensor | Level)
    })  # fmt: skip


def joined(plans: Sequence[AnyPlan]) -> AnyPlan:
    """The plan of the rows of all of them, one after the other; what it holds beside rows is the first one's."""
    first, rows = plans[0], {}
    for each in fields(first):
        values = [getattr(plan, each.name) for plan in plans]
        if isinstance(values[0], Level):
            rows[each.name] = Level.joined(values)
        elif isinstance(values[0], Tensor):
            rows[each.name] = torch.cat(values)
    return replace(first, **rows)


@dataclass(frozen=True)
class MoreRows:
    """States that train beside a batch's own rows, R of them, in the same call of the network. A row's loss is the weighted mean of its own,
    which counts 1, and those of its states, which count `weight` each."""

    x: Tensor  # (R, C, h, w) float32 or wider
    level: Level  # (R,) on the CPU
    target: Tensor  # what the output should be there, like x
    of: LongTensor  # (R,) the batch's row that each was made of, on the CPU; every row has equally many, those of a row together
    weight: float

    def of_rows(self, rows: slice, count: int) -> "MoreRows":
        """Those of some of the batch's `count` rows, as a batch of their own."""
        each = len(self.of) // count
        mine = slice(each * rows.start, each * rows.stop)
        of: LongTensor = self.of[mine] - rows.start  # type: ignore[assignment]
        return MoreRows(self.x[mine], self.level[mine], self.target[mine], of, self.weight)


@dataclass(frozen=True)
class State:
    """Where each row trains: the network's input, and the noise level passed with it."""

    x: Tensor  # (B, C, h, w) float32 or wider
    level: Level  # (B,) on the CPU
    plan: Any  # the plan that led here
    clean: Tensor | None = None
    """(B, ...) what the network answers at the clean states, where it was asked on the way; 0 in rows that stay there."""
    more: MoreRows | None = None

    def split(self, plans: Sequence[Any]) -> list["State"]:
        """This state is that of the rows of all these plans, one after the other: that of each."""
        found, begin = [], 0
        for plan in plans:
            rows = slice(begin, begin := begin + len(plan.t))
            clean = None if self.clean is None else self.clean[rows]
            more = None if self.more is None else self.more.of_rows(rows, len(self.x))
            found.append(State(self.x[rows], self.level[rows], plan, clean, more))
        return found


@dataclass(frozen=True)
class Counts:
    """What a step's event says about a batch's plan. `rolled`: rows that trained at a state which the network took part in making; `offsets`:
    the sum over the rolled rows, in grid steps; `source_noise_rows`: rows that a control trains at another noise level than the one they
    drew; `probability`: the chance of a rollout that was in force."""

    rolled: int = 0
    offsets: int = 0
    source_noise_rows: int = 0
    probability: float = 0.0


@dataclass(frozen=True)
class Calls:
    """Calls of the network in a micro-step, whatever their rows."""

    with_gradient: int
    without_gradient: int

    @property
    def total(self) -> int:
        return self.with_gradient + self.without_gradient

    def one_more(self, *, with_gradient: bool) -> "Calls":
        return Calls(self.with_gradient + with_gradient, self.without_gradient + (not with_gradient))

    @classmethod
    def most(cls, all_: Sequence["Calls"]) -> "Calls":
        """So many that each of them finds room."""
        return cls(max(each.with_gradient for each in all_), max(each.without_gradient for each in all_))


class Network:
    """The model as a remedy sees it: every evaluated row is counted, guidance's second row too. Gradient and training mode are the caller's.

    `portions`: how many rows are asked for at once without a gradient; None = all, whatever the memory says. `most`: and no more than so
    many, guidance's second row counted; None = any number.
    """

    def __init__(
        self, model: "Model", conditioning: "Conditioning", portions: Portions | None = None, most: int | None = None
    ) -> None:
        self.model, self.conditioning, self.portions, self.most = model, conditioning, portions, most
        self.rows = self.calls = 0
        self._chosen: tuple[LongTensor, Conditioning] | None = None

    def denoise(self, x: Tensor, level: Level, rows: LongTensor | None = None) -> Tensor:
        """The raw output at `x` (R, ...) and `level` (R,). `rows`: their places in the batch; None = all of it, in order."""
        t = level.to(x).t
        given = self.conditioning if rows is None else self._given(rows)
        if self.portions is None or torch.is_grad_enabled():
            answers = [self.model.denoise(x, t, given)]
        else:
            answers = self.portions.ask(
                len(x), lambda some: self.model.denoise(_some(x, some), _some(t, some), _some(given, some)), self.most
            )
        self._count(x, len(answers), 1)
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def predict(self, guidance: float = 1.0) -> Predict:
        """The network as a rollout asks it."""
        ask, evaluations = (
            self.model.predict(self.conditioning, guidance=guidance),
            self.model.guidance.evaluations(guidance),
        )
        most = None if self.most is None else max(1, self.most // evaluations)

        def counted(x: Tensor, level: Level, rows: LongTensor) -> Prediction:
            if self.portions is None:
                answers = [ask(x, level, rows)]
            else:
                answers = self.portions.ask(
                    len(x), lambda some: ask(_some(x, some), _some(level, some), _some(rows, some)), most
                )
            self._count(x, len(answers), evaluations)
            if len(answers) == 1:
                return answers[0]
            return Prediction(
                *(torch.cat([getattr(each, name) for each in answers]) for name in ("x0_hat", "noise_hat"))
            )

        return counted

    def undisturbed(self) -> AbstractContextManager[None]:
        """Inside: no gradient, evaluation mode, the random state as it was."""
        return undisturbed(self.model.denoiser)

    def _given(self, rows: LongTensor) -> "Conditioning":
        """The conditioning of these rows; that of the call before is at hand, because the steps of a rollout ask for the same rows."""
        if self._chosen is None or self._chosen[0] is not rows:
            self._chosen = rows, self.conditioning.select(rows)
        return self._chosen[1]

    def _count(self, x: Tensor, calls: int, evaluations: int) -> None:
        self.rows += evaluations * x.shape[0]
        self.calls += evaluations * calls


def _some(values: Any, rows: slice) -> Any:
    """Rows of a tensor, a level or a conditioning; all of them are the thing itself."""
    of_rows = isinstance(values, Tensor | Level)
    count = len(values) if of_rows else values.count
    if rows.start == 0 and rows.stop >= count:
        return values
    return values[rows] if of_rows else values.select(torch.arange(count)[rows])


class Remedy(Protocol):
    """The four steps. `plan` knows nothing of the network; the others read the batch and its plan, and draw nothing anew."""

    ground: Ground

    def plan(self, t: Tensor, *, step: int, seed: int) -> Plan:
        """Who is led elsewhere, from where: for all rows of an optimizer step at once, t (B,) as the training sampler drew them."""

    def asks(self, plan: Any) -> bool:
        """Does `state` ask the network for these rows? Then those of several batches may be found together, because it keeps rows apart."""

    def state(self, batch: Batch, plan: Any, network: Network) -> State:
        """Where each row trains. Without gradient. Of the batch it reads `x0` and `noise` alone."""

    def target(self, batch: Batch, state: State) -> Tensor:
        """What the output should have been there, like x0, in the model's own kind of prediction."""

    def terms(self, batch: Batch, state: State, output: Tensor, network: Network) -> Terms:
        """More loss and weights, given the training output (B, ...) with its gradient. May ask the network again."""

    def counts(self, plan: Any) -> Counts:
        """What the log says about a plan."""

    def calls(self, plan: Any, guidance: Guidance) -> Calls:
        """The calls that the four steps and the training forward make of the network for the rows of a plan, exactly (without portions)."""


@dataclass(frozen=True)
class PlainPlan:
    """The plan of plain training."""

    t: Tensor
    target: Level


class Plain:
    """No remedy: every row trains at the `x_t` that it drew, toward its own pair's output. What a remedy leaves alone it takes from here."""

    def __init__(self, config: "RunConfig", ground: Ground) -> None:
        self.config, self.ground = config, ground

    @classmethod
    def is_active(cls, config: "RunConfig") -> bool:
        """Whether this config switches the remedy on."""
        return True

    def plan(self, t: Tensor, *, step: int, seed: int) -> Any:
        return PlainPlan(t.detach().cpu(), self.ground.path.at(t))

    def asks(self, plan: Any) -> bool:
        return False

    def state(self, batch: Batch, plan: Any, network: Network) -> State:
        return State(self.ground.path.noised(batch.x0, batch.noise, plan.target), plan.target, plan)

    def target(self, batch: Batch, state: State) -> Tensor:
        return target_output(batch.x0, batch.noise, state.level, self.ground.prediction_type)

    def terms(self, batch: Batch, state: State, output: Tensor, network: Network) -> Terms:
        return Terms()

    def counts(self, plan: Any) -> Counts:
        return Counts()

    def calls(self, plan: Any, guidance: Guidance) -> Calls:
        return Calls(1, 0)
