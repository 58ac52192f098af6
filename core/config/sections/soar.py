"""SOAR."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import option
from .remedy import RemedyConfig

_SOAR = "SOAR (arXiv 2604.12617)"


@dataclass(frozen=True, kw_only=True)
class SoarConfig(RemedyConfig):
    """SOAR: beside each plain row the model takes one step of its own, and trains to come back from there at several noise levels."""

    title: ClassVar[str] = "SOAR"
    prefix: ClassVar[str] = "soar_"
    name: ClassVar[str] = "SOAR"
    off: ClassVar = {"soar_states": 0}
    noise_control: ClassVar = {"soar_control": "plain_states"}
    only: ClassVar = "flow_matching"

    states: int = option(
        0,
        "Extra training states of each row, made from one step of the model's own; each costs a forward and a backward. 0 = off, 6 in the paper. "
        "Flow models only; not together with another remedy.", label="States beside each row",
        unit="states", ge=0, le=16, source=_SOAR, level="advanced", since="0.4",
    )  # fmt: skip
    weight: float = option(
        1.0, "How much an extra state counts beside the row it was made from.", label="Weight of an extra state",
        ge=0, le=10, source=_SOAR, level="advanced", since="0.4",
    )  # fmt: skip
    guidance: float = option(
        4.5, "Guidance of the model's own step; 1 = without guidance, which costs half as much.", label="Guidance of SOAR's step",
        ge=1, le=30, source=_SOAR, level="advanced", since="0.4",
    )  # fmt: skip
    step: float = option(
        0.025, "Length of the model's own step, in sigma: 0.025 is one of forty from pure noise to the picture.", label="Length of SOAR's step",
        ge=0.001, le=0.5, source=_SOAR, level="advanced", since="0.4",
    )  # fmt: skip
    control: Literal["none", "plain_states"] = option(
        "none",
        "For a fair comparison: plain_states trains as many extra states at the same noise levels, made from the true picture. What it gains "
        "too did not come from the model's own step.", label="SOAR: control for comparisons", level="advanced", since="0.4",
    )  # fmt: skip

    @property
    def is_active(self) -> bool:
        return self.states > 0 and self.weight > 0
