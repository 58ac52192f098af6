"""What a run's mishaps have left behind: kept in each checkpoint, so that a resumed run does what the undisturbed one does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

OUTLIER = 50
"""A loss so many times the usual one is named."""
_FEWEST, _REMEMBERED = 10, 50  # losses before one is judged; how many the usual one looks back on
_COUNTS_AS = 10  # times the usual one: the most that a loss counts in it


@dataclass
class Standing:
    """Changes as the run trains; `recovery.Recovery` alone changes it. The same on every rank, but for `portion`."""

    broken_in_a_row: int = 0
    """Steps in a row, up to now, that were skipped because a number in them was not finite."""
    rate_factor: float = 1.0
    """The learning rate is the schedule's times this: half after the run went back."""
    went_back_to: int | None = None
    """The step of the checkpoint that the run went back to; None: it never did."""
    usual_loss: float | None = None
    """The running mean of the loss of a step, None before the first."""
    losses: int = 0
    """How many losses it is made of."""
    split: int = 1
    """Parts that each batch goes through the network in, because the whole did not fit into the memory."""
    portion: int | None = None
    """Rows that the network is asked for at once where no gradient is kept (rollouts); None: all."""
    scaled: int = 0
    """Steps that the loss scale left out so far (fp16)."""
    scaled_in_a_row: int = 0
    """How many of them were the last ones."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """As a checkpoint's record has it; one of an older version has none."""
        kept = record.get("standing", {})
        return cls(**{each.name: kept[each.name] for each in fields(cls) if each.name in kept})

    def record(self) -> dict[str, Any]:
        """For a checkpoint's record."""
        return asdict(self)

    def stands_out(self, loss: float) -> bool:
        """Whether a finite loss is more than `OUTLIER` times the usual one; not within the first few. Takes it into the usual one."""
        usual, known = self.usual_loss, self.losses
        self.losses += 1
        if usual is None or usual == 0:
            self.usual_loss = loss
            return False
        bounded = min(loss, _COUNTS_AS * usual)  # so one outlier does not hide the next
        self.usual_loss = usual + (bounded - usual) / min(self.losses, _REMEMBERED)
        return known >= _FEWEST and loss > OUTLIER * usual
