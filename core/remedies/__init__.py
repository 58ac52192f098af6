"""What may be done against exposure bias: one file each, on the contract in `base.py`.

To add one: its section in `core/config`, its file here with a class on `Plain`, and one line in `REMEDIES`.
"""

from typing import TYPE_CHECKING

from .base import Batch, Ground, Network, Plain, Remedy, State, rows_of
from .dream import Dream
from .input_perturbation import InputPerturbation
from .mixflow import MixFlow
from .rollout import ScheduledSampling
from .soar import Soar

if TYPE_CHECKING:
    from ..config import RunConfig

REMEDIES: tuple[type[Plain], ...] = (ScheduledSampling, InputPerturbation, Soar, MixFlow, Dream)
"""In the order in which `is_active` is tested; at most one is active in a config."""

__all__ = [
    "REMEDIES",
    "Batch",
    "Dream",
    "Ground",
    "InputPerturbation",
    "MixFlow",
    "Network",
    "Plain",
    "Remedy",
    "ScheduledSampling",
    "Soar",
    "State",
    "remedy_for",
    "rows_of",
]


def remedy_for(config: "RunConfig", ground: Ground) -> Remedy:
    """The config's active remedy, on latents of one shape; plain training where none is active."""
    chosen = next((remedy for remedy in REMEDIES if remedy.is_active(config)), Plain)
    return chosen(config, ground)
