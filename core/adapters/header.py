"""A LoRA file's header: read without torch, and written so that other tools and our own page find what they need.

A safetensors file begins with the header's length (8 bytes, little endian) and the header, a JSON object; its
`__metadata__` maps strings to strings. Source of the `ss_*` keys: kohya-ss/sd-scripts as AUTOMATIC1111's page reads
them; `modelspec.*`: ModelSpec 1.0.1.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import Trouble
from ..formats import FORMATS, VERSION, Refusal, refusal, remarks
from .kinds import network_words

if TYPE_CHECKING:
    from ..config import RunConfig

CONFIG_KEY = "rollout_studio_config"
"""Under this key lies the whole config as flat JSON, so that a dropped file restores the form."""
FORMAT_KEY, VERSION_KEY = "rollout_studio_format", "rollout_studio_version"
FORMAT_NOTES = {"format": "pt", FORMAT_KEY: FORMATS["LoRA"], VERSION_KEY: VERSION}
NEW_TOKENS = "rollout_studio_new_tokens"
"""Under this key: how many new tokens the trigger word became, whose embeddings lie in a file of their own; absent where there are none."""
CONFIG_FILE = "rollout_studio_config.json"
"""The same in the folder of a full fine-tune."""
LARGEST_HEADER = 16 * 2**20
"""Bytes: a hundred times what a LoRA of the largest models has; more is not read at all."""


class ExportError(Trouble, RuntimeError):
    """A file could not be written, or does not give what the trainer's model gives; the message has the remedy."""


def read_header(path: Path | str) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises ExportError where it has none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            text = file.read(length)
    except (OSError, ValueError) as error:
        raise _no_safetensors(str(path), error) from error
    return parsed_header(text, str(path))


def read_metadata(path: Path | str) -> dict[str, str]:
    """What a safetensors file says of itself; empty where it says nothing. Raises ExportError as `read_header`."""
    notes = read_header(path).get("__metadata__")
    if not isinstance(notes, dict):
        return {}
    newer = refusal_of(notes)
    if newer is not None:
        raise ExportError(f"'{path}' {newer.what}", newer.remedy)
    return {str(key): str(value) for key, value in notes.items()}


def refusal_of(notes: Mapping[str, Any]) -> Refusal | None:
    """Why a file with these notes cannot be read: a newer version wrote it; None: it can."""
    number = notes.get(FORMAT_KEY)
    known = isinstance(number, str) and number.isdecimal() and len(number) < 10
    return refusal("LoRA", int(number) if known else number, notes.get(VERSION_KEY))


def parsed_header(text: str | bytes, name: str) -> dict[str, Any]:
    """A header that was read elsewhere (in a browser), as `read_header` gives it. `name`: of its file, for messages."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(name, error) from error
    if not isinstance(header, dict):
        raise ExportError(f"'{name}' is not a safetensors file (its header is not a JSON object). Get it again.")
    return header


def _no_safetensors(name: str, error: Exception) -> ExportError:
    return ExportError(
        f"'{name}' is not a safetensors file ({error}). Choose a .safetensors file; if it is cut off, get it again."
    )


def read_lora_config(path: Path | str) -> dict[str, Any] | None:
    """The flat config that a LoRA file (or the folder of a full fine-tune) carries; None where it carries none.

    Raises ExportError where the file is not a safetensors file, or what it carries cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        file = path / CONFIG_FILE
        return _config(file.read_text(encoding="utf-8"), str(path)) if file.is_file() else None
    return config_of_header(read_header(path), str(path))


def config_of_header(header: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The same, of a header that is at hand. `name`: of its file, for messages."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict):
        return None
    newer = refusal_of(metadata)
    if newer is not None:
        raise ExportError(f"'{name}' {newer.what}", newer.remedy)
    text = metadata.get(CONFIG_KEY)
    return None if text is None else _config(text, name)


def _config(text: Any, name: str) -> dict[str, Any]:
    try:
        flat = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ExportError(
            f"The settings that '{name}' carries cannot be read ({error}). Bring the config.json that it was trained with."
        ) from error
    if not isinstance(flat, dict):
        raise ExportError(
            f"The settings that '{name}' carries cannot be read (they are not a JSON object). Bring the config.json that it was trained with."
        )
    return flat


PATHS = (
    "pretrained_model_name_or_path",
    "pretrained_components",
    "instance_data_dir",
    "class_data_dir",
    "data_cache_dir",
    "drift_data_dir",
    "lora_folder",
)
"""Options that name a file or folder. `concepts` holds folders and texts; see `_published_concepts`."""
TEXTS = ("instance_prompt", "trigger_word", "class_prompt", "validation_prompts", "validation_negative_prompt",
         "new_token_initializer")  # fmt: skip
"""Options that hold what a person wrote."""


def published_config(config: "RunConfig") -> dict[str, Any]:
    """The flat config as a file for others carries it: of a full path only the last part, because the rest names a person's folders.

    Without `publish_folders` no folder at all (a hub id and a built-in model stay), without `publish_texts` nothing of TEXTS: those keys are
    left out.
    """
    from ..config import config_to_flat

    flat, saving = config_to_flat(config), config.saving
    flat |= {key: _last_part(flat[key]) for key in PATHS if flat[key] is not None}
    flat["concepts"] = _published_concepts(config)
    hidden = set() if saving.publish_texts else {*TEXTS, "new_tokens"}  # which ask for a trigger word
    if not saving.publish_folders:
        hidden |= {key for key in PATHS if flat[key] is not None and not public_name(config, key)}
    if flat["concepts"] is None and config.data.concepts is not None:
        hidden.add("concepts")
    return _importable({key: value for key, value in flat.items() if key not in hidden})


def _importable(flat: dict[str, Any]) -> dict[str, Any]:
    """Without the options that cannot stand without a hidden or shortened one: a LoRA's settings can be taken over again."""
    from ..config import ConfigError, config_from_flat

    while True:
        try:
            config_from_flat(flat)
            return flat
        except ConfigError as error:
            wrong = {name for fault in error.faults for name in fault.options if name in flat}
            if not wrong:
                return flat
            flat = {name: value for name, value in flat.items() if name not in wrong}


def _published_concepts(config: "RunConfig") -> str | None:
    """The further things as a file for others has them: folders by their last part; none of them where folders or texts stay private,
    because a thing without its folder or words is none."""
    from ..config.concepts import concepts_of, read_concepts

    if not (config.saving.publish_folders and config.saving.publish_texts):
        return None
    folders = ("instance_data_dir", "class_data_dir")
    return read_concepts(
        [
            {name: _last_part(value) if name in folders else value for name, value in concept.given().items()}
            for concept in concepts_of(config.data.concepts)
        ]
    )


def public_name(config: "RunConfig", key: str) -> bool:
    """Whether an option of PATHS names something that everybody can get: a model of the hub, or one that comes along."""
    from ..config import config_to_flat
    from ..demo import BUILT_IN
    from ..names import is_hub_id

    value = config_to_flat(config)[key]
    if value is None or _last_part(value) != value:
        return False
    if key == "pretrained_model_name_or_path":
        return value in BUILT_IN or (is_hub_id(value) and not Path(value).is_dir())
    return value in BUILT_IN


def _last_part(path: str) -> str:
    kinds = [kind(path) for kind in (PurePosixPath, PureWindowsPath)]
    full = path.startswith("~") or any(kind.is_absolute() for kind in kinds)
    return kinds[1].name if full else path  # the Windows reading knows both separators


def _trigger_phrase(config: "RunConfig") -> str | None:
    """The trigger words of all things, with commas between; None where there is none, or it stays private."""
    words = config.data.trigger_words if config.saving.publish_texts else ()
    return ", ".join(words) if words else None


def lora_metadata(
    config: "RunConfig",
    base: Mapping[str, str],
    *,
    title: str,
    step: int | None,
    network: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The header's text. Training facts only: no statistics of the images, no captions of single ones, no full paths; `publish_folders` and
    `publish_texts` leave out more.

    Args:
        base: the family's `facts.header` (`ss_base_model_version`, `architecture`).
        title: the file's name without its ending; tools show it.
        step: at which optimizer step the weights were taken; None where that is not known.
        network: rank and alpha as the file's tensors have them (`lora_layers.network_notes`); None = the diffusers layout's, where alpha
            is multiplied into the weights and equals the rank; the trained alpha stands under `rollout_studio_alpha`.
    """
    training, data, rank, flat = config.training, config.data, config.lora.rank, published_config(config)
    module, arguments = network_words(config.lora.type, config.lora.lokr_factor)
    model, word = flat.get("pretrained_model_name_or_path"), _trigger_phrase(config)
    metadata = {
        **FORMAT_NOTES,
        CONFIG_KEY: json.dumps(remarks("settings") | flat, ensure_ascii=False),
        "rollout_studio_base_model": model,
        "rollout_studio_rank": rank,
        "rollout_studio_alpha": rank if config.lora.alpha is None else config.lora.alpha,
        "rollout_studio_step": step,
        "rollout_studio_trigger_word": word,
        NEW_TOKENS: config.text_encoder.new_tokens if config.text_encoder.new_tokens else None,
        "ss_v2": base["ss_base_model_version"] == "sd_v2",
        "ss_base_model_version": base["ss_base_model_version"],
        "ss_network_module": module,
        "ss_network_dim": rank,
        "ss_network_alpha": float(rank),
        "ss_network_args": json.dumps(arguments),
        "ss_output_name": title,
        "ss_sd_model_name": model,
        "ss_resolution": f"({data.resolution}, {data.resolution})",
        "ss_steps": step,
        "ss_learning_rate": training.learning_rate,
        "ss_optimizer": training.optimizer,
        "ss_lr_scheduler": training.lr_scheduler,
        "ss_mixed_precision": training.mixed_precision,
        "ss_seed": training.seed,
        "ss_min_snr_gamma": training.snr_gamma,
        "ss_prior_loss_weight": data.prior_loss_weight if data.with_prior_preservation else None,
        "ss_timestep_sampling": training.timestep_sampling,
        "ss_weighting_scheme": training.loss_weighting,
        "ss_discrete_flow_shift": training.flow_schedule_shift,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": base["architecture"] + "/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{data.resolution}x{data.resolution}",
        "modelspec.date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.trigger_phrase": word,
        **({} if network is None else network),
    }
    return {key: str(value) for key, value in metadata.items() if value is not None}
