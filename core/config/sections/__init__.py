"""What a run is configured by: small frozen sections, one file each, every option declared once. `flat.RunConfig` is the whole of them.

Nothing is ever changed in place. Pure Python: importing this costs milliseconds and no torch, because the page and the command line
start with it.
"""

from .data import DataConfig
from .drift import DriftConfig
from .input_perturbation import InputPerturbationConfig
from .lora import LoraConfig
from .model import DEMO_PREDICTION_TYPES, ModelConfig
from .rollout import RolloutConfig, probability_at
from .saving import SavingConfig
from .text_encoder import TextEncoderConfig
from .training import TrainingConfig
from .validation import ValidationConfig

__all__ = [
    "DEMO_PREDICTION_TYPES",
    "DataConfig",
    "DriftConfig",
    "InputPerturbationConfig",
    "LoraConfig",
    "ModelConfig",
    "RolloutConfig",
    "SavingConfig",
    "TextEncoderConfig",
    "TrainingConfig",
    "ValidationConfig",
    "probability_at",
]
