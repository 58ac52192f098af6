"""What to lower where the memory does not hold a training, and about how much each change saves alone. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..config import ConfigError, RunConfig, with_changes
from ..families.quantised import WAYS
from ..sizes import size
from .estimate import Span, memory_estimate
from .installation import device_of
from .model_files import ModelFacts

_WORTH_NAMING = 8 * 2**20  # bytes


@dataclass(frozen=True)
class Way:
    """Something to lower: in words, and as changes of the config, for which its saving is estimated. `at`: what the saving is of, where that is not the
    way itself; `also`: what is said in any case."""

    words: str
    changes: Mapping[str, object]
    also: str = ""
    at: str = ""


def ways_to_need_less(config: RunConfig, facts: ModelFacts | None = None) -> str:
    """What in a training's settings takes memory and can be lowered, in the order in which to try; what is done already is left out.

    Args:
        facts: of the model (`known_facts`); with them each way has what it saves by `memory_estimate`.
    """
    now = None if facts is None else memory_estimate(config, facts).total
    ways = [_told(way, _saving(way, config, facts, now)) for way in _ways(config)]
    return ", or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]


def _ways(config: RunConfig) -> Iterator[Way]:
    training, rows = config.training, config.training.train_batch_size
    if rows > 1:
        accumulated = rows * training.gradient_accumulation_steps
        yield Way(
            f"train_batch_size 1 instead of {rows}",
            {"train_batch_size": 1, "num_processes": 1},
            f"with gradient_accumulation_steps {accumulated} a step trains the same rows",
        )
    if not training.gradient_checkpointing:
        yield Way("gradient_checkpointing on", {"gradient_checkpointing": True})
    if training.model_type == "full":
        yield Way("model_type lora", {"model_type": "lora"})
    elif config.model.base_model_precision == "float32":
        yield Way("base_model_precision bfloat16", {"base_model_precision": "bfloat16"})
    if training.model_type == "lora" and config.model.base_model_quantization == "none":
        kinds = [name for name, way in WAYS.items() if device_of(config.model) in way.devices]
        yield Way(f"base_model_quantization {' or '.join(kinds)}", {"base_model_quantization": kinds[0]})
        if device_of(config.model) == "cuda" and not config.model.streamed_blocks:
            yield Way("streamed_blocks (blocks that wait in main memory)", {})
    side = config.data.resolution
    smaller = side * 3 // 4 // 64 * 64
    yield Way(
        f"a resolution below {side}",
        {"resolution": smaller} if smaller >= 64 else {},
        at=f"{smaller}: ",
    )


def _saving(way: Way, config: RunConfig, facts: ModelFacts | None, now: Span | None) -> float:
    """Bytes that a way saves alone; 0 where that cannot be estimated. `now`: the estimate without it."""
    if facts is None or now is None or not way.changes:
        return 0.0
    try:
        then = memory_estimate(with_changes(config, dict(way.changes)), facts).total
    except ConfigError:  # other settings would have to change with it
        return 0.0
    return 0.0 if then is None else now.likely - then.likely


def _told(way: Way, saved: float) -> str:
    """The way, and in brackets what it saves, where that is worth naming."""
    saving = f"{way.at}about {size(saved)} less" if saved > _WORTH_NAMING else ""
    more = "; ".join(part for part in (saving, way.also) if part)
    return f"{way.words} ({more})" if more else way.words
