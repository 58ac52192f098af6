"""The new tokens of a trigger word as an embedding file, as AUTOMATIC1111's page, ComfyUI and diffusers' `load_textual_inversion` read it.

One text encoder (Stable Diffusion 1 and 2): a single tensor (n, width) under the word. Two (XL): `clip_l` and `clip_g`. The file is named after
the word, because A1111 and ComfyUI call an embedding by its file's name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import platform_calls
from ..families.new_tokens import names_of, tokenizer_of
from ..randomness import kept_random_state
from . import text_encoders
from .check import EXACT, ROUNDED, ExportCheck, Probe, fresh_model
from .header import NEW_TOKENS, ExportError, read_header
from .loading import quietly
from .lora_file import LoraError
from .trainable import adapter_state

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..families.base import Model

FOLDER = "embeddings"
"""Beside the LoRA, so that the files there stay LoRAs."""
WORD = "rollout_studio_trigger_word"
_PARTS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def path_beside(lora: Path, word: str) -> Path:
    """Where the embedding of a run's LoRA file lies."""
    return lora.parent / FOLDER / f"{re.sub(r'[^a-z0-9-]', '', word)}.safetensors"


def export_embedding(
    model: "Model",
    path: Path,
    config: "RunConfig",
    state: Mapping[str, Tensor] | None = None,
    *,
    step: int | None = None,
) -> Path:
    """Write the new tokens, whole or not at all. `state`: instead of the current weights, as `trainable.adapter_state` gives it.

    Raises: ExportError for a model without new tokens.
    """
    from safetensors.torch import save_file

    from ..families.devices import DTYPES

    if model.text.tokens is None:
        raise ExportError("The model has no new tokens to export; new_tokens makes some.")
    word, dtype = model.text.tokens.word, DTYPES[config.saving.save_precision]
    rows = text_encoders.rows_of(adapter_state(model) if state is None else state)
    named = {
        _PARTS[part] if len(rows) > 1 else word: each.detach().cpu().to(dtype).contiguous()
        for part, each in rows.items()
    }
    notes = {"format": "pt", WORD: word, "ss_base_model_version": model.facts.header["ss_base_model_version"]}
    if step is not None:
        notes["rollout_studio_step"] = str(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    with platform_calls.replacing(path) as part:
        save_file(named, part, metadata=notes)
    return path


def read_embedding(path: Path) -> tuple[str, dict[str, Tensor]]:
    """(the word, part -> its embeddings (n, width)) of a file that `export_embedding` wrote. Raises LoraError for another."""
    from safetensors.torch import load_file

    word = (read_header(path).get("__metadata__") or {}).get(WORD)
    tensors = load_file(path)
    parts = {part: tensors[key] for part, key in _PARTS.items() if key in tensors}
    if not isinstance(word, str) or not (parts or len(tensors) == 1):
        raise LoraError(
            f"'{path}' is no embedding file of Rollout Studio.", "Take the one that the run wrote beside its LoRA."
        )
    return word, parts if parts else {"text_encoder": next(iter(tensors.values()))}


def words_beside(model: "Model", lora: Path) -> tuple[str, dict[str, Tensor]]:
    """(the trigger word, part -> its embeddings) that were trained with a LoRA file, from the embedding file beside it; ("", {}) where it was
    trained without new tokens. `text_encoders.put_tokens` gives them to the model.

    Raises: LoraError where the embedding file is missing or belongs to another kind of model.
    """
    file = file_beside(lora)
    if file is None:
        return "", {}
    word, rows = read_embedding(file)
    there = text_encoders.encoders(model)
    widths = {part: encoder.get_input_embeddings().weight.shape[1] for part, encoder in there.items()}
    if {part: each.shape[1] for part, each in rows.items()} != widths:
        raise LoraError(
            f"'{file}' is for another kind of model than {model.source.name}.", "Choose the LoRA's own model."
        )
    return word, rows


def file_beside(lora: Path) -> Path | None:
    """The embedding file that belongs to a LoRA file; None where that was trained without new tokens. Raises LoraError where it is missing."""
    notes = read_header(lora).get("__metadata__")
    count = notes.get(NEW_TOKENS) if isinstance(notes, dict) else None
    if count is None:
        return None
    word = notes.get(WORD)  # not there where the file tells no texts
    named = path_beside(lora, word) if isinstance(word, str) else None
    files = [named] if named is not None and named.is_file() else sorted((lora.parent / FOLDER).glob("*.safetensors"))
    if len(files) != 1:
        raise LoraError(
            f"'{lora}' was trained with new tokens ({count}), and {lora.parent / FOLDER} has {len(files)} embedding files.",
            "Put the embedding file that the run wrote into that folder, by itself.",
        )
    return files[0]


def check_embedding(
    path: Path, lora: Path, config: "RunConfig", model: "Model", state: Mapping[str, Tensor] | None = None
) -> ExportCheck:
    """Load LoRA and embedding in a fresh stock pipeline, with diffusers' own loaders, and compare a prediction for the trigger word.

    Cost: opens the base once more. The live model and the global random state are afterwards what they were.
    Raises: ExportError where the pipeline does something else, or cannot read the file.
    """
    word, rows = read_embedding(path)
    with kept_random_state(), torch.no_grad(), quietly():
        fresh = fresh_model(model.source, model, config)
        probe = Probe(fresh, model, f"a photo of {word}")
        reference, used = probe.prediction(model, state), 0
        try:
            fresh.pipe.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="check")
            without = probe.prediction(fresh)
            for part, tensor in rows.items():
                tokenizer, encoder = getattr(fresh.pipe, tokenizer_of(part)), getattr(fresh.pipe, part)
                fresh.pipe.load_textual_inversion(tensor, token=word, tokenizer=tokenizer, text_encoder=encoder)
                ids = tokenizer.convert_tokens_to_ids(names_of(word, len(tensor)))
                table = encoder.get_input_embeddings().weight[ids].cpu()
                used += torch.equal(table, tensor.to(table.dtype))
        except Exception as error:  # the loaders raise whatever they raise
            raise ExportError(
                f"The load check of '{path}' failed: a stock diffusers pipeline cannot read it ({' '.join(str(error).split())[:300]})."
            ) from error
        prediction = probe.prediction(fresh)
    effect = float((reference - without).abs().max())
    exact = fresh.dtype == torch.float32 and all(each.dtype == torch.float32 for each in rows.values())
    check = ExportCheck(
        path=str(path),
        missing=(),
        unexpected=(),
        used=used,
        total=len(rows),
        max_difference=float((prediction - reference).abs().max()),
        effect=effect,
        tolerance=(EXACT if exact else ROUNDED) * effect + probe.floor(reference),
        reference="trainer",
        layout="embedding",
    )
    if not check.passed:
        raise ExportError(
            f"The load check of '{path}' failed: {check} (allowed {check.tolerance:.2g}). Do not share this file; the checkpoints are not affected."
        )
    return check
