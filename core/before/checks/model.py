"""Whether the model is there and suits the settings."""

from collections.abc import Iterable

from ...config.rules import negative_prompt_is_idle
from ...config.text_encoder_rules import why_not
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


def text_encoders(situation: Situation) -> Iterable[Finding]:
    """An error where text encoders are to be trained that are not trained here; of a family that the config names the rules say it."""
    config, model = situation.config, situation.model
    family = None if model is None else model.family
    if config.text_encoder.is_on and family is not None and not family.trained_encoders:
        yield Finding(
            "error",
            "train_text_encoder" if config.text_encoder.train_text_encoder else "new_tokens",
            why_not(family.label),
            "Set train_text_encoder = false and new_tokens = 0.",
            "text-encoder",
        )
