"""The model card of a LoRA, made from what its header carries: README.md as the hub reads it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import OPTIONS, RunConfig, config_to_flat
from ..config.concepts import concepts_of, read_concepts
from ..config.options import ConfigError, shown
from ..families.facts import FamilyFacts
from ..names import is_hub_id
from .kinds import NAMES

_SHOWN = (
    "lora_rank", "lora_alpha", "learning_rate", "optimizer", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "resolution",
    "scheduled_sampling_max_step_offset", "scheduled_sampling_probability", "input_perturbation_gamma", "seed",
)  # fmt: skip
"""Settings that the card lists; those that differ from their defaults follow."""


def model_card(
    files: Sequence[Path],
    metadata: Mapping[str, str],
    flat: Mapping[str, Any],
    family: FamilyFacts | None,
    embeddings: Sequence[Path] = (),
) -> str:
    """The text of the card.

    Args:
        files: the LoRA files that go along, the main one first. metadata: of the main file's header.
        flat: the config that it carries; what was not published is not in it, and so not in the card.
        family: the model's; None = one that is not known. embeddings: the files of the LoRA's new tokens that go along.
    """
    base, prompts = flat.get("pretrained_model_name_or_path"), flat.get("validation_prompts") or []
    words = _trigger_words(flat)
    hub = isinstance(base, str) and is_hub_id(base)
    head: dict[str, Any] = {
        "library_name": "diffusers",
        "tags": ["lora", "diffusers", "text-to-image", "rollout-studio"],
    }
    if hub:
        head["base_model"] = base
        head["base_model_relation"] = "adapter"
    if words:
        head["instance_prompt"] = ", ".join(words)
    title = metadata.get("modelspec.title", files[0].stem)
    lines = [
        _front(head), f"# {title}", "",
        f"A LoRA for {'a diffusion model' if family is None else family.label}" + (f", trained on {_code(base)}" if base is not None else "") + ", made with Rollout Studio.", "",
    ]  # fmt: skip
    if len(words) == 1:
        lines += ["## Trigger word", "", f"Put {_code(words[0])} into the prompt.", ""]
    elif words:
        lines += ["## Trigger words", "", "Each means a thing of its own; put one or several into the prompt.", "",
                  *(f"- {_code(word)}" for word in words), ""]  # fmt: skip
    if prompts:
        lines += ["## Prompts that were drawn during training", "", *(f"- {_code(prompt)}" for prompt in prompts), ""]
    lines += ["## Use", "", *_use(files[0], base if hub else None, flat, family), "", "## Files", ""]
    lines += [
        f"- `{file.name}`"
        + (" (names and alpha tensors for ComfyUI, Forge and AUTOMATIC1111)" if "kohya" in file.stem else "")
        for file in files
    ]
    lines += [
        f"- `{file.parent.name}/{file.name}` (the trigger word's new tokens, without which the LoRA does not work: for ComfyUI into "
        "`models/embeddings`, for Forge and AUTOMATIC1111 into `embeddings`, in diffusers `load_textual_inversion`)"
        for file in embeddings
    ]
    return "\n".join([*lines, "", "## Training", "", "| setting | value |", "|---|---|", *_settings(flat), ""])


def _trigger_words(flat: Mapping[str, Any]) -> list[str]:
    """The trigger words of all things, each once."""
    try:
        further = (
            [concept.trigger_word for concept in concepts_of(read_concepts(flat["concepts"]))]
            if flat.get("concepts")
            else []
        )
    except ConfigError:
        further = []  # written by a version with other fields; the settings below have them as they are
    first = [] if flat.get("concepts") and flat.get("instance_data_dir") is None else [flat.get("trigger_word")]
    return list(dict.fromkeys(word for word in (*first, *further) if word is not None))


def _front(head: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**head).to_yaml()}\n---\n"


def _use(file: Path, base: str | None, flat: Mapping[str, Any], family: FamilyFacts | None) -> list[str]:
    model, kind = base if base is not None else "the base model", flat.get("lora_type", "lora")
    for_comfyui = flat.get("lora_layout", "diffusers") != "diffusers" or (family is not None and family.comfyui_loads)
    if kind != "lora" and flat.get("lora_layout") == "kohya":
        return [
            f"ComfyUI: put the file into `models/loras` and load it with *Load LoRA*. It is a {NAMES[kind]}, which diffusers does not read."
        ]
    return [
        *_in_diffusers(file.name, model, family), "",
        *(["ComfyUI: put the file into `models/loras` and load it with *Load LoRA*."] if for_comfyui else []),
    ]  # fmt: skip


def _in_diffusers(name: str, model: str, family: FamilyFacts | None) -> list[str]:
    """How a program loads the file `name` into `model`, by what diffusers has for its family."""
    part, reader = ("transformer", "pipeline") if family is None else (family.component, family.reader)
    kind = "DiffusionPipeline" if family is None or family.modular is None else "ModularPipeline"
    opened = [f"from diffusers import {kind}", "", f'pipe = {kind}.from_pretrained("{model}")']
    if kind == "ModularPipeline":  # which opens none of its parts by itself
        opened.append("pipe.load_components()")
    if reader == "pipeline":
        lines = [*opened, f'pipe.load_lora_weights("this repository", weight_name="{name}")']
    elif reader == "network":
        lines = [*opened, f'pipe.{part}.load_lora_adapter("this repository", weight_name="{name}", prefix="{part}")']
    else:
        lines = [
            "from huggingface_hub import hf_hub_download", "from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict",
            "from safetensors.torch import load_file", *opened,
            f'tensors = load_file(hf_hub_download("this repository", "{name}"))',
            f'state = {{key.removeprefix("{part}."): tensor for key, tensor in tensors.items()}}',
            'ranks = {key.removesuffix(".lora_A.weight"): len(tensor) for key, tensor in state.items() if key.endswith(".lora_A.weight")}',
            "config = LoraConfig(target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)",
            f"set_peft_model_state_dict(inject_adapter_in_model(config, pipe.{part}), state)",
        ]  # fmt: skip
    return ["```python", *lines, "```"]


def _settings(flat: Mapping[str, Any]) -> list[str]:
    usual = config_to_flat(RunConfig())
    private = {"pretrained_model_name_or_path", "trigger_word", "concepts", "validation_prompts"}  # said above
    changed = [name for name in OPTIONS if name in flat and flat[name] != usual[name] and name not in private]
    return [
        f"| `{name}` | {_cell(flat[name])} |"
        for name in dict.fromkeys([*_SHOWN, *changed])
        if flat.get(name) is not None
    ]


def _cell(value: Any) -> str:
    return shown(value).replace("|", "\\|").replace("\n", " ")


def _code(value: Any) -> str:
    """As code, whatever backticks and lines it has."""
    one_line = " ".join(str(value).split())
    return f"`` {one_line} ``" if "`" in one_line else f"`{one_line}`"
