"""What a run is configured by: every option declared once (`options`, `sections`), the flat form, presets, rules, the reference. No torch."""

from .flat import (
    OPTIONS,
    SECTIONS,
    RunConfig,
    config_from_flat,
    config_to_flat,
    differences,
    read_config,
    read_flat,
    with_changes,
)
from .options import LARGEST_SEED, ConfigError
from .presets import (
    ROLLOUT_LEVELS,
    Preset,
    load_preset,
    preset_name,
    preset_names,
    read_preset,
    rollout_level,
    rollout_level_of,
)
from .rules import idle_remarks
from .sections import (
    DEMO_PREDICTION_TYPES,
    DataConfig,
    DriftConfig,
    LoraConfig,
    ModelConfig,
    RolloutConfig,
    TrainingConfig,
    probability_at,
)

__all__ = [
    "DEMO_PREDICTION_TYPES",
    "LARGEST_SEED",
    "OPTIONS",
    "ROLLOUT_LEVELS",
    "SECTIONS",
    "ConfigError",
    "DataConfig",
    "DriftConfig",
    "LoraConfig",
    "ModelConfig",
    "Preset",
    "RolloutConfig",
    "RunConfig",
    "TrainingConfig",
    "config_from_flat",
    "config_to_flat",
    "differences",
    "idle_remarks",
    "load_preset",
    "preset_name",
    "preset_names",
    "probability_at",
    "read_config",
    "read_flat",
    "read_preset",
    "rollout_level",
    "rollout_level_of",
    "with_changes",
]
