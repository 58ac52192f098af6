"""Whether the model is there and suits the settings."""

from collections.abc import Iterable

from ...config.rules import negative_prompt_is_idle
from ...findings import Finding
from ..model_check import check_model
from .situation import Situation


def model(situation: Situation) -> Iterable[Finding]:
    """What is wrong with the model's files; of one that must be downloaded, what its hub says of it: gated, missing, of another family,
    without the variant, too large for the disk. That asks the network, with time limits."""
    if any(finding.code == "model-download" for finding in situation.model_findings):
        return check_model(situation.config.model).findings
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


def negative_prompt(situation: Situation) -> Iterable[Finding]:
    """A note where the family is only known from the checkpoint; one that the config names is judged by the rules (`idle_remarks`)."""
    config = situation.config
    if situation.model is None or config.model.model_family != "auto" or not config.validation.negative_prompt:
        return
    idle = negative_prompt_is_idle(situation.model.family)
    if idle is not None:
        yield Finding(
            "note", idle.options[0], idle.sentence(list(idle.options)), "Leave it empty.", "negative-prompt-idle"
        )
