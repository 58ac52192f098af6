"""How many bytes a run writes, and how many weights it trains; no torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..adapters.kinds import tensor_shapes
from ..config import RunConfig
from ..config.rank_pattern import ranks_of
from ..data import Scan, bucket_counts
from ..data.concepts import sets_of_class_pictures
from ..families.facts import ATTENTION
from .model_files import ModelFacts
from .text_encoders import EncoderLoad, encoder_load


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
        wanted, sets = 0, sets_of_class_pictures(data)
        for number, of_set in sets.items():
            there = sum(item.concept == number for item in found.class_items)
            wanted += max(of_set.num_class_images, there)
            cache += max(0, of_set.num_class_images - there) * 2 * data.resolution**2
        pictures += wanted * shapes
        prompts += len(sets)
    cache += (
        pictures * (2 if data.random_flip else 1) * 4 * channels * math.ceil(data.resolution / scale) ** 2
        + prompts * text
    )

    shapes = {} if model is None else trained_shapes(config, model)
    weights = sum(math.prod(shape) for shape in shapes.values())
    saved = weights * (2 if training.use_ema else 1) + moment_numbers(training.optimizer, shapes.values())
    steps, every = training.max_train_steps, config.saving.checkpoint_step_interval
    saves = (
        1 if every == 0 else min(config.saving.checkpoints_total_limit, math.ceil(steps / every)) + 1
    )  # + one being written
    sampled = 2 + (steps // config.validation.step_interval if config.validation.step_interval else 0)
    pictures_bytes = sampled * len(config.validation.prompts) * 2 * data.resolution**2
    return DiskEstimate(cache, math.ceil(4 * (saved * saves + weights)) + pictures_bytes)


def trained_weights(config: RunConfig, model: ModelFacts) -> int:
    """How many numbers train: those of the adapter and of what trains of the text encoders, or of the whole network."""
    return sum(math.prod(shape) for shape in trained_shapes(config, model).values())


def trained_shapes(
    config: RunConfig, model: ModelFacts, encoders: EncoderLoad | None = None
) -> dict[str, tuple[int, ...]]:
    """The tensors that train: those of the adapter and of what trains of the text encoders, or of the whole network. `encoders`: where
    they are known."""
    if config.training.model_type == "full":
        tables = () if model.family is None else model.family.untrained
        return {name: shape for name, shape in model.shapes.items() if not name.endswith(tables)}
    return adapter_shapes(config, model) | (encoder_load(config, model) if encoders is None else encoders).adapter


def moment_numbers(optimizer: str, shapes: Iterable[tuple[int, ...]]) -> float:
    """Numbers of 4 bytes that an optimizer keeps for tensors of these shapes (adamw_8bit: two of one byte each, counted as a quarter)."""
    if optimizer in ("adafactor", "came"):
        return float(sum(_factored(optimizer, shape) for shape in shapes))
    return KEPT_PER_WEIGHT[optimizer] * sum(math.prod(shape) for shape in shapes)


KEPT_PER_WEIGHT = {"adamw": 2.0, "adamw_8bit": 0.5, "prodigy": 4.0, "lion": 1.0}
"""The moments of an optimizer; of prodigy also the start and the sum that its rate is estimated from."""


def _factored(optimizer: str, shape: tuple[int, ...]) -> int:
    """A row and a column in place of a matrix (of came two of each, and its first moment); vectors are kept whole."""
    numbers = math.prod(shape)
    lines = numbers if len(shape) < 2 else numbers // shape[-1] + numbers // shape[-2]
    return lines if optimizer == "adafactor" else numbers + lines * (1 if len(shape) < 2 else 2)


def adapted_layers(shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]) -> list[str]:
    """The layers that end in `targets`."""
    return [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight")
        and len(shape) >= 2
        and any(name == f"{target}.weight" or name.endswith(f".{target}.weight") for target in targets)
    ]


def adapter_shapes(config: RunConfig, model: ModelFacts) -> dict[str, tuple[int, ...]]:
    """What trains of an adapter: name -> shape."""
    lora, usual = config.lora, ATTENTION if model.family is None else model.family.lora_targets
    layers = adapted_layers(model.shapes, lora.targets if lora.targets else usual)
    ranks = ranks_of(layers, lora.rank, lora.alpha, lora.rank_pattern)
    return {
        f"{layer}.{part}": shape
        for layer in layers
        for part, shape in tensor_shapes(
            lora.type, model.shapes[f"{layer}.weight"], ranks[layer][0], lora.lokr_factor
        ).items()
    }
