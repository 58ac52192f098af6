"""How much of a step's memory is numbers kept for the backward pass: estimated from the shapes of the weights. No torch."""

import math
import re
from collections.abc import Mapping

from ..config import RunConfig
from ..families.facts import ATTENTION
from .disk import adapted_layers
from .model_files import ModelFacts
from .text_encoders import EncoderLoad

KEPT_PER_OUTPUT = {"unet": 3.0, "transformer": 1.8}
"""Numbers kept for the backward pass for each number that a layer puts out: its input, norms, gates, the adapter's own."""
CHECKPOINTED = 0.52
"""Share of them that gradient checkpointing leaves of a CPU process's memory, which keeps much of what was freed."""
CHECKPOINTED_UNET, KEPT_PER_BLOCK = 0.27, 0.08
"""Share of them that it leaves at the peak on a card: of a UNet, where one block of the finest level is most of it; of a transformer one
block's own, and between the blocks this share. Counted on released networks (tools/count_step.py), docs/training.md."""


def activations(config: RunConfig, facts: ModelFacts, device: str, encoders: EncoderLoad) -> float:
    """Bytes of a step's rows; the formula is in `estimate.memory_estimate`. `encoders`: the text encoders that train."""
    training, data, full = config.training, config.data, config.training.model_type == "full"
    mixed, in_32 = training.mixed_precision != "no", full or config.model.base_model_precision == "float32"
    preserved = data.output_preservation_weight > 0  # the graph of the class prompt's rows waits beside the other
    of_a_process = math.ceil(training.train_batch_size / training.num_processes)
    rows = of_a_process * (1 + data.with_prior_preservation + preserved)
    rows *= 1 + config.soar.states if config.soar.is_active else 1  # whose states train in one call with their rows
    wide = 4 if not mixed and in_32 else 3 if in_32 else 2
    left = checkpointed(facts, device) if training.gradient_checkpointing else 1.0
    numbers = KEPT_PER_OUTPUT["unet" if facts.component == "unet" else "transformer"] * left
    found = rows * wide * numbers * _outputs(facts, data.resolution)
    if not full and config.lora.type != "lora":
        found += _whole_changes(config, facts, left) * (2 if mixed else 4)
    return found + rows * wide * KEPT_PER_OUTPUT["transformer"] * encoders.outputs


def _whole_changes(config: RunConfig, facts: ModelFacts, left: float) -> float:
    """Numbers of the layers' changes as whole weights: LoHa and LoKr compute them and keep them for the backward pass, DoRA those of one
    layer for a moment, with a square of its inputs' size (docs/training.md)."""
    usual = ATTENTION if facts.family is None else facts.family.lora_targets
    layers = adapted_layers(facts.shapes, config.lora.targets if config.lora.targets else usual)
    weights = [facts.shapes[f"{layer}.weight"] for layer in layers]
    if config.lora.type == "dora":
        return float(max((3 * math.prod(shape) + math.prod(shape[1:]) ** 2 for shape in weights), default=0))
    return left * sum(math.prod(shape) for shape in weights)


def checkpointed(facts: ModelFacts, device: str) -> float:
    """Share of the activations that gradient checkpointing leaves."""
    if device == "cpu":
        return CHECKPOINTED
    if facts.component == "unet":
        return CHECKPOINTED_UNET
    blocks = {found[0] for name in facts.shapes if (found := re.match(r".*?(blocks|layers|refiner)\.\d+\.", name))}
    return min(CHECKPOINTED, 1 / max(1, len(blocks)) + KEPT_PER_BLOCK)


def _outputs(facts: ModelFacts, resolution: int) -> float:
    """Numbers that the network's layers put out for one row."""
    side = math.ceil(resolution / (8 if facts.pixels_per_latent is None else facts.pixels_per_latent))
    if facts.component == "unet":
        return _unet_outputs(facts.shapes, side)
    tokens = math.ceil(side / facts.cells_per_token) ** 2 + facts.text.tokens
    # Only layers inside the blocks; modulation layers put out one vector for the whole picture, not one for each token.
    return tokens * sum(
        shape[0] for name, shape in facts.shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and re.match(r".*(blocks|layers|refiner)\.\d+\.", name) and not re.search("norm|adaln", name.lower())
    )  # fmt: skip


def _unet_outputs(shapes: Mapping[str, tuple[int, ...]], side: int) -> float:
    """Each level of a UNet has half the side of the one above. Layers on time or text put out next to nothing."""
    downs = 1 + max((int(found[1]) for name in shapes if (found := re.match(r"down_blocks\.(\d+)\.", name))), default=0)
    total = 0.0
    for name, shape in shapes.items():
        if len(shape) < 2 or not name.endswith(".weight") or "time_emb" in name or re.search(r"attn2\.to_[kv]\.", name):
            continue
        at = re.match(r"(down|up)_blocks\.(\d+)\.", name)
        level = (
            downs - 1
            if name.startswith("mid_block")
            else 0
            if at is None
            else int(at[2])
            if at[1] == "down"
            else downs - 1 - int(at[2])
        )
        total += shape[0] * math.ceil(side / 2**level) ** 2
    return total
