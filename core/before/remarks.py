"""Remarks on the settings of a config: those without effect, and those that cost more than one would expect. No torch."""

from ..config import RunConfig
from ..config.rules import idle_remarks, idle_rollout_remarks
from .cautions import cautions


def remarks(config: RunConfig) -> list[str]:
    """Sentences about settings that differ from their default without effect, or that cost more than one would expect.

    A setting that contradicts another is a fault and refused; one that only matters together with another is remarked on here, and
    so is one that works but costs more than one would expect (`cautions`).
    """
    return [*idle_remarks(config), *(caution.sentence for caution in cautions(config))]


def rollout_remarks(config: RunConfig) -> list[str]:
    """`remarks` about the rollout settings alone."""
    return [*idle_rollout_remarks(config), *(caution.sentence for caution in cautions(config))]
