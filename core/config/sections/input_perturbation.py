"""Input perturbation."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..options import option
from .remedy import RemedyConfig

_PERTURBATION = "Input perturbation (Ning et al., arXiv 2301.11706)"


@dataclass(frozen=True, kw_only=True)
class InputPerturbationConfig(RemedyConfig):
    """Input perturbation: the input of a row is noisier than its target knows of, as the model's own states are when it samples."""

    title: ClassVar[str] = "Perturbation"
    prefix: ClassVar[str] = "input_perturbation_"
    name: ClassVar[str] = "input perturbation"
    off: ClassVar = {"input_perturbation_gamma": 0.0}
    noise_control: ClassVar = {"input_perturbation_control": "input_noise"}
    takes_time: ClassVar[bool] = False

    gamma: float = option(
        0.0,
        "Extra noise on the input of every row, as a share of the noise that is there; the target stays that of the noise without it. "
        "Costs no time. 0 = off, 0.1 in the paper. Not together with scheduled sampling.", label="Noise added to the input (gamma)",
        ge=0, le=1, source=_PERTURBATION, level="advanced", since="0.2",
    )  # fmt: skip
    control: Literal["none", "input_noise"] = option(
        "none",
        "For a fair comparison: input_noise perturbs nothing, but trains every row as a plain row at the noise level that its perturbed "
        "input would have had. What it gains too did not come from the mismatch.", label="Input perturbation: control for comparisons",
        level="advanced", since="0.2",
    )  # fmt: skip

    @property
    def is_active(self) -> bool:
        return self.gamma > 0
