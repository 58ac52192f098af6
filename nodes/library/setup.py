"""Model, adapter, optimizer and the rest of a training's settings: nodes that only put options on a wire."""

from ...core.config import DEMO_PREDICTION_TYPES, config_to_flat, preset_names, read_preset
from ..execute import fingerprints
from ..graph import values
from ..graph.declaration import Output, Socket, local, node, of_option
from ..graph.parts import (
    DRIFT_OPTIONS,
    LORA_OPTIONS,
    MODEL_OPTIONS,
    OPTIMIZER_OPTIONS,
    PARTS,
    TRAINING_OPTIONS,
    VALIDATION_OPTIONS,
    picked,
    widgets,
)
from ..graph.values import settings


@node(
    "Model", "Model", "Model",
    inputs=widgets(MODEL_OPTIONS),
    outputs=(Output("model", values.MODEL, "The model to start from."),),
    fingerprint=lambda inputs: fingerprints.of_model(inputs["pretrained_model_name_or_path"]),
    aliases=("checkpoint", "base model", "loader"),
)  # fmt: skip
def model(context, **given):
    """The model to start from: a folder in the diffusers layout, a .safetensors checkpoint, or a hub id. It is named here and opened by the nodes that use it."""
    return (picked(MODEL_OPTIONS, given),)


@node(
    "DemoModel", "Demo Model", "Model",
    inputs=(
        local("model", "str", "demo-flow", "Which of the built-in models.", choices=tuple(DEMO_PREDICTION_TYPES)),
        of_option("device"),
    ),
    outputs=(Output("model", values.MODEL, "The model to start from."),),
    fingerprint=lambda inputs: fingerprints.of_model(inputs["model"]),
    aliases=("toy", "example"),
)  # fmt: skip
def demo_model(context, model, device):
    """A small built-in model of drawn scenes: nothing to download, trains in minutes on a CPU."""
    return (settings({"pretrained_model_name_or_path": model, "device": device}),)


@node(
    "LoRA", "LoRA", "Model",
    inputs=widgets(LORA_OPTIONS),
    outputs=(Output("adapter", values.ADAPTER, "What is trained."),),
    aliases=("adapter", "rank"),
)  # fmt: skip
def lora(context, **given):
    """Train a small adapter on top of the model; the result is one LoRA file."""
    return (picked(LORA_OPTIONS, given).with_({"model_type": "lora"}),)


@node(
    "FullFineTune", "Full Fine-tune", "Model",
    inputs=(Socket("lora", values.ADAPTER, "LoRA settings to keep for later; without effect on this training.", True),),
    outputs=(Output("adapter", values.ADAPTER, "What is trained."),),
)  # fmt: skip
def full(context, lora):
    """Train every weight of the denoiser: far more memory, and a whole model as the result."""
    kept = settings({}) if lora is None else lora
    return (kept.with_({"model_type": "full"}),)


@node(
    "Optimizer", "Optimizer", "Training",
    inputs=widgets(OPTIMIZER_OPTIONS),
    outputs=(Output("optimizer", values.OPTIMIZER, "The update rule."),),
    aliases=("learning rate", "adam", "prodigy"),
)  # fmt: skip
def optimizer(context, **given):
    """The update rule, its learning rate and how that goes over the run."""
    return (picked(OPTIMIZER_OPTIONS, given),)


@node(
    "TrainingSettings", "Training Settings", "Training",
    inputs=widgets(TRAINING_OPTIONS),
    outputs=(Output("settings", values.TRAINING, "Length, batch, precision and saving."),),
    aliases=("steps", "batch", "seed", "precision", "checkpoint interval"),
)  # fmt: skip
def training_settings(context, **given):
    """How long and in which batches and precision to train, and how often to save."""
    return (picked(TRAINING_OPTIONS, given),)


@node(
    "ValidationPrompts", "Validation Prompts", "Training",
    inputs=widgets(VALIDATION_OPTIONS),
    outputs=(Output("validation", values.VALIDATION, "What is drawn while training."),),
    aliases=("samples",),
)  # fmt: skip
def validation_prompts(context, **given):
    """Captions that are drawn before, while and after training, always from the same noise."""
    return (picked(VALIDATION_OPTIONS, given),)


@node(
    "DriftProbe", "Drift Probe", "Training",
    inputs=(
        Socket("folder", values.FOLDER, "Pictures to measure on; without it some are held out of the training.", True),
        *widgets(DRIFT_OPTIONS),
    ),
    outputs=(Output("drift", values.DRIFT, "What the drift reports measure."),),
)  # fmt: skip
def drift_probe(context, folder, **given):
    """On which pictures, from how far away and how often the model's drift on its own output is measured."""
    where = None if folder is None else folder.path
    return (settings({"drift_data_dir": where}).with_(picked(DRIFT_OPTIONS, given)),)


@node(
    "Preset", "Preset", "Model",
    inputs=(local("preset", "str", "demo", "Which of the presets that come along.", choices=tuple(preset_names())),),
    outputs=tuple(
        Output(name, type, f"The preset's {name}; link another node in its place to change that part.")
        for name, (type, _) in PARTS.items()
    ),
    fingerprint=lambda inputs: fingerprints.of_flat(read_preset(inputs["preset"]).changes) + read_preset(inputs["preset"]).config().hash(),
)  # fmt: skip
def preset(context, preset):
    """All parts of a preset, each on its own output: take what you want, replace the rest."""
    flat = config_to_flat(read_preset(preset).config())
    return tuple(settings({name: flat[name] for name in names}) for _, names in PARTS.values())
