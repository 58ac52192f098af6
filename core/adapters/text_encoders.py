"""A LoRA on the text encoders, beside the denoiser's: which layers, what they are called, and where they lie.

A layer of an encoder is called `text_encoder.text_model.encoder.layers.0.self_attn.q_proj` everywhere, in checkpoints as in files of the
diffusers layout: the part's name, then the name that CLIP's modules had before transformers 5 dropped `text_model.` from some of them.
Layers of the denoiser have no part before them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from ..families.clip_shapes import STEM, TARGETS
from ..families.new_tokens import NewTokens, initial_rows, tokenizer_of
from ..families.source import ModelError
from .start import add_adapter

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Model
    from ..families.facts import FamilyFacts

TOKENS = "embeddings.token_embedding.rows"
"""New tokens' embeddings (`families.new_tokens.WordTable`) in an encoder."""
_ENCODER = "text_encoder"

Value = TypeVar("Value")


def is_encoders(name: str) -> bool:
    """Does a layer or a tensor of ours belong to a text encoder?"""
    return name.startswith(_ENCODER)


def is_tokens(name: str) -> bool:
    """Is a tensor of ours the embeddings of new tokens?"""
    return is_encoders(name) and name.endswith(TOKENS)


def split(named: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """(what belongs to the denoiser, what belongs to text encoders)."""
    return (
        {name: value for name, value in named.items() if not is_encoders(name)},
        {name: value for name, value in named.items() if is_encoders(name)},
    )


def full_name(part: str, name: str) -> str:
    """Our name of a module or parameter of the encoder `part`."""
    return f"{part}.{name if name.startswith(STEM) else STEM + name}"


def encoders(model: "Model") -> dict[str, Any]:
    """The encoders in memory that may be trained, by part."""
    found = {part: getattr(model.pipe, part, None) for part in model.facts.trained_encoders}
    return {part: encoder for part, encoder in found.items() if encoder is not None}


def part_of(name: str) -> str:
    """The encoder that a layer or tensor of ours belongs to; "" = the denoiser."""
    return name.partition(".")[0] if is_encoders(name) else ""


def adapted_encoders(model: "Model") -> dict[str, Any]:
    """The encoders that have an adapter, by part."""
    return {part: encoder for part, encoder in encoders(model).items() if getattr(encoder, "peft_config", None)}


def adapted(model: "Model") -> dict[str, Any]:
    """The denoiser, as "", and the encoders that have an adapter, by part."""
    return {"": model.denoiser} | adapted_encoders(model)


def modules(model: "Model") -> Iterator[tuple[str, nn.Module]]:
    """Every module of the denoiser, then of the encoders in memory, by our names."""
    yield from model.denoiser.named_modules()
    for part, encoder in encoders(model).items():
        yield from ((full_name(part, name), module) for name, module in encoder.named_modules())


def trained(model: "Model") -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter that trains, by our names: the denoiser's, then the encoders' layers, then their new tokens."""
    yield from ((name, each) for name, each in model.denoiser.named_parameters() if each.requires_grad)
    if model.text.stay:
        found = [
            (full_name(part, name), each)
            for part, encoder in encoders(model).items()
            for name, each in encoder.named_parameters()
            if each.requires_grad
        ]
        yield from sorted(found, key=lambda named: is_tokens(named[0]))


def check_trainable(facts: "FamilyFacts", config: "RunConfig") -> None:
    """Raises ModelError where the config trains text encoders of a family whose encoders are not trained here."""
    from ..config.text_encoder_rules import why_not

    if config.text_encoder.is_on and not facts.trained_encoders:
        why = why_not(facts.label)
        raise ModelError(why[:1].upper() + why[1:], "Set train_text_encoder = false and new_tokens = 0.")


def attach(model: "Model", config: "RunConfig") -> None:
    """Put a LoRA on every text encoder of the model, as `trainable.attach_lora` on the denoiser: without effect at first, reproducibly.

    Its scale is that of the denoiser's. No dropout: rollout and loss share one encoding of each caption.
    """
    from peft import LoraConfig as PeftConfig

    lora, text = config.lora, config.text_encoder
    rank = lora.rank if text.text_encoder_lora_rank is None else text.text_encoder_lora_rank
    scale = 1.0 if lora.alpha is None else lora.alpha / lora.rank
    model.text.stay = True
    model.text.opened()
    for part, encoder in encoders(model).items():
        settings = PeftConfig(r=rank, lora_alpha=scale * rank, target_modules=list(TARGETS))
        add_adapter(encoder, settings, model.device, config.training.seed, partial(full_name, part))
        encoder.eval()


@contextmanager
def in_32_bits(model: "Model") -> Iterator[None]:
    """The encoders compute in float32 inside; afterwards every weight has the bits that it had."""
    parameters = [each for encoder in encoders(model).values() for each in encoder.parameters()]
    were = [(each, each.dtype) for each in parameters if each.dtype != torch.float32]
    for each, _ in were:
        each.data = each.data.float()
    try:
        yield
    finally:
        for each, dtype in were:
            each.data = each.data.to(dtype)


def attach_tokens(model: "Model", config: "RunConfig") -> None:
    """Make the trigger word new tokens of every text encoder; only their rows train.

    Raises: ModelError where the word is a token already, or the initializer is none.
    """
    text, word = config.text_encoder, config.data.trigger_word
    model.text.stay = True
    model.text.opened()
    rows = {
        part: initial_rows(
            getattr(model.pipe, tokenizer_of(part)),
            encoder.get_input_embeddings(),
            str(text.new_token_initializer),
            text.new_tokens,
        )
        for part, encoder in encoders(model).items()
    }
    put_tokens(model, str(word), rows)


def put_tokens(model: "Model", word: str, rows: Mapping[str, Tensor]) -> None:
    """Give the encoders a word with these embeddings, part -> (n, width), in place of new tokens that they have. Empty: none."""
    if model.text.tokens is not None:
        model.text.tokens.remove()
        model.text.tokens = None
    if rows:
        model.text.opened()
        model.text.tokens = NewTokens(model.pipe, tuple(rows), word, rows)


def rows_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Part -> the new tokens' embeddings in a state of what trains."""
    return {part_of(name): tensor for name, tensor in state.items() if is_tokens(name)}


def of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, without its name before them."""
    start = part + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
