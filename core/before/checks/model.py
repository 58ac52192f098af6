"""Whether the model is there and suits the settings."""

from collections.abc import Iterable

from ...findings import Finding
from .situation import Situation


def model(situation: Situation) -> Iterable[Finding]:
    """What is wrong with the model's files, or that it must be downloaded."""
    return situation.model_findings


def resolution(situation: Situation) -> Iterable[Finding]:
    """A warning for a resolution that is not within a factor of two of the model's own."""
    if situation.model is None:
        return
    wanted, native = situation.config.data.resolution, situation.model.native_resolution
    if native is not None and not native / 2 <= wanted <= native * 2:
        yield Finding(
            "warning",
            "resolution",
            f"{wanted} px, but this model was made for about {native} px: far from it pictures fall apart"
            + (f", and a step costs about {(wanted / native) ** 2:.0f} times as much." if wanted > native else "."),
            f"Set resolution = {native}.",
            "resolution-far",
        )
