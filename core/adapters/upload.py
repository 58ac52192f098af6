"""A LoRA to the Hugging Face hub, with a model card made from its header."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..names import is_hub_id
from .header import ExportError, config_of_header, read_header
from .lora_file import LoraError, read_lora_header
from .model_card import model_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def upload(
    files: Sequence[Path], repository: str, *, private: bool = True, replace: bool = False, api: "HfApi | None" = None
) -> str:
    """Make the repository, private unless told otherwise, and upload the files with their card in one commit. Returns its address.

    Args:
        files: LoRA files that were trained here, the main one first; the embedding file of their new tokens goes along.
        repository: owner/name. replace: add to a repository that is there already; its card is then replaced.
        api: None = the hub's, with the token of `hf auth login` or HF_TOKEN.

    Raises: ExportError for a missing token, a repository that is there, a file without a header of ours, or what the hub refuses.
    Sends nothing else: neither sidecar nor log, and of prompts and folders what the header has (`publish_texts`, `publish_folders`).
    """
    from huggingface_hub import HfApi, errors, get_token

    if not is_hub_id(repository):
        raise ExportError(f"--repo {repository}: must be owner/name.")
    card, embeddings = card_of(files), embeddings_of(files)
    if api is None:
        if get_token() is None:
            raise ExportError(
                "There is no token for the hub: make one with the right to write on huggingface.co/settings/tokens, then run "
                "`hf auth login` or set HF_TOKEN."
            )
        api = HfApi()
    try:
        if api.repo_exists(repository) and not replace:
            raise ExportError(
                f"{repository} exists already. Name a new repository, or give --replace to add to it and replace its card."
            )
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "README.md").write_text(card, encoding="utf-8")
            operations = [
                _added("README.md", Path(place) / "README.md"),
                *(_added(file.name, file) for file in files),
                *(_added(f"{file.parent.name}/{file.name}", file) for file in embeddings),
            ]
            api.create_commit(repository, operations, commit_message="LoRA trained with Rollout Studio")
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise ExportError(
            f"The hub refused {repository}: {' '.join(str(error).split())[:300]}. Check the token's right to write."
        ) from error
    return f"https://huggingface.co/{repository}"


def card_of(files: Sequence[Path]) -> str:
    """The model card of LoRA files, made from the header of the first. ExportError where it carries no settings of ours."""
    from ..families.registry import FAMILIES

    for file in files:
        read_lora_header(file)  # a whole LoRA, not cut off
    header = read_header(files[0])
    flat, metadata = config_of_header(header, str(files[0])), header.get("__metadata__", {})
    if flat is None:
        raise ExportError(
            f"'{files[0]}' carries no settings of Rollout Studio; only LoRA files that were trained here do."
        )
    version = metadata.get("ss_base_model_version")
    family = next((facts for facts in FAMILIES.values() if facts.header["ss_base_model_version"] == version), None)
    return model_card(files, metadata, flat, family, embeddings_of(files))


def embeddings_of(files: Sequence[Path]) -> list[Path]:
    """The embedding files of LoRAs that were trained with new tokens, each once.

    Raises: ExportError where one is missing, or names the trigger word that the LoRA's header does not.
    """
    from .embedding_files import WORD, file_beside

    found: list[Path] = []
    for file in files:
        try:
            embedding = file_beside(file)
        except LoraError as error:
            raise ExportError(str(error)) from None
        if embedding is not None and WORD not in read_header(file)["__metadata__"]:
            raise ExportError(
                f"'{file}' tells no texts (publish_texts), and its new tokens in '{embedding}', without which it does not work, name the "
                "trigger word. Upload both by hand if you mean to tell it."
            )
        if embedding is not None and embedding not in found:
            found.append(embedding)
    return found


def run_files(lora_path: Path) -> list[Path]:
    """The LoRA files in a run's folder, the main one first: the other layout's name is longer."""
    return sorted(lora_path.glob("*.safetensors"), key=lambda file: (len(file.stem), file.stem))


def _added(name: str, path: Path) -> Any:
    from huggingface_hub import CommitOperationAdd

    return CommitOperationAdd(name, path)
