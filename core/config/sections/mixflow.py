"""MixFlow."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import option
from .remedy import RemedyConfig

_MIXFLOW = "MixFlow (arXiv 2512.19311)"


@dataclass(frozen=True, kw_only=True)
class MixFlowConfig(RemedyConfig):
    """MixFlow: a row's input is noisier than the time that the network is told, as its own states are when it samples."""

    title: ClassVar[str] = "MixFlow"
    prefix: ClassVar[str] = "mixflow_"
    name: ClassVar[str] = "MixFlow"
    off: ClassVar = {"mixflow_gamma": 0.0}
    noise_control: ClassVar = {"mixflow_control": "input_noise"}
    takes_time: ClassVar[bool] = False
    only: ClassVar = "flow_matching"

    gamma: float = option(
        0.0,
        "How far towards pure noise an input may lie above the time that the network is told, as a share of the way; each row draws its own from "
        "0 to this. 0 = off, 0.8 in the paper. Flow models only; costs no time.", label="Input ahead of its time (gamma)",
        ge=0, le=1, source=_MIXFLOW, level="advanced", since="0.4",
    )  # fmt: skip
    times: Literal["paper", "training"] = option(
        "paper",
        "Which times the network is told: paper = 1 - sqrt(U), which prefers little noise; training = as timestep_sampling draws them.",
        label="MixFlow: times", source=_MIXFLOW, level="advanced", since="0.4",
    )  # fmt: skip
    control: Literal["none", "input_noise"] = option(
        "none",
        "For a fair comparison: input_noise gives the same inputs, and tells the network their own noise level. What it gains too did not come "
        "from the difference of the two.", label="MixFlow: control for comparisons", level="advanced", since="0.4",
    )  # fmt: skip

    @property
    def is_active(self) -> bool:
        return self.gamma > 0
