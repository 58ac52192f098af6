"""What a run is configured by: small frozen sections, one file each, every option declared once. `flat.RunConfig` is the whole of them.

Nothing is ever changed in place. Pure Python: importing this costs milliseconds and no torch, because the page and the command line
start with it.
"""

from .data import DataConfig
from .dream import DreamConfig
from .drift import DriftConfig
from .input_perturbation import InputPerturbationConfig
from .lora import LoraConfig
from .mixflow import MixFlowConfig
from .model import DEMO_PREDICTION_TYPES, ModelConfig
from .remedy import RemedyConfig
from .rollout import RolloutConfig, probability_at
from .saving import SavingConfig
from .soar import SoarConfig
from .text_encoder import TextEncoderConfig
from .training import TrainingConfig
from .validation import ValidationConfig

__all__ = [
    "DEMO_PREDICTION_TYPES",
    "DataConfig",
    "DreamConfig",
    "DriftConfig",
    "InputPerturbationConfig",
    "LoraConfig",
    "MixFlowConfig",
    "ModelConfig",
    "RemedyConfig",
    "RolloutConfig",
    "SavingConfig",
    "SoarConfig",
    "TextEncoderConfig",
    "TrainingConfig",
    "ValidationConfig",
    "probability_at",
]
