"""What trained text encoders add to a run: weights that train, weights that stay loaded, numbers kept for the backward pass. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import RunConfig
from ..families.clip_shapes import TARGETS, embedding_weights, encoder_shapes
from ..families.source import ModelError, locate
from ..families.unet_facts import CLIP_TOKENS
from .model_files import ModelFacts


@dataclass(frozen=True)
class EncoderLoad:
    """`adapter`: the tensors that train. `weights`: of the encoders themselves. `outputs`: numbers that their layers put out for one caption."""

    adapter: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: int = 0
    outputs: int = 0


def encoder_load(config: RunConfig, model: ModelFacts | None) -> EncoderLoad:
    """Nothing where no text encoder changes, or the model's configs are not on this computer."""
    text = config.text_encoder
    if not text.is_on or model is None or model.family is None or not model.family.trained_encoders:
        return EncoderLoad()
    try:
        configs = locate(str(model.folder)).configs
        shapes = encoder_shapes(configs, model.family)
        tables = embedding_weights(configs, model.family)
    except ModelError:
        return EncoderLoad()  # the model's own check says what is wrong with it
    rank = config.lora.rank if text.text_encoder_lora_rank is None else text.text_encoder_lora_rank
    adapted = {name: shape for name, shape in shapes.items() if name.endswith(TARGETS) and text.train_text_encoder}
    down = {f"{name}.lora_A": (rank, inputs) for name, (_, inputs) in adapted.items()}
    up = {f"{name}.lora_B": (outputs, rank) for name, (outputs, _) in adapted.items()}
    return EncoderLoad(
        adapter=down | up,
        weights=tables + sum(math.prod(shape) for shape in shapes.values()),
        outputs=CLIP_TOKENS * sum(shape[0] for shape in shapes.values()),
    )
