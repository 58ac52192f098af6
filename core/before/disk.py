"""How many bytes a run writes, and how many weights it trains; no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import RunConfig
from ..data import Scan, bucket_counts
from ..families.facts import ATTENTION
from .model_files import ModelFacts
from .text_encoders import encoder_load


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes that a run will write: prepared data into the cache; checkpoints, samples and the export into the run."""

    cache: int
    run: int


def disk_estimate(config: RunConfig, found: Scan, model: ModelFacts | None) -> DiskEstimate:
    """What the run will need on disk, from the pictures, the limits and the shapes of the model's weights.

    An estimate from above: what is already cached counts again, text embeddings have the length of the longest known
    encoder. Without a model at hand (a hub id not downloaded yet) the sizes of a large one are taken for the cache, and
    none for checkpoints.
    """
    data, training = config.data, config.training
    scale, channels, text = 8, 16, 512 * 4096 * 4
    if model is not None:
        scale = model.pixels_per_latent if model.pixels_per_latent is not None else scale
        channels = model.latent_channels if model.latent_channels is not None else channels
        text = model.text.bytes_
    pictures, prompts = len(found.items), len({item.caption for item in found.items}) + 1
    cache = 0
    if data.with_prior_preservation:
        shapes = max(1, len(bucket_counts(found.items)))
        pictures += max(data.num_class_images, len(found.class_items)) * shapes
        prompts += 1
        cache += max(0, data.num_class_images - len(found.class_items)) * 2 * data.resolution**2
    cache += (
        pictures * (2 if data.random_flip else 1) * 4 * channels * math.ceil(data.resolution / scale) ** 2
        + prompts * text
    )

    weights = 0 if model is None else trained_weights(config, model)
    copies = 3 + (1 if training.use_ema else 0)  # weights, two moments, the running mean
    steps, every = training.max_train_steps, config.saving.checkpoint_step_interval
    saves = (
        1 if every == 0 else min(config.saving.checkpoints_total_limit, math.ceil(steps / every)) + 1
    )  # + one being written
    sampled = 2 + (steps // config.validation.step_interval if config.validation.step_interval else 0)
    pictures_bytes = sampled * len(config.validation.prompts) * 2 * data.resolution**2
    return DiskEstimate(cache, weights * 4 * (copies * saves + 1) + pictures_bytes)


def trained_weights(config: RunConfig, model: ModelFacts) -> int:
    """How many numbers train: those of the adapter and of what trains of the text encoders, or of the whole network."""
    if config.training.model_type == "full":
        tables = () if model.family is None else model.family.untrained
        return sum(math.prod(shape) for name, shape in model.shapes.items() if not name.endswith(tables))
    usual = ATTENTION if model.family is None else model.family.lora_targets
    targets = config.lora.targets if config.lora.targets else usual
    return adapter_weights(model.shapes, config.lora.rank, targets) + encoder_load(config, model).trained


def adapted_layers(shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]) -> list[str]:
    """The layers that end in `targets`."""
    return [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) >= 2
        and any(name == f"{target}.weight" or name.endswith(f".{target}.weight") for target in targets)
    ]


def adapter_weights(shapes: Mapping[str, tuple[int, ...]], rank: int, targets: tuple[str, ...]) -> int:
    """Weights of an adapter on the layers that end in `targets`."""
    layers = (shapes[f"{layer}.weight"] for layer in adapted_layers(shapes, targets))
    return sum(rank * (shape[0] + math.prod(shape[1:])) for shape in layers)
