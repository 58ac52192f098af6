"""Corrections that act while a model samples, without training, as a measured rollout may try them. Declared here; `corrected` applies them. No torch.

*Epsilon scaling* (Ning et al., arXiv 2308.15321, their uniform schedule): the predicted noise is divided by a number at every step. *Shifted time* (Li et
al., arXiv 2305.15583): the network is told the noise level whose variance is that of the state, within a window round the nominal one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...config.options import Checked, ConfigError, Fault, Option, option, options_of


@dataclass(frozen=True, kw_only=True)
class SamplingCorrection(Checked):
    """What a rollout does to the network's answers. Costs no forward."""

    prefix: ClassVar[str] = ""

    correction: Literal["none", "epsilon_scaling", "shifted_time"] = option(
        "none",
        "Correct the rollout while it samples, without training: the predicted noise divided by a number (models that predict noise), or the network told "
        "the noise level that the state seems to have (all models). The Drift tab shows it under the uncorrected rollout.",
        label="Correct while sampling",
        since="0.3",
    )
    epsilon_scale: float = option(
        1.01,
        "Epsilon scaling: what the predicted noise is divided by at every step; 1 changes nothing. Its authors take 1.004 to 1.017 at 100 steps.",
        label="The predicted noise is divided by",
        ge=0.8,
        le=1.25,
        source="arXiv 2308.15321",
        level="advanced",
        since="0.3",
    )
    time_window: float = option(
        0.02,
        "Shifted time: how far the level that the network is told may lie from the nominal one, as a part of all training times; 0 changes nothing.",
        label="Farthest shift of the time",
        ge=0.0,
        le=0.5,
        source="arXiv 2305.15583",
        level="advanced",
        since="0.3",
    )
    time_cutoff: float = option(
        0.5,
        "Shifted time: only above this part of all training times. Below it the picture's own variance is no longer small against that of the noise.",
        label="The time is shifted above",
        ge=0.0,
        le=1.0,
        source="arXiv 2305.15583",
        level="advanced",
        since="0.3",
    )

    @property
    def acts(self) -> bool:
        """Whether it changes anything: not for a scale of 1 or a window of 0."""
        match self.correction:
            case "epsilon_scaling":
                return self.epsilon_scale != 1
            case "shifted_time":
                return self.time_window > 0
        return False

    @property
    def ways(self) -> "tuple[SamplingCorrection, ...]":
        """How a rollout is shown: as it is, and corrected where that is asked for."""
        return (UNCORRECTED,) if self.correction == "none" else (UNCORRECTED, self)

    @property
    def label(self) -> str:
        """What a curve or a strip is called; "" for none."""
        return {
            "none": "",
            "epsilon_scaling": f"epsilon scaling {self.epsilon_scale:g}",
            "shifted_time": f"shifted time ±{self.time_window:g} above {self.time_cutoff:g}",
        }[self.correction]

    @property
    def sentence(self) -> str:
        """What it does, for a report; "" for none."""
        return {
            "none": "",
            "epsilon_scaling": f"With {self.label} the rollout divides the predicted noise by {self.epsilon_scale:g} at every step (arXiv 2308.15321); the "
            "true path is not corrected.",
            "shifted_time": f"With {self.label} the rollout tells the network the noise level whose variance its state has, at most {self.time_window:g} of "
            f"all times away, above {self.time_cutoff:g} of them (arXiv 2305.15583); the true path is not corrected.",
        }[self.correction]

    @property
    def record(self) -> dict[str, Any]:
        """Its settings as JSON; empty where it does nothing."""
        if self.correction == "none":
            return {}
        return {"correction": self.correction, **{name: getattr(self, name) for name in NUMBERS[self.correction]}}

    def check(self, prediction_type: str) -> None:
        """Raises ConfigError for a model that it is not made for."""
        if self.correction == "epsilon_scaling" and prediction_type != "epsilon":
            message = (
                f"correction = epsilon_scaling: divides a predicted noise, and this model predicts {_PREDICTS[prediction_type]}. Choose shifted_time, "
                "which is made for all models, or none."
            )
            raise ConfigError([Fault(message, ("correction",))])


_PREDICTS = {"v_prediction": "a mixture of noise and picture (v)", "sample": "the picture", "flow_matching": "the flow's velocity"}  # fmt: skip

NUMBERS = {"none": (), "epsilon_scaling": ("epsilon_scale",), "shifted_time": ("time_window", "time_cutoff")}
"""Correction -> the numbers that it uses; the others have no effect."""

UNCORRECTED = SamplingCorrection()
"""What every measurement does unless a correction is asked for."""

CORRECTION_OPTIONS: dict[str, Option] = {each.name: each for each in options_of(SamplingCorrection, "correction")}
"""The fields of `SamplingCorrection`, as options: for the Drift tab and the graph's nodes."""


def correction_of(given: Mapping[str, Any]) -> SamplingCorrection:
    """From the keys of a request or a report's record; what is missing or None has its default. Raises ConfigError."""
    return SamplingCorrection(**{name: given[name] for name in CORRECTION_OPTIONS if given.get(name) is not None})
