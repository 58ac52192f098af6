"""The parts that a training is put together from: which options lie on which wire, and the config that the parts make.

One table, read by the nodes that give a part, by the Preset node, by validation, and by the way from a form's config to a graph and back.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ...core.config import OPTIONS, RunConfig, config_from_flat
from ...core.config.concepts import concepts_of, entry
from ...core.names import is_elsewhere
from . import values
from .declaration import Widget, of_option
from .values import Settings, settings

MODEL_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.section == "model")
LORA_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.section in ("lora", "text_encoder"))

FOLDER_OPTIONS = ("instance_data_dir",)
CLASS_OPTIONS = (
    "with_prior_preservation", "class_prompt", "prior_loss_weight", "num_class_images", "class_sample_steps", "class_sample_guidance",
    "output_preservation_weight", "output_preservation_prompt",
)  # fmt: skip
DATASET_OPTIONS = tuple(
    name for name, option in OPTIONS.items()
    if option.section == "data" and name not in (*FOLDER_OPTIONS, *CLASS_OPTIONS, "class_data_dir")
)  # fmt: skip

REFLEXFLOW_OPTIONS = tuple(name for name in OPTIONS if name.startswith("scheduled_sampling_reflexflow"))
OTHER_REMEDIES: dict[str, tuple[str, tuple[str, ...]]] = {
    section: (kind, tuple(name for name, option in OPTIONS.items() if option.section == section))
    for section, kind in {
        "input_perturbation": "InputPerturbation", "soar": "SOAR", "mixflow": "MixFlow", "dream": "DREAM",
    }.items()
}  # fmt: skip
"""Section of a remedy that takes the place of scheduled sampling -> (the kind of its node, its options)."""
SAMPLING_OPTIONS = tuple(
    name for name, option in OPTIONS.items() if option.section == "rollout" and name not in REFLEXFLOW_OPTIONS
)

OPTIMIZER_OPTIONS = (
    "optimizer", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "lr_scheduler", "lr_warmup_steps",
    "max_grad_norm",
)  # fmt: skip
TRAINING_OPTIONS = tuple(
    name for name, option in OPTIONS.items()
    if option.section in ("training", "saving") and name not in ("model_type", *OPTIMIZER_OPTIONS)
)  # fmt: skip
VALIDATION_OPTIONS = tuple(name for name, option in OPTIONS.items() if option.section == "validation")
DRIFT_OPTIONS = tuple(
    name for name, option in OPTIONS.items() if option.section == "drift" and name != "drift_data_dir"
)

PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": (values.MODEL, MODEL_OPTIONS),
    "adapter": (values.ADAPTER, ("model_type", *LORA_OPTIONS)),
    "dataset": (values.DATASET, (*FOLDER_OPTIONS, *DATASET_OPTIONS, *CLASS_OPTIONS, "class_data_dir")),
    "rollout": (
        values.ROLLOUT,
        (
            *SAMPLING_OPTIONS,
            *REFLEXFLOW_OPTIONS,
            *(name for _, options in OTHER_REMEDIES.values() for name in options),
        ),
    ),
    "optimizer": (values.OPTIMIZER, OPTIMIZER_OPTIONS),
    "settings": (values.TRAINING, TRAINING_OPTIONS),
    "validation": (values.VALIDATION, VALIDATION_OPTIONS),
    "drift": (values.DRIFT, ("drift_data_dir", *DRIFT_OPTIONS)),
}
"""Part -> (wire type, the options on it): the sockets of a Train node and the outputs of a Preset node. Later parts win."""


def widgets(names: Iterable[str]) -> tuple[Widget, ...]:
    """A widget for each of some options, called by the option's field."""
    return tuple(of_option(name, **({"rule": foreign_folder} if name == "concepts" else {})) for name in names)


def foreign_folder(text: str | None) -> str | None:
    """What is wrong with further things whose folders lie on another machine (as `validate.value_faults` has it for a single folder)."""
    for number, concept in enumerate(concepts_of(text)):
        for name in ("instance_data_dir", "class_data_dir"):
            folder = getattr(concept, name)
            if folder is not None and is_elsewhere(folder):
                return (
                    f"{entry(number, concept)}, {name}: names another machine or is a URL; copy the files here first."
                )
    return None


def picked(names: Iterable[str], given: Mapping[str, Any]) -> Settings:
    """The flat options `names` from inputs that are called by the options' fields."""
    return settings({name: given[OPTIONS[name].field] for name in names})


def config_from_parts(parts: Mapping[str, Settings | None]) -> RunConfig:
    """The config that parts on wires make together; absent parts have their defaults. Raises ConfigError with every fault."""
    flat: dict[str, object] = {}
    for name in PARTS:
        if parts.get(name) is not None:
            flat |= parts[name].flat
    return config_from_flat(flat)
