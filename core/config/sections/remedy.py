"""What the sections of remedies against exposure bias have in common, so that nobody else lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..options import Checked, shown


@dataclass(frozen=True, kw_only=True)
class RemedyConfig(Checked):
    """Base of a remedy's section. A run has one remedy, so that a comparison says which one helped.

    `name`: in a sentence. `off`: the flat key that switches it off and its value, and nothing else (solver and grid of a rollout also set
    the drift probe, which a control keeps). `noise_control`: what makes the run the control that trains plain rows at the remedy's noise
    levels; None where it has none. `takes_time`: is a step longer than a plain one? `only`: the kind of model that it is defined for,
    None = every one.
    """

    name: ClassVar[str]
    off: ClassVar[Mapping[str, Any]]
    noise_control: ClassVar[Mapping[str, Any] | None] = None
    takes_time: ClassVar[bool] = True
    only: ClassVar[Literal["flow_matching", "epsilon"] | None] = None

    @property
    def heading(self) -> str:
        """`name` at the beginning of a sentence."""
        return f"{self.name[:1].upper()}{self.name[1:]}"

    @property
    def switch(self) -> tuple[str, Any]:
        """The flat name of the option that switches it off, and its value here."""
        flat = next(iter(self.off))
        return flat, getattr(self, flat.removeprefix(self.prefix))

    @property
    def off_in_words(self) -> str:
        """How it is switched off, for a sentence's remedy: "soar_states to 0"."""
        return ", ".join(f"{name} to {shown(value)}" for name, value in self.off.items())

    @property
    def is_active(self) -> bool:
        """Is any row trained elsewhere than in plain training, by the remedy or (in a control) at its noise level?"""
        raise NotImplementedError

    @property
    def acts(self) -> bool:
        """Does the remedy itself act on any row? Not in a control."""
        return self.is_active and getattr(self, "control", "none") == "none"

    def unfit(self, prediction_type: str | None) -> str | None:
        """Why it cannot be used on a model that predicts this; None where it can, is off, or the kind is not known."""
        if not self.is_active or self.only is None or prediction_type in (None, self.only):
            return None
        kinds = {"flow_matching": "flow models", "epsilon": "models that predict the noise (epsilon)"}
        return f"{self.heading} is defined for {kinds[self.only]} only"
